"""Shared by the speed benchmarks: timers, rows of the table, agents and environments from the configuration."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from metarl.configuration.build import build_algorithm
from metarl.configuration.compose import compose, resolved
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from metarl.trust import TYPED

Work = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One row of the table; the target is optional."""

    what: str
    measured: float | str
    target: float | None = None
    most: bool = False  # the target is an upper limit

    @property
    def met(self) -> str:
        """``yes``, ``no``, or nothing without a target."""
        if self.target is None or isinstance(self.measured, str):
            return ""
        return "yes" if (self.measured <= self.target if self.most else self.measured >= self.target) else "no"

    def cells(self) -> tuple[str, str, str, str]:
        """Cells of the four columns."""
        target = "" if self.target is None else f"{'<=' if self.most else '>='} {self.target:g}"
        measured = self.measured if isinstance(self.measured, str) else f"{self.measured:.3g}"
        return self.what, measured, target, self.met


def cpu_seconds(work: dict[str, Work], repeats: int = 5) -> dict[str, float]:
    """Median CPU time of each call, measured in turns so that other load affects all alike."""
    return {name: median(times) for name, times in _times(work, repeats, time.process_time).items()}


def wall_seconds(work: dict[str, Work], repeats: int = 5) -> dict[str, float]:
    """Least wall time of each call, in turns; for work of several threads, which other load only slows down."""
    return {name: min(times) for name, times in _times(work, repeats, time.perf_counter).items()}


def _times(work: dict[str, Work], repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in work}
    for call in work.values():
        call()
    for _ in range(repeats):
        for name, call in work.items():
            started = clock()
            call()
            times[name].append(clock() - started)
    return times


def matmul_peak(size: int = 1024) -> float:
    """Peak floating-point operations per CPU-second of a square float32 matrix product, one thread."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(10):
        started = time.process_time()
        torch.mm(left, right)
        times.append(time.process_time() - started)
    return 2 * size**3 / min(times)


def configuration(*overrides: str) -> dict:
    """The resolved configuration that ``run.py`` would use."""
    return resolved(compose(overrides), choices={})


def learner(*overrides: str, memory: str | None = None) -> tuple[Any, Any]:
    """An untrained agent and its environment; ``memory`` replaces the memory class."""
    config = configuration(*overrides)
    if memory is not None:
        kept = [
            "_target_",
            "_partial_",
            "critic",
            "inputs",
            "input_embedding_size",
            "heads",
            "head_size",
            "hidden_size",
        ]
        config["model"] = {name: config["model"][name] for name in kept}
        config["model"]["memory"] = {"_target_": memory, "_partial_": True}
    algorithm, parts = build_algorithm(config, trust=TYPED)
    return algorithm, parts.make_env(num_tasks=config["meta_batch_size"], seed=1)


def trial_of(algorithm: Any, env: Any) -> list:
    """Collect one trial on new tasks."""
    env.sample_tasks()
    return collect_trial(env, algorithm, make_generator(0))
