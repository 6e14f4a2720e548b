"""Runs without a program around them: trained for some iterations, left alone or interrupted."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING

from metarl.configuration.build import build
from metarl.system import StopRequest
from metarl.trust import TYPED, Trust

if TYPE_CHECKING:
    from metarl.trainer import Trainer

FOREVER = 100_000_000  # steps


class StopAt(StopRequest):
    """Stands for a stop request that comes during an iteration of a trainer."""

    def __init__(self, trainer: "Trainer", iteration: int):
        super().__init__()
        self.trainer, self.iteration = trainer, iteration

    @property
    def signal(self) -> int | None:
        """SIGTERM from that iteration on."""
        return signal.SIGTERM if self.trainer.progress.iteration >= self.iteration else None


def trainer_of(config: dict, run_dir: Path, trust: Trust | None = None) -> "Trainer":
    """A trainer as ``run.py`` would build it, its directory open, and resumed."""
    trainer = build(config, run_dir, trust)
    trainer.run_dir.open(config)
    try:
        trainer.resume()
    except BaseException:
        trainer.run_dir.close()
        raise
    trainer.run_dir.begin(config, trainer.progress.iteration)
    return trainer


def run_until(config: dict, run_dir: Path, iteration: int) -> "Trainer":
    """Train from what is in the directory until an iteration is done."""
    trainer = trainer_of(config, run_dir, TYPED)
    try:
        trainer.train(StopAt(trainer, iteration))
    finally:
        trainer.run_dir.close()
    return trainer


def timeless(row: dict) -> dict:
    """A row of metrics without what depends on the clock."""
    clock = ("wall_time", "per_second")
    return {name: value for name, value in row.items() if not name.startswith("time/") and not name.endswith(clock)}


def timeless_states(trainers: list["Trainer"]) -> list[dict]:
    """State of each trainer that decides what happens next, without the clock."""
    states = [trainer.state_dict() for trainer in trainers]
    return [state | {"progress": timeless(state["progress"])} for state in states]
