"""Share of an iteration spent outside environment, policy and update."""

import io
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from timing import Row, configuration

from metarl.checking.runs import StopAt
from metarl.configuration.build import build

SETTINGS = {
    "default configuration": (),
    "MDP, 1000 lanes": ("env=tabular_mdp", "meta_batch_size=1000"),
}
ITERATIONS = 3


class Clock:
    """Seconds of one timer spent in some calls; nested calls are counted once."""

    def __init__(self, timer: Callable[[], float]) -> None:
        self.timer, self.seconds, self.depth = timer, 0.0, 0

    def around(self, owner: Any, name: str) -> None:
        """Measure every call of ``owner.name`` from now on."""
        inner = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            started, self.depth = self.timer(), self.depth + 1
            try:
                return inner(*arguments, **options)
            finally:
                self.depth -= 1
                self.seconds += self.timer() - started if self.depth == 0 else 0.0

        object.__setattr__(owner, name, counted)


def rows() -> list[Row]:
    """Share of advantages, rollout, logging and checkpoint in an iteration; one thread, no evaluation.

    Wall time includes waiting for the disk, and the load of other processes.
    """
    found = []
    for name, overrides in SETTINGS.items():
        for kind, timer in (("CPU", time.process_time), ("wall", time.perf_counter)):
            found.append(Row(f"overhead, {name}: share of {kind} time", share(overrides, timer), 0.1, most=True))
    return found


def share(overrides: tuple[str, ...], timer: Callable[[], float]) -> float:
    """Share of the time of a few iterations that is spent outside environment, policy and update."""
    config = configuration(*overrides, "num_threads=1", "training.eval_every=0", "training.total_steps=1000000000")
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        trainer = build(config, Path(folder) / "run")
        trainer.run_dir.open(config)
        iterate(trainer, 1)  # warm up
        useful, advantages = Clock(timer), Clock(timer)
        advantages.around(trainer.algorithm, "_batch")  # part of update, but counted as overhead
        for owner, name in useful_calls(trainer):
            useful.around(owner, name)
        started = timer()
        iterate(trainer, ITERATIONS)
        total = timer() - started
        trainer.run_dir.close()
    return 1 - (useful.seconds - advantages.seconds) / total


def useful_calls(trainer: Any) -> list[tuple[Any, str]]:
    """The calls of environment, policy and update."""
    calls = [(trainer.env, name) for name in ("step", "reset", "sample_tasks")]
    return calls + [(trainer.algorithm, name) for name in ("act", "update")]


def iterate(trainer: Any, iterations: int) -> None:
    """Train for some iterations, as ``run.py`` does."""
    trainer.train(StopAt(trainer, trainer.progress.iteration + iterations))
