"""From a policy's features to the parameters of its action distribution."""

import math
from typing import Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

ActionStd = Literal["free", "state"]


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
        log_std = self.log_std.expand_as(mean) if self.state is None else self.state(features)
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
    layer = nn.Linear(input_dim, output_dim)
    nn.init.orthogonal_(layer.weight, gain=gain)
    nn.init.zeros_(layer.bias)
    return layer
