"""GTrXL: Transformer-XL (Dai et al. 2019, arXiv 1901.02860) with gates (Parisotto et al. 2019, arXiv 1910.06764)."""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.attention import (
    Sinusoids,
    join_heads,
    relative_key,
    relative_query,
    sinusoidal_positions,
    split_heads,
)
from metarl.models.base import Depth, SequenceModel
from metarl.models.sliding_window import KVRing, empty_ring, sliding_window_attention
from metarl.models.transformer import check_sizes, feed_forward, head_projection

Gating = Literal["residual", "residual_relu", "gru"]
PositionEncoding = Literal["sinusoidal", "learned"]


class GTrXL(SequenceModel):
    """Attention over a sliding window of the trial, with gates instead of residual connections.

    A layer attends to the current step and to the ``memory_length`` steps before it, so that L layers reach
    ``L memory_length`` steps back. The carry holds the keys and values of that window: the papers keep hidden states
    and project all of them at every step, here each step is projected once. Gradients flow through the carry unless
    the caller detaches it.

    Args:
        input_dim: size of the input.
        hidden_size: size of the embedding of a step, and of each layer.
        num_layers: number of pairs of an attention and a feed-forward layer.
        num_heads: number of attention heads; divides ``hidden_size``.
        feedforward_size: units of the feed-forward layers.
        memory_length: steps before the current one that a layer attends to.
        gating: ``gru`` is GTrXL's gate; ``residual`` adds a layer's output to its input (Transformer-XL);
            ``residual_relu`` adds the ReLU of the output.
        position_encoding: encoding of the distance between query and key: ``sinusoidal`` projects sinusoids of it
            (Transformer-XL, section 3.3), ``learned`` has a vector and a bias for each distance.
        norm: layer normalisation before each layer (``pre``, GTrXL's) or after it (``post``, Transformer-XL's).

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
        memory_length: PositiveInt = 64,
        gating: Gating = "gru",
        position_encoding: PositionEncoding = "sinusoidal",
        norm: Literal["pre", "post"] = "pre",
    ):
        super().__init__()
        sinusoidal = position_encoding == "sinusoidal"
        alternative = "model.position_encoding=learned" if sinusoidal else None
        check_sizes(hidden_size, num_heads, alternative)
        self.head_dim, self.num_heads, self.window = hidden_size // num_heads, num_heads, memory_length + 1
        self.key_dim = self.head_dim * (2 if sinusoidal else 1)
        self.output_dim = hidden_size
        self.embed = nn.Linear(input_dim, hidden_size)
        nn.init.xavier_uniform_(self.embed.weight)
        self.attentions, self.feeds = nn.ModuleList(), nn.ModuleList()
        for _ in range(num_layers):
            attention = SlidingWindowSelfAttention(hidden_size, num_heads, self.window, position_encoding)
            self.attentions.append(Gated(attention, hidden_size, gating, norm))
            self.feeds.append(
                Gated(feed_forward(hidden_size, feedforward_size, hidden_size), hidden_size, gating, norm)
            )
        self.final_norm = nn.LayerNorm(hidden_size) if norm == "pre" else nn.Identity()

    def initial_carry(self, batch_size: int) -> tuple[KVRing, ...]:
        sizes = (self.num_heads, self.window, self.key_dim, self.head_dim)
        return tuple(empty_ring(batch_size, *sizes, like=self.embed.weight) for _ in self.attentions)

    def forward(self, x: Tensor, carry: tuple[KVRing, ...]) -> tuple[Tensor, tuple[KVRing, ...]]:
        at = sinusoidal_positions(carry[0].steps, len(x), self.head_dim, x)
        x, rings = self.embed(x), []
        for attention, feed, ring in zip(self.attentions, self.feeds, carry, strict=True):
            x, ring = attention(x, ring, at)
            (x,) = feed(x)
            rings.append(ring)
        return self.final_norm(x), tuple(rings)


class Gated(nn.Module):
    """A layer with normalisation and a gated or residual connection: ``[..., size]`` to ``[..., size]``."""

    def __init__(self, function: nn.Module, size: int, gating: Gating, norm: Literal["pre", "post"]):
        super().__init__()
        self.function, self.rectified = function, gating != "residual"
        self.before = nn.LayerNorm(size) if norm == "pre" else nn.Identity()
        self.after = nn.LayerNorm(size) if norm == "post" else nn.Identity()
        self.gate = GRUGate(size) if gating == "gru" else None

    def forward(self, x: Tensor, *memory) -> tuple:
        """The output, followed by the new ring if the layer takes a ring and positions."""
        y, *ring = self.function(self.before(x), *memory) if memory else (self.function(self.before(x)),)
        y = torch.relu(y) if self.rectified else y
        return (self.after(x + y if self.gate is None else self.gate(x, y)), *ring)


class GRUGate(nn.Module):
    """A GRU cell whose state is the input of a layer, and whose input is the output of the layer.

    Parisotto et al. 2019, section 3.2: ``z = s(W_z y + U_z x - b)``, ``r = s(W_r y + U_r x)``,
    ``(1 - z) x + z tanh(W_g y + U_g (r x))``. The bias b of 2 makes the layers initially close to the identity.
    """

    def __init__(self, size: int, bias: float = 2.0):
        super().__init__()
        self.from_output = nn.Linear(size, 3 * size, bias=False)  # W_z, W_r, W_g
        self.from_input = nn.Linear(size, 2 * size, bias=False)  # U_z, U_r
        self.from_reset = nn.Linear(size, size, bias=False)  # U_g
        for linear in (self.from_output, self.from_input, self.from_reset):
            for block in linear.weight.data.split(size):
                nn.init.xavier_uniform_(block)
        self.bias = nn.Parameter(torch.full((size,), bias))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Input x and output y of a layer, ``[..., size]`` each, to ``[..., size]``."""
        update, reset, candidate = self.from_output(y).chunk(3, dim=-1)
        update_x, reset_x = self.from_input(x).chunk(2, dim=-1)
        update, reset = torch.sigmoid(update + update_x - self.bias), torch.sigmoid(reset + reset_x)
        return torch.lerp(x, torch.tanh(candidate + self.from_reset(reset * x)), update)


class SlidingWindowSelfAttention(nn.Module):
    """Multi-head attention to a sliding window, with scores of contents and of distances.

    The score of query i and key j is ``(q_i + u) k_j + (q_i + v) W R_(i-j)`` (``sinusoidal``; Dai et al. 2019, equation
    5; R are ``head_dim`` sinusoids of a distance) or ``(q_i + u) k_j + q_i E_(i-j) + b_(i-j)`` (``learned``), times
    ``head_dim ** -0.5``.

    Args:
        size: size of input and output; heads have ``head_dim = size / num_heads`` channels each.
        num_heads: number of heads; divides ``size``.
        window: steps that a query attends to, its own included.
        position_encoding: see ``GTrXL``.
    """

    def __init__(self, size: int, num_heads: int, window: int, position_encoding: PositionEncoding):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, size // num_heads
        self.sinusoidal = position_encoding == "sinusoidal"
        self.project = head_projection(size, size)
        self.output = nn.Linear(size, size, bias=False)
        nn.init.xavier_uniform_(self.output.weight)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim))  # u
        if self.sinusoidal:
            self.position_bias = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim))  # v
            self.distance = nn.Parameter(torch.empty(num_heads, self.head_dim, self.head_dim))  # W, query to sinusoids
            nn.init.xavier_uniform_(self.distance)
        else:
            self.distance = nn.Parameter(0.02 * torch.randn(num_heads, self.head_dim, window))  # E
            self.distance_bias = nn.Parameter(torch.zeros(num_heads, 1, window))  # b

    def forward(self, x: Tensor, ring: KVRing, at: Sinusoids) -> tuple[Tensor, KVRing]:
        """T steps ``[T, B, size]`` at positions ``at``, after those of the ring."""
        query, key, value = split_heads(self.project(x), self.num_heads)
        scale, content = self.head_dim**-0.5, query + self.content_bias
        if self.sinusoidal:
            content = relative_query(content, (query + self.position_bias) @ self.distance, at)
            y, ring = sliding_window_attention(content, relative_key(key, at), value, ring, scale)
        else:
            reached = min(ring.window, ring.steps + len(x))
            relative_bias = scale * (query @ self.distance[..., :reached] + self.distance_bias[..., :reached])
            y, ring = sliding_window_attention(content, key, value, ring, scale, relative_bias)
        return self.output(join_heads(y)), ring
