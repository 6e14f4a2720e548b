"""minGRU: a gated recurrence whose gates depend on the input alone (Feng et al. 2024, arXiv 2410.01201)."""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.base import Depth, SequenceModel
from metarl.models.scan import linear_scan


class MinGRU(SequenceModel):
    """Layers of ``h[t] = (1 - z[t]) h[t-1] + z[t] c[t]``, gate and candidate linear in the layer's input.

    The recurrence is linear in ``h``, so that all steps of a trial are computed in parallel during learning. As in the
    blocks of the paper, layers have pre-normalisation and residual connections, and a feed-forward layer follows each.

    Args:
        input_dim: size of the input.
        hidden_size: size of the embedding of a step, and units of each layer.
        num_layers: number of recurrences.
        timescale: longest initial memory in steps: time constants of the units are drawn between 1 and this number.
            None: the context.
        context: the longest sequence; used by ``timescale`` alone.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_size: PositiveInt = 128,
        num_layers: Depth = 2,
        timescale: PositiveInt | None = None,
        context: PositiveInt | None = None,
    ):
        super().__init__()
        self.output_dim = self.hidden_size = hidden_size
        self.embed = nn.Linear(input_dim, hidden_size)
        self.layers = nn.ModuleList(MinGRULayer(hidden_size, timescale or context or 1) for _ in range(num_layers))
        self.final_norm = nn.LayerNorm(hidden_size)

    def initial_carry(self, batch_size: int) -> tuple[Tensor, ...]:
        return tuple(self.embed.weight.new_zeros(batch_size, self.hidden_size) for _ in self.layers)

    def forward(self, x: Tensor, carry: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        x, last = self.embed(x), []
        for layer, hidden in zip(self.layers, carry, strict=True):
            x, hidden = layer(x, hidden)
            last.append(hidden)
        return self.final_norm(x), tuple(last)


class MinGRULayer(nn.Module):
    """A recurrence and a feed-forward layer, with residual connections: ``[T, B, size]`` to ``[T, B, size]``."""

    def __init__(self, size: int, timescale: int):
        super().__init__()
        self.norm, self.feed_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.project = nn.Linear(size, 2 * size)
        steps = 1 + (timescale - 1) * torch.rand(size)
        self.project.bias.data[:size] = -steps.log()  # the initial gate of a unit is about 1 / steps
        self.feed = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Output of a sequence after a state ``[B, size]``, and the state after the sequence."""
        gate, candidate = self.project(self.norm(x)).chunk(2, dim=-1)
        gate = torch.sigmoid(gate)
        states = linear_scan(1 - gate, gate * candidate, hidden)
        x = x + states
        return x + self.feed(self.feed_norm(x)), states[-1]
