"""Learning speed: one epoch of PPO against Python loops over time, and against the matrix-multiply peak."""

from functools import partial

import torch
from timing import Row, cpu_seconds, learner, matmul_peak, trial_of
from torch import Tensor, nn

from metarl.models.base import SequenceModel
from metarl.seeding import make_generator

STEPS = 100
EPOCH = (
    "env=bandit",
    f"env.num_episodes={STEPS}",
    "algorithm.num_epochs=1",
    "algorithm.num_minibatches=1",
    "model.timescale=1",
)


class CellLoop(SequenceModel):
    """A Python loop over ``nn.GRUCell``."""

    def __init__(self, input_dim: int, hidden_size: int):
        super().__init__()
        self.output_dim = self.hidden_size = hidden_size
        self.cell = self.make_cell(input_dim, hidden_size)

    def make_cell(self, input_dim: int, hidden_size: int) -> nn.Module:
        """The module that is called at every step."""
        return nn.GRUCell(input_dim, hidden_size)

    def initial_carry(self, batch_size: int) -> Tensor:
        return torch.zeros(batch_size, self.hidden_size)

    def forward(self, x: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for row in x:
            carry = self.cell(row, carry)
            outputs.append(carry)
        return torch.stack(outputs), carry


class PublishedLoop(CellLoop):
    """A loop over the layer-normalised cell as in published codes: all projections at every step."""

    def make_cell(self, input_dim: int, hidden_size: int) -> nn.Module:
        return PublishedCell(input_dim, hidden_size)


class PublishedCell(nn.Module):
    """A GRU cell with four projections and four layer normalisations per step."""

    def __init__(self, input_dim: int, hidden_size: int):
        super().__init__()
        sizes = [(input_dim, 2 * hidden_size), (hidden_size, 2 * hidden_size)]
        sizes += [(input_dim, hidden_size), (hidden_size, hidden_size)]
        self.projections = nn.ModuleList([nn.Linear(*size) for size in sizes])
        self.norms = nn.ModuleList([WrittenLayerNorm(size) for _, size in sizes])

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """The next hidden state."""
        gates_x, gates_h, proposed_x, proposed_h = (
            norm(projection(part))
            for norm, projection, part in zip(self.norms, self.projections, (x, hidden) * 2, strict=True)
        )
        keep, reset = torch.sigmoid(gates_x + gates_h).chunk(2, dim=-1)
        return keep * hidden + (1 - keep) * torch.tanh(proposed_x + reset * proposed_h)


class WrittenLayerNorm(nn.Module):
    """Layer normalisation written in elementary operations."""

    def __init__(self, size: int):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """Zero mean and unit variance over the last axis, scaled and shifted."""
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * self.scale + self.shift


def epoch(lanes: int, hidden: int, memory: str | None = None, layer_norm: bool = False):
    """A call that runs one epoch of PPO on ``lanes`` trials as one batch, and its number of useful operations."""
    overrides = [*EPOCH, f"meta_batch_size={lanes}", f"model.hidden_size={hidden}"]
    algorithm, env = learner(*overrides, f"model.layer_norm={str(layer_norm).lower()}", memory=memory)
    call = partial(algorithm.update, trial_of(algorithm, env), 0.0, make_generator(2))
    width = algorithm.policy.features.output_dim
    weights = 3 * hidden * (hidden + width) + hidden * (algorithm.policy.distribution.num_parameters + 1)
    return call, 3 * 2 * weights * lanes * STEPS  # backward costs twice forward


def rows() -> list[Row]:
    """Ratios at two sizes, then the share of the matmul peak over more; CPU time, one thread."""
    torch.set_num_threads(1)
    peak = matmul_peak()
    found = [Row("matmul peak, one thread", f"{peak / 1e9:.0f} Gflop/s")]
    return [*found, *against_loops(60, peak), *against_loops(250, peak), *over_sizes(peak)]


def against_loops(lanes: int, peak: float) -> list[Row]:
    """One epoch of PPO with a GRU of 256 units, against the same epoch with loops over cells."""
    calls, flops = {}, 0
    for name, memory, norm in (
        ("GRU", None, False),
        ("layer-normalised GRU", None, True),
        ("cell", "learning.CellLoop", False),
        ("published", "learning.PublishedLoop", False),
    ):
        calls[name], flops = epoch(lanes, 256, memory, norm)
    calls["cell of 8"], _ = epoch(8, 256, "learning.CellLoop")
    seconds = cpu_seconds(calls, repeats=3)
    found = []
    for name in ("GRU", "layer-normalised GRU"):
        title = f"learning, {name} 256, {lanes} trials"
        found += [
            Row(f"{title}: transitions/s", f"{lanes * STEPS / seconds[name]:,.0f}"),
            Row(f"{title} / loop over nn.GRUCell", seconds["cell"] / seconds[name], 3),
            Row(f"{title} / published layer-normalised loop", seconds["published"] / seconds[name], 1.4),
            Row(f"{title} / nn.GRUCell loop on 8 trials", lanes / 8 * seconds["cell of 8"] / seconds[name], 3),
            Row(f"{title}: share of matmul peak", flops / seconds[name] / peak, 0.4),
        ]
    return found


def over_sizes(peak: float) -> list[Row]:
    """Transitions per CPU-second and share of the peak for several sizes, without targets."""
    found = []
    for hidden in (128, 256):
        for norm in (False, True):
            sizes = (8, 31, 60, 125, 250, 1000)
            calls = {lanes: epoch(lanes, hidden, None, norm) for lanes in sizes}
            seconds = cpu_seconds({str(lanes): call for lanes, (call, _) in calls.items()}, repeats=3)
            for lanes, (_, flops) in calls.items():
                speed, share = lanes * STEPS / seconds[str(lanes)], flops / seconds[str(lanes)] / peak
                name = "layer-normalised GRU" if norm else "GRU"
                found.append(Row(f"learning, {name} {hidden}, {lanes} trials", f"{speed:,.0f}/s, {share:.2f} of peak"))
    return found
