"""One run in this process, with a newly composed configuration or one that was frozen at the launch of its sweep.

This module decides how a job of a sweep is run, not the record of the sweep. Imports torch only once there is
something to train.
"""

import logging.config
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from metarl.configuration import search_path
from metarl.errors import MetarlError, RunDirectoryError
from metarl.runs.frozen import commit, frozen
from metarl.runs.sweep import Job, Sweep, owner_of, quoted
from metarl.trust import Trust

FROZEN = "--frozen"  # metarl train --frozen SWEEP NUMBER
CONSOLE = {  # as hydra/job_logging=metarl
    "version": 1,
    "formatters": {"simple": {"format": "%(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "simple", "stream": "ext://sys.stdout"}},
    "root": {"level": "WARNING", "handlers": ["console"]},
    "loggers": {"metarl": {"level": "INFO"}},
    "disable_existing_loggers": False,
}

log = logging.getLogger(__name__)


def run_resolved(
    config: dict[str, Any],
    run_dir: Path,
    sweep: str | None = None,
    trust: Trust | None = None,
    fresh: bool = False,
) -> Path:
    """Build and run a resolved configuration to its end; returns the run directory, whose name may have got a number.

    Args:
        config: resolved configuration.
        run_dir: directory of the run.
        sweep: name of the sweep of this run; errors are then also written into the run directory.
        trust: trust in the code that the configuration names; None trusts metarl and what ``METARL_TRUST`` lists.
        fresh: the run directory was named by the program, not by the user, see ``RunDirectory.open``.
    """
    from metarl import parallel
    from metarl.configuration.build import build
    from metarl.experiment import run
    from metarl.runs.directory import RunDirectory

    try:
        parallel.init_process_group(config["device"])
        run_dir = parallel.broadcast(run_dir)  # whose name may be a time
        trainer = build(config, run_dir, trust)
        run(trainer, config, sweep, fresh)
        return trainer.run_dir.path
    except Exception as error:
        if sweep is not None and parallel.is_main() and owner_of(run_dir) is None:
            RunDirectory(run_dir).write_error(error)
        raise
    finally:
        parallel.destroy_process_group()


def run_frozen(path: str | Path, number: str | int) -> None:
    """Run a job of a sweep with its frozen configuration, or resume it.

    A frozen configuration is data: code outside metarl runs only where ``METARL_TRUST`` lists its package.

    Raises:
        RunDirectoryError: there is no such sweep, job or configuration.
    """
    sweep = Sweep(path)
    job = next((job for job in sweep.jobs if str(job.number) == str(number)), None)
    if job is None:
        raise RunDirectoryError(f"{path} has no run {number}; metarl status {path} lists its runs")
    logging.config.dictConfig(CONSOLE)
    try:
        config = frozen(sweep.path, job.number)
    except MetarlError as error:
        _note(error, job)
        raise
    _compare_commits(sweep, job)
    arguments = [*search_path.given(), *job.overrides, f"hydra.run.dir={quoted(job.directory)}"]
    with repeated_by(arguments), chdir(sweep.directory):
        run_resolved(config, job.directory, sweep.path.name)


def command(sweep: Sweep, job: Job) -> list[str]:
    """Command line that runs a job in its own process."""
    script = search_path.CONF.parent / "run.py"  # in a checkout, whose directory Python then searches for modules
    program = [str(script)] if script.is_file() else ["-P", "-m", "metarl", "train"]
    return [sys.executable, *program, FROZEN, str(sweep.path), str(job.number)]


def _note(error: Exception, job: Job) -> None:
    from metarl.runs.directory import RunDirectory

    if owner_of(job.directory) is None:
        RunDirectory(job.directory).write_error(error)


def _compare_commits(sweep: Sweep, job: Job) -> None:
    """Warn if the code has changed since the launch; the configuration is frozen, the code is not."""
    launched = {name: sweep.record["jobs"][str(job.number)].get(name) for name in ("commit", "dirty")}
    now = commit()
    if launched["commit"] and now["commit"] and launched != now:
        log.warning("launched with %s of metarl, and runs with %s", _version(launched), _version(now))


def _version(found: dict[str, Any]) -> str:
    return f"commit {found['commit']}" + (" and changes to it" if found["dirty"] else "")


@contextmanager
def repeated_by(arguments: list[str]) -> Iterator[None]:
    """Have the summary of a run name ``metarl train`` with these overrides as the command that repeats it."""
    before = sys.argv
    sys.argv = ["metarl train", *arguments]
    try:
        yield
    finally:
        sys.argv = before
