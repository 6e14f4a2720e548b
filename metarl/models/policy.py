"""From what an agent sees to actions and values: features, a memory, two heads."""

import math
from typing import Literal, NamedTuple

import torch
from gymnasium import spaces
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from metarl.distributions import action_distribution
from metarl.models.base import Carry, SequenceModel
from metarl.models.heads import ActionStd, actor_head
from metarl.models.mlp import MLP
from metarl.normalization import RunningScale, ValueHead
from metarl.rollout import Timestep

Inputs = Literal["step", "transition", "conjunction"]


class Features(nn.Module):
    """What the memory is fed: the present observation and what led to it, side by side.

    Discrete observations and actions are one-hot; a space of one element carries nothing and is left out. The last
    channel flags the start of an episode.

    Args:
        observation_space, action_space: of the environment.
        inputs: ``step`` has the observation, the previous action and reward, and the start-of-episode flag, as
            published. ``transition`` adds the previous observation. ``conjunction`` further adds the outer
            product of previous observation and action, alone and times the reward: a memory then only has to
            sum what else it would have to learn to associate.
        encoder_size: units of a rectified layer over all but the flag; None passes the features on.
        normalize_inputs: observations, where they are not discrete, to zero mean and unit variance, and rewards to unit
            size, by all that ``learn_scales`` was shown.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        inputs: Inputs = "step",
        encoder_size: int | None = None,
        normalize_inputs: bool = False,
    ):
        super().__init__()
        self.inputs = inputs
        self.observation, self.action = OneHot(observation_space), OneHot(action_space)
        observation_dim, action_dim = self.observation.output_dim, self.action.output_dim
        pairs = max(observation_dim, 1) * action_dim
        extra = {"step": 0, "transition": observation_dim, "conjunction": observation_dim + 2 * pairs}
        width = observation_dim + action_dim + 1 + extra[inputs]
        self.output_dim = (encoder_size or width) + 1
        self.encoder = rectified_layer(width, encoder_size) if encoder_size else None
        scaled = normalize_inputs and not isinstance(observation_space, spaces.Discrete)
        self.observation_scale = RunningScale(observation_dim) if scaled else None
        self.reward_scale = RunningScale(1, center=False) if normalize_inputs else None

    def forward(self, timestep: Timestep) -> Tensor:
        """``[..., output_dim]``, for any leading shape."""
        action, reward = self.action(timestep.previous_action), timestep.previous_reward.unsqueeze(-1)
        if self.reward_scale is not None:
            reward = self.reward_scale(reward)
        parts = [self._observed(timestep.observation), action, reward]
        if self.inputs != "step":
            previous = self._observed(timestep.previous_observation)
            parts.append(previous)
            if self.inputs == "conjunction":
                # An observation that never changes leaves the action as its own pair.
                pair = (previous.unsqueeze(-1) * action.unsqueeze(-2)).flatten(-2) if previous.shape[-1] else action
                parts += [pair, pair * reward]
        first = timestep.first.unsqueeze(-1).float()
        if self.encoder is None:
            return torch.cat([*parts, first], dim=-1)
        return torch.cat([self.encoder(torch.cat(parts, dim=-1)), first], dim=-1)

    def _observed(self, observation: Tensor) -> Tensor:
        observed = self.observation(observation)
        return observed if self.observation_scale is None else self.observation_scale(observed)

    def learn_scales(self, timestep: Timestep, mask: Tensor) -> None:
        """Include the steps that count, ``mask [T, B]``. For after an update: the policy that acted is then another."""
        if self.observation_scale is not None:
            self.observation_scale.update(self.observation(timestep.observation[mask]))
        if self.reward_scale is not None:
            self.reward_scale.update(timestep.previous_reward[mask].unsqueeze(-1))


def rectified_layer(input_dim: int, output_dim: int) -> nn.Sequential:
    """A linear layer, orthogonal and without bias at first, and a ReLU."""
    linear = nn.Linear(input_dim, output_dim)
    nn.init.orthogonal_(linear.weight, gain=nn.init.calculate_gain("relu"))
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.ReLU())


class OneHot(nn.Module):
    """Elements of a space as vectors: one-hot where it is discrete (-1 gives zeros), else as they are.

    What lies beyond the bounds of a space counts as on them: environments carry out actions so, and no agent can drive
    itself away by the actions it remembers.
    """

    def __init__(self, space: spaces.Space):
        super().__init__()
        self.classes: Tensor | None
        if isinstance(space, spaces.Discrete):
            self.output_dim = int(space.n) if space.n > 1 else 0
            self.register_buffer("classes", torch.arange(self.output_dim), persistent=False)
        else:
            bounds = space if isinstance(space, spaces.Box) else spaces.Box(-math.inf, math.inf, space.shape)
            self.output_dim = math.prod(bounds.shape)
            self.classes = None
            self.rank = len(bounds.shape)
            self.low: Tensor
            self.high: Tensor
            self.register_buffer("low", torch.as_tensor(bounds.low), persistent=False)
            self.register_buffer("high", torch.as_tensor(bounds.high), persistent=False)

    def forward(self, elements: Tensor) -> Tensor:
        """``[..., *shape]`` to ``[..., output_dim]``."""
        if self.classes is None:
            return elements.clamp(self.low, self.high).flatten(elements.ndim - self.rank).float()
        return (elements.unsqueeze(-1) == self.classes).float()


class PolicyOutput(NamedTuple):
    """What the heads answer, and what the actor's head read."""

    parameters: Tensor  # [..., num_parameters] of the action distribution
    value: Tensor  # [...]
    features: Tensor  # [..., features_dim]


class Policy(nn.Module):
    """Actor and critic over one memory, or over one memory each.

    Args:
        observation_space, action_space: of the environment.
        task_dim: size of ``Tasks.description``.
        trial_length: most steps of a trial.
        memory: class of the memory, built with the input size and ``memory_options``.
        critic: ``shared`` reads the actor's memory; ``separate`` has a memory of its own; ``privileged``
            reads the actor's memory and the task's description, which only training ever needs
            (asymmetric actor-critic, Pinto et al. 2018); ``present`` sees the present step alone, as published with
            TrMRL.
        inputs, encoder_size, normalize_inputs: see ``Features``.
        head_size: units of a rectified layer over memory and features together, below both heads: the memory need
            not also pass on what it is fed. None lets the heads read the memory alone.
        actor_gain: of the actor's last weights at first; small ones start close to uniform or zero-mean actions.
        initial_std, action_std: of continuous actions, see ``GaussianHead``; None is 1 and ``free``.
        memory_options: constructor arguments of the memory. A memory that has a ``context``, the longest sequence it
            can meet, is given that of a trial where the option is None.

    Raises:
        ValueError: ``context`` is shorter than a trial.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        task_dim: int,
        trial_length: int,
        *,
        memory: type[SequenceModel],
        critic: Literal["shared", "separate", "privileged", "present"] = "shared",
        inputs: Inputs = "step",
        encoder_size: PositiveInt | None = None,
        normalize_inputs: bool = False,
        head_size: PositiveInt | None = None,
        actor_gain: PositiveFloat = 0.01,
        initial_std: PositiveFloat | None = None,
        action_std: ActionStd | None = None,
        **memory_options,
    ):
        super().__init__()
        self.features = Features(observation_space, action_space, inputs, encoder_size, normalize_inputs)
        self.distribution = action_distribution(action_space)
        if "context" in memory_options:
            memory_options["context"] = _context(memory_options["context"], trial_length)
        self.memory = memory(self.features.output_dim, **memory_options)
        inputs_dim, width = self.features.output_dim, self.memory.output_dim
        self.critic_memory: SequenceModel | None = None
        if critic == "separate":
            self.critic_memory = memory(inputs_dim, **memory_options)
        elif critic == "present":
            self.critic_memory = MLP(inputs_dim)
        self.readout = Readout(width, inputs_dim, head_size)
        self.critic_readout = None
        if self.critic_memory is not None:
            self.critic_readout = Readout(self.critic_memory.output_dim, inputs_dim, head_size)
        self.task_encoder = TaskEncoder(self.readout.output_dim, task_dim) if critic == "privileged" else None
        shape = (self.readout.output_dim, self.distribution.num_parameters)
        self.actor_head = actor_head(action_space, *shape, actor_gain, initial_std, action_std)
        self.value_head = ValueHead((self.critic_readout or self.readout).output_dim)

    def initial_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """The empty memories of ``batch_size`` lanes, one per trunk."""
        trunks = [self.memory] if self.critic_memory is None else [self.memory, self.critic_memory]
        return tuple(trunk.initial_carry(batch_size) for trunk in trunks)

    def forward(self, timestep: Timestep, carry: tuple, task: Tensor) -> tuple[PolicyOutput, tuple]:
        """A sequence: timestep ``[T, B, ...]``, task description ``[B, task_dim]``."""
        return self._run("forward", timestep, carry, task)

    def step(self, timestep: Timestep, carry: tuple, task: Tensor) -> tuple[PolicyOutput, tuple]:
        """One step: timestep ``[B, ...]``, task description ``[B, task_dim]``."""
        return self._run("step", timestep, carry, task)

    def _run(self, method: str, timestep: Timestep, carry: tuple, task: Tensor) -> tuple[PolicyOutput, tuple]:
        x = self.features(timestep)
        y, actor_carry = getattr(self.memory, method)(x, carry[0])
        carry = (actor_carry, *carry[1:])
        critic_y = y = self.readout(y, x)
        if self.critic_memory is not None and self.critic_readout is not None:
            critic_y, critic_carry = getattr(self.critic_memory, method)(x, carry[1])
            critic_y = self.critic_readout(critic_y, x)
            carry = (actor_carry, critic_carry)
        elif self.task_encoder is not None:
            critic_y = self.task_encoder(y, task)
        return PolicyOutput(self.actor_head(y), self.value_head(critic_y), y), carry


def _context(configured: int | None, trial_length: int) -> int:
    if configured is not None and configured < trial_length:
        raise ValueError(
            f"model.context={configured} is shorter than a trial of {trial_length} steps; raise it, or leave it null"
        )
    return configured or trial_length


class Readout(nn.Module):
    """What the heads see: the memory ``[..., memory_dim]``, or a rectified layer over memory and features."""

    def __init__(self, memory_dim: int, feature_dim: int, size: int | None):
        super().__init__()
        self.output_dim = size or memory_dim
        self.layer = rectified_layer(memory_dim + feature_dim, size) if size else None

    def forward(self, memory: Tensor, features: Tensor) -> Tensor:
        """``[..., output_dim]``."""
        return memory if self.layer is None else self.layer(torch.cat([memory, features], dim=-1))


class TaskEncoder(nn.Module):
    """Mixes memory ``[..., B, width]`` with the task ``[B, task_dim]`` for a privileged critic."""

    def __init__(self, width: int, task_dim: int):
        super().__init__()
        self.task = nn.Sequential(nn.Linear(task_dim, width), nn.Tanh(), nn.Linear(width, width))
        self.memory = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, memory: Tensor, task: Tensor) -> Tensor:
        # The task is encoded once per trial, not once per step.
        mixed = torch.relu(self.memory(memory) + self.task(task))
        return torch.relu(self.output(mixed)) + memory
