"""Checks that the spaces of an environment are those an agent was trained with."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.errors import ConfigError


def check_same(kind: str, own: spaces.Space, given: spaces.Space) -> None:
    """Refuse a space that does not fit the one of training; bounds of observations may differ.

    Raises:
        ConfigError: it is of another kind or size.
    """
    if _size(own) != _size(given):
        raise ConfigError(
            f"{kind}={given}: the agent was trained with {own}; give it an environment whose {kind} is of that kind "
            "and size"
        )


def _size(space: spaces.Space) -> tuple:
    if isinstance(space, spaces.Discrete):
        return "discrete", int(space.n), int(space.start)
    return type(space).__name__, space.shape


def lanes_of(observation: Any, space: spaces.Space, batch_size: int, device: torch.device) -> tuple[Tensor, bool]:
    """Observations ``[B, ...]`` of all lanes as a tensor, and whether a single one without axis of lanes was given.

    Raises:
        ConfigError: their shape is not that of the space, or they are outside a finite space.
    """
    seen = torch.as_tensor(observation if isinstance(observation, Tensor) else np.asarray(observation))
    shape = tuple(space.shape or ())
    single = batch_size == 1 and tuple(seen.shape) == shape
    if not single and tuple(seen.shape) != (batch_size, *shape):
        expected = f"{(batch_size, *shape)}" + (f" or {shape}" if batch_size == 1 else "")
        raise ConfigError(
            f"observation of shape {tuple(seen.shape)}: this session has batch_size={batch_size}, and the agent was "
            f"trained with {space}; give observations of shape {expected}"
        )
    if isinstance(space, spaces.Discrete):
        seen = seen.long()
        first, end = int(space.start), int(space.start + space.n)
        if not device.type == "cuda" and bool(((seen < first) | (seen >= end)).any()):
            raise ConfigError(f"observation={seen.tolist()}: must be {first} to {end - 1}, as {space} has it")
    else:
        seen = seen.float()
    return (seen.unsqueeze(0) if single else seen).to(device), single
