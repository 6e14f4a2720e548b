"""Causal attention over a trial: whole sequences by fused kernels, single steps by a cache of keys and values."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.models.watching import show, watching

Positions = Literal["rotary", "relative", "sinusoidal", "learned"]
Pattern = Literal["row", "column", "previous_row"]


class Cache(NamedTuple):
    """Keys and values of the past.

    Without gradients a step is written in place, into room that grows by doubling, so that its cost does not grow
    with the cost of copying.
    """

    keys: Tensor  # [B, heads, capacity, key_dim], of which the first ``length`` count
    values: Tensor  # [B, heads, capacity, value_dim]
    length: Tensor  # int64 [B] on the CPU, the same in every lane

    @property
    def steps(self) -> int:
        """How many steps it holds."""
        return int(self.length[0])

    def append(self, keys: Tensor, values: Tensor) -> "Cache":
        """With the keys and values ``[B, heads, T, dim]`` of T more steps."""
        past, more = self.steps, keys.shape[2]
        length = self.length + more
        if more > 1 or torch.is_grad_enabled():
            if past:
                keys = torch.cat([self.keys[:, :, :past], keys], dim=2)
                values = torch.cat([self.values[:, :, :past], values], dim=2)
            return Cache(keys, values, length)
        all_keys, all_values = self.keys, self.values
        if past == all_keys.shape[2]:
            all_keys, all_values = _with_room(all_keys), _with_room(all_values)
        all_keys[:, :, past] = keys[:, :, 0]
        all_values[:, :, past] = values[:, :, 0]
        return Cache(all_keys, all_values, length)

    def present(self) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, heads, length, dim]``."""
        return self.keys[:, :, : self.steps], self.values[:, :, : self.steps]


def _with_room(held: Tensor) -> Tensor:
    """The same steps and as many free ones, which hold anything: nobody reads them before they are written."""
    batch, heads, past, dim = held.shape
    more = held.new_empty(batch, heads, past + max(16, past), dim)
    more[:, :, :past] = held
    return more


def empty_cache(batch_size: int, num_heads: int, key_dim: int, value_dim: int, like: Tensor) -> Cache:
    """Of no steps, on the device and in the precision of ``like``."""
    keys, values = (like.new_zeros(batch_size, num_heads, 0, dim) for dim in (key_dim, value_dim))
    return Cache(keys, values, torch.zeros(batch_size, dtype=torch.long))


def split_heads(projected: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, ``[T, B, 3 size]`` side by side, as ``[B, heads, T, head_dim]`` each."""
    query, key, value = projected.unflatten(-1, (3, num_heads, -1)).permute(2, 1, 3, 0, 4)
    return query, key, value


def join_heads(read: Tensor) -> Tensor:
    """``[B, heads, T, head_dim]`` to ``[T, B, size]``."""
    return read.permute(2, 0, 1, 3).flatten(2)


def attend(query: Tensor, cache: Cache, scale: float) -> Tensor:
    """What the last T steps of a cache see of it and of each other, causally.

    Args:
        query: ``[B, heads, T, key_dim]``, of the last T steps.
        cache: already holds these T steps.
        scale: of the scores.

    Returns:
        ``[B, heads, T, value_dim]``.
    """
    keys, values = cache.present()
    steps, length = query.shape[2], keys.shape[2]
    if steps == 1:  # a product with one row: faster than the fused kernel
        return _weigh(query, keys, values, scale, slice(0, length))
    if steps == length:
        return fused(query, keys, values, scale, is_causal=True)
    allowed = torch.ones(steps, length, dtype=torch.bool, device=query.device).tril(length - steps)
    return fused(query, keys, values, scale, attn_mask=allowed)


def fused(query: Tensor, keys: Tensor, values: Tensor, scale: float, **mask) -> Tensor:
    """Fused attention, which never holds all scores at once, where keys and values may differ in size."""
    missing = keys.shape[-1] - values.shape[-1]
    if missing:
        values = F.pad(values, (0, missing))
    out = F.scaled_dot_product_attention(query, keys, values, scale=scale, **mask)
    return out[..., : out.shape[-1] - missing] if missing else out


def _weigh(query: Tensor, keys: Tensor, values: Tensor, scale: float, seen: slice) -> Tensor:
    """What the last step sees of some of the steps."""
    weights = softmax(scale * (query @ keys[:, :, seen].transpose(-1, -2)))
    if watching():
        show(weights.squeeze(2), torch.arange(keys.shape[2]).flip(0)[seen])
    return weights @ values[:, :, seen]


def softmax(scores: Tensor) -> Tensor:
    """Over the last axis. Torch's kernel is slow where that is short, and ten times faster over the first one."""
    if scores.shape[-1] >= 16:
        return torch.softmax(scores, dim=-1)
    return torch.softmax(scores.movedim(-1, 0).contiguous(), dim=0).movedim(0, -1)


# ---------------------------------------------------------------- sparse patterns (Child et al. 2019)


def row_length(context: int) -> int:
    """The largest divisor of ``context`` not above its root: how a trial folds into rows."""
    return max(size for size in range(1, int(context**0.5) + 1) if context % size == 0)


def sparse_attend(query: Tensor, cache: Cache, scale: float, pattern: Pattern, row: int) -> Tensor:
    """``attend`` where the trial is folded into rows of ``row`` steps.

    ``row`` sees its own row up to itself, ``column`` the steps above it in its column, ``previous_row`` the whole row
    above; the first row has none and gives zeros.
    """
    keys, values = cache.present()
    if query.shape[2] == 1:
        seen = _seen_by_last(keys.shape[2] - 1, pattern, row)
        return _weigh(query, keys, values, scale, seen)
    if query.shape[2] == keys.shape[2]:
        return _folded_attend(query, keys, values, scale, pattern, row)
    allowed = _allowed(query.shape[2], keys.shape[2], pattern, row, query.device)
    some = allowed.any(-1, keepdim=True)
    return fused(query, keys, values, scale, attn_mask=allowed | ~some) * some


def _seen_by_last(step: int, pattern: Pattern, row: int) -> slice:
    start = step - step % row
    if pattern == "row":
        return slice(start, step + 1)
    if pattern == "column":
        return slice(step % row, step + 1, row)
    return slice(max(0, start - row), start)  # nothing, in the first row


def _folded_attend(query: Tensor, keys: Tensor, values: Tensor, scale: float, pattern: Pattern, row: int) -> Tensor:
    steps = query.shape[2]
    padding = (0, 0, 0, -steps % row)
    query, keys, values = (F.pad(part, padding).unflatten(2, (-1, row)) for part in (query, keys, values))
    if pattern == "previous_row":
        keys, values = (torch.cat([torch.zeros_like(p[:, :, :1]), p[:, :, :-1]], dim=2) for p in (keys, values))
    elif pattern == "column":
        query, keys, values = (part.transpose(2, 3) for part in (query, keys, values))
    folds, causal = query.shape[1:3], pattern != "previous_row"
    out = fused(query.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2), scale, is_causal=causal)
    out = out.unflatten(1, folds)
    if pattern == "column":
        out = out.transpose(2, 3)
    return out.flatten(2, 3)[:, :, :steps]


def _allowed(steps: int, length: int, pattern: Pattern, row: int, device: torch.device) -> Tensor:
    """Who sees whom, bool ``[steps, length]``, for the last ``steps`` of ``length``."""
    viewer = torch.arange(length - steps, length, device=device).unsqueeze(1)
    viewed = torch.arange(length, device=device)
    if pattern == "previous_row":
        return viewed // row == viewer // row - 1
    same = viewed // row == viewer // row if pattern == "row" else viewed % row == viewer % row
    return same & (viewed <= viewer)


# ---------------------------------------------------------------- positions


class Waves(NamedTuple):
    """Sines and cosines ``[T, dim / 2]`` of T positions at geometric frequencies (Vaswani et al. 2017)."""

    sine: Tensor
    cosine: Tensor


def waves(start: int, steps: int, dim: int, like: Tensor) -> Waves:
    """Of the positions ``start`` to ``start + steps - 1``."""
    position = torch.arange(start, start + steps, device=like.device, dtype=torch.float64)
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, device=like.device, dtype=torch.float64) / dim)
    angle = position.unsqueeze(1) * frequency
    return Waves(angle.sin().to(like.dtype), angle.cos().to(like.dtype))


def split_rotated_heads(projected: Tensor, num_heads: int, at: Waves) -> tuple[Tensor, Tensor, Tensor]:
    """``split_heads`` with each pair of channels of query and key turned by its position's angle.

    Rotary positions (Su et al. 2021, section 3.2.2). A pair is one complex number, and a turn one product.
    """
    parts = projected.unflatten(-1, (3, num_heads, -1))
    pairs = torch.view_as_complex(parts[:, :, :2].unflatten(-1, (-1, 2)))  # [T, B, 2, heads, head_dim / 2]
    turns = torch.complex(at.cosine, at.sine)[:, None, None, None]
    query, key = torch.view_as_real(pairs * turns).flatten(-2).permute(2, 1, 3, 0, 4)
    return query, key, parts[:, :, 2].permute(1, 2, 0, 3)


def relative_query(content: Tensor, position: Tensor, at: Waves) -> Tensor:
    """Queries whose product with ``relative_key`` is ``content . key + position . [sin(i - j); cos(i - j)]``.

    The scores of Transformer-XL (Dai et al. 2019, equation 5) without its shift of a whole matrix of scores: a wave
    of the distance is a sum of products of waves of both ends.
    """
    sines, cosines = position.chunk(2, dim=-1)
    for_sine = cosines * at.sine - sines * at.cosine
    for_cosine = sines * at.sine + cosines * at.cosine
    return torch.cat([content, for_sine, for_cosine], dim=-1)


def relative_key(key: Tensor, at: Waves) -> Tensor:
    """Keys ``[..., T, dim]`` with the waves of their own position beside them."""
    own = torch.cat([at.sine, at.cosine], dim=-1).expand(*key.shape[:-1], -1)
    return torch.cat([key, own], dim=-1)
