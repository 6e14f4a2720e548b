"""A sweep is a directory: the jobs it was launched with, a run directory for each, and their status.

sweep.json    how it was launched, and the overrides of every job; data, of which nothing is executed
configs/      what each job runs, see ``metarl.runs.frozen``
0/ 1/ ...     run directories, see ``metarl.runs.directory``
logs/         console output of each job

Imports nothing heavy: launchers and ``metarl status`` look at hundreds of jobs.
"""

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metarl.errors import RunDirectoryError
from metarl.runs import frozen
from metarl.runs.files import CONFIG, LOCK, SUMMARY, refuse_link, remove_partial_files, replace_file, to_json
from metarl.runs.locks import Lock, holder, lock_owner
from metarl.runs.reader import (
    Rows,
    instead_of,
    lost,
    parsed,
    read_config,
    read_error,
    read_last_rows,
    read_summary,
    read_text,
    saved_iteration,
)
from metarl.runs.values import is_number, read_json

State = Literal["finished", "running", "queued", "failed", "stopped", "pending"]

RECORD = "sweep.json"
CLUSTER = "cluster="


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        number: in the order of the sweep; its run directory is called so.
        overrides: of the configuration.
        directory: of the run.
    """

    number: int
    overrides: tuple[str, ...]
    directory: Path


@dataclass(frozen=True)
class JobStatus:
    """Status of a job.

    Attributes:
        state: ``finished``; ``running``; ``queued`` in a cluster; ``failed`` with an error; ``stopped`` by a signal, or
            killed; ``pending``, where nothing has begun.
        env_steps, total_steps: steps done, and steps of the whole run; None if unknown.
        steps_per_second: of late.
        seconds_left: at that speed.
        final_return: of a finished run, on held-out tasks.
        error: last line of what went wrong.
    """

    job: Job
    state: State
    env_steps: int | None = None
    total_steps: int | None = None
    steps_per_second: float | None = None
    seconds_left: float | None = None
    final_return: float | None = None
    error: str | None = None


class Sweep:
    """A sweep directory.

    Args:
        path: of the directory.

    Raises:
        RunDirectoryError: it holds no sweep.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()
        text = read_text(self.path / RECORD)
        if text is None:
            what = f"is not a sweep directory ({RECORD} is missing), and no run directory"
            raise RunDirectoryError(f"{path} {what}; {instead_of(self.path)}")
        remedy = "delete it and launch the sweep again"
        found = parsed(self.path / RECORD, "JSON", lambda: checked_record(read_json(text)), remedy)
        self.record: dict[str, Any] = found
        self.jobs = [self._job(int(number), row) for number, row in self.record["jobs"].items()]

    @classmethod
    def launched(
        cls,
        path: str | Path,
        launch: Mapping[str, Any],
        jobs: Sequence[Sequence[str]],
        first: int,
        configs: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> "Sweep":
        """The sweep at ``path``, which from now on has these jobs too, numbered from ``first``.

        Where they run is no part of what they are: ``cluster=...`` is that of the last launch.

        Args:
            path: of its directory.
            launch: how it was launched, see ``launch``.
            jobs: overrides of each.
            first: number of the first of them.
            configs: resolved configurations by number; those of jobs that the sweep has already stay as they are.

        Raises:
            RunDirectoryError: the directory cannot be written, or holds a sweep of other jobs.
        """
        path = Path(path).absolute()
        known = cls(path).record["jobs"] if (path / RECORD).exists() else {}
        given = {str(n): [o for o in job if not o.startswith(CLUSTER)] for n, job in enumerate(jobs, first)}
        for number, overrides in given.items():
            before = known.get(number, {}).get("overrides", overrides)
            if before != overrides:
                raise RunDirectoryError(
                    f"{path} holds another sweep: its job {number} is {' '.join(before)}, not {' '.join(overrides)}; "
                    "choose another hydra.sweep.dir"
                )
        new = {n: job for n, job in given.items() if n not in known or not frozen.path_of(path, n).exists()}
        for name in {int(name) for name in new} & set(configs or ()):
            frozen.freeze(path, name, configs[name])  # type: ignore[index]
        commit = frozen.commit() if new else {}
        _write(
            path,
            {**launch, "jobs": known | {n: known.get(n, {}) | {"overrides": job} | commit for n, job in new.items()}},
        )
        return cls(path)

    def relaunch(self, launch: Mapping[str, Any]) -> None:
        """Note how the sweep is launched again."""
        self.record = {**self.record, **launch}
        _write(self.path, self.record)

    def _job(self, number: int, row: dict[str, Any]) -> Job:
        return Job(number, tuple(row["overrides"]), self.path / str(number))

    @property
    def directory(self) -> Path:
        """Directory it was launched from, against which its configurations may name files; here, where that is gone."""
        there = Path(str(self.record.get("directory", "")))
        return there if there.is_absolute() and there.is_dir() else Path.cwd()

    def note_cluster_ids(self, ids: dict[int, str]) -> None:
        """Remember what a cluster calls the jobs."""
        for number, name in ids.items():
            self.record["jobs"][str(number)]["cluster_id"] = name
        _write(self.path, self.record)

    def cluster_id(self, job: Job) -> str | None:
        """Latest id of the job on a cluster."""
        return self.record["jobs"][str(job.number)].get("cluster_id")

    def log(self, job: Job) -> Path:
        """File of the job's console output."""
        return self.path / "logs" / f"{job.number}.log"

    def statuses(self, in_cluster: dict[str, str] | None = None) -> list[JobStatus]:
        """Status of every job, in launch order.

        Args:
            in_cluster: states of the cluster's unfinished jobs, see ``slurm.states``.
        """
        return [self.status(job, (in_cluster or {}).get(self.cluster_id(job) or "")) for job in self.jobs]

    @staticmethod
    def status(job: Job, in_cluster: str | None = None) -> JobStatus:
        """Status of one job, or of a single run; problems with its files are its error."""
        problems: list[str] = []
        summary = _tried(lambda: read_summary(job.directory), problems)
        if summary is not None:
            steps, score = summary["env_steps"], summary["evaluation"]["sampled"]["return_mean"]
            return JobStatus(job, "finished", steps, steps, final_return=score)
        saved = saved_iteration(job.directory)
        rows = _tried(lambda: read_last_rows(job.directory), problems) or Rows([], [])
        problems += [*rows.problems[:1], *filter(None, [lost(job.directory, saved, rows)])]
        steps = rows.rows[-1].get("env_steps") if rows.rows else None
        total = _tried(lambda: _total_steps(job.directory), problems)
        error = read_error(job.directory)
        state: State
        speed = left = None
        if owner_of(job.directory) is not None or in_cluster == "RUNNING":
            state, error = "running", None
            speed = _speed(rows.rows)
            left = (total - steps) / speed if speed and total and steps is not None else None
        elif in_cluster is not None:
            state, error = "queued", None
        elif error is not None or problems:
            state = "failed"
        else:
            state = "stopped" if job.directory.exists() else "pending"
        return JobStatus(job, state, steps, total, speed, left, None, error or next(iter(problems), None))


def checked_record(record: Any) -> dict[str, Any]:
    """The content of ``sweep.json``, if it is of that kind.

    Raises:
        ValueError: it is not.
    """
    jobs = record["jobs"]
    if not jobs:
        raise ValueError("it holds no jobs")
    for number, row in jobs.items():
        overrides = row["overrides"]
        if not (number.isdecimal() and isinstance(overrides, list) and all(isinstance(o, str) for o in overrides)):
            raise ValueError(f"job {number} has no list of overrides")
    return record


def _tried(read: Callable[[], Any], problems: list[str]) -> Any:
    """The result of ``read``, or None and one more problem."""
    try:
        return read()
    except RunDirectoryError as error:
        problems.append(str(error))
        return None


def _write(path: Path, record: dict[str, Any]) -> None:
    """``sweep.json``, whole or not at all."""
    refuse_link(path / "logs")
    try:
        (path / "logs").mkdir(parents=True, exist_ok=True)
        replace_file(path / RECORD, to_json(record, indent=1))
    except OSError as error:
        raise RunDirectoryError(f"hydra.sweep.dir={path}: cannot be written ({error.strerror})") from None


@contextmanager
def launching(path: str | Path) -> Iterator[None]:
    """While one launcher works on a sweep, no other may.

    Raises:
        RunDirectoryError: another does, or the directory cannot be written.
    """
    lock = Lock(Path(path) / LOCK)
    try:
        if taken := lock.acquire(lock_owner()):
            lock.note(lock_owner())
    except OSError as error:
        raise RunDirectoryError(f"hydra.sweep.dir={path}: cannot be written ({error.strerror})") from None
    if not taken:
        raise RunDirectoryError(f"{path} is being launched already; metarl status {path}")
    for folder in (Path(path), Path(path) / frozen.CONFIGS):
        remove_partial_files(folder)
    try:
        yield
    finally:
        lock.release()


def sweep_name(overrides: Sequence[str]) -> str:
    """A directory name for what a sweep is about: the same overrides, wherever they run, give the same."""
    about = [str(override) for override in overrides if not str(override).startswith(CLUSTER)]
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(about)).strip("-")[:60]
    return f"{words or 'defaults'}-{hashlib.sha1(repr(about).encode()).hexdigest()[:6]}"


def quoted(path: Path) -> str:
    """A path as Hydra's overrides take any."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def is_sweep(path: Path) -> bool:
    """Whether a directory holds a sweep."""
    return os.path.lexists(path / RECORD)  # a damaged record, too, of which the reader says what is wrong


def is_run(path: Path) -> bool:
    """Whether a directory holds a run, and no sweep."""
    return not is_sweep(path) and os.path.lexists(path / CONFIG)


def run_directories(paths: Iterable[Path], finished: bool) -> list[Path]:
    """The paths, with the runs of a sweep, or below a directory, in its place: finished ones, or all that have begun.

    Raises:
        RunDirectoryError: there are none.
    """
    found: list[Path] = []
    for path in paths:
        if not is_sweep(path):
            found += [path] if (path / CONFIG).exists() or not path.is_dir() else _below(path, finished)
            continue
        runs = [
            job.directory for job in Sweep(path).jobs if (job.directory / (SUMMARY if finished else CONFIG)).exists()
        ]
        if not runs:
            raise RunDirectoryError(
                f"no run of {path} {'is finished' if finished else 'has begun'}; metarl status {path}"
            )
        found += runs
    return found


def _below(folder: Path, finished: bool) -> list[Path]:
    """Runs anywhere below a directory that is no run; the directory itself if none began."""
    begun = sorted(file.parent for file in folder.rglob(CONFIG))
    runs = [run for run in begun if not finished or (run / SUMMARY).exists()]
    if begun and not runs:
        raise RunDirectoryError(f"none of the {len(begun)} runs below {folder} is finished")
    return runs or [folder]


def finished_summary(directory: Path) -> dict[str, Any] | None:
    """The summary of a finished run; None also where it is damaged, since running the job again repairs it."""
    return _tried(lambda: read_summary(directory), [])


def owner_of(directory: Path) -> dict[str, Any] | None:
    """Note of the process that works in a run directory; None if there is none."""
    return holder(directory / LOCK)


def _total_steps(directory: Path) -> int | None:
    """Environment steps that the run is to do; None before it has begun."""
    if not (directory / CONFIG).exists():
        return None
    training = read_config(directory, of_run=False).get("training")
    steps = training.get("total_steps") if isinstance(training, dict) else None
    return int(steps) if isinstance(steps, int | float) and math.isfinite(steps) else None


def _speed(rows: list[dict[str, Any]]) -> float | None:
    """Environment steps per second of training and evaluation, over the last rows."""
    rows = [row for row in rows if is_number(row.get("env_steps")) and is_number(row.get("wall_time"))]
    if len(rows) < 2:
        return rows[0]["env_steps"] / max(rows[0]["wall_time"], 1e-9) if rows else None
    seconds = rows[-1]["wall_time"] - rows[0]["wall_time"]
    return (rows[-1]["env_steps"] - rows[0]["env_steps"]) / max(seconds, 1e-9)
