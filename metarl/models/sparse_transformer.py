"""A causal transformer with sparse attention (Child et al. 2019, arXiv 1904.10509), as a memory.

The trial is folded into rows, as an image is into lines of pixels. Layers attend in turn to their row, to their column
and to the previous row, so that a step reaches all earlier ones through a few layers.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from metarl.models.attention import Cache, Positions, attend_last, sdpa
from metarl.models.base import Depth
from metarl.models.transformer import CausalTransformer, Norm, SelfAttention

Pattern = Literal["row", "column", "previous_row"]
PATTERNS: tuple[Pattern, ...] = ("row", "column", "previous_row")  # alternating, layer by layer


class SparseTransformer(CausalTransformer):
    """Residual layers of sparse attention: to the row, the column and the previous row of the folded trial in turn.

    Args:
        input_dim: size of the input.
        hidden_size: size of the embedding of a step, and of each layer.
        num_layers: number of pairs of an attention and a feed-forward layer.
        num_heads: number of attention heads; divides ``hidden_size``.
        feedforward_size: units of the feed-forward layers.
        positions: see ``metarl.models.transformer.Transformer``.
        norm: layer normalisation before each layer (``pre``) or after its residual connection (``post``).
        context: the longest sequence, which is folded.

    Raises:
        ValueError: sizes that do not fit each other, or no ``context``.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_size: PositiveInt = 256,
        num_layers: Depth = 9,
        num_heads: PositiveInt = 2,
        feedforward_size: PositiveInt = 256,
        positions: Positions = "sinusoidal",
        norm: Norm = "post",
        context: PositiveInt | None = None,
    ):
        super().__init__(input_dim, hidden_size, num_heads, positions, context)
        row = fold(context)
        for index in range(num_layers):
            attention = SparseSelfAttention(hidden_size, hidden_size, num_heads, positions, index, row)
            self.add_layer(attention, feedforward_size, norm)
        self.finish(hidden_size, norm)


class SparseSelfAttention(SelfAttention):
    """Multi-head causal attention to part of the trial: ``[T, B, input_dim]`` to ``[T, B, hidden_size]``.

    Args:
        input_dim, hidden_size, num_heads, positions: see ``SelfAttention``.
        index: of the layer, which determines its pattern.
        row: steps of a row.
    """

    def __init__(self, input_dim: int, hidden_size: int, num_heads: int, positions: Positions, index: int, row: int):
        super().__init__(input_dim, hidden_size, num_heads, positions)
        self.pattern, self.row = PATTERNS[index % len(PATTERNS)], row

    def attend(self, query: Tensor, cache: Cache) -> Tensor:
        return sparse_attention(query, cache, self.head_dim**-0.5, self.pattern, self.row)


def fold(context: int | None) -> int:
    """Steps of a row of a trial of at most ``context`` steps.

    Raises:
        ValueError: ``context`` is missing.
    """
    if context is None:
        raise ValueError("model.context=null: sparse attention folds the longest trial; set model.context")
    return row_length(context)


def row_length(context: int) -> int:
    """The largest divisor of ``context`` that does not exceed its square root; of ``context + 1`` for a prime one."""
    size = max(size for size in range(1, int(context**0.5) + 1) if context % size == 0)
    return row_length(context + 1) if size == 1 and context > 3 else size


def sparse_attention(query: Tensor, cache: Cache, scale: float, pattern: Pattern, row: int) -> Tensor:
    """``metarl.models.attention.causal_attention`` restricted to a pattern of rows of ``row`` steps.

    Args:
        query, cache, scale: see there.
        pattern: ``row`` is the own row up to the step itself, ``column`` the step and those above it in its column,
            ``previous_row`` the whole row above. The first row has none, and its outputs are 0.
        row: steps of a row.

    Returns:
        ``[B, heads, T, value_dim]``.
    """
    keys, values = cache.contents()
    if query.shape[2] == 1:
        return attend_last(query, keys, values, scale, _visible_to_last(keys.shape[2] - 1, pattern, row))
    if query.shape[2] == keys.shape[2]:
        return _folded_attention(query, keys, values, scale, pattern, row)
    mask = _mask(query.shape[2], keys.shape[2], pattern, row, query.device)
    some = mask.any(-1, keepdim=True)  # [T, 1]
    return sdpa(query, keys, values, scale, attn_mask=mask | ~some) * some


def _visible_to_last(step: int, pattern: Pattern, row: int) -> slice:
    """The steps that a step with the given index attends to; none in the first row for ``previous_row``."""
    start = step - step % row
    if pattern == "row":
        return slice(start, step + 1)
    if pattern == "column":
        return slice(step % row, step + 1, row)
    return slice(max(0, start - row), start)


def _folded_attention(query: Tensor, keys: Tensor, values: Tensor, scale: float, pattern: Pattern, row: int) -> Tensor:
    """Sparse attention of a whole trial ``[B, heads, T, dim]``, with rows or columns as additional heads."""
    steps = query.shape[2]
    padding = (0, 0, 0, -steps % row)
    query, keys, values = (  # [B, heads, rows, row, dim]
        F.pad(part, padding).unflatten(2, (-1, row)) for part in (query, keys, values)
    )
    if pattern == "previous_row":
        keys, values = (torch.cat([torch.zeros_like(p[:, :, :1]), p[:, :, :-1]], dim=2) for p in (keys, values))
    elif pattern == "column":
        query, keys, values = (part.transpose(2, 3) for part in (query, keys, values))  # [B, heads, row, rows, dim]
    folds, causal = query.shape[1:3], pattern != "previous_row"
    out = sdpa(query.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2), scale, is_causal=causal)
    out = out.unflatten(1, folds)  # [B, heads, rows, row, dim], or row before rows
    if pattern == "column":
        out = out.transpose(2, 3)
    return out.flatten(2, 3)[:, :, :steps]  # [B, heads, T, dim]


def _mask(steps: int, length: int, pattern: Pattern, row: int, device: torch.device) -> Tensor:
    """True where a step attends, bool ``[steps, length]``, for the last ``steps`` of ``length``."""
    query = torch.arange(length - steps, length, device=device).unsqueeze(1)
    key = torch.arange(length, device=device)
    if pattern == "previous_row":
        return key // row == query // row - 1
    same = key // row == query // row if pattern == "row" else key % row == query % row
    return same & (key <= query)
