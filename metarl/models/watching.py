"""Attention on view: what each step saw, noted by the layers while a memory steps and somebody watches."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

from torch import Tensor

Unit = Literal["step", "episode"]


class Look(NamedTuple):
    """What one step saw in one layer."""

    weights: Tensor  # [B, heads, n], of what was seen; zero where a lane saw less
    distance: Tensor  # int64 [n] or [B, n], how far back each was
    unit: Unit  # of the distance


_looks: ContextVar[list[Look] | None] = ContextVar("looks", default=None)


@contextmanager
def watched() -> Iterator[list[Look]]:
    """A list that attention layers append to while they step, in their order."""
    looks: list[Look] = []
    token = _looks.set(looks)
    try:
        yield looks
    finally:
        _looks.reset(token)


def watching() -> bool:
    """Whether somebody does: what is only for show need not be computed otherwise."""
    return _looks.get() is not None


def show(weights: Tensor, distance: Tensor, unit: Unit = "step") -> None:
    """Note what the newest step saw, if somebody watches; see ``Look``."""
    if (looks := _looks.get()) is not None:
        looks.append(Look(weights.detach(), distance, unit))
