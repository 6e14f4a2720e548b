"""Cost of the memories: late against early steps, caches against recomputing, sequences against steps, peak memory."""

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from timing import Row, configuration, cpu_seconds, learner, matmul_peak, trial_of
from torch import Tensor

from metarl.configuration.compose import options
from metarl.models.base import SequenceModel
from metarl.seeding import make_generator

INPUT = 28
LATE, EARLY = 1000, 100
FULL_ATTENTION = ("transformer", "sparse_transformer", "dense_transformer")  # attend to all of the trial by design
Works = dict[str, Callable]
# Cells that loop over time by design, or no memory at all.
LOOPS = ("amrl", "gru", "lstm", "mlp", "reinstatement", "splagger")


def rows() -> Iterator[Row]:
    """Rows of every model with the settings of its YAML file, one thread, CPU time."""
    torch.set_num_threads(1)
    for part in (late_acting, caches, long_trials, shares_of_peak, peak_memories):
        yield from part()


def memory_of(model: str, *changes: str, context: int = LATE + 10) -> SequenceModel:
    """The memory of a model without heads, for trials of ``context`` steps."""
    config = configuration(f"model={model}", *changes)["model"]
    memory = get_class(config["memory"]["_target_"])
    chosen = {name: config[name] for name in inspect.signature(memory).parameters if name in config}
    return memory(INPUT, **chosen | ({"context": context} if "context" in chosen else {}))


def inputs(steps: int, lanes: int) -> Tensor:
    """Random inputs ``[T, B, input]`` whose last entry marks the first step."""
    x = torch.randn(steps, lanes, INPUT)
    x[..., -1] = 0
    x[0, :, -1] = 1
    return x


def late_acting() -> Iterator[Row]:
    """Cost of a step after 1,000 steps against one after 100, 64 lanes."""
    for model in options("model"):
        seconds = seconds_at(memory_of(model), inputs(LATE + 10, 64))
        most = 3 if model in FULL_ATTENTION else 1.3
        title = f"acting, {model}: step {LATE} / step {EARLY}"
        yield Row(title, seconds[LATE] / seconds[EARLY], most, most=True)


@torch.no_grad()
def seconds_at(memory: SequenceModel, x: Tensor) -> dict[int, float]:
    """CPU time of ten steps early and late in one trial."""
    seconds, carry = {}, memory.initial_carry(x.shape[1])
    for t, row in enumerate(x[: LATE + 1]):
        if t in (EARLY, LATE):
            seconds[t] = cpu_seconds({"": partial(ten_steps, memory, x[t : t + 10], carry)}, repeats=7)[""]
        _, carry = memory.step(row, carry)
    return seconds


def ten_steps(memory: SequenceModel, x: Tensor, carry: Any) -> None:
    """Repeat the same ten steps; what they append to the buffers of the carry is overwritten."""
    for row in x:
        _, carry = memory.step(row, carry)


def caches() -> Iterator[Row]:
    """Acting for 100 steps in 240 lanes: with the caches of the carry, and recomputing the whole prefix."""
    x = inputs(100, 240)
    for model, target in (("snail", 30), ("transformer", 15)):
        memory = memory_of(model, context=100)
        seconds = cpu_seconds({"cached": partial(acted, memory, x), "again": partial(prefixes, memory, x)}, repeats=1)
        title = f"acting, {model}, 100 steps: recomputing / cached"
        yield Row(title, seconds["again"] / seconds["cached"], target)
    yield from ways_to_see_windows("acting, trmrl", acted, x, repeats=1)


def ways_to_see_windows(title: str, do: Callable, x: Tensor, repeats: int) -> Iterator[Row]:
    """Windows as published, windows without unused rows of the last layer, and sliding-window attention."""
    ways = {name: f"model.attention={name}" for name in ("windowed", "sliding")} | {"rows": "model.head_input=full"}
    work = {name: partial(do, memory_of("trmrl", change), x) for name, change in ways.items()}
    seconds = cpu_seconds(work, repeats)
    yield Row(f"{title}: windows, all rows of all layers / sliding", seconds["rows"] / seconds["sliding"], 4)
    yield Row(f"{title}: windows, rows that are needed / sliding", seconds["windowed"] / seconds["sliding"])


@torch.no_grad()
def acted(memory: SequenceModel, x: Tensor) -> None:
    """Step through a trial without gradients."""
    stepped(memory, x)


def stepped(memory: SequenceModel, x: Tensor) -> list[Tensor]:
    """All outputs of a trial, computed step by step."""
    carry, outputs = memory.initial_carry(x.shape[1]), []
    for row in x:
        y, carry = memory.step(row, carry)
        outputs.append(y)
    return outputs


@torch.no_grad()
def prefixes(memory: SequenceModel, x: Tensor) -> None:
    """Recompute the whole prefix of the trial at every step."""
    for end in range(1, len(x) + 1):
        memory(x[:end], memory.initial_carry(x.shape[1]))


def learned(memory: SequenceModel, x: Tensor) -> None:
    """Forward and backward over a whole trial at once."""
    memory(x, memory.initial_carry(x.shape[1]))[0].square().mean().backward()


def learned_by_steps(memory: SequenceModel, x: Tensor) -> None:
    """Forward and backward over a trial, computed step by step."""
    torch.stack(stepped(memory, x)).square().mean().backward()


def long_trials() -> Iterator[Row]:
    """Learning from whole trials of 1,000 steps against step by step: one trial, and a batch of eight."""
    for model in (name for name in options("model") if name not in LOOPS):
        memory = memory_of(model, *(["model.attention=sliding"] if model == "trmrl" else []))
        for lanes, target in ((1, 10), (8, None)):
            x = inputs(LATE, lanes)
            work: dict[str, Callable] = {
                "whole": partial(learned, memory, x),
                "steps": partial(learned_by_steps, memory, x),
            }
            seconds = cpu_seconds(work, repeats=1)
            title = f"learning, {model}, {lanes} x 1,000 steps"
            yield Row(f"{title}: stepping / whole", seconds["steps"] / seconds["whole"], target)
            yield Row(f"{title}: transitions/s", f"{lanes * LATE / seconds['whole']:,.0f}")
    yield from ways_to_see_windows("learning, trmrl", learned, inputs(LATE, 8), repeats=3)


def shares_of_peak() -> Iterator[Row]:
    """Useful operations of learning from trials of 500 steps over the matrix-multiply peak."""
    peak, steps, lanes = matmul_peak(), 500, 16
    sizes = {
        "gru": ("model.layer_norm=false", "model.hidden_size=256"),
        "transformer": ("model.num_layers=4", "model.feedforward_size=512"),
        "snail": (),
    }
    for model, changes in sizes.items():
        memory = memory_of(model, *changes, context=steps)
        x = inputs(steps, 60 if model == "gru" else lanes)
        seconds = cpu_seconds({"whole": partial(learned, memory, x)}, repeats=3)["whole"]
        per_step = 2 * sum(p.numel() for p in memory.parameters() if p.ndim == 2)
        # Attention scores and weighted sums: on average half of the trial is visible.
        layers, width = {"gru": (0, 0), "transformer": (4, 128), "snail": (1, 32)}[model]
        per_step += layers * 2 * 2 * width * steps / 2
        share = 3 * per_step * steps * x.shape[1] / seconds / peak
        yield Row(f"learning, {model}, T={steps}: share of matmul peak", share, 0.45 if model == "gru" else 0.5)


def peak_memories() -> Iterator[Row]:
    """Memory of one update from 60 trials of 1,000 steps, above that of the process before it."""
    for model in options("model"):
        title = f"memory, {model}: one update, 60 trials of 1,000 steps (GiB)"
        yield Row(title, peak_memory(model), 4, most=True)


def peak_memory(model: str) -> float:
    """Peak memory of one update in a separate process, GiB."""
    command = [sys.executable, __file__, model]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout)


def print_peak_memory(model: str) -> None:
    """Print the GiB that one update adds to the peak of this process; to be run in a separate process."""
    torch.set_num_threads(1)
    size = ("env=bandit", "env.num_episodes=1000", "meta_batch_size=60", "algorithm.num_epochs=1")
    algorithm, env = learner(*size, f"model={model}")
    before = high_water_mark()
    algorithm.update(trial_of(algorithm, env), 0.0, make_generator(2))
    print((high_water_mark() - before) / 2**20)


def high_water_mark() -> int:
    """Peak memory of this process, KiB (Linux); ``ru_maxrss`` would include the peak of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    print_peak_memory(sys.argv[1])
