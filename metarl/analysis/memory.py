"""Gradient flow, sensitivity to order, and signal against noise in a memory over a trial.

The study of Beck et al. 2024 (SplAgger, section 6; for aggregators first Beck et al. 2020, AMRL, section 4), on any
memory, trained or not. Inputs are random, so that the memory alone is measured.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Generator, Tensor

from metarl.analysis import style
from metarl.analysis.style import save_figure
from metarl.analysis.tables import Row, format_table
from metarl.models.base import SequenceModel
from metarl.runs.files import replace_file

Measured = dict[str, np.ndarray]  # by name of the quantity, one value per step

QUANTITIES = {
    "first_input_gradient": "|d output(t) / d input(0)|",
    "input_gradient": "|d last output / d input(t)|",
    "parameter_gradient": "|d output(t) / d parameters|",
    "permutation_difference": "difference by order of inputs",
    "signal_power": "power of a signal at step 0",
    "noise_power": "power of noise",
    "signal_to_noise": "signal / noise",
}


def analyse(memory: SequenceModel, input_dim: int, steps: int, repeats: int, generator: Generator) -> Measured:
    """All quantities of ``QUANTITIES``, each ``[steps]``, means over ``repeats`` random inputs.

    Inputs are uniform on (-1, 1); only the first step is flagged as the start of an episode. What is differentiated is
    the sum of the output's features, each with a random sign: their plain sum is constant after a layer normalisation.
    Gradients are L2 norms. ``permutation_difference`` is the distance of
    outputs scaled to unit length, after the same inputs in another order. Power is the mean square of the output's
    features; ``signal`` is one at step 0 and zero after it, and for the ratio all biases are zero.
    """
    memory = copy.deepcopy(memory).requires_grad_(True)
    samples = [_noise(steps, input_dim, generator) for _ in range(repeats)]
    rows = [_gradients(memory, x, generator) | _order(memory, x, generator) for x in samples]
    measured = {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]}
    signal = torch.zeros(steps, 1, input_dim)
    signal[0] = 1
    noise = torch.cat(samples, dim=1)
    measured |= {"signal_power": _power(memory, signal), "noise_power": _power(memory, noise)}
    with torch.no_grad():
        for name, parameter in memory.named_parameters():
            if "bias" in name:
                parameter.zero_()
    noise_power = np.maximum(_power(memory, noise), np.finfo(np.float64).tiny)
    return measured | {"signal_to_noise": _power(memory, signal) / noise_power}


def _noise(steps: int, input_dim: int, generator: Generator) -> Tensor:
    x = 2 * torch.rand(steps, 1, input_dim, generator=generator) - 1
    x[..., -1] = 0
    x[0, :, -1] = 1
    return x


def _outputs(memory: SequenceModel, x: Tensor) -> Tensor:
    return memory(x, memory.initial_carry(x.shape[1]))[0]


def _gradients(memory: SequenceModel, x: Tensor, generator: Generator) -> Measured:
    """Gradients with respect to the first input, every input, and all parameters."""
    x = x.clone().requires_grad_()
    leaves = [x, *memory.parameters()]
    first, of_parameters, of_inputs = [], [], x
    outputs = _outputs(memory, x)[:, 0]
    signs = 2.0 * torch.randint(2, outputs.shape[1:], generator=generator) - 1
    for total in outputs @ signs:
        of_inputs, *rest = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
        first.append(of_inputs[0].norm().item())
        of_parameters.append(sum(part.square().sum().item() for part in rest if part is not None) ** 0.5)
    return {
        "first_input_gradient": np.array(first),
        "input_gradient": of_inputs.norm(dim=(1, 2)).double().numpy(),
        "parameter_gradient": np.array(of_parameters),
    }


@torch.no_grad()
def _order(memory: SequenceModel, x: Tensor, generator: Generator) -> Measured:
    """For every step a lane whose inputs up to it come in another order."""
    steps = len(x)
    shuffled = x.repeat(1, steps, 1)
    for last in range(steps):
        shuffled[: last + 1, last] = x[torch.randperm(last + 1, generator=generator), 0]
    shuffled[..., -1] = x[..., -1]  # the flag of the start stays where it is
    plain = torch.nn.functional.normalize(_outputs(memory, x)[:, 0], dim=-1)
    own = torch.arange(steps)
    other = torch.nn.functional.normalize(_outputs(memory, shuffled)[own, own], dim=-1)
    return {"permutation_difference": (plain - other).norm(dim=-1).double().numpy()}


@torch.no_grad()
def _power(memory: SequenceModel, x: Tensor) -> np.ndarray:
    return _outputs(memory, x).double().square().mean((1, 2)).numpy()


def write_analysis(measured: dict[str, Measured], folder: Path) -> list[Path]:
    """``memory.csv`` (model, quantity, step, value) and ``memory.svg``, a panel per quantity; their paths.

    Args:
        measured: by model.
        folder: made if it is missing.
    """
    rows: list[Row] = [
        {"model": model, "quantity": name, "step": step, "value": float(value)}
        for model, quantities in measured.items()
        for name, values in quantities.items()
        for step, value in enumerate(values)
    ]
    table, figure = folder / "memory.csv", folder / "memory.svg"
    replace_file(table, format_table(rows, "csv"))
    save_figure(draw(measured), figure)
    return [table, figure]


def draw(measured: dict[str, Measured]) -> Figure:
    """A panel per quantity over the steps of a trial, a line per model, values on a logarithmic axis."""
    figure, axes = style.panels(len(QUANTITIES))
    for ax, (name, text) in zip(axes, QUANTITIES.items(), strict=True):
        for index, quantities in enumerate(measured.values()):
            values = np.where(quantities[name] > 0, quantities[name], np.nan)  # a logarithm has no zero
            points = style.thin(len(values))
            style.draw_line(ax, points, values[points], **style.line_style(index))
        ax.set_yscale("log")
        ax.set_xlabel("step t of the trial", fontsize=style.NORMAL, color=style.INK)
        style.title(ax, text)
    style.legend_above(figure, list(measured))
    return figure


def at_steps(measured: dict[str, Measured], steps: Sequence[int]) -> list[Row]:
    """A table: a row per model and quantity, a column per step."""
    return [
        {"model": model, "quantity": name} | {f"t={step}": float(values[step]) for step in steps if step < len(values)}
        for model, quantities in measured.items()
        for name, values in quantities.items()
    ]
