"""Causal attention over a trial: fused kernels for whole sequences, a cache of keys and values for single steps."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.models.attention_recorder import is_recording, record

Positions = Literal["rotary", "relative", "sinusoidal", "learned"]


class Cache(NamedTuple):
    """Keys and values of all earlier steps.

    Without gradients a single step is written in place, into a buffer that doubles when it is full: the cost of a step
    does not grow by copying.
    """

    keys: Tensor  # [B, heads, capacity, key_dim], valid in the first ``length`` steps
    values: Tensor  # [B, heads, capacity, value_dim]
    length: Tensor  # int64 [B] on the CPU, equal in all lanes

    @property
    def steps(self) -> int:
        """Number of steps in the cache."""
        return int(self.length[0])

    def append(self, keys: Tensor, values: Tensor) -> "Cache":
        """The cache, extended by the keys and values ``[B, heads, T, dim]`` of T more steps."""
        start, more = self.steps, keys.shape[2]
        length = self.length + more
        if more > 1 or torch.is_grad_enabled():
            if start:
                keys = torch.cat([self.keys[:, :, :start], keys], dim=2)
                values = torch.cat([self.values[:, :, :start], values], dim=2)
            return Cache(keys, values, length)
        all_keys, all_values = self.keys, self.values
        if start == all_keys.shape[2]:
            all_keys, all_values = _enlarged(all_keys), _enlarged(all_values)
        all_keys[:, :, start] = keys[:, :, 0]
        all_values[:, :, start] = values[:, :, 0]
        return Cache(all_keys, all_values, length)

    def contents(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the steps in the cache, ``[B, heads, length, dim]`` each."""
        return self.keys[:, :, : self.steps], self.values[:, :, : self.steps]


def _enlarged(buffer: Tensor) -> Tensor:
    """A buffer of twice the capacity that starts with the given steps; the rest is uninitialised."""
    batch, heads, steps, dim = buffer.shape
    larger = buffer.new_empty(batch, heads, steps + max(16, steps), dim)
    larger[:, :, :steps] = buffer
    return larger


def empty_cache(batch_size: int, num_heads: int, key_dim: int, value_dim: int, like: Tensor) -> Cache:
    """A cache without steps, with the device and data type of ``like``."""
    keys, values = (like.new_zeros(batch_size, num_heads, 0, dim) for dim in (key_dim, value_dim))
    return Cache(keys, values, torch.zeros(batch_size, dtype=torch.long))


def split_heads(projected: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value from their concatenation ``[T, B, 3 size]``, ``[B, heads, T, head_dim]`` each."""
    query, key, value = projected.unflatten(-1, (3, num_heads, -1)).permute(2, 1, 3, 0, 4)  # [3, B, heads, T, head_dim]
    return query, key, value


def join_heads(attended: Tensor) -> Tensor:
    """Outputs of all heads ``[B, heads, T, head_dim]``, concatenated: ``[T, B, size]``."""
    return attended.permute(2, 0, 1, 3).flatten(2)  # [T, B, size]


def causal_attention(query: Tensor, cache: Cache, scale: float) -> Tensor:
    """Causal attention of the last T steps of a cache to all of its steps.

    Args:
        query: ``[B, heads, T, key_dim]``, of the last T steps.
        cache: keys and values, those of the T steps included.
        scale: factor of the scores.

    Returns:
        ``[B, heads, T, value_dim]``.
    """
    keys, values = cache.contents()
    steps, length = query.shape[2], keys.shape[2]
    if steps == 1:  # a product with one row is faster than the fused kernel
        return attend_last(query, keys, values, scale, slice(0, length))
    if steps == length:
        return sdpa(query, keys, values, scale, is_causal=True)
    mask = torch.ones(steps, length, dtype=torch.bool, device=query.device).tril(length - steps)  # [T, length]
    return sdpa(query, keys, values, scale, attn_mask=mask)


def sdpa(query: Tensor, keys: Tensor, values: Tensor, scale: float, **mask) -> Tensor:
    """Torch's fused attention, which never stores all scores, also for values narrower than keys."""
    missing = keys.shape[-1] - values.shape[-1]
    if missing:
        values = F.pad(values, (0, missing))
    out = F.scaled_dot_product_attention(query, keys, values, scale=scale, **mask)
    return out[..., : out.shape[-1] - missing] if missing else out


def attend_last(query: Tensor, keys: Tensor, values: Tensor, scale: float, visible: slice) -> Tensor:
    """Attention of the last step ``[B, heads, 1, key_dim]`` to the ``visible`` ones of all steps."""
    weights = softmax(scale * (query @ keys[:, :, visible].transpose(-1, -2)))  # [B, heads, 1, n]
    if is_recording():
        record(weights.squeeze(2), torch.arange(keys.shape[2]).flip(0)[visible])
    return weights @ values[:, :, visible]


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis; a short one is moved to the front, where torch's kernel is ten times faster."""
    if scores.shape[-1] >= 16:
        return torch.softmax(scores, dim=-1)
    return torch.softmax(scores.movedim(-1, 0).contiguous(), dim=0).movedim(0, -1)


# ---------------------------------------------------------------- positions


class Sinusoids(NamedTuple):
    """Sines and cosines ``[T, dim / 2]`` of T positions at geometric frequencies (Vaswani et al. 2017)."""

    sine: Tensor
    cosine: Tensor


def sinusoidal_positions(start: int, steps: int, dim: int, like: Tensor) -> Sinusoids:
    """Sinusoids of the positions ``start`` to ``start + steps - 1``."""
    position = torch.arange(start, start + steps, device=like.device, dtype=torch.float64)
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, device=like.device, dtype=torch.float64) / dim)
    angle = position.unsqueeze(1) * frequency  # [T, dim / 2]
    return Sinusoids(angle.sin().to(like.dtype), angle.cos().to(like.dtype))


def split_rotated_heads(projected: Tensor, num_heads: int, at: Sinusoids) -> tuple[Tensor, Tensor, Tensor]:
    """``split_heads``, with each pair of channels of query and key rotated by the angle of its position.

    Rotary positions (Su et al. 2021, section 3.2.2). A pair is one complex number, and a rotation one product.
    """
    parts = projected.unflatten(-1, (3, num_heads, -1))  # [T, B, 3, heads, head_dim]
    pairs = torch.view_as_complex(parts[:, :, :2].unflatten(-1, (-1, 2)))  # [T, B, 2, heads, head_dim / 2]
    rotations = torch.complex(at.cosine, at.sine)[:, None, None, None]  # [T, 1, 1, 1, head_dim / 2]
    query, key = torch.view_as_real(pairs * rotations).flatten(-2).permute(2, 1, 3, 0, 4)  # [2, B, heads, T, head_dim]
    return query, key, parts[:, :, 2].permute(1, 2, 0, 3)  # [B, heads, T, head_dim]


def relative_query(content: Tensor, position: Tensor, at: Sinusoids) -> Tensor:
    """Queries whose product with ``relative_key`` is ``content . key + position . [sin(i - j); cos(i - j)]``.

    The scores of Transformer-XL (Dai et al. 2019, equation 5) without its shift of a whole matrix of scores: sinusoids
    of a distance are sums of products of sinusoids of both positions.
    """
    sines, cosines = position.chunk(2, dim=-1)
    for_sine = cosines * at.sine - sines * at.cosine
    for_cosine = sines * at.sine + cosines * at.cosine
    return torch.cat([content, for_sine, for_cosine], dim=-1)  # [..., T, 2 head_dim]


def relative_key(key: Tensor, at: Sinusoids) -> Tensor:
    """Keys ``[..., T, dim]``, concatenated with the sinusoids of their positions."""
    own = torch.cat([at.sine, at.cosine], dim=-1).expand(*key.shape[:-1], -1)  # [..., T, dim]
    return torch.cat([key, own], dim=-1)  # [..., T, 2 dim]
