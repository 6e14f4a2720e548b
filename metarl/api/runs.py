"""Training from Python, and finished runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from metarl.api.agents import TrainedAgent, load
from metarl.api.results import Evaluations
from metarl.configuration.compose import compose, resolved_job, run_directory
from metarl.errors import MetarlError, RunDirectoryError
from metarl.runs.directory import RunDirectory
from metarl.runs.reader import read_rows
from metarl.runs.sweep import quoted
from metarl.trust import TYPED, packages_of


class Run:
    """A run directory.

    Args:
        path: directory that training wrote.
        trust: packages outside metarl whose code its configuration may name.
    """

    def __init__(self, path: str | Path, trust: Iterable[str] = ()):
        self.path, self._trust = Path(path), tuple(trust)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return RunDirectory(self.path).config()

    def summary(self) -> dict[str, Any]:
        """Final evaluation, baselines and provenance.

        Raises:
            RunDirectoryError: the run has not finished, or the file is damaged.
        """
        found = RunDirectory(self.path).summary()
        if found is None:
            raise RunDirectoryError(f"{self.path}: the run has no summary yet; train it to the end")
        return found

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics, one per iteration: ``iteration``, ``env_steps``, ``train/return`` and so on."""
        return read_rows(self.path).rows

    def agent(self, checkpoint: str | int = "latest", device: str | None = None) -> TrainedAgent:
        """The trained agent, see ``metarl.load``."""
        return load(self.path, checkpoint=checkpoint, trust=self._trust, device=device)

    def evaluate(self, num_tasks: int = 1000, *, checkpoint: str | int = "latest", **options: Any) -> Evaluations:
        """Evaluations of a checkpoint, see ``TrainedAgent.evaluate``."""
        return self.agent(checkpoint).evaluate(num_tasks, **options)


def train(overrides: Sequence[str] = (), directory: str | Path | None = None) -> Run:
    """Train to the end, evaluate and write the report; the same as ``python run.py`` with these overrides.

    A run that is in ``directory`` already is resumed, as by that command. A signal stops training after the present
    iteration.

    Args:
        overrides: ``["env=bandit", "model=gru", "training.total_steps=200_000"]``.
        directory: run directory; None makes a new one, as ``run.py`` does.

    Raises:
        MetarlError: the configuration cannot be run, or training ended early.
    """
    from metarl.launching.job import repeated_by, run_resolved

    given = [overrides] if isinstance(overrides, str) else list(overrides)
    composed = compose(given, hydra_node=True)
    fresh = directory is None and not any(override.startswith("hydra.run.dir=") for override in given)
    path = Path(directory if directory is not None else run_directory(composed))
    config = resolved_job(composed, 0, path)
    try:
        with repeated_by([*given, f"hydra.run.dir={quoted(path)}"]):
            path = run_resolved(config, path, None, TYPED, fresh)
    except SystemExit:
        raise MetarlError(
            f"training in {path} was stopped by a signal; metarl.train(..., directory={str(path)!r}) resumes it"
        ) from None
    return Run(path, packages_of(config))
