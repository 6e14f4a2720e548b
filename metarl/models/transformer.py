"""A causal transformer over the whole trial (Vaswani et al. 2017), as a memory."""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.attention import (
    Cache,
    Pattern,
    Positions,
    Waves,
    attend,
    empty_cache,
    join_heads,
    relative_key,
    relative_query,
    row_length,
    sparse_attend,
    split_heads,
    split_rotated_heads,
    waves,
)
from metarl.models.base import Depth, SequenceModel
from metarl.models.mlp import mlp

Connections = Literal["residual", "dense"]
Norm = Literal["pre", "post", "none"]
SPARSE: tuple[Pattern, ...] = ("row", "column", "previous_row")  # in turns, layer by layer


class Transformer(SequenceModel):
    """Attention and feed-forward layers; acting keeps keys and values of the whole trial.

    Args:
        input_dim: size of the input.
        hidden_size: width of an embedded step and of each layer.
        num_layers: pairs of attention and feed-forward layers.
        num_heads: of attention; divides ``hidden_size``.
        feedforward_size: units of the feed-forward layers.
        positions: ``rotary`` turns queries and keys, ``relative`` scores distances (Transformer-XL), ``sinusoidal`` and
            ``learned`` add a code of the absolute position to the embedding (dense connections: beside it).
        norm: layer normalisation before each layer (``pre``), after it (``post``), or ``none``.
        connections: ``residual`` adds a layer's output to its input, ``dense`` puts it beside the input, so that the
            width grows by ``hidden_size`` per layer.
        attention: ``full``, or ``sparse``: layers see their row, their column and the previous row of the folded trial
            in turns.
        context: the longest sequence; learned positions and sparse attention need it.

    Raises:
        ValueError: sizes that do not fit each other.
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
        connections: Connections = "residual",
        attention: Literal["full", "sparse"] = "full",
        context: PositiveInt | None = None,
    ):
        super().__init__()
        check_sizes(hidden_size, num_heads, "model.positions=learned" if positions in ("rotary", "relative") else None)
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.key_dim = self.head_dim * (2 if positions == "relative" else 1)
        self.embed = nn.Linear(input_dim, hidden_size)
        nn.init.xavier_uniform_(self.embed.weight)
        absolute = positions in ("sinusoidal", "learned")
        self.position = PositionCode(positions, hidden_size, context) if absolute else None
        self.dense = connections == "dense"
        width = hidden_size * (2 if self.dense and absolute else 1)
        row = _row(context) if attention == "sparse" else 0
        self.attentions, self.feeds = nn.ModuleList(), nn.ModuleList()
        for index in range(num_layers):
            pattern = SPARSE[index % len(SPARSE)] if row else None
            heads = Heads(width, hidden_size, num_heads, positions, pattern, row)
            self.attentions.append(Connected(heads, width, hidden_size, norm, self.dense))
            width += hidden_size * self.dense
            feed = feed_forward(width, feedforward_size, hidden_size)
            self.feeds.append(Connected(feed, width, hidden_size, norm, self.dense))
            width += hidden_size * self.dense
        self.final_norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        self.output_dim = width

    def initial_carry(self, batch_size: int) -> tuple[Cache, ...]:
        like = self.embed.weight
        return tuple(
            empty_cache(batch_size, self.num_heads, self.key_dim, self.head_dim, like) for _ in self.attentions
        )

    def forward(self, x: Tensor, carry: tuple[Cache, ...]) -> tuple[Tensor, tuple[Cache, ...]]:
        start, steps = carry[0].steps, len(x)
        x = self.embed(x)
        if self.position is not None:
            code = self.position(start, steps).unsqueeze(1)
            x = torch.cat([x, code.expand_as(x)], dim=-1) if self.dense else x + code
        at = waves(start, steps, self.head_dim, x)
        caches = []
        for attention, feed, cache in zip(self.attentions, self.feeds, carry, strict=True):
            x, cache = attention(x, cache, at)
            (x,) = feed(x)
            caches.append(cache)
        return self.final_norm(x), tuple(caches)


def check_sizes(hidden_size: int, num_heads: int, unpaired: str | None = None) -> None:
    """Refuse widths that cannot be divided into heads.

    Args:
        unpaired: where heads must be even, because rotations and waves pair their channels, what does not need that.

    Raises:
        ValueError: naming what fits.
    """
    if hidden_size % num_heads:
        fitting = [heads for heads in range(1, min(hidden_size, 1024) + 1) if hidden_size % heads == 0]
        raise ValueError(
            f"model.num_heads={num_heads} does not divide model.hidden_size={hidden_size}; one of {fitting} does"
        )
    if unpaired and hidden_size // num_heads % 2:
        raise ValueError(
            f"model.hidden_size={hidden_size} over model.num_heads={num_heads} gives heads of odd width, "
            f"whose channels cannot be paired; change one of them, or use {unpaired}"
        )


def _row(context: int | None) -> int:
    if context is None:
        raise ValueError("model.context=null: sparse attention folds a trial of known length; set model.context")
    if context > 3 and row_length(context) == 1:
        raise ValueError(
            f"model.context={context} is prime and does not fold into rows, which model.attention=sparse needs; "
            f"use model.context={context + 1}"
        )
    return row_length(context)


class PositionCode(nn.Module):
    """A vector per position: ``learned``, or sines beside cosines."""

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
        """Of the positions from ``start`` on, ``[steps, size]``."""
        if self.table is None:
            return torch.cat(waves(start, steps, self.size, self.like), dim=-1)
        if start + steps > len(self.table):
            raise ValueError(f"step {start + steps} is beyond model.context={len(self.table)}; raise it")
        return self.table[start : start + steps]


class Connected(nn.Module):
    """A layer, its normalisation and its way round: ``[..., width]`` to ``[..., width]``, or beside it when dense."""

    def __init__(self, function: nn.Module, width: int, hidden_size: int, norm: Norm, dense: bool):
        super().__init__()
        self.function, self.dense = function, dense
        self.before = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        self.after = nn.LayerNorm(hidden_size) if norm == "post" else nn.Identity()

    def forward(self, x: Tensor, *memory) -> tuple:
        """The output, and what else the layer returns when it is given a memory."""
        y, *rest = self.function(self.before(x), *memory) if memory else (self.function(self.before(x)),)
        return (torch.cat([x, self.after(y)], dim=-1) if self.dense else self.after(x + y), *rest)


class Heads(nn.Module):
    """Causal attention of several heads.

    Args:
        input_dim, hidden_size: ``[T, B, input_dim]`` to ``[T, B, hidden_size]``.
        num_heads: of ``hidden_size / num_heads`` channels each.
        positions: what queries and keys know of positions.
        pattern, row: of sparse attention; None sees everything before.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_size: int,
        num_heads: int,
        positions: Positions,
        pattern: Pattern | None = None,
        row: int = 0,
    ):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.positions, self.pattern, self.row = positions, pattern, row
        self.project = head_projection(input_dim, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size, bias=False)
        nn.init.xavier_uniform_(self.output.weight)
        if positions == "relative":
            self.distance = nn.Parameter(torch.empty(num_heads, self.head_dim, self.head_dim))  # query to waves
            nn.init.xavier_uniform_(self.distance)
            self.content_bias = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim))
            self.position_bias = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim))

    def forward(self, x: Tensor, cache: Cache, at: Waves) -> tuple[Tensor, Cache]:
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
        scale = self.head_dim**-0.5
        if self.pattern is None:
            y = attend(query, cache, scale)
        else:
            y = sparse_attend(query, cache, scale, self.pattern, self.row)
        return self.output(join_heads(y)), cache


def head_projection(input_dim: int, size: int) -> nn.Linear:
    """To query, key and value of ``size`` each: Xavier weights of each by itself, no bias."""
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
