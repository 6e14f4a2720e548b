"""From what an agent sees to actions and values: features, a memory, two heads."""

from typing import Literal, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.distributions import action_distribution
from metarl.models.base import Carry, SequenceModel
from metarl.normalization import ValueHead
from metarl.rollout import Timestep


class Features(nn.Module):
    """Observation, previous action, previous reward and the start-of-episode flag, side by side.

    Discrete observations and actions are one-hot; a space of one element carries nothing and is left out.
    """

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        super().__init__()
        self.register_buffer("_observations", self._classes(observation_space), persistent=False)
        self.register_buffer("_actions", self._classes(action_space), persistent=False)
        self.output_dim = self._width(observation_space) + self._width(action_space) + 2

    @staticmethod
    def _classes(space: spaces.Space) -> Tensor | None:
        if not isinstance(space, spaces.Discrete):
            return None
        return torch.arange(int(space.n) if space.n > 1 else 0)

    @staticmethod
    def _width(space: spaces.Space) -> int:
        if isinstance(space, spaces.Discrete):
            return int(space.n) if space.n > 1 else 0
        return int(torch.Size(space.shape).numel())

    def forward(self, timestep: Timestep) -> Tensor:
        """``[..., output_dim]``, for any leading shape."""
        lead = timestep.first.shape
        return torch.cat(
            [
                self._encode(timestep.observation, self._observations, lead),
                self._encode(timestep.previous_action, self._actions, lead),
                timestep.previous_reward.unsqueeze(-1),
                timestep.first.unsqueeze(-1).float(),
            ],
            dim=-1,
        )

    @staticmethod
    def _encode(value: Tensor, classes: Tensor | None, lead: torch.Size) -> Tensor:
        if classes is None:
            return value.reshape(*lead, -1).float()
        return (value.unsqueeze(-1) == classes).float()


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
        **memory_options,
    ):
        super().__init__()
        self.features = Features(observation_space, action_space)
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
