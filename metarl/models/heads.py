"""From what a memory knows and the present step to the parameters of an action distribution, and a value."""

import math
from typing import Literal, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.models.conditioning import Conditioning
from metarl.models.features import rectified_layer
from metarl.models.normalization import ValueHead, ValueLayer
from metarl.models.stackable import StackableLinear, per_sample

ActionStd = Literal["free", "state"]


class Known(NamedTuple):
    """What memories make of a trial so far, ``[..., known_dim]``, with what they were fed."""

    features: Tensor
    actor: Tensor
    critic: Tensor  # the actor's, unless the critic has a memory of its own


class HeadOutput(NamedTuple):
    """What the heads answer, and what the actor's last layer read."""

    parameters: Tensor  # [..., num_parameters] of the action distribution
    value: Tensor  # [...]
    features: Tensor  # [..., features_dim]


class DirectHeads(nn.Module):
    """Both heads read the memory, or a rectified layer over the memory and what it is fed.

    Args:
        action_space: of the environment.
        num_parameters: of the action distribution.
        feature_dim, known_dim: of ``Known``.
        critic_dim: of ``Known.critic``, where the critic has a memory of its own; else None.
        head_size: units of the rectified layer; None lets the heads read the memory alone.
        privileged_dim: size of the task description a privileged critic reads; None for any other.
        actor_gain, initial_std, action_std: see ``actor_head``.
    """

    def __init__(
        self,
        action_space: spaces.Space,
        num_parameters: int,
        feature_dim: int,
        known_dim: int,
        critic_dim: int | None,
        head_size: int | None,
        privileged_dim: int | None,
        actor_gain: float,
        initial_std: float | None,
        action_std: ActionStd | None,
    ):
        super().__init__()
        self.readout = Readout(known_dim, feature_dim, head_size)
        self.critic_readout = Readout(critic_dim, feature_dim, head_size) if critic_dim is not None else None
        self.features_dim = self.readout.output_dim
        self.task_encoder = TaskEncoder(self.features_dim, privileged_dim) if privileged_dim is not None else None
        self.actor_head = actor_head(
            action_space, self.features_dim, num_parameters, actor_gain, initial_std, action_std
        )
        self.value_head = ValueHead(ValueLayer((self.critic_readout or self.readout).output_dim))

    def forward(self, known: Known, present: Tensor, task: Tensor) -> HeadOutput:
        """Of a memory; the present observation is among what it was fed."""
        y = critic = self.readout(known.actor, known.features)
        if self.critic_readout is not None:
            critic = self.critic_readout(known.critic, known.features)
        elif self.task_encoder is not None:
            critic = self.task_encoder(y, task)
        return HeadOutput(self.actor_head(y), self.value_head(critic), y)


class ConditionedHeads(nn.Module):
    """Actor and critic as networks on the present observation that a memory conditions.

    Args:
        action_space: of the environment.
        networks: the networks.
        privileged_dim: size of the task description a privileged critic reads; None for any other.
        initial_std: standard deviation of continuous actions at first; None is 1.
        pictures: encodes observations that are pictures; None for any other.

    Raises:
        ValueError: ``initial_std`` where actions are discrete.
    """

    def __init__(
        self,
        action_space: spaces.Space,
        networks: Conditioning,
        privileged_dim: int | None,
        initial_std: float | None,
        pictures: nn.Module | None = None,
    ):
        super().__init__()
        self.networks, self.pictures = networks, pictures
        self.features_dim = networks.output_dim
        encoder = None if privileged_dim is None else TaskEncoder(networks.condition_dim, privileged_dim)
        self.task_encoder = encoder
        self.value_head = ValueHead(networks.critic_output)
        self.log_std = None
        if initial_std is not None and not isinstance(action_space, spaces.Box):
            raise ValueError(
                f"model.initial_std={initial_std}: actions of this environment are discrete; leave it null"
            )
        if isinstance(action_space, spaces.Box):
            self.log_std = nn.Parameter(torch.full((action_space.shape[0],), math.log(initial_std or 1.0)))

    def forward(self, known: Known, present: Tensor, task: Tensor, condition: Tensor | None = None) -> HeadOutput:
        """Of the present observation, under what the memory knows or under a ``condition`` in its stead."""
        if condition is None:
            condition = self.networks.condition(known.actor)
        critic = condition if known.critic is known.actor else self.networks.condition(known.critic)
        if self.task_encoder is not None:
            critic = self.task_encoder(condition, task)
        parameters, hidden, judged = self.networks(present, condition, critic)
        if self.log_std is not None:
            parameters = torch.cat([parameters, self.log_std.expand_as(parameters)], dim=-1)
        return HeadOutput(parameters, self.value_head(judged, critic), hidden)


class GaussianHead(nn.Module):
    """Means and log standard deviations, side by side: ``[..., 2 action_dim]``.

    Args:
        input_dim: size of the features.
        action_dim: size of an action.
        gain: of the weights of the means at first.
        initial_std: standard deviation of all actions at first.
        action_std: ``free`` learns one number per channel, ``state`` another linear map of the features.
    """

    def __init__(self, input_dim: int, action_dim: int, gain: float, initial_std: float, action_std: ActionStd):
        super().__init__()
        self.mean = linear(input_dim, action_dim, gain)
        log_std = torch.full((action_dim,), math.log(initial_std))
        self.state = linear(input_dim, action_dim, 0.01) if action_std == "state" else None
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
    space: spaces.Space,
    input_dim: int,
    num_parameters: int,
    gain: float,
    initial_std: float | None,
    action_std: ActionStd | None,
) -> nn.Module:
    """What fits an action space: logits where it is discrete, else a ``GaussianHead``.

    Raises:
        ValueError: an option of continuous actions where they are discrete.
    """
    if isinstance(space, spaces.Box):
        return GaussianHead(input_dim, num_parameters // 2, gain, initial_std or 1.0, action_std or "free")
    for name, value in (("initial_std", initial_std), ("action_std", action_std)):
        if value is not None:
            raise ValueError(f"model.{name}={value}: actions of this environment are discrete; leave it null")
    return linear(input_dim, num_parameters, gain)


def linear(input_dim: int, output_dim: int, gain: float) -> nn.Linear:
    """Orthogonal and without bias at first."""
    layer = StackableLinear(input_dim, output_dim)
    nn.init.orthogonal_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer


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
