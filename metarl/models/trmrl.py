"""TrMRL: transformers are meta-reinforcement learners (Melo 2022, arXiv 2206.06614)."""

from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.attention import Waves, fused, join_heads, softmax, split_rotated_heads, waves
from metarl.models.banded import Ring, empty_ring, slide
from metarl.models.base import Depth, SequenceModel
from metarl.models.transformer import check_sizes
from metarl.models.watching import show, watching

Initialization = Literal["published", "paper"]


class Window(NamedTuple):
    """What TrMRL remembers."""

    recent: Tensor  # [B, window - 1, input_dim], the last inputs, latest last
    spent: Tensor  # int64 [B], steps already spent in the present episode, or trial


class Band(NamedTuple):
    """The same where windows are not read apart."""

    rings: tuple[Ring, ...]  # of each layer
    spent: Tensor


class TrMRL(SequenceModel):
    """A transformer without layer normalisation over the last few steps, with T-Fixup initialisation.

    As published each step is read in a window of its own: the last ``window`` steps, the oldest in row 0 with position
    0. The same step so has another position, and other hidden states, in each window it belongs to. Ours instead is
    sliding-window attention over the trial with relative (rotary) positions: a step is computed once, layer l sees
    ``l (window - 1)`` steps back, and learning costs a fraction.

    Args:
        input_dim: size of the input.
        hidden_size: width of an embedded step and of each layer.
        num_layers: pairs of attention and feed-forward layers.
        num_heads: of attention; divides ``hidden_size``.
        feedforward_size: units of the feed-forward layers.
        window: steps seen at once, the present one included (the working memory).
        past: ``windows`` is the published way to see it, ``banded`` ours.
        initialization: T-Fixup (Huang et al. 2020) as the ``published`` agents had it, scaling queries and keys too, or
            as its ``paper`` says, scaling values, outputs and feed-forward layers.
        head_input: ``latest`` is the present step's output; ``mixed`` has its embedding beside it; ``full`` has the
            outputs of all rows of the window, those not yet filled included.
        memory_scope: windows reach back to the start of the ``episode``, as published, or of the ``trial``.
        recurrent_feedback: before the next step, overwrite the present one in memory by a linear map of all outputs.
            Learning then walks through time step by step.

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
        past: Literal["windows", "banded"] = "windows",
        initialization: Initialization = "published",
        head_input: Literal["latest", "mixed", "full"] = "latest",
        memory_scope: Literal["episode", "trial"] = "episode",
        recurrent_feedback: bool = False,
    ):
        super().__init__()
        check_sizes(hidden_size, num_heads, "model.past=windows" if past == "banded" else None)
        if past == "banded" and (head_input == "full" or recurrent_feedback):
            raise ValueError(
                f"model.past=banded has no rows of a window, which model.head_input={head_input}, "
                f"model.recurrent_feedback={recurrent_feedback} would read; use model.past=windows"
            )
        if hidden_size % 2:
            raise ValueError(f"model.hidden_size={hidden_size} is odd; sinusoidal positions need an even one")
        if recurrent_feedback and window == 1:
            raise ValueError("model.window=1 holds no earlier step that recurrent_feedback could overwrite; raise it")
        self.input_dim, self.window, self.banded = input_dim, window, past == "banded"
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.head_input, self.whole_trial = head_input, memory_scope == "trial"
        self.embed = nn.Linear(input_dim, hidden_size, bias=False)
        self.layers = nn.ModuleList(WindowLayer(hidden_size, num_heads, feedforward_size) for _ in range(num_layers))
        self.positions: Tensor
        table = torch.stack(waves(0, window, hidden_size, self.embed.weight), dim=-1).flatten(1)
        self.register_buffer("positions", table, persistent=False)  # [window, hidden_size]
        self.feedback = nn.Linear(window * hidden_size, input_dim, bias=False) if recurrent_feedback else None
        initialize(self.embed, self._stack, initialization)
        self.output_dim = {"latest": 1, "mixed": 2, "full": window}[head_input] * hidden_size

    @property
    def _stack(self) -> "list[WindowLayer]":
        return cast("list[WindowLayer]", list(self.layers))

    def initial_carry(self, batch_size: int) -> Window | Band:
        weight = self.embed.weight
        spent = torch.zeros(batch_size, dtype=torch.long, device=weight.device)
        if self.banded:
            sizes = (self.num_heads, self.window, self.head_dim, self.head_dim)
            rings = tuple(empty_ring(batch_size, *sizes, like=weight) for _ in self.layers)
            return Band(rings, spent)
        return Window(weight.new_zeros(batch_size, self.window - 1, self.input_dim), spent)

    def forward(self, x: Tensor, carry: Window | Band) -> tuple[Tensor, Window | Band]:
        if isinstance(carry, Band):
            return self._slide(x, carry)
        if self.feedback is None:
            return self._read(x, carry)[0], self._remember(x, carry)
        outputs = []
        for step in x.split(1):
            y, rows = self._read(step, carry)
            recent, spent = self._remember(step, carry)
            recent = torch.cat([recent[:, :-1], self.feedback(rows.flatten(2)).transpose(0, 1)], dim=1)
            carry = Window(recent, spent)
            outputs.append(y)
        return torch.cat(outputs), carry

    def _slide(self, x: Tensor, carry: Band) -> tuple[Tensor, Band]:
        tokens = rows = self.embed(x)
        age = self._age(x, carry.spent)
        at = waves(carry.rings[0].steps, len(x), self.head_dim, rows)
        reach = None if self.whole_trial else age.T
        rings = []
        for layer, ring in zip(self._stack, carry.rings, strict=True):
            rows, ring = layer.slide(rows, ring, at, reach)
            rings.append(ring)
        y = rows if self.head_input == "latest" else torch.cat([tokens, rows], dim=-1)
        return y, Band(tuple(rings), age[-1] + 1)

    def _age(self, x: Tensor, spent: Tensor) -> Tensor:
        """Steps before each in its scope, ``[T, B]``."""
        time = torch.arange(len(x), device=x.device).unsqueeze(1)
        if self.whole_trial:
            return spent + time
        start = torch.where(x[..., -1] > 0.5, time, -1).cummax(0).values
        return torch.where(start >= 0, time - start, spent + time)

    def _remember(self, x: Tensor, carry: Window) -> Window:
        recent = torch.cat([carry.recent, x.transpose(0, 1)], dim=1)
        return Window(recent[:, recent.shape[1] - (self.window - 1) :], self._age(x, carry.spent)[-1] + 1)

    def _read(self, x: Tensor, carry: Window) -> tuple[Tensor, Tensor]:
        """What the heads read, and the outputs of all rows ``[T, B, window, hidden_size]`` where they are needed."""
        tokens = self.embed(torch.cat([carry.recent.transpose(0, 1), x]))
        filled = self._age(x, carry.spent).clamp(max=self.window - 1)  # rows before the present one, [T, B]
        windows = Windows(tokens, filled, self.window)
        every_row = self.head_input == "full" or self.feedback is not None
        rows = self._stack[0].over_tokens(windows, self.positions, last_row=len(self.layers) == 1 and not every_row)
        for index, layer in enumerate(self._stack[1:], 2):
            rows = layer(rows, windows.present, last_row=index == len(self.layers) and not every_row)
        rows = rows.unflatten(0, filled.shape)  # [T, B, window or 1, hidden_size]
        latest = rows.flatten(2) if rows.shape[2] == 1 else windows.pick(rows.flatten(0, 1)).view(*filled.shape, -1)
        if self.head_input == "latest":
            return latest, rows
        if self.head_input == "mixed":
            return torch.cat([tokens[self.window - 1 :], latest], dim=-1), rows
        return rows.flatten(2), rows


class Windows:
    """Where each of ``T * B`` windows finds its rows in one sequence of tokens.

    Args:
        tokens: ``[window - 1 + T, B, size]``, of the past and of the T steps whose windows these are.
        filled: int64 ``[T, B]``, rows before the present one.
        window: rows.
    """

    def __init__(self, tokens: Tensor, filled: Tensor, window: int):
        lanes = filled.shape[1]
        time = torch.arange(window - 1, window - 1 + len(filled), device=filled.device).view(-1, 1, 1)
        row = torch.arange(window, device=filled.device)
        source = (time - filled.unsqueeze(-1) + row) * lanes + torch.arange(lanes, device=filled.device).view(1, -1, 1)
        empty = tokens.shape[0] * lanes  # one more token, zero, for rows that are not filled
        self.source = torch.where(row <= filled.unsqueeze(-1), source, empty).flatten()
        self.tokens, self.window = tokens, window
        self.present = filled.flatten()  # row of the present step, [T * B]

    def gather(self, tokens: Tensor) -> Tensor:
        """Rows ``[T * B, window, size]`` of something known per token, ``[window - 1 + T, B, size]``."""
        table = F.pad(tokens.flatten(0, 1), (0, 0, 0, 1))
        return table.index_select(0, self.source).unflatten(0, (-1, self.window))

    def pick(self, rows: Tensor) -> Tensor:
        """The present step's row, ``[T * B, size]``."""
        return rows[torch.arange(len(rows), device=rows.device), self.present]


class WindowLayer(nn.Module):
    """Attention and feed-forward with residuals and no normalisation, over many windows: ``[N, window, size]``."""

    def __init__(self, size: int, num_heads: int, feedforward_size: int):
        super().__init__()
        self.num_heads, self.scale = num_heads, (size // num_heads) ** -0.5
        self.project = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)
        self.feed_in = nn.Linear(size, feedforward_size)
        self.feed_out = nn.Linear(feedforward_size, size)

    def over_tokens(self, windows: Windows, positions: Tensor, last_row: bool) -> Tensor:
        """The first layer: what is linear in token and position is computed once for each, not once per window."""
        rows = windows.gather(windows.tokens) + positions
        projected = windows.gather(F.linear(windows.tokens, self.project.weight))
        projected = projected + F.linear(positions, self.project.weight, self.project.bias)
        query, key, value = projected.chunk(3, dim=-1)
        if last_row:
            rows, query = windows.pick(rows).unsqueeze(1), windows.pick(query).unsqueeze(1)
        return self._attend(rows, query, key, value, windows.present, last_row)

    def forward(self, rows: Tensor, present: Tensor, last_row: bool) -> Tensor:
        """All rows, or the one of each window that is ``present``, ``[N, 1, size]``."""
        if not last_row:
            query, key, value = self.project(rows).chunk(3, dim=-1)
            return self._attend(rows, query, key, value, present, last_row)
        weight, bias = self.project.weight, self.project.bias
        size = rows.shape[-1]
        key, value = F.linear(rows, weight[size:], bias[size:]).chunk(2, dim=-1)
        rows = rows[torch.arange(len(rows), device=rows.device), present].unsqueeze(1)
        return self._attend(rows, F.linear(rows, weight[:size], bias[:size]), key, value, present, last_row)

    def slide(self, rows: Tensor, ring: Ring, at: Waves, reach: Tensor | None) -> tuple[Tensor, Ring]:
        """Over a sequence ``[T, B, size]`` at positions ``at``, ``reach [B, T]`` steps back at most."""
        query, key, value = split_rotated_heads(self.project(rows), self.num_heads, at)
        read, ring = slide(query, key, value, ring, self.scale, reach=reach)
        return self._join(rows, join_heads(read)), ring

    def _attend(
        self, rows: Tensor, query: Tensor, key: Tensor, value: Tensor, present: Tensor, last_row: bool
    ) -> Tensor:
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        if last_row or watching():
            back = present.unsqueeze(1) - torch.arange(key.shape[2], device=key.device)
            asked = query if last_row else query[torch.arange(len(query)), :, present].unsqueeze(2)
            scores = self.scale * (asked @ key.transpose(-1, -2))
            weights = softmax(scores.masked_fill((back < 0)[:, None, None], -torch.inf))
            show(weights.squeeze(2), back)
        read = weights @ value if last_row else fused(query, key, value, self.scale, is_causal=True)
        return self._join(rows, read.transpose(1, 2).flatten(2))

    def _join(self, rows: Tensor, read: Tensor) -> Tensor:
        rows = rows + self.output(read)
        return rows + self.feed_out(torch.relu(self.feed_in(rows)))


@torch.no_grad()
def initialize(embed: nn.Linear, layers: list[WindowLayer], how: Initialization) -> None:
    """T-Fixup (Huang et al. 2020, section 3.2) for N layers without normalisation.

    Embedding normal with deviation ``d^(-1/2) (9 N)^(-1/4)``; matrices Xavier uniform, scaled by ``0.67 N^(-1/4)``:
    value, output and feed-forward, and as ``published`` also query and key.
    """
    count, size = len(layers), embed.out_features
    embed.weight.normal_(std=size**-0.5 * (9 * count) ** -0.25)
    scale = 0.67 * count**-0.25
    for layer in layers:
        query, key, value = layer.project.weight.split(size)
        for block in (query, key):
            nn.init.xavier_uniform_(block, gain=scale if how == "published" else 1.0)
        nn.init.xavier_uniform_(value, gain=scale)
        for linear in (layer.output, layer.feed_in, layer.feed_out):
            nn.init.xavier_uniform_(linear.weight, gain=scale)
        nn.init.zeros_(layer.project.bias)
        nn.init.zeros_(layer.output.bias)
