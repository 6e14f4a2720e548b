"""A causal transformer over the whole trial (Vaswani et al. 2017), as a memory."""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.attention import (
    Cache,
    Positions,
    Sinusoids,
    causal_attention,
    empty_cache,
    join_heads,
    relative_key,
    relative_query,
    sinusoidal_positions,
    split_heads,
    split_rotated_heads,
)
from metarl.models.base import Depth, SequenceModel
from metarl.models.mlp import mlp

Norm = Literal["pre", "post"]


class CausalTransformer(SequenceModel):
    """Carry and forward pass of transformers; subclasses add the layers, ``final_norm`` and ``output_dim``.

    The carry has the keys and values of all steps of the trial, one cache for each attention layer.

    Args:
        input_dim: size of the input.
        hidden_size: size of the embedding of a step.
        num_heads: number of attention heads; divides ``hidden_size``.
        positions: see ``Transformer``.
        context: see ``Transformer``.

    Raises:
        ValueError: sizes that do not fit each other, or learned positions without ``context``.
    """

    final_norm: nn.Module

    def __init__(self, input_dim: int, hidden_size: int, num_heads: int, positions: Positions, context: int | None):
        super().__init__()
        check_sizes(hidden_size, num_heads, "model.positions=learned" if positions in ("rotary", "relative") else None)
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.key_dim = self.head_dim * (2 if positions == "relative" else 1)
        self.embed = nn.Linear(input_dim, hidden_size)
        nn.init.xavier_uniform_(self.embed.weight)
        absolute = positions in ("sinusoidal", "learned")
        self.position = PositionCode(positions, hidden_size, context) if absolute else None
        self.attentions, self.feeds = nn.ModuleList(), nn.ModuleList()

    def initial_carry(self, batch_size: int) -> tuple[Cache, ...]:
        like = self.embed.weight
        return tuple(
            empty_cache(batch_size, self.num_heads, self.key_dim, self.head_dim, like) for _ in self.attentions
        )

    def forward(self, x: Tensor, carry: tuple[Cache, ...]) -> tuple[Tensor, tuple[Cache, ...]]:
        start, steps = carry[0].steps, len(x)
        x = self.embed(x)
        if self.position is not None:
            x = self.with_position(x, self.position(start, steps).unsqueeze(1))
        at = sinusoidal_positions(start, steps, self.head_dim, x)
        caches = []
        for attention, feed, cache in zip(self.attentions, self.feeds, carry, strict=True):
            x, cache = attention(x, cache, at)
            (x,) = feed(x)
            caches.append(cache)
        return self.final_norm(x), tuple(caches)

    def add_layer(self, attention: nn.Module, feedforward_size: int, norm: Norm) -> None:
        """Add an attention layer and a feed-forward layer with residual connections."""
        size = self.embed.out_features
        self.attentions.append(Residual(attention, size, norm))
        self.feeds.append(Residual(feed_forward(size, feedforward_size, size), size, norm))

    def finish(self, width: int, norm: Norm) -> None:
        """Set the size of the output, which is normalised where layers normalise only their inputs."""
        self.output_dim = width
        self.final_norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()

    def with_position(self, x: Tensor, code: Tensor) -> Tensor:
        """Embeddings ``[T, B, hidden_size]`` combined with position codes ``[T, 1, hidden_size]``: their sum."""
        return x + code


class Transformer(CausalTransformer):
    """Residual layers of causal attention over the whole trial, with a cache of keys and values for acting.

    Args:
        input_dim: size of the input.
        hidden_size: size of the embedding of a step, and of each layer.
        num_layers: number of pairs of an attention and a feed-forward layer.
        num_heads: number of attention heads; divides ``hidden_size``.
        feedforward_size: units of the feed-forward layers.
        positions: ``rotary`` rotates queries and keys, ``relative`` scores distances (Transformer-XL), ``sinusoidal``
            and ``learned`` add a code of the absolute position to the embedding.
        norm: layer normalisation before each layer (``pre``) or after its residual connection (``post``).
        context: the longest sequence; learned positions need it.

    Raises:
        ValueError: sizes that do not fit each other, or learned positions without ``context``.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_size: PositiveInt = 128,
        num_layers: Depth = 2,
        num_heads: PositiveInt = 4,
        feedforward_size: PositiveInt = 256,
        positions: Positions = "rotary",
        norm: Norm = "pre",
        context: PositiveInt | None = None,
    ):
        super().__init__(input_dim, hidden_size, num_heads, positions, context)
        for _ in range(num_layers):
            attention = SelfAttention(hidden_size, hidden_size, num_heads, positions)
            self.add_layer(attention, feedforward_size, norm)
        self.finish(hidden_size, norm)


def check_sizes(hidden_size: int, num_heads: int, alternative: str | None = None) -> None:
    """Refuse sizes that cannot be divided into heads.

    Args:
        hidden_size, num_heads: of the model.
        alternative: where heads must have even size, because rotations and sinusoids pair their channels: the setting
            that does not need it.

    Raises:
        ValueError: the sizes do not fit; names those that do.
    """
    if hidden_size % num_heads:
        fitting = [heads for heads in range(1, min(hidden_size, 1024) + 1) if hidden_size % heads == 0]
        raise ValueError(
            f"model.num_heads={num_heads} does not divide model.hidden_size={hidden_size}; one of {fitting} does"
        )
    if alternative and hidden_size // num_heads % 2:
        raise ValueError(
            f"model.hidden_size={hidden_size} over model.num_heads={num_heads} gives heads of odd size, "
            f"whose channels cannot be paired; change one of them, or use {alternative}"
        )


class PositionCode(nn.Module):
    """A vector for each position: learned, or sines and cosines.

    Args:
        positions: ``learned`` or ``sinusoidal``.
        size: of a vector.
        context: number of learned positions.

    Raises:
        ValueError: learned positions without ``context``, or sinusoids of an odd size.
    """

    def __init__(self, positions: Positions, size: int, context: int | None):
        super().__init__()
        self.size = size
        self.table = None
        if positions == "learned":
            if context is None:
                raise ValueError("model.context=null: learned positions need the longest trial; set model.context")
            self.table = nn.Parameter(0.02 * torch.randn(context, size))
        elif size % 2:
            raise ValueError(f"model.hidden_size={size} is odd; sinusoidal positions need an even one")
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, start: int, steps: int) -> Tensor:
        """Codes ``[steps, size]`` of the positions from ``start`` on."""
        if self.table is None:
            return torch.cat(sinusoidal_positions(start, steps, self.size, self.like), dim=-1)  # [steps, size]
        if start + steps > len(self.table):
            raise ValueError(f"step {start + steps} is beyond model.context={len(self.table)}; raise it")
        return self.table[start : start + steps]


class Residual(nn.Module):
    """A layer with normalisation and a residual connection: ``[..., size]`` to ``[..., size]``."""

    def __init__(self, function: nn.Module, size: int, norm: Norm):
        super().__init__()
        self.function = function
        self.before = nn.LayerNorm(size) if norm == "pre" else nn.Identity()
        self.after = nn.LayerNorm(size) if norm == "post" else nn.Identity()

    def forward(self, x: Tensor, *memory) -> tuple:
        """The output, followed by the new cache if the layer takes a cache and positions."""
        y, *cache = self.function(self.before(x), *memory) if memory else (self.function(self.before(x)),)
        return (self.after(x + y), *cache)


class SelfAttention(nn.Module):
    """Multi-head causal attention: ``[T, B, input_dim]`` to ``[T, B, hidden_size]``.

    Args:
        input_dim, hidden_size: input and output size.
        num_heads: number of heads of ``hidden_size / num_heads`` channels.
        positions: how queries and keys depend on positions; not at all if positions are absolute.
    """

    def __init__(self, input_dim: int, hidden_size: int, num_heads: int, positions: Positions):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.positions = positions
        self.project = head_projection(input_dim, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)
        nn.init.xavier_uniform_(self.output.weight)
        if positions == "relative":
            self.distance = nn.Parameter(torch.empty(num_heads, self.head_dim, self.head_dim))  # query to sinusoids
            nn.init.xavier_uniform_(self.distance)
            self.content_bias = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim))
            self.position_bias = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim))

    def forward(self, x: Tensor, cache: Cache, at: Sinusoids) -> tuple[Tensor, Cache]:
        """T steps ``[T, B, input_dim]`` at positions ``at``, after those of the cache."""
        projected = self.project(x)
        if self.positions == "rotary":
            query, key, value = split_rotated_heads(projected, self.num_heads, at)
        else:
            query, key, value = split_heads(projected, self.num_heads)
        if self.positions == "relative":
            distance = (query + self.position_bias) @ self.distance
            query, key = relative_query(query + self.content_bias, distance, at), relative_key(key, at)
        cache = cache.append(key, value)
        return self.output(join_heads(self.attend(query, cache))), cache

    def attend(self, query: Tensor, cache: Cache) -> Tensor:
        """Attention of the last T steps of the cache: ``[B, heads, T, key_dim]`` to ``[B, heads, T, head_dim]``."""
        return causal_attention(query, cache, self.head_dim**-0.5)


def head_projection(input_dim: int, size: int) -> nn.Linear:
    """A linear layer to query, key and value of ``size`` each: Xavier weights of each by itself, no bias."""
    project = nn.Linear(input_dim, 3 * size, bias=False)
    for block in project.weight.data.split(size):
        nn.init.xavier_uniform_(block)
    return project


def feed_forward(input_dim: int, feedforward_size: int, output_dim: int) -> nn.Sequential:
    """Two layers with a ReLU between them: Xavier weights, zero biases."""
    layers = mlp([input_dim, feedforward_size], nn.ReLU, output_dim)
    for name, parameter in layers.named_parameters():
        (nn.init.xavier_uniform_ if name.endswith("weight") else nn.init.zeros_)(parameter)
    return layers
