"""The one place where a run directory is written.

config.yaml      resolved configuration
metrics.jsonl    one row per iteration
checkpoints/     latest few and best
summary.json     final evaluation, once the run is finished
report.html      the same, to look at
run.log          what the console showed
error.txt        why the run ended, where it failed in a sweep
.lock            held by the process that works here, and says which
"""

import fcntl
import json
import os
import socket
import time
from pathlib import Path

import yaml

from metarl.checkpoint import Checkpoints
from metarl.errors import RunDirectoryError
from metarl.run_files import CONFIG, ERROR, LOCK, METRICS, SUMMARY, append_line, replace_file, to_json

GLANCES = 10  # retries where the lock is held: whoever asks whether a run goes on holds it for a moment

# Keys whose change leaves a resumed run the same experiment.
FREE_TO_CHANGE = ("training", "eval", "logger", "wandb", "num_threads", "choices")


class RunDirectory:
    """Files of one run. Nothing is written before ``open``."""

    def __init__(self, path: str | Path, keep_checkpoints: int = 2):
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints", keep_checkpoints)
        self.metrics_path = self.path / METRICS
        self.summary_path = self.path / SUMMARY
        self.config_path = self.path / CONFIG

    def config(self) -> dict:
        """The configuration of the run that is here.

        Raises:
            RunDirectoryError: there is none.
        """
        if not self.config_path.is_file():
            raise RunDirectoryError(f"{self.path} is no run directory: it has no config.yaml")
        try:
            config = yaml.safe_load(self.config_path.read_text())
        except yaml.YAMLError:
            config = None
        if not isinstance(config, dict):
            raise RunDirectoryError(f"{self.config_path} is damaged or of another program; choose another directory")
        return config

    def check(self, config: dict) -> None:
        """Refuse a directory that holds another experiment.

        Raises:
            RunDirectoryError: a key differs from the run that is there, or the directory cannot be written.
        """
        existing = self.path
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise RunDirectoryError(f"hydra.run.dir={self.path}: {existing} is not a directory one can write to")
        if not self.config_path.exists():
            return
        before = self.config()
        for name in sorted(set(before) | set(config)):
            old, new = before.get(name), config.get(name)
            if name not in FREE_TO_CHANGE and old != new:
                key, old, new = _first_difference(name, old, new)
                raise RunDirectoryError(
                    f"{key}={new} but the run in {self.path} has {key}={old}; "
                    "resume with the same configuration or choose another hydra.run.dir"
                )

    def open(self, config: dict) -> None:
        """Create or claim the directory and write the configuration.

        Raises:
            RunDirectoryError: another process is writing here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / LOCK, "a+")  # noqa: SIM115 -- held until close()
        for wait in (*[0.05] * GLANCES, None):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if wait is None:
                    raise RunDirectoryError(
                        f"{self.path} is in use by another run; wait for it or choose another"
                    ) from None
                time.sleep(wait)
        self._lock.truncate(0)
        self._lock.write(json.dumps(occupation()))
        self._lock.flush()
        (self.path / ERROR).unlink(missing_ok=True)
        replace_file(self.config_path, yaml.safe_dump(config, sort_keys=False))

    def close(self) -> None:
        """Let others in."""
        self._lock.close()

    def write_error(self, error: BaseException) -> None:
        """Say why the run failed, to those who did not see its console."""
        self.path.mkdir(parents=True, exist_ok=True)
        replace_file(self.path / ERROR, f"{type(error).__name__}: {error}\n")

    def resume_metrics(self, iteration: int) -> None:
        """Drop rows written after the checkpoint of ``iteration``; they will be written again, the same."""
        if self.metrics_path.exists():
            replace_file(self.metrics_path, "".join(_rows_until(self.metrics_path, iteration)))

    def append_metrics(self, row: dict) -> None:
        """Add one row, at once."""
        append_line(self.metrics_path, to_json(row))

    def write_summary(self, summary: dict) -> None:
        """Write ``summary.json``: the run is finished."""
        replace_file(self.summary_path, to_json(summary, indent=2) + "\n")

    def write_trial(self, text: str, picture: bytes | None) -> None:
        """Write ``trial.json``, and ``trial.png`` where there is a picture: one held-out trial, for the report."""
        replace_file(self.path / "trial.json", text)
        if picture is not None:
            replace_file(self.path / "trial.png", picture)

    def discard_summary(self) -> None:
        """The run goes on: what was final no longer is."""
        self.summary_path.unlink(missing_ok=True)

    def summary(self) -> dict | None:
        """The summary, once there is one."""
        return json.loads(self.summary_path.read_text()) if self.summary_path.exists() else None


def occupation() -> dict[str, object]:
    """Which process this is, and which graphics cards it may use."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}


def _rows_until(path: Path, iteration: int) -> list[str]:
    rows = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["iteration"] > iteration:
            break
        rows.append(line)
    return rows


def _first_difference(key: str, old: object, new: object) -> tuple[str, object, object]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(set(old) | set(new)):
            if old.get(name) != new.get(name):
                return _first_difference(f"{key}.{name}", old.get(name), new.get(name))
    return key, old, new
