"""GTrXL: Transformer-XL (Dai et al. 2019, arXiv 1901.02860) with gates (Parisotto et al. 2019, arXiv 1910.06764)."""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.attention import Waves, join_heads, relative_key, relative_query, split_heads, waves
from metarl.models.banded import Ring, empty_ring, slide
from metarl.models.base import Depth, SequenceModel
from metarl.models.transformer import check_sizes, feed_forward, head_projection

Gating = Literal["residual", "residual_relu", "gru"]
Relative = Literal["waves", "learned"]


class GTrXL(SequenceModel):
    """Attention over a sliding window of the trial, with gates instead of residual connections.

    A layer sees its own input at this step and at the ``memory_length`` steps before it, so that L layers see
    ``L memory_length`` steps back. The carry holds that window, as keys and values: where the papers keep hidden states
    and project all of them at every step, each step is projected once. Gradients flow through it wherever the caller
    does not detach it.

    Args:
        input_dim: size of the input.
        hidden_size: width of an embedded step and of each layer.
        num_layers: pairs of attention and feed-forward layers.
        num_heads: of attention; divides ``hidden_size``.
        feedforward_size: units of the feed-forward layers.
        memory_length: steps before the present one that a layer sees.
        gating: ``gru`` as in GTrXL, ``residual`` a sum as in Transformer-XL, ``residual_relu`` a sum with the
            rectified layer.
        relative: what a head knows of distance: ``waves`` maps sinusoids of it into the head (Transformer-XL, section
            3.3), ``learned`` has a vector and a bias of its own for each distance.
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
        relative: Relative = "waves",
        norm: Literal["pre", "post"] = "pre",
    ):
        super().__init__()
        check_sizes(hidden_size, num_heads, "model.relative=learned" if relative == "waves" else None)
        self.head_dim, self.num_heads, self.window = hidden_size // num_heads, num_heads, memory_length + 1
        self.key_dim = self.head_dim * (2 if relative == "waves" else 1)
        self.output_dim = hidden_size
        self.embed = nn.Linear(input_dim, hidden_size)
        nn.init.xavier_uniform_(self.embed.weight)
        self.attentions, self.feeds = nn.ModuleList(), nn.ModuleList()
        for _ in range(num_layers):
            attention = WindowedHeads(hidden_size, num_heads, self.window, relative)
            self.attentions.append(Gated(attention, hidden_size, gating, norm))
            self.feeds.append(
                Gated(feed_forward(hidden_size, feedforward_size, hidden_size), hidden_size, gating, norm)
            )
        self.final_norm = nn.LayerNorm(hidden_size) if norm == "pre" else nn.Identity()

    def initial_carry(self, batch_size: int) -> tuple[Ring, ...]:
        sizes = (self.num_heads, self.window, self.key_dim, self.head_dim)
        return tuple(empty_ring(batch_size, *sizes, like=self.embed.weight) for _ in self.attentions)

    def forward(self, x: Tensor, carry: tuple[Ring, ...]) -> tuple[Tensor, tuple[Ring, ...]]:
        at = waves(carry[0].steps, len(x), self.head_dim, x)
        x, rings = self.embed(x), []
        for attention, feed, ring in zip(self.attentions, self.feeds, carry, strict=True):
            x, ring = attention(x, ring, at)
            (x,) = feed(x)
            rings.append(ring)
        return self.final_norm(x), tuple(rings)


class Gated(nn.Module):
    """A layer, its normalisation and its gate: ``[..., size]`` to ``[..., size]``."""

    def __init__(self, function: nn.Module, size: int, gating: Gating, norm: Literal["pre", "post"]):
        super().__init__()
        self.function, self.rectified = function, gating != "residual"
        self.before = nn.LayerNorm(size) if norm == "pre" else nn.Identity()
        self.after = nn.LayerNorm(size) if norm == "post" else nn.Identity()
        self.gate = GRUGate(size) if gating == "gru" else None

    def forward(self, x: Tensor, *memory) -> tuple:
        """The output, and what else the layer returns when it is given a memory."""
        y, *rest = self.function(self.before(x), *memory) if memory else (self.function(self.before(x)),)
        y = torch.relu(y) if self.rectified else y
        return (self.after(x + y if self.gate is None else self.gate(x, y)), *rest)


class GRUGate(nn.Module):
    """The cell of a GRU, with a layer's input as its state and the layer's output as its input.

    Parisotto et al. 2019, section 3.2: ``z = s(W_z y + U_z x - b)``, ``r = s(W_r y + U_r x)``,
    ``(1 - z) x + z tanh(W_g y + U_g (r x))``. The bias b of 2 keeps the layers close to the identity at first.
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
        """Input and output of a layer, ``[..., size]`` each."""
        update, reset, candidate = self.from_output(y).chunk(3, dim=-1)
        update_x, reset_x = self.from_input(x).chunk(2, dim=-1)
        update, reset = torch.sigmoid(update + update_x - self.bias), torch.sigmoid(reset + reset_x)
        return torch.lerp(x, torch.tanh(candidate + self.from_reset(reset * x)), update)


class WindowedHeads(nn.Module):
    """Attention of several heads to a sliding window, which scores contents and distances.

    Query i sees key j with ``(q_i + u) k_j + (q_i + v) W R_(i-j)`` (``waves``; Dai et al. 2019, equation 5; R the
    sinusoids of a distance, of a head's width) or ``(q_i + u) k_j + q_i E_(i-j) + b_(i-j)`` (``learned``), times
    ``head_dim ** -0.5``.

    Args:
        size: of input and output; heads have ``head_dim = size / num_heads`` channels each.
        num_heads: divides ``size``.
        window: steps a query sees, its own included.
        relative: see ``GTrXL``.
    """

    def __init__(self, size: int, num_heads: int, window: int, relative: Relative):
        super().__init__()
        self.num_heads, self.head_dim, self.relative = num_heads, size // num_heads, relative
        self.project = head_projection(size, size)
        self.output = nn.Linear(size, size, bias=False)
        nn.init.xavier_uniform_(self.output.weight)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim))  # u
        if relative == "waves":
            self.position_bias = nn.Parameter(torch.zeros(num_heads, 1, self.head_dim))  # v
            self.distance = nn.Parameter(torch.empty(num_heads, self.head_dim, self.head_dim))  # W, query to waves
            nn.init.xavier_uniform_(self.distance)
        else:
            self.distance = nn.Parameter(0.02 * torch.randn(num_heads, self.head_dim, window))  # E
            self.distance_bias = nn.Parameter(torch.zeros(num_heads, 1, window))  # b

    def forward(self, x: Tensor, ring: Ring, at: Waves) -> tuple[Tensor, Ring]:
        """T steps ``[T, B, size]`` at positions ``at``, after those of the ring."""
        query, key, value = split_heads(self.project(x), self.num_heads)
        scale, content = self.head_dim**-0.5, query + self.content_bias
        if self.relative == "waves":
            content = relative_query(content, (query + self.position_bias) @ self.distance, at)
            y, ring = slide(content, relative_key(key, at), value, ring, scale)
        else:
            met = min(ring.window, ring.steps + len(x))
            by_distance = scale * (query @ self.distance[..., :met] + self.distance_bias[..., :met])
            y, ring = slide(content, key, value, ring, scale, by_distance)
        return self.output(join_heads(y)), ring
