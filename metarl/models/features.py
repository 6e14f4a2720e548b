"""What memories and heads are fed: observations, actions and rewards as vectors."""

import math
from typing import Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.models.normalization import RunningScale
from metarl.models.stackable import StackableLinear
from metarl.types import Timestep

Inputs = Literal["observation", "step", "transition", "conjunction"]


class Features(nn.Module):
    """What the memory is fed: the present observation and what led to it, side by side.

    Discrete observations and actions are one-hot; a space of one element carries nothing and is left out. The last
    channel flags the start of an episode.

    Args:
        observation_space, action_space: of the environment.
        inputs: ``observation`` has nothing else but the start-of-episode flag, for policies without memory. ``step``
            adds the previous action and reward, as published with RL². ``transition`` further adds the previous
            observation. ``conjunction`` further adds the outer product of previous observation and action, alone and
            times the reward: a memory then only has to sum what else it would have to learn to associate.
        encoder_size: units of a rectified layer over all but the flag; None passes the features on.
        normalize_inputs: observations, where they are neither discrete nor pictures, to zero mean and unit variance,
            and rewards to unit size, by all that ``learn_scales`` was shown.
        image_size: observations are pictures, and pass two convolutions and a rectified layer of so many units; None
            takes their values as they are.

    Raises:
        ValueError: ``image_size`` is given and observations are not pictures.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        inputs: Inputs = "step",
        encoder_size: int | None = None,
        normalize_inputs: bool = False,
        image_size: int | None = None,
    ):
        super().__init__()
        self.inputs = inputs
        self.observation: Pictures | OneHot
        self.observation = Pictures(observation_space, image_size) if image_size else OneHot(observation_space)
        self.action = OneHot(action_space, executed=True)
        observation_dim, action_dim = self.observation.output_dim, self.action.output_dim
        pairs = max(observation_dim, 1) * action_dim
        step = observation_dim + action_dim + 1
        widths = {"observation": observation_dim, "step": step, "transition": step + observation_dim}
        width = (widths | {"conjunction": step + observation_dim + 2 * pairs})[inputs]
        self.output_dim = (encoder_size or width) + 1
        self.present_dim = observation_dim + 1
        self.encoder = rectified_layer(width, encoder_size) if encoder_size else None
        scaled = normalize_inputs and not image_size and not isinstance(observation_space, spaces.Discrete)
        self.observation_scale = RunningScale(observation_dim) if scaled else None
        self.reward_scale = RunningScale(1, center=False) if normalize_inputs and inputs != "observation" else None

    def forward(self, timestep: Timestep) -> Tensor:
        """``[..., output_dim]``, for any leading shape."""
        parts = [self._observed(timestep.observation)]
        if self.inputs != "observation":
            parts += self._history(timestep)
        first = timestep.first.unsqueeze(-1).float()
        if self.encoder is None:
            return torch.cat([*parts, first], dim=-1)
        return torch.cat([self.encoder(torch.cat(parts, dim=-1)), first], dim=-1)

    def _history(self, timestep: Timestep) -> list[Tensor]:
        """What led to the present observation."""
        action, reward = self.action(timestep.previous_action), timestep.previous_reward.unsqueeze(-1)
        if self.reward_scale is not None:
            reward = self.reward_scale(reward)
        if self.inputs == "step":
            return [action, reward]
        previous = self._observed(timestep.previous_observation)
        if self.inputs == "transition":
            return [action, reward, previous]
        # An observation that never changes leaves the action as its own pair.
        pair = (previous.unsqueeze(-1) * action.unsqueeze(-2)).flatten(-2) if previous.shape[-1] else action
        return [action, reward, previous, pair, pair * reward]

    def present(self, timestep: Timestep) -> Tensor:
        """The present observation and the flag alone, ``[..., present_dim]``."""
        return torch.cat([self._observed(timestep.observation), timestep.first.unsqueeze(-1).float()], dim=-1)

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
    linear = StackableLinear(input_dim, output_dim)
    nn.init.orthogonal_(linear.weight, gain=nn.init.calculate_gain("relu"))
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.ReLU())


class Pictures(nn.Module):
    """Pictures ``[..., height, width, channels]`` as vectors: two convolutions, then a rectified layer.

    Args:
        space: of the pictures.
        size: units of the layer.

    Raises:
        ValueError: the space is not of pictures.
    """

    def __init__(self, space: spaces.Space, size: int):
        super().__init__()
        if not isinstance(space, spaces.Box) or len(space.shape) != 3:
            raise ValueError(f"model.image_size={size}: observations here are not pictures; leave it null")
        height, width, channels = space.shape
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()
        )
        self.layer = rectified_layer(32 * ((height + 1) // 2) * ((width + 1) // 2), size)
        self.output_dim = size

    def forward(self, pictures: Tensor) -> Tensor:
        """``[..., height, width, channels]`` to ``[..., output_dim]``."""
        leading = pictures.shape[:-3]
        maps = self.convolutions(pictures.flatten(0, -4).permute(0, 3, 1, 2))
        return self.layer(maps.flatten(1)).unflatten(0, leading)


class OneHot(nn.Module):
    """Elements of a space as vectors: one-hot where it is discrete (other numbers give zeros), else as they are.

    Args:
        space: discrete, from whatever number it starts, or a box.
        executed: elements are actions as an agent chose them, and count as environments execute them: beyond a bound as
            on it, so that no agent can drive itself away by the actions it remembers. Observations are never clipped.

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
