"""The one place where a run directory is written; ``metarl.runs.reader`` reads it.

config.yaml      resolved configuration
metrics.jsonl    one row per iteration
checkpoints/     latest few and best
summary.json     final evaluation; written last, so that a run that has it is finished
report.html      the same as a page
start.json       the run it started from, with training.start_from
run.log          console output
error.txt        error of a run that failed in a sweep
.lock            held by the process that works here; contains its id
"""

import itertools
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from metarl.errors import RunDirectoryError
from metarl.runs.checkpoint import Checkpoints
from metarl.runs.files import (
    CONFIG,
    ERROR,
    LOCK,
    METRICS,
    START,
    SUMMARY,
    append_line,
    naming,
    remove_partial_files,
    replace_file,
    replacing,
    sync_file,
    to_json,
)
from metarl.runs.locks import Lock, lock_owner
from metarl.runs.reader import parsed, read_config, read_rows, read_summary, read_text

# Keys that may differ when a run is resumed.
MUTABLE_KEYS = ("training", "eval", "logger", "wandb", "num_threads", "choices")
# Groups of options, and the part of the configuration that each fills.
CHOICES = {
    "env": "env",
    "model": "model",
    "algorithm": "algorithm",
    "conditioning": "model.conditioning",
    "meta_optimizer": "algorithm.meta_optimizer",
}

log = logging.getLogger(__name__)


class RunDirectory:
    """Files of one run. Nothing is written before ``open``, and nothing that a run reads is read before it.

    Args:
        path: of the directory.
        keep_checkpoints: how many of the latest stay.
    """

    def __init__(self, path: str | Path, keep_checkpoints: int = 2):
        self.path = Path(path)
        self.keep_checkpoints = keep_checkpoints

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run."""
        return Checkpoints(self.path / "checkpoints", self.keep_checkpoints)

    @property
    def metrics_path(self) -> Path:
        return self.path / METRICS

    @property
    def config_path(self) -> Path:
        return self.path / CONFIG

    def config(self) -> dict:
        """The configuration of the run that is here.

        Raises:
            RunDirectoryError: there is none, or it is damaged.
        """
        return read_config(self.path)

    def open(self, config: dict, fresh: bool = False) -> None:
        """Take the directory for this process, and only then look at what is there.

        Args:
            config: of the run, which has to be that of the run that is there.
            fresh: the directory has a name that nobody chose: where a run is there or begins there just now, take the
                same name with the first number that is free.

        Raises:
            RunDirectoryError: another process is writing here, another run is here, or the place cannot be written to.
        """
        self._check_place()
        base = self.path
        for number in itertools.count(2):
            self._is_new = not (self.path / LOCK).exists()
            self._lock = Lock(self.path / LOCK)
            taken = self._lock.acquire(lock_owner())
            if taken and not (fresh and self.config_path.exists()):
                break
            self._lock.release()
            if not fresh:
                raise RunDirectoryError(f"{self.path} is in use by another run; wait for it or choose another")
            self.path = base.with_name(f"{base.name}-{number}")
        try:
            self.check(config)
            self._lock.note(lock_owner())
        except BaseException:
            self.abandon()
            raise

    def begin(self, config: dict, iteration: int) -> None:
        """Write the configuration, have the metrics end with those of ``iteration``, and remove what a kill left."""
        for folder in (self.path, self.checkpoints.directory):
            remove_partial_files(folder)
        self.checkpoints.drop_old()
        with naming(self.path / ERROR):
            (self.path / ERROR).unlink(missing_ok=True)
        replace_file(self.config_path, yaml.safe_dump(config, sort_keys=False))
        self.resume_metrics(iteration)

    def abandon(self) -> None:
        """Release the lock of a run that cannot begin, and remove it where no run was before."""
        self._lock.remove() if self._is_new else self._lock.release()

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()

    def _check_place(self) -> None:
        existing = self.path
        try:
            while not existing.exists():
                existing = existing.parent
            fits = existing.is_dir() and os.access(existing, os.W_OK)
        except OSError:
            fits = False
        if not fits:
            raise RunDirectoryError(f"hydra.run.dir={self.path}: {existing} is not a directory one can write to")

    def check(self, config: dict) -> None:
        """Refuse a directory that holds another experiment.

        Raises:
            RunDirectoryError: a key differs from the run that is there, or there are results without a configuration.
        """
        if not self.config_path.exists():
            self._refuse_results_without_config()
            return
        before = read_config(self.path, of_run=False)
        if (found := _first_difference(before, config)) is not None:
            key, old, new = found
            raise RunDirectoryError(
                f"{key}={new} but the run in {self.path} has {key}={old}; "
                "resume with the same configuration or choose another hydra.run.dir"
            )

    def _refuse_results_without_config(self) -> None:
        results = [*self.checkpoints.numbered(), self.metrics_path, self.path / SUMMARY]
        if found := [path.relative_to(self.path) for path in results if path.exists()]:
            raise RunDirectoryError(
                f"{self.path} holds {found[0]} but no {CONFIG}, so its run is unknown; "
                f"put its {CONFIG} back or choose another hydra.run.dir"
            )

    def write_error(self, error: BaseException) -> None:
        """Write the error for readers without the console; a full disk is ignored."""
        with suppress(OSError):
            replace_file(self.path / ERROR, f"{type(error).__name__}: {error}\n")

    def resume_metrics(self, iteration: int) -> None:
        """Drop rows written after the checkpoint of ``iteration``; they will be written again, the same.

        Rows of earlier iterations that are missing cannot be written again: a warning lists them.
        """
        found = read_rows(self.path, unended=False)
        rows = {row["iteration"]: row for row in found.rows if iteration and 0 <= row["iteration"] <= iteration}
        if lost := _ranges([number for number in range(1, iteration + 1) if number not in rows]):
            log.warning(
                "%s lacks the rows of iterations %s of %d, which are lost: curves have a gap there. Training itself "
                "goes on exactly where it was%s",
                self.metrics_path,
                lost,
                iteration,
                "".join(f"; {problem}" for problem in found.problems[:1]),
            )
        if not self.metrics_path.exists() and not rows:
            return
        with replacing(self.metrics_path) as file:
            for number in sorted(rows):
                file.write(f"{to_json(rows[number])}\n".encode())

    def append_metrics(self, row: dict) -> None:
        """Append one row and flush it."""
        append_line(self.metrics_path, to_json(row))

    def save_latest(self, state: dict, iteration: int) -> None:
        """Save a checkpoint, once all rows until then are on the disk."""
        sync_file(self.metrics_path)
        self.checkpoints.save_latest(state, iteration)

    def write_summary(self, summary: dict) -> None:
        """Write ``summary.json``: the run is finished."""
        replace_file(self.path / SUMMARY, to_json(summary, indent=2) + "\n")

    def write_start(self, record: dict) -> None:
        """Write ``start.json``: the agent that the run started from."""
        replace_file(self.path / START, to_json(record, indent=2) + "\n")

    def start(self) -> dict | None:
        """The agent that the run started from; None where it started from new weights."""
        text = read_text(self.path / START)
        return None if text is None else parsed(self.path / START, "JSON", lambda: dict(json.loads(text)))

    def write_trial(self, text: str, picture: bytes | None) -> None:
        """Write ``trial.json``, and ``trial.png`` where there is a picture: one held-out trial, for the report."""
        replace_file(self.path / "trial.json", text)
        if picture is not None:
            replace_file(self.path / "trial.png", picture)

    def discard_summary(self) -> None:
        """Delete the summary, because training continues."""
        with naming(self.path / SUMMARY):
            (self.path / SUMMARY).unlink(missing_ok=True)

    def summary(self) -> dict | None:
        """The summary, once there is one.

        Raises:
            RunDirectoryError: it is damaged.
        """
        return read_summary(self.path)


def _ranges(numbers: list[int]) -> str:
    """Whole numbers in words: ``3, 5 to 9``."""
    groups = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ends = [(part[0][1], part[-1][1]) for part in (list(group) for _, group in groups)]
    return ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in ends)


def _first_difference(old: dict, new: dict) -> tuple[str, Any, Any] | None:
    """The first key by which two configurations differ, and its values; options chosen come before what they hold."""
    for group, path in CHOICES.items():
        before, now = ((config.get("choices") or {}).get(group) for config in (old, new))
        if None not in (before, now) and before != now and _at(old, path) != _at(new, path):
            return group, before, now
    for name in sorted(set(old) | set(new)):
        if name not in MUTABLE_KEYS and old.get(name) != new.get(name):
            return _deepest(name, old.get(name), new.get(name))
    return None


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _deepest(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(set(old) | set(new)):
            if old.get(name) != new.get(name):
                return _deepest(f"{key}.{name}", old.get(name), new.get(name))
    return key, old, new
