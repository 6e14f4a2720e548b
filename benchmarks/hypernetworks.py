"""A hypernetwork layer in bilinear form, against one weight matrix per sample (expand, multiply, sum)."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from memories import high_water_mark
from timing import Row, cpu_seconds

from metarl.models.conditional_layers import HyperLinear, initializer

SAMPLES, WIDTH, CONDITION = 256, 256, 25


def rows() -> Iterator[Row]:
    """Forward and backward pass, one thread: CPU time and additional memory."""
    torch.set_num_threads(1)
    forms = work()
    seconds = cpu_seconds(forms)
    size = f"generated layer, {SAMPLES} samples, {WIDTH} x {WIDTH}, condition {CONDITION}"
    yield Row(f"{size}: speed-up over a matrix per sample", seconds["expanded"] / seconds["bilinear"], 2)
    memory = {form: peak_memory(form) for form in forms}
    yield Row(f"{size}: share of that memory", memory["bilinear"] / memory["expanded"], 0.25, most=True)


def work() -> dict[str, Callable[[], None]]:
    """One forward and backward pass in each form."""
    layer = HyperLinear(WIDTH, WIDTH, CONDITION, "naive", initializer("normc", 1.0), 1.0)
    x, condition = torch.randn(SAMPLES, WIDTH, requires_grad=True), torch.randn(SAMPLES, CONDITION, requires_grad=True)

    def expanded() -> None:
        generated = layer.generate(condition)
        weight, bias = generated[:, : WIDTH * WIDTH].view(-1, WIDTH, WIDTH), generated[:, WIDTH * WIDTH :]
        ((weight * x.unsqueeze(1)).sum(2) + bias).sum().backward()

    def bilinear() -> None:
        layer(x, condition).sum().backward()

    return {"expanded": expanded, "bilinear": bilinear}


def peak_memory(form: str) -> float:
    """Peak memory of one form in a separate process, KiB."""
    command = [sys.executable, __file__, form]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    chosen = work()[sys.argv[1]]
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))  # load libraries first
    before = high_water_mark()
    chosen()
    print(high_water_mark() - before)
