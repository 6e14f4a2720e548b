"""TrMRL: transformers are meta-reinforcement learners (Melo 2022, arXiv 2206.06614)."""

from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.attention import (
    Sinusoids,
    join_heads,
    sdpa,
    sinusoidal_positions,
    softmax,
    split_rotated_heads,
)
from metarl.models.attention_recorder import is_recording, record
from metarl.models.base import Depth, SequenceModel
from metarl.models.sliding_window import KVRing, empty_ring, sliding_window_attention
from metarl.models.transformer import check_sizes

TFixup = Literal["code", "paper"]


class WindowCarry(NamedTuple):
    """Memory of windowed attention: the inputs of the last steps."""

    recent: Tensor  # [B, window - 1, input_dim], newest last
    elapsed: Tensor  # int64 [B], steps since the start of the episode, or of the trial (``memory_scope``)


class SlidingWindowCarry(NamedTuple):
    """Memory of sliding-window attention: keys and values of the last steps."""

    rings: tuple[KVRing, ...]  # one for each layer
    elapsed: Tensor  # see ``WindowCarry``


class TrMRL(SequenceModel):
    """A transformer without layer normalisation over the last few steps, with T-Fixup initialisation.

    In the published model each step has its own window: the last ``window`` steps, the oldest in row 0 at position 0. A
    step therefore has another position, and other hidden states, in each window that contains it. The alternative is
    sliding-window attention over the trial with relative (rotary) positions: each step is computed once, l layers reach
    ``l (window - 1)`` steps back, and learning costs a fraction.

    Args:
        input_dim: size of the input.
        hidden_size: size of the embedding of a step, and of each layer.
        num_layers: number of pairs of an attention and a feed-forward layer.
        num_heads: number of attention heads; divides ``hidden_size``.
        feedforward_size: units of the feed-forward layers.
        window: steps of a window, the current one included (the working memory).
        attention: ``windowed`` is the published model, ``sliding`` the alternative.
        tfixup: variant of T-Fixup initialisation (Huang et al. 2020): ``code`` is that of TrMRL's authors, which also
            scales queries and keys; ``paper`` scales values, outputs and feed-forward layers.
        head_input: ``latest`` is the output of the current step; ``mixed`` also has its embedding; ``full`` has the
            outputs of all rows of the window, including those not yet filled.
        memory_scope: windows reach back to the start of the ``episode``, as published, or of the ``trial``.
        recurrent_feedback: before the next step, replace the current one in the memory by a linear map of all outputs.
            Learning is then sequential over time.

    Raises:
        ValueError: sizes that do not fit each other.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_size: PositiveInt = 128,
        num_layers: Depth = 4,
        num_heads: PositiveInt = 16,
        feedforward_size: PositiveInt = 512,
        window: PositiveInt = 5,
        attention: Literal["windowed", "sliding"] = "windowed",
        tfixup: TFixup = "code",
        head_input: Literal["latest", "mixed", "full"] = "latest",
        memory_scope: Literal["episode", "trial"] = "episode",
        recurrent_feedback: bool = False,
    ):
        super().__init__()
        check_sizes(hidden_size, num_heads, "model.attention=windowed" if attention == "sliding" else None)
        if attention == "sliding" and (head_input == "full" or recurrent_feedback):
            raise ValueError(
                f"model.attention=sliding has no rows of a window, which model.head_input={head_input}, "
                f"model.recurrent_feedback={recurrent_feedback} would read; use model.attention=windowed"
            )
        if hidden_size % 2:
            raise ValueError(f"model.hidden_size={hidden_size} is odd; sinusoidal positions need an even one")
        if recurrent_feedback and window == 1:
            raise ValueError("model.window=1 holds no earlier step that recurrent_feedback could overwrite; raise it")
        self.input_dim, self.window, self.sliding = input_dim, window, attention == "sliding"
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.head_input, self.whole_trial = head_input, memory_scope == "trial"
        self.embed = nn.Linear(input_dim, hidden_size, bias=False)
        self.layers = nn.ModuleList(WindowLayer(hidden_size, num_heads, feedforward_size) for _ in range(num_layers))
        self.positions: Tensor
        table = torch.stack(sinusoidal_positions(0, window, hidden_size, self.embed.weight), dim=-1).flatten(1)
        self.register_buffer("positions", table, persistent=False)  # [window, hidden_size]
        self.feedback = nn.Linear(window * hidden_size, input_dim, bias=False) if recurrent_feedback else None
        initialize(self.embed, self._stack, tfixup)
        self.output_dim = {"latest": 1, "mixed": 2, "full": window}[head_input] * hidden_size

    @property
    def _stack(self) -> "list[WindowLayer]":
        return cast("list[WindowLayer]", list(self.layers))

    def initial_carry(self, batch_size: int) -> WindowCarry | SlidingWindowCarry:
        weight = self.embed.weight
        elapsed = torch.zeros(batch_size, dtype=torch.long, device=weight.device)
        if self.sliding:
            sizes = (self.num_heads, self.window, self.head_dim, self.head_dim)
            rings = tuple(empty_ring(batch_size, *sizes, like=weight) for _ in self.layers)
            return SlidingWindowCarry(rings, elapsed)
        return WindowCarry(weight.new_zeros(batch_size, self.window - 1, self.input_dim), elapsed)

    def forward(
        self, x: Tensor, carry: WindowCarry | SlidingWindowCarry
    ) -> tuple[Tensor, WindowCarry | SlidingWindowCarry]:
        if isinstance(carry, SlidingWindowCarry):
            return self._slide(x, carry)
        if self.feedback is None:
            return self._windowed(x, carry)[0], self._append(x, carry)
        outputs = []
        for step in x.split(1):
            y, rows = self._windowed(step, carry)
            recent, elapsed = self._append(step, carry)
            recent = torch.cat([recent[:, :-1], self.feedback(rows.flatten(2)).transpose(0, 1)], dim=1)
            carry = WindowCarry(recent, elapsed)
            outputs.append(y)
        return torch.cat(outputs), carry

    def _slide(self, x: Tensor, carry: SlidingWindowCarry) -> tuple[Tensor, SlidingWindowCarry]:
        tokens = rows = self.embed(x)
        elapsed = self._elapsed(x, carry.elapsed)  # [T, B]
        at = sinusoidal_positions(carry.rings[0].steps, len(x), self.head_dim, rows)
        max_lookback = None if self.whole_trial else elapsed.T
        rings = []
        for layer, ring in zip(self._stack, carry.rings, strict=True):
            rows, ring = layer.slide(rows, ring, at, max_lookback)
            rings.append(ring)
        y = rows if self.head_input == "latest" else torch.cat([tokens, rows], dim=-1)
        return y, SlidingWindowCarry(tuple(rings), elapsed[-1] + 1)

    def _elapsed(self, x: Tensor, elapsed: Tensor) -> Tensor:
        """Steps before each step of ``x`` in its episode or trial, ``[T, B]``."""
        time = torch.arange(len(x), device=x.device).unsqueeze(1)
        if self.whole_trial:
            return elapsed + time
        start = torch.where(x[..., -1] > 0.5, time, -1).cummax(0).values
        return torch.where(start >= 0, time - start, elapsed + time)

    def _append(self, x: Tensor, carry: WindowCarry) -> WindowCarry:
        recent = torch.cat([carry.recent, x.transpose(0, 1)], dim=1)  # [B, window - 1 + T, input_dim]
        return WindowCarry(recent[:, recent.shape[1] - (self.window - 1) :], self._elapsed(x, carry.elapsed)[-1] + 1)

    def _windowed(self, x: Tensor, carry: WindowCarry) -> tuple[Tensor, Tensor]:
        """The output ``[T, B, output_dim]``, and the last layer's rows ``[T, B, window or 1, hidden_size]``."""
        tokens = self.embed(torch.cat([carry.recent.transpose(0, 1), x]))  # [window - 1 + T, B, hidden_size]
        filled = self._elapsed(x, carry.elapsed).clamp(max=self.window - 1)  # [T, B], rows before the current one
        windows = Windows(tokens, filled, self.window)
        every_row = self.head_input == "full" or self.feedback is not None
        rows = self._stack[0].over_tokens(windows, self.positions, last_row=len(self.layers) == 1 and not every_row)
        for index, layer in enumerate(self._stack[1:], 2):
            rows = layer(rows, windows.current, last_row=index == len(self.layers) and not every_row)
        rows = rows.unflatten(0, filled.shape)  # [T, B, window or 1, hidden_size]
        latest = rows.flatten(2) if rows.shape[2] == 1 else windows.pick(rows.flatten(0, 1)).view(*filled.shape, -1)
        if self.head_input == "latest":
            return latest, rows
        if self.head_input == "mixed":
            return torch.cat([tokens[self.window - 1 :], latest], dim=-1), rows
        return rows.flatten(2), rows  # [T, B, window * hidden_size]


class Windows:
    """Indices of the rows of ``T * B`` windows in one sequence of tokens.

    Args:
        tokens: ``[window - 1 + T, B, size]``, of the steps before and of the T steps that the windows belong to.
        filled: int64 ``[T, B]``, rows before the current one.
        window: rows of a window.
    """

    def __init__(self, tokens: Tensor, filled: Tensor, window: int):
        lanes = filled.shape[1]
        time = torch.arange(window - 1, window - 1 + len(filled), device=filled.device).view(-1, 1, 1)  # [T, 1, 1]
        row = torch.arange(window, device=filled.device)
        source = (time - filled.unsqueeze(-1) + row) * lanes + torch.arange(lanes, device=filled.device).view(1, -1, 1)
        empty = tokens.shape[0] * lanes  # one more token, of zeros, for rows that are not filled
        self.source = torch.where(row <= filled.unsqueeze(-1), source, empty).flatten()  # [T * B * window]
        self.tokens, self.window = tokens, window
        self.current = filled.flatten()  # [T * B], row of the current step

    def gather(self, tokens: Tensor) -> Tensor:
        """Values of all tokens ``[window - 1 + T, B, size]``, arranged in windows: ``[T * B, window, size]``."""
        table = F.pad(tokens.flatten(0, 1), (0, 0, 0, 1))  # [(window - 1 + T) B + 1, size]
        return table.index_select(0, self.source).unflatten(0, (-1, self.window))  # [T * B, window, size]

    def pick(self, rows: Tensor) -> Tensor:
        """The row of the current step, ``[T * B, size]``, of all rows ``[T * B, window, size]``."""
        return rows[torch.arange(len(rows), device=rows.device), self.current]


class WindowLayer(nn.Module):
    """Attention and feed-forward layer with residual connections, without normalisation: ``[N, window, size]``."""

    def __init__(self, size: int, num_heads: int, feedforward_size: int):
        super().__init__()
        self.num_heads, self.scale = num_heads, (size // num_heads) ** -0.5
        self.project = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)
        self.feed_in = nn.Linear(size, feedforward_size)
        self.feed_out = nn.Linear(feedforward_size, size)

    def over_tokens(self, windows: Windows, positions: Tensor, last_row: bool) -> Tensor:
        """The first layer: projections, which are linear, are computed once per token and position, not per window."""
        rows = windows.gather(windows.tokens) + positions
        projected = windows.gather(F.linear(windows.tokens, self.project.weight))
        projected = projected + F.linear(positions, self.project.weight, self.project.bias)
        query, key, value = projected.chunk(3, dim=-1)
        if last_row:
            rows, query = windows.pick(rows).unsqueeze(1), windows.pick(query).unsqueeze(1)
        return self._attend(rows, query, key, value, windows.current, last_row)

    def forward(self, rows: Tensor, current: Tensor, last_row: bool) -> Tensor:
        """The output of all rows, or only of the ``current`` row of each window, ``[N, 1, size]``."""
        if not last_row:
            query, key, value = self.project(rows).chunk(3, dim=-1)
            return self._attend(rows, query, key, value, current, last_row)
        weight, bias = self.project.weight, self.project.bias
        size = rows.shape[-1]
        key, value = F.linear(rows, weight[size:], bias[size:]).chunk(2, dim=-1)
        rows = rows[torch.arange(len(rows), device=rows.device), current].unsqueeze(1)  # [N, 1, size]
        return self._attend(rows, F.linear(rows, weight[:size], bias[:size]), key, value, current, last_row)

    def slide(self, rows: Tensor, ring: KVRing, at: Sinusoids, max_lookback: Tensor | None) -> tuple[Tensor, KVRing]:
        """Output of a sequence ``[T, B, size]`` at positions ``at``, and the ring after it."""
        query, key, value = split_rotated_heads(self.project(rows), self.num_heads, at)
        read, ring = sliding_window_attention(query, key, value, ring, self.scale, max_lookback=max_lookback)
        return self._join(rows, join_heads(read)), ring

    def _attend(
        self, rows: Tensor, query: Tensor, key: Tensor, value: Tensor, current: Tensor, last_row: bool
    ) -> Tensor:
        query, key, value = (  # [N, heads, rows, head_dim]
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        if last_row or is_recording():
            distance = current.unsqueeze(1) - torch.arange(key.shape[2], device=key.device)
            queries = query if last_row else query[torch.arange(len(query)), :, current].unsqueeze(2)
            scores = self.scale * (queries @ key.transpose(-1, -2))
            weights = softmax(scores.masked_fill((distance < 0)[:, None, None], -torch.inf))
            record(weights.squeeze(2), distance)
        read = weights @ value if last_row else sdpa(query, key, value, self.scale, is_causal=True)
        return self._join(rows, read.transpose(1, 2).flatten(2))  # [N, rows, size]

    def _join(self, rows: Tensor, read: Tensor) -> Tensor:
        rows = rows + self.output(read)
        return rows + self.feed_out(torch.relu(self.feed_in(rows)))


@torch.no_grad()
def initialize(embed: nn.Linear, layers: list[WindowLayer], variant: TFixup) -> None:
    """T-Fixup (Huang et al. 2020, section 3.2) for N layers without normalisation.

    The embedding is normal with standard deviation ``d^(-1/2) (9 N)^(-1/4)``; matrices are Xavier uniform, scaled by
    ``0.67 N^(-1/4)``: those of values, outputs and feed-forward layers, and with ``code`` also of queries and keys.
    """
    count, size = len(layers), embed.out_features
    embed.weight.normal_(std=size**-0.5 * (9 * count) ** -0.25)
    scale = 0.67 * count**-0.25
    for layer in layers:
        query, key, value = layer.project.weight.split(size)
        for block in (query, key):
            nn.init.xavier_uniform_(block, gain=scale if variant == "code" else 1.0)
        nn.init.xavier_uniform_(value, gain=scale)
        for linear in (layer.output, layer.feed_in, layer.feed_out):
            nn.init.xavier_uniform_(linear.weight, gain=scale)
        nn.init.zeros_(layer.project.bias)
        nn.init.zeros_(layer.output.bias)
