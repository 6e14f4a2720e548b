"""Recording of attention weights while a memory steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

from torch import Tensor

Unit = Literal["step", "episode"]


class AttentionRecord(NamedTuple):
    """Attention weights of one step in one layer."""

    weights: Tensor  # [B, heads, n]; zero for keys that are masked in a lane
    distance: Tensor  # int64 [n] or [B, n], from each key to the current step
    unit: Unit  # of the distance


_records: ContextVar[list[AttentionRecord] | None] = ContextVar("records", default=None)


@contextmanager
def record_attention() -> Iterator[list[AttentionRecord]]:
    """A list to which attention layers append one record per step, in the order in which they are computed."""
    records: list[AttentionRecord] = []
    token = _records.set(records)
    try:
        yield records
    finally:
        _records.reset(token)


def is_recording() -> bool:
    """Whether attention is being recorded; if not, weights that nothing else needs are not computed."""
    return _records.get() is not None


def record(weights: Tensor, distance: Tensor, unit: Unit = "step") -> None:
    """Append the attention weights of the newest step, if attention is being recorded; see ``AttentionRecord``."""
    if (records := _records.get()) is not None:
        records.append(AttentionRecord(weights.detach(), distance, unit))
