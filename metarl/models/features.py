"""Inputs of memories and heads: observations, actions and rewards as vectors."""

import math
from typing import Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.models.batched_linear import BatchedLinear
from metarl.models.normalization import RunningMeanStd
from metarl.types import EnvSpec, Timestep

Inputs = Literal["observation", "action_reward", "transition", "outer_product"]


class Features(nn.Module):
    """Concatenation of the current observation and the transition before it, the input of a memory.

    Discrete observations and actions are one-hot; a space of one element carries no information and is left out. The
    last channel is 1 at the start of an episode, else 0.

    Args:
        spec: spaces and sizes of the environment.
        inputs: ``observation`` has only the observation and the start-of-episode flag, for policies without memory.
            ``action_reward`` adds the previous action and reward, as published with RL². ``transition`` also adds the
            previous observation. ``outer_product`` also adds the outer product of previous observation and action,
            once as it is and once times the reward: a memory then only has to sum these, and need not learn to
            associate them.
        embedding_size: units of a ReLU layer over everything but the flag; None: no layer.
        normalize: standardise observations that are neither discrete nor images, and scale rewards to unit size, by
            the running statistics of ``update_normalization``.
        image_embedding_size: output units of a small CNN for image observations; None: no CNN.

    Raises:
        ValueError: ``image_embedding_size`` is given and observations are not images.
    """

    def __init__(
        self,
        spec: EnvSpec,
        inputs: Inputs = "action_reward",
        embedding_size: int | None = None,
        normalize: bool = False,
        image_embedding_size: int | None = None,
    ):
        super().__init__()
        self.inputs, self.image_embedding_size = inputs, image_embedding_size
        space, size = spec.observation_space, image_embedding_size
        self.observation: ImageEncoder | OneHot = ImageEncoder(space, size) if size else OneHot(space)
        self.action = OneHot(spec.action_space, executed=True)
        observation_dim, action_dim = self.observation.output_dim, self.action.output_dim
        width = _width(inputs, observation_dim, action_dim)
        self.output_dim = (embedding_size or width) + 1
        self.current_dim = observation_dim + 1
        self.encoder = linear_relu(width, embedding_size) if embedding_size else None
        standardized = normalize and not size and not isinstance(space, spaces.Discrete)
        self.observation_scale = RunningMeanStd(observation_dim) if standardized else None
        self.reward_scale = RunningMeanStd(1, center=False) if normalize and inputs != "observation" else None

    def forward(self, timestep: Timestep) -> Tensor:
        """Features ``[..., output_dim]`` of a timestep with any leading shape."""
        parts = [self._observed(timestep.observation)]
        if self.inputs != "observation":
            parts += self._transition(timestep)
        first = timestep.first.unsqueeze(-1).float()
        if self.encoder is None:
            return torch.cat([*parts, first], dim=-1)
        return torch.cat([self.encoder(torch.cat(parts, dim=-1)), first], dim=-1)

    def _transition(self, timestep: Timestep) -> list[Tensor]:
        """Parts of the transition that led to the current observation."""
        action, reward = self.action(timestep.previous_action), timestep.previous_reward.unsqueeze(-1)
        if self.reward_scale is not None:
            reward = self.reward_scale(reward)
        if self.inputs == "action_reward":
            return [action, reward]
        previous = self._observed(timestep.previous_observation)
        if self.inputs == "transition":
            return [action, reward, previous]
        # An observation without channels leaves the action as the outer product.
        product = action
        if previous.shape[-1]:
            product = (previous.unsqueeze(-1) * action.unsqueeze(-2)).flatten(-2)  # [..., observation_dim * action_dim]
        return [action, reward, previous, product, product * reward]

    def current(self, timestep: Timestep) -> Tensor:
        """Current observation and start-of-episode flag alone, ``[..., current_dim]``."""
        return torch.cat([self._observed(timestep.observation), timestep.first.unsqueeze(-1).float()], dim=-1)

    def _observed(self, observation: Tensor) -> Tensor:
        observed = self.observation(observation)
        return observed if self.observation_scale is None else self.observation_scale(observed)

    def update_normalization(self, timestep: Timestep, mask: Tensor) -> None:
        """Include the steps of ``mask [T, B]`` in the running statistics.

        To be called after an update of the policy, because it changes the policy that acted.
        """
        if self.observation_scale is not None:
            self.observation_scale.update(self.observation(timestep.observation[mask]))
        if self.reward_scale is not None:
            self.reward_scale.update(timestep.previous_reward[mask].unsqueeze(-1))


def _width(inputs: Inputs, observation_dim: int, action_dim: int) -> int:
    """Number of channels without the flag."""
    action_reward = observation_dim + action_dim + 1
    transition = action_reward + observation_dim
    product = max(observation_dim, 1) * action_dim
    widths = {"observation": observation_dim, "action_reward": action_reward, "transition": transition}
    return (widths | {"outer_product": transition + 2 * product})[inputs]


def linear_relu(input_dim: int, output_dim: int) -> nn.Sequential:
    """A linear layer with orthogonal initial weights and zero biases, and a ReLU."""
    linear = BatchedLinear(input_dim, output_dim)
    nn.init.orthogonal_(linear.weight, gain=nn.init.calculate_gain("relu"))
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.ReLU())


class ImageEncoder(nn.Module):
    """Small CNN for images ``[..., height, width, channels]``: two convolutions, then a ReLU layer.

    Args:
        space: observation space.
        size: units of the ReLU layer.

    Raises:
        ValueError: observations are not images.
    """

    def __init__(self, space: spaces.Space, size: int):
        super().__init__()
        if not isinstance(space, spaces.Box) or len(space.shape) != 3:
            raise ValueError(f"model.image_embedding_size={size}: observations here are not images; leave it null")
        height, width, channels = space.shape
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()
        )
        self.layer = linear_relu(32 * ((height + 1) // 2) * ((width + 1) // 2), size)
        self.output_dim = size

    def forward(self, images: Tensor) -> Tensor:
        """``[..., height, width, channels]`` to ``[..., output_dim]``."""
        leading = images.shape[:-3]
        maps = self.convolutions(images.flatten(0, -4).permute(0, 3, 1, 2))  # [N, 32, height / 2, width / 2]
        return self.layer(maps.flatten(1)).unflatten(0, leading)  # [..., output_dim]


class OneHot(nn.Module):
    """Elements of a space as vectors: one-hot for a discrete space (other numbers give zeros), flat for a box.

    Args:
        space: discrete, from any first number, or a box.
        executed: whether elements are actions that an agent chose. These are clipped to the bounds, as environments do,
            so that stored out-of-range actions cannot destabilise the memory. Observations are never clipped.

    Raises:
        TypeError: the space is of another kind.
    """

    def __init__(self, space: spaces.Space, executed: bool = False):
        super().__init__()
        self.executed, self.shape = executed, space.shape or ()
        self.classes: Tensor | None
        if isinstance(space, spaces.Discrete):
            self.output_dim = int(space.n) if space.n > 1 else 0
            classes = torch.arange(self.output_dim) + int(space.start)
            self.register_buffer("classes", classes, persistent=False)
        elif isinstance(space, spaces.Box):
            self.output_dim, self.classes = math.prod(space.shape), None
            self.low: Tensor
            self.high: Tensor
            self.register_buffer("low", torch.as_tensor(space.low), persistent=False)
            self.register_buffer("high", torch.as_tensor(space.high), persistent=False)
        else:
            raise TypeError(f"no vectors for elements of {space}; use Discrete or Box")

    def forward(self, elements: Tensor) -> Tensor:
        """``[..., *shape]`` to ``[..., output_dim]``."""
        if self.classes is not None:
            return (elements.unsqueeze(-1) == self.classes).float()
        if self.executed:
            elements = elements.clamp(self.low, self.high)
        return elements.reshape(*elements.shape[: elements.ndim - len(self.shape)], self.output_dim).float()
