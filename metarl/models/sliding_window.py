"""Causal attention over a sliding window, in blocks of time: linear in the length of a trial."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.models.attention import sdpa, softmax
from metarl.models.attention_recorder import record

SMALLEST_BLOCK = 32  # steps; smaller blocks compute fewer masked scores, but in smaller matrix products


class KVRing(NamedTuple):
    """Ring buffer of the keys and values of the last ``window`` steps; step t is in slot t modulo the window.

    Without gradients a single step is written in place: the cost of a step does not grow with the trial.
    """

    keys: Tensor  # [B, heads, window, key_dim], zeros in unused slots
    values: Tensor  # [B, heads, window, value_dim]
    length: Tensor  # int64 [B] on the CPU: steps so far, equal in all lanes

    @property
    def steps(self) -> int:
        """Number of steps so far, overwritten ones included."""
        return int(self.length[0])

    @property
    def window(self) -> int:
        """Number of slots."""
        return self.keys.shape[2]

    def visible(self) -> tuple[Tensor, Tensor]:
        """Keys and values that the next step can attend to: at most ``window - 1`` steps, oldest first."""
        slots = self._slots(self.steps, min(self.steps, self.window - 1))
        return self.keys.index_select(2, slots), self.values.index_select(2, slots)

    def append(self, keys: Tensor, values: Tensor) -> "KVRing":
        """The ring after the keys and values ``[B, heads, T, dim]`` of T more steps."""
        steps, length = self.steps + keys.shape[2], self.length + keys.shape[2]
        if keys.shape[2] == 1 and not torch.is_grad_enabled():
            slot = self.steps % self.window
            self.keys[:, :, slot], self.values[:, :, slot] = keys[:, :, 0], values[:, :, 0]
            return KVRing(self.keys, self.values, length)
        rows = min(keys.shape[2], self.window)
        slots = self._slots(steps, rows)
        all_keys = self.keys.index_copy(2, slots, keys[:, :, -rows:])
        return KVRing(all_keys, self.values.index_copy(2, slots, values[:, :, -rows:]), length)

    def _slots(self, end: int, rows: int) -> Tensor:
        return torch.arange(end - rows, end, device=self.keys.device) % self.window


def empty_ring(batch_size: int, num_heads: int, window: int, key_dim: int, value_dim: int, like: Tensor) -> KVRing:
    """A ring without steps, with the device and data type of ``like``."""
    keys, values = (like.new_zeros(batch_size, num_heads, window, dim) for dim in (key_dim, value_dim))
    return KVRing(keys, values, torch.zeros(batch_size, dtype=torch.long))


def sliding_window_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    ring: KVRing,
    scale: float,
    relative_bias: Tensor | None = None,
    max_lookback: Tensor | None = None,
) -> tuple[Tensor, KVRing]:
    """Attention of T more steps to themselves and to the ``window - 1`` steps before each, and the ring after them.

    Args:
        query, keys: ``[B, heads, T, key_dim]``.
        values: ``[B, heads, T, value_dim]``, no wider than keys.
        ring: keys and values of the earlier steps; its size is the window.
        scale: factor of the products of queries and keys.
        relative_bias: added to the scores at the distances 0 (the step itself) to ``window - 1``:
            ``[B or 1, heads or 1, T or 1, window]``.
        max_lookback: int64 ``[B, T]``, the largest distance that each step attends to, such as the start of its
            episode. None: the window is the only limit.

    Returns:
        ``[B, heads, T, value_dim]``, and the ring.
    """
    if query.shape[2] == 1:
        ring = ring.append(keys, values)
        return _attend_newest(query, ring, scale, relative_bias, max_lookback), ring
    after = ring.append(keys, values)
    keys, values = (torch.cat(both, dim=2) for both in zip(ring.visible(), (keys, values), strict=True))
    return blockwise_attention(query, keys, values, ring.window, scale, relative_bias, max_lookback), after


def _attend_newest(
    query: Tensor, ring: KVRing, scale: float, relative_bias: Tensor | None, max_lookback: Tensor | None
) -> Tensor:
    """Attention of the newest step to its ring, in the order of the slots: only their distances matter."""
    held = min(ring.steps, ring.window)
    scores = scale * (query @ ring.keys[:, :, :held].transpose(-1, -2))  # [B, heads, 1, held]
    distance = (ring.steps - 1 - torch.arange(held, device=query.device)) % ring.window
    if relative_bias is not None:
        scores = scores + relative_bias.index_select(-1, distance)
    if max_lookback is not None:
        scores = scores.masked_fill((distance > max_lookback)[:, None, None], -torch.inf)
    weights = softmax(scores)
    record(weights.squeeze(2), distance)
    return weights @ ring.values[:, :, :held]


class Blocks(NamedTuple):
    """Division of T steps into blocks, each of which also reads the steps before it."""

    number: int
    size: int  # steps of a block
    before: int  # steps that a block reads before its own
    padding: int  # steps after the last one that complete the last block


def blockwise_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    window: int,
    scale: float,
    relative_bias: Tensor | None = None,
    max_lookback: Tensor | None = None,
    block: int | None = None,
) -> Tensor:
    """Attention of each step to itself and to the ``window - 1`` steps before it, in blocks of time.

    A block reads itself and the ``window - 1`` steps before it: at most ``T (window + block)`` scores are computed.

    Args:
        query: ``[B, heads, T, key_dim]``.
        keys: ``[B, heads, P + T, key_dim]``: P earlier steps, oldest first, then the T steps; P < ``window``.
        values: ``[B, heads, P + T, value_dim]``, no wider than keys.
        window: number of steps visible to a step, itself included.
        scale, relative_bias, max_lookback: see ``sliding_window_attention``.
        block: steps of a block; changes the cost, not the result.

    Returns:
        ``[B, heads, T, value_dim]``.
    """
    batch, steps, earlier = len(query), query.shape[2], keys.shape[2] - query.shape[2]
    window = min(window, earlier + steps)
    if earlier == 0 and window == steps and relative_bias is None and max_lookback is None:
        return sdpa(query, keys, values, scale, is_causal=True)
    size = min(steps, block or max(window, SMALLEST_BLOCK))
    count = -(-steps // size)
    blocks = Blocks(count, size, window - 1 if count > 1 else earlier, count * size - steps)
    mask = _mask(_lookback(steps, earlier, window, max_lookback, query.device), blocks, window, relative_bias)
    if count > 1:
        mask = mask.expand(batch, count, -1, -1, -1)
    query = F.pad(query, (0, 0, 0, blocks.padding)).unflatten(2, (count, size)).transpose(1, 2).flatten(0, 1)
    padding = (0, 0, blocks.before - earlier, blocks.padding)
    keys, values = (_overlapping(F.pad(part, padding), blocks) for part in (keys, values))
    out = sdpa(query, keys, values, scale, attn_mask=mask.flatten(0, 1))  # [B blocks, heads, size, value_dim]
    return out.unflatten(0, (batch, count)).transpose(1, 2).flatten(2, 3)[:, :, :steps]  # [B, heads, T, value_dim]


def _overlapping(x: Tensor, blocks: Blocks) -> Tensor:
    """Sections of time that the blocks read, ``[B blocks, heads, before + size, dim]``."""
    sections = x.unfold(2, blocks.before + blocks.size, blocks.size)  # [B, heads, blocks, dim, before + size]
    return sections.permute(0, 2, 1, 4, 3).flatten(0, 1)  # [B blocks, heads, before + size, dim]


def _lookback(steps: int, earlier: int, window: int, max_lookback: Tensor | None, device: torch.device) -> Tensor:
    """Largest distance that each step attends to, ``[B or 1, T]``."""
    available = torch.arange(earlier, earlier + steps, device=device).clamp(max=window - 1).unsqueeze(0)  # [1, T]
    return available if max_lookback is None else torch.minimum(available, max_lookback)


def _mask(lookback: Tensor, blocks: Blocks, window: int, relative_bias: Tensor | None) -> Tensor:
    """Mask of the scores of all blocks, ``[B or 1, blocks, heads or 1, size, before + size]``.

    Bool, True where a step attends; with a bias, the bias there and minus infinity elsewhere.
    """
    lookback = F.pad(lookback, (0, blocks.padding)).unflatten(1, (blocks.number, blocks.size))  # [B or 1, blocks, size]
    distance = _distance(blocks, lookback.device)
    mask = ((distance >= 0) & (distance <= lookback.unsqueeze(-1))).unsqueeze(2)  # [B or 1, blocks, 1, size, ...]
    if relative_bias is None:
        return mask
    bias = _in_blocks(relative_bias[..., :window], blocks)[..., window - 1 - blocks.before :]
    return bias.masked_fill(~mask, -torch.inf)


def _distance(blocks: Blocks, device: torch.device) -> Tensor:
    """Distance from each step of a block to all that the block reads, ``[size, before + size]``."""
    column = torch.arange(blocks.before + blocks.size, device=device)
    return column[blocks.before :].unsqueeze(1) - column


def _in_blocks(relative_bias: Tensor, blocks: Blocks) -> Tensor:
    """Biases ``[B, heads, T or 1, window]`` of distances, arranged by the steps that a block reads.

    The result ``[B, blocks or 1, heads, size, window - 1 + size]`` has zeros at all other distances. Each row is the
    one above it shifted by one column, which a view of rows that are one column longer gives without an index.
    """
    window, size = relative_bias.shape[-1], blocks.size
    if relative_bias.shape[2] == 1:
        rows = relative_bias.unsqueeze(1).expand(-1, -1, -1, size, -1)  # [B, 1, heads, size, window]
    else:
        rows = F.pad(relative_bias, (0, 0, 0, blocks.padding)).unflatten(2, (blocks.number, size))
        rows = rows.transpose(1, 2)  # [B, blocks, heads, size, window]
    columns = window - 1 + size
    return F.pad(rows.flip(-1), (0, size)).flatten(-2)[..., : size * columns].unflatten(-1, (size, columns))
