"""From what an agent sees to actions and values: features, a memory, two heads."""

import math
from typing import Literal, NamedTuple

import torch
from gymnasium import spaces
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.distributions import action_distribution
from metarl.models.base import Carry, SequenceModel
from metarl.normalization import ValueHead
from metarl.rollout import Timestep


class Features(nn.Module):
    """Observation, previous action, previous reward and the start-of-episode flag, side by side.

    Discrete observations and actions are one-hot; a space of one element carries nothing and is left out.

    Args:
        observation_space, action_space: of the environment.
        previous_observation: add it, which makes the whole last transition visible at once.
        encoder_size: units of a rectified layer on top; None passes the features on.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        previous_observation: bool = False,
        encoder_size: int | None = None,
    ):
        super().__init__()
        self.previous_observation = previous_observation
        self.observation, self.action = OneHot(observation_space), OneHot(action_space)
        width = self.observation.output_dim * (1 + previous_observation) + self.action.output_dim + 2
        self.output_dim = encoder_size or width
        self.encoder = nn.Linear(width, encoder_size) if encoder_size else None
        if self.encoder is not None:
            nn.init.orthogonal_(self.encoder.weight, gain=nn.init.calculate_gain("relu"))
            nn.init.zeros_(self.encoder.bias)

    def forward(self, timestep: Timestep) -> Tensor:
        """``[..., output_dim]``, for any leading shape."""
        parts = [
            self.observation(timestep.observation),
            self.action(timestep.previous_action),
            timestep.previous_reward.unsqueeze(-1),
            timestep.first.unsqueeze(-1).float(),
        ]
        if self.previous_observation:
            parts.append(self.observation(timestep.previous_observation))
        x = torch.cat(parts, dim=-1)
        return x if self.encoder is None else torch.relu(self.encoder(x))


class OneHot(nn.Module):
    """Elements of a space as vectors: one-hot where it is discrete (-1 gives zeros), else as they are."""

    def __init__(self, space: spaces.Space):
        super().__init__()
        self.classes: Tensor | None
        if isinstance(space, spaces.Discrete):
            self.output_dim = int(space.n) if space.n > 1 else 0
            self.register_buffer("classes", torch.arange(self.output_dim), persistent=False)
        else:
            self.output_dim = math.prod(space.shape or ())
            self.classes = None
            self.rank = len(space.shape or ())

    def forward(self, elements: Tensor) -> Tensor:
        """``[..., *shape]`` to ``[..., output_dim]``."""
        if self.classes is None:
            return elements.flatten(elements.ndim - self.rank).float()
        return (elements.unsqueeze(-1) == self.classes).float()


class PolicyOutput(NamedTuple):
    """``[..., num_parameters]`` parameters of the action distribution, ``[...]`` values."""

    parameters: Tensor
    value: Tensor


class Policy(nn.Module):
    """Actor and critic over one memory, or over one memory each.

    Args:
        observation_space, action_space: of the environment.
        task_dim: size of ``Tasks.description``.
        memory: class of the memory, built with the input size and ``memory_options``.
        critic: ``shared`` reads the actor's memory; ``separate`` has a memory of its own; ``privileged``
            reads the actor's memory and the task's description, which only training ever needs
            (asymmetric actor-critic, Pinto et al. 2018).
        previous_observation, encoder_size: see ``Features``.
        memory_options: constructor arguments of the memory.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        task_dim: int,
        *,
        memory: type[SequenceModel],
        critic: Literal["shared", "separate", "privileged"] = "shared",
        previous_observation: bool = False,
        encoder_size: PositiveInt | None = None,
        **memory_options,
    ):
        super().__init__()
        self.features = Features(observation_space, action_space, previous_observation, encoder_size)
        self.distribution = action_distribution(action_space)
        self.memory = memory(self.features.output_dim, **memory_options)
        self.critic_memory = memory(self.features.output_dim, **memory_options) if critic == "separate" else None
        width = self.memory.output_dim
        self.task_encoder = TaskEncoder(width, task_dim) if critic == "privileged" else None
        self.actor_head = nn.Linear(width, self.distribution.num_parameters)
        nn.init.orthogonal_(self.actor_head.weight, gain=0.01)  # the first policy is close to uniform
        nn.init.zeros_(self.actor_head.bias)
        self.value_head = ValueHead(width)

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
        critic_y = y
        if self.critic_memory is not None:
            critic_y, critic_carry = getattr(self.critic_memory, method)(x, carry[1])
            carry = (actor_carry, critic_carry)
        elif self.task_encoder is not None:
            critic_y = self.task_encoder(y, task)
        return PolicyOutput(self.actor_head(y), self.value_head(critic_y)), carry


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
