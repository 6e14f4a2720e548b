"""Causal attention over a sliding window, in blocks of time: linear in the length of a trial."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.models.attention import fused, softmax
from metarl.models.watching import show

SMALLEST_BLOCK = 32  # steps; smaller blocks waste less on what is masked, and more on small products


class Ring(NamedTuple):
    """Keys and values of the last ``window`` steps, step t at slot t modulo the window.

    Without gradients a single step is written in place: its cost does not grow with the time spent.
    """

    keys: Tensor  # [B, heads, window, key_dim], zeros where nothing was written
    values: Tensor  # [B, heads, window, value_dim]
    length: Tensor  # int64 [B] on the CPU: steps so far, the same in every lane

    @property
    def steps(self) -> int:
        """How many steps it has met."""
        return int(self.length[0])

    @property
    def window(self) -> int:
        """How many steps it can hold."""
        return self.keys.shape[2]

    def past(self) -> tuple[Tensor, Tensor]:
        """What the next step may see: keys and values of the last ``window - 1`` steps or fewer, oldest first."""
        slots = self._slots(self.steps, min(self.steps, self.window - 1))
        return self.keys.index_select(2, slots), self.values.index_select(2, slots)

    def append(self, keys: Tensor, values: Tensor) -> "Ring":
        """With the keys and values ``[B, heads, T, dim]`` of T more steps."""
        steps, length = self.steps + keys.shape[2], self.length + keys.shape[2]
        if keys.shape[2] == 1 and not torch.is_grad_enabled():
            slot = self.steps % self.window
            self.keys[:, :, slot], self.values[:, :, slot] = keys[:, :, 0], values[:, :, 0]
            return Ring(self.keys, self.values, length)
        rows = min(keys.shape[2], self.window)
        slots = self._slots(steps, rows)
        all_keys = self.keys.index_copy(2, slots, keys[:, :, -rows:])
        return Ring(all_keys, self.values.index_copy(2, slots, values[:, :, -rows:]), length)

    def _slots(self, end: int, rows: int) -> Tensor:
        return torch.arange(end - rows, end, device=self.keys.device) % self.window


def empty_ring(batch_size: int, num_heads: int, window: int, key_dim: int, value_dim: int, like: Tensor) -> Ring:
    """Of no steps, on the device and in the precision of ``like``."""
    keys, values = (like.new_zeros(batch_size, num_heads, window, dim) for dim in (key_dim, value_dim))
    return Ring(keys, values, torch.zeros(batch_size, dtype=torch.long))


def slide(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    ring: Ring,
    scale: float,
    by_distance: Tensor | None = None,
    reach: Tensor | None = None,
) -> tuple[Tensor, Ring]:
    """What T more steps see of the window before each of them, itself included, and the ring with them.

    Args:
        query, keys: ``[B, heads, T, key_dim]``.
        values: ``[B, heads, T, value_dim]``, no wider than keys.
        ring: of the steps before; its size is the window.
        scale: of the products of queries and keys.
        by_distance: added to the scaled products at the distances 0 (itself) to ``window - 1``:
            ``[B or 1, heads or 1, T or 1, window]``.
        reach: int64 ``[B, T]``: how many steps before itself a step may see at most, such as those of its episode. None
            sets no limit but the window.

    Returns:
        ``[B, heads, T, value_dim]``, and the ring.
    """
    if query.shape[2] == 1:
        ring = ring.append(keys, values)
        return _newest(query, ring, scale, by_distance, reach), ring
    after = ring.append(keys, values)
    keys, values = (torch.cat(both, dim=2) for both in zip(ring.past(), (keys, values), strict=True))
    return banded_attend(query, keys, values, ring.window, scale, by_distance, reach), after


def _newest(query: Tensor, ring: Ring, scale: float, by_distance: Tensor | None, reach: Tensor | None) -> Tensor:
    """What the newest step of a ring sees of it: no order is needed, only each slot's distance."""
    held = min(ring.steps, ring.window)
    scores = scale * (query @ ring.keys[:, :, :held].transpose(-1, -2))
    distance = (ring.steps - 1 - torch.arange(held, device=query.device)) % ring.window
    if by_distance is not None:
        scores = scores + by_distance.index_select(-1, distance)
    if reach is not None:
        scores = scores.masked_fill((distance > reach)[:, None, None], -torch.inf)
    weights = softmax(scores)
    show(weights.squeeze(2), distance)
    return weights @ ring.values[:, :, :held]


def banded_attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int,
    scale: float,
    by_distance: Tensor | None = None,
    reach: Tensor | None = None,
    block: int | None = None,
) -> Tensor:
    """Attention of each step to itself and to the ``window - 1`` steps before it.

    Time is cut into blocks; a block sees itself and the ``window - 1`` steps before it, so that no more than
    ``T (window + block)`` scores are ever held.

    Args:
        query: ``[B, heads, T, key_dim]``.
        keys: ``[B, heads, P + T, key_dim]``: of the P steps before, oldest first, then of the T steps; P is
            ``window - 1`` at most.
        values: ``[B, heads, P + T, value_dim]``, no wider than keys.
        window: of steps, the present one included.
        scale, by_distance, reach: see ``slide``.
        block: steps treated at once; changes the cost, not the result.

    Returns:
        ``[B, heads, T, value_dim]``.
    """
    batch, steps, past = len(query), query.shape[2], keys.shape[2] - query.shape[2]
    window = min(window, past + steps)
    if past == 0 and window == steps and by_distance is None and reach is None:
        return fused(query, keys, values, scale, is_causal=True)
    size = min(steps, block or max(window, SMALLEST_BLOCK))
    blocks = -(-steps // size)
    before = window - 1 if blocks > 1 else past  # how many steps each block sees before its own
    tail = blocks * size - steps
    seen = _seen(steps, past, window, reach, query.device)
    seen = F.pad(seen, (0, tail)).unflatten(1, (blocks, size)).unsqueeze(-1)  # [B or 1, blocks, size, 1]
    distance = _distance(size, before, query.device)
    mask = ((distance >= 0) & (distance <= seen)).unsqueeze(2)  # [B or 1, blocks, 1, size, before + size]
    if by_distance is not None:
        scores = _in_blocks(by_distance[..., :window], blocks, size, tail)[..., window - 1 - before :]
        mask = scores.masked_fill(~mask, -torch.inf)
    if blocks > 1:
        mask = mask.expand(batch, blocks, -1, -1, -1)
    query = F.pad(query, (0, 0, 0, tail)).unflatten(2, (blocks, size)).transpose(1, 2).flatten(0, 1)
    keys, values = (_overlapping(F.pad(p, (0, 0, before - past, tail)), before + size, size) for p in (keys, values))
    out = fused(query, keys, values, scale, attn_mask=mask.flatten(0, 1))
    return out.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3)[:, :, :steps]


def _overlapping(x: Tensor, length: int, size: int) -> Tensor:
    """Stretches of time ``[B blocks, heads, length, dim]``, one every ``size`` steps."""
    return x.unfold(2, length, size).permute(0, 2, 1, 4, 3).flatten(0, 1)


def _seen(steps: int, past: int, window: int, reach: Tensor | None, device: torch.device) -> Tensor:
    """How many steps before itself each step sees: ``[B or 1, T]``."""
    known = torch.arange(past, past + steps, device=device).clamp(max=window - 1).unsqueeze(0)
    return known if reach is None else torch.minimum(known, reach)


def _distance(size: int, before: int, device: torch.device) -> Tensor:
    """From each step of a block back to all it could see: ``[size, before + size]``."""
    column = torch.arange(before + size, device=device)
    return column[before:].unsqueeze(1) - column


def _in_blocks(by_distance: Tensor, blocks: int, size: int, tail: int) -> Tensor:
    """Scores by distance ``[B, heads, T or 1, window]`` where a block has these distances.

    ``[B, blocks or 1, heads, size, window - 1 + size]``, and zeros elsewhere. Each row is the one above shifted by one
    column: rows that are one column too long, read as if they were not.
    """
    window = by_distance.shape[-1]
    if by_distance.shape[2] == 1:
        rows = by_distance.unsqueeze(1).expand(-1, -1, -1, size, -1)
    else:
        rows = F.pad(by_distance, (0, 0, 0, tail)).unflatten(2, (blocks, size)).transpose(1, 2)
    columns = window - 1 + size
    return F.pad(rows.flip(-1), (0, size)).flatten(-2)[..., : size * columns].unflatten(-1, (size, columns))
