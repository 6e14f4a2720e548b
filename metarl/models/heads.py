"""Heads of a policy: from memory and current step to the parameters of an action distribution, and a value."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from gymnasium import spaces
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from metarl.models.base import SequenceModel
from metarl.models.batched_linear import BatchedLinear, per_sample
from metarl.models.conditioning import Conditioning
from metarl.models.distributions import action_distribution
from metarl.models.features import Features, ImageEncoder, linear_relu
from metarl.models.mlp import MLP
from metarl.models.normalization import ValueHead, ValueLayer
from metarl.types import EnvSpec, Timestep

Gain = Annotated[float, Field(gt=0, le=1e3)]
# Actions lie between -1 and 1; squares of much larger deviations, or of their inverses, overflow.
StandardDeviation = Annotated[float, Field(ge=1e-6, le=1e3)]
Critic = Literal["shared", "separate", "privileged", "memoryless"]


class MemoryOutput(NamedTuple):
    """Features and memory outputs of actor and critic, ``[..., memory_dim]``."""

    features: Tensor  # [..., features_dim], input of the memory
    actor: Tensor
    critic: Tensor  # the same tensor as ``actor``, unless the critic has its own memory


class HeadOutput(NamedTuple):
    """Action distribution, value, and input of the last layer of the actor."""

    distribution_params: Tensor  # [..., num_parameters] of the action distribution
    value: Tensor  # [...]
    features: Tensor  # [..., features_dim]


class Trunk(NamedTuple):
    """Parts of a policy below its heads, from which heads take their sizes."""

    spec: EnvSpec
    features: Features
    memory: SequenceModel
    memory_dim: int  # size of ``MemoryOutput.actor``
    critic: Critic
    critic_dim: int | None  # output size of the critic's own memory
    context_dim: int | None
    latent_dim: int | None

    @property
    def privileged_dim(self) -> int | None:
        """Size of the task description for a privileged critic; None for any other critic."""
        return self.spec.task_dim if self.critic == "privileged" else None


class Heads(nn.Module, ABC):
    """Actor and critic on the output of a memory."""

    features_dim: int  # input size of the last layer of the actor
    value_head: ValueHead
    task_encoder: nn.Module | None  # of a privileged critic

    @abstractmethod
    def observed(self, timestep: Timestep, features: Features) -> Tensor | None:
        """Current observations as these heads read them, ``[..., current_dim]``; None if they read the memory alone."""

    @abstractmethod
    def forward(self, memory: MemoryOutput, current: Tensor | None, task: Tensor) -> HeadOutput:
        """Distribution and value of a step or a sequence; ``task [B, task_dim]`` is for a privileged critic."""


class PlainHeads(Heads):
    """Linear heads on the memory output, or on a ReLU layer over memory output and features.

    Args:
        trunk: parts of the policy below.
        head_size: units of the ReLU layer, with which the memory does not have to relay its input; None: no layer.
        actor_gain, initial_std, state_dependent_std: see ``actor_head``.

    Raises:
        ValueError: an option for continuous actions in an environment with discrete ones.
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        head_size: PositiveInt | None = None,
        actor_gain: Gain = 0.01,
        initial_std: StandardDeviation | None = None,
        state_dependent_std: bool = False,
    ):
        super().__init__()
        features_dim, critic_dim, privileged_dim = trunk.features.output_dim, trunk.critic_dim, trunk.privileged_dim
        self.readout = Readout(trunk.memory_dim, features_dim, head_size)
        self.critic_readout = Readout(critic_dim, features_dim, head_size) if critic_dim is not None else None
        self.features_dim = self.readout.output_dim
        self.task_encoder = TaskEncoder(self.features_dim, privileged_dim) if privileged_dim is not None else None
        self.actor_head = actor_head(
            trunk.spec.action_space, self.features_dim, actor_gain, initial_std, state_dependent_std
        )
        self.value_head = ValueHead(ValueLayer((self.critic_readout or self.readout).output_dim))

    def observed(self, timestep: Timestep, features: Features) -> None:
        return None

    def forward(self, memory: MemoryOutput, current: Tensor | None, task: Tensor) -> HeadOutput:
        y = critic = self.readout(memory.actor, memory.features)
        if self.critic_readout is not None:
            critic = self.critic_readout(memory.critic, memory.features)
        elif self.task_encoder is not None:
            critic = self.task_encoder(y, task)
        return HeadOutput(self.actor_head(y), self.value_head(critic), y)


class ConditionedHeads(Heads):
    """Actor and critic are networks on the current observation, conditioned on the memory output.

    Args:
        trunk: parts of the policy below.
        conditioning: builds the networks, see ``metarl.models.conditioning``.
        actor_gain: initial gain of the last layer of the actor.
        initial_std: initial standard deviation of continuous actions; None is 1.

    Raises:
        ValueError: the trunk has parts that these networks cannot read, or ``initial_std`` is given where actions are
            discrete.
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        conditioning: Callable[..., Conditioning],
        actor_gain: Gain = 0.01,
        initial_std: StandardDeviation | None = None,
    ):
        super().__init__()
        _check_readable(trunk)
        features, action_space = trunk.features, trunk.spec.action_space
        continuous = isinstance(action_space, spaces.Box)
        num_outputs = action_distribution(action_space).num_parameters // (2 if continuous else 1)
        self.networks = conditioning(features.current_dim, trunk.memory_dim, num_outputs, actor_gain)
        if self.networks.one_hot:
            _check_one_hot(trunk)
        size = features.image_embedding_size
        # Own weights, because those of the memory's features may be trained by other losses.
        self.image_encoder = ImageEncoder(trunk.spec.observation_space, size) if size else None
        self.features_dim, condition_dim = self.networks.output_dim, self.networks.condition_dim
        privileged_dim = trunk.privileged_dim
        self.task_encoder = TaskEncoder(condition_dim, privileged_dim) if privileged_dim is not None else None
        self.value_head = ValueHead(self.networks.critic_output)
        _check_continuous(action_space, initial_std=initial_std)
        self.log_std = None
        if isinstance(action_space, spaces.Box):
            self.log_std = nn.Parameter(torch.full((action_space.shape[0],), math.log(initial_std or 1.0)))

    def observed(self, timestep: Timestep, features: Features) -> Tensor:
        if self.image_encoder is None:
            return features.current(timestep)
        parts = [self.image_encoder(timestep.observation), timestep.first.unsqueeze(-1).float()]
        return torch.cat(parts, dim=-1)  # [..., current_dim]

    def forward(
        self, memory: MemoryOutput, current: Tensor | None, task: Tensor, condition: Tensor | None = None
    ) -> HeadOutput:
        """Distribution and value from current observations and the memory, or a ``condition`` in its place."""
        if condition is None:
            condition = self.networks.condition(memory.actor)
        critic = condition if memory.critic is memory.actor else self.networks.condition(memory.critic)
        if self.task_encoder is not None:
            critic = self.task_encoder(condition, task)
        params, actor_features, critic_features = self.networks(current, condition, critic)
        if self.log_std is not None:
            params = torch.cat([params, self.log_std.expand_as(params)], dim=-1)  # [..., 2 action_dim]
        return HeadOutput(params, self.value_head(critic_features, critic), actor_features)


def _check_readable(trunk: Trunk) -> None:
    """Refuse trunks whose observations do not max_lookback conditioned networks."""
    if trunk.critic == "memoryless":
        raise ValueError(
            "model.critic=memoryless cannot be combined with conditioning; use model.critic=shared, or "
            "conditioning=none"
        )
    features = trunk.features
    if trunk.context_dim is not None and (features.encoder is not None or features.inputs != "observation"):
        raise ValueError(
            f"model.inputs={features.inputs}, model.input_embedding_size: networks with a context read the current "
            "observation alone; use model.inputs=observation model.input_embedding_size=null"
        )


def _check_one_hot(trunk: Trunk) -> None:
    """Refuse trunks that do not pass the one-hot number of the task on unchanged."""
    passes_on = isinstance(trunk.memory, MLP) and not trunk.memory.layers
    if trunk.context_dim is None or not passes_on or trunk.latent_dim or trunk.critic != "shared":
        raise ValueError(
            "conditioning=per_task needs the one-hot number of the task as context; use algorithm=multitask "
            "algorithm.oracle=task_id model.num_layers=0 model.critic=shared, or another conditioning"
        )


def _check_continuous(space: spaces.Space, **given: float | bool | None) -> None:
    """Refuse options for continuous actions where actions are discrete."""
    for name, value in given.items():
        if value and not isinstance(space, spaces.Box):
            unset = "false" if value is True else "null"
            raise ValueError(f"model.{name}={value}: actions of this environment are discrete; leave it {unset}")


class GaussianHead(nn.Module):
    """Means and log standard deviations, concatenated: ``[..., 2 action_dim]``.

    Args:
        input_dim: size of the features.
        action_dim: size of an action.
        gain: initial gain of the weights of the means.
        initial_std: initial standard deviation of all actions.
        state_dependent_std: whether log standard deviations are a linear map of the features, not a free vector.
    """

    def __init__(self, input_dim: int, action_dim: int, gain: float, initial_std: float, state_dependent_std: bool):
        super().__init__()
        self.mean = linear(input_dim, action_dim, gain)
        log_std = torch.full((action_dim,), math.log(initial_std))
        self.state = linear(input_dim, action_dim, 0.01) if state_dependent_std else None
        if self.state is None:
            self.log_std = nn.Parameter(log_std)
        else:
            self.state.bias.data.copy_(log_std)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., input_dim]`` to ``[..., 2 action_dim]``."""
        mean = self.mean(features)
        log_std = per_sample(self.log_std, mean) if self.state is None else self.state(features)
        return torch.cat([mean, log_std], dim=-1)


def actor_head(
    space: spaces.Space, input_dim: int, gain: float, initial_std: float | None, state_dependent_std: bool
) -> nn.Module:
    """Logits for discrete actions, a ``GaussianHead`` for continuous ones.

    Args:
        space: action space.
        input_dim: size of the features.
        gain: initial gain of the weights; small gains start close to uniform or zero-mean actions.
        initial_std, state_dependent_std: see ``GaussianHead``; a standard deviation of None is 1.

    Raises:
        ValueError: an option for continuous actions in an environment with discrete ones.
    """
    _check_continuous(space, initial_std=initial_std, state_dependent_std=state_dependent_std)
    num_parameters = action_distribution(space).num_parameters
    if isinstance(space, spaces.Box):
        return GaussianHead(input_dim, num_parameters // 2, gain, initial_std or 1.0, state_dependent_std)
    return linear(input_dim, num_parameters, gain)


def linear(input_dim: int, output_dim: int, gain: float) -> nn.Linear:
    """A linear layer with orthogonal initial weights and zero biases."""
    layer = BatchedLinear(input_dim, output_dim)
    nn.init.orthogonal_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer


class Readout(nn.Module):
    """Input of plain heads: the memory output ``[..., memory_dim]``, or a ReLU layer over it and the features."""

    def __init__(self, memory_dim: int, features_dim: int, size: int | None):
        super().__init__()
        self.output_dim = size or memory_dim
        self.layer = linear_relu(memory_dim + features_dim, size) if size else None

    def forward(self, memory: Tensor, features: Tensor) -> Tensor:
        """Memory ``[..., memory_dim]`` and features ``[..., features_dim]`` to ``[..., output_dim]``."""
        return memory if self.layer is None else self.layer(torch.cat([memory, features], dim=-1))


class TaskEncoder(nn.Module):
    """Memory ``[..., B, width]`` combined with the task description ``[B, task_dim]``, for a privileged critic."""

    def __init__(self, width: int, task_dim: int):
        super().__init__()
        self.task = nn.Sequential(nn.Linear(task_dim, width), nn.Tanh(), nn.Linear(width, width))
        self.memory = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, memory: Tensor, task: Tensor) -> Tensor:
        # The task is encoded once per trial, not once per step.
        mixed = torch.relu(self.memory(memory) + self.task(task))
        return torch.relu(self.output(mixed)) + memory  # [..., B, width]
