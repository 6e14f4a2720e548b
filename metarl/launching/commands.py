"""``metarl status`` and ``metarl resume``: status of a sweep or a run, and resuming it."""

import logging.config
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from metarl.analysis.tables import duration
from metarl.errors import ConfigError, MetarlError
from metarl.launching import origin, slurm
from metarl.launching.proposals import is_search
from metarl.runs.directory import RunDirectory
from metarl.runs.frozen import frozen, path_of
from metarl.runs.reader import read_text
from metarl.runs.sweep import Job, JobStatus, Sweep, is_sweep, launching
from metarl.trust import check_gym_name, check_names, trusted

UNENDED = ("running", "queued")
NAMES_CODE = re.compile(r"_target_: *(\S+)|^  make: *(\S+):", re.MULTILINE)  # in a frozen configuration


def status_rows(sweep: Sweep) -> tuple[list[dict[str, Any]], str]:
    """A row for each job, and a summary line."""
    found = sweep.statuses(slurm.states(sweep))
    common = set.intersection(*(set(job.overrides) for job in sweep.jobs)) if len(found) > 1 else set()
    rows = [_row(status, common) for status in found]
    counts = Counter(status.state for status in found)
    line = ", ".join(f"{count} {state}" for state, count in counts.items())
    left = [status.seconds_left for status in found if status.seconds_left is not None]
    if left:
        line += f"; running ones end in about {duration(max(left))}"
    if set(counts) - {"finished", *UNENDED}:
        line += f"; metarl resume {sweep.path} resumes them"
    return rows, line


def run_status_rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    """A row for a single run, and a line about it."""
    config = RunDirectory(path).config()
    chosen = tuple(f"{name}={config['choices'][name]}" for name in ("env", "model", "algorithm"))
    status = Sweep.status(Job(0, (*chosen, f"seed={config['seed']}"), path))
    line: str = status.state
    if status.seconds_left is not None:
        line += f"; ends in about {duration(status.seconds_left)}"
    if status.state not in ("finished", *UNENDED):
        line += f"; metarl resume {path} resumes it"
    return [_row(status, set()) | {"run": str(path)}], line


def _row(status: JobStatus, common: set[str]) -> dict[str, Any]:
    done, total = status.env_steps, status.total_steps
    return {
        "run": status.job.number,
        "state": status.state,
        "overrides": " ".join(text for text in status.job.overrides if text not in common),
        "steps": "-" if done is None else f"{done:,}" + (f" of {total:,}" if total else ""),
        "steps_per_second": status.steps_per_second,
        "time_left": duration(status.seconds_left),
        "return": status.final_return,
        "error": status.error,
    }


def resume(sweep: Sweep, overrides: Sequence[str] = ()) -> None:
    """Resume unfinished runs with their frozen configurations; running ones are not touched.

    Args:
        sweep: sweep to resume.
        overrides: where to run: ``cluster=...`` and ``hydra.launcher.*``.

    Raises:
        ConfigError: an override would change the sweep, or the sweep cannot run there.
        RunDirectoryError: runs failed.
    """
    from hydra_plugins.metarl_launcher import raise_on_failures

    foreign = [text for text in overrides if not text.lstrip("+~").startswith(("cluster=", "hydra.launcher."))]
    if foreign:
        raise ConfigError(
            f"{' '.join(foreign)}: a sweep is resumed unchanged; only cluster=... and hydra.launcher.* may differ"
        )
    launcher, launch = origin.launcher(sweep, overrides)
    launcher.check()
    check_trust(sweep)
    if is_search(sweep.path):
        from metarl.launching.search import resume as resume_search

        print(resume_search(sweep.path, launcher))
        return
    with launching(sweep.path):
        sweep.relaunch(launch)
        statuses = launcher.go_on(sweep, sweep.jobs)
    raise_on_failures(sweep.path, statuses)


def check_trust(sweep: Sweep) -> None:
    """Refuse code outside the trusted packages once, before every run of the sweep would refuse it.

    Raises:
        ConfigError: naming the first such key of the first run that has one.
    """
    trust = trusted()
    for job in sweep.jobs:
        text = ""
        with suppress(MetarlError):  # damaged: the launcher says so
            text = read_text(path_of(sweep.path, job.number)) or ""
        found = ("".join(names).strip("'\"") for names in NAMES_CODE.findall(text))
        if all(map(trust.covers, found)):
            continue  # most sweeps have many runs, and parsing takes long
        config = frozen(sweep.path, job.number)
        check_names(config, trust)
        if isinstance(make := (config.get("env") or {}).get("make"), str):
            check_gym_name(make, "env.make", trust)


def resume_run(path: Path, overrides: Sequence[str] = ()) -> None:
    """Go on with a run to its end, in this process; a finished one shows its results again.

    Args:
        path: run directory; where it is part of a sweep, the run goes on as the sweep froze it.
        overrides: ``training.KEY=VALUE`` and ``eval.KEY=VALUE``, such as more steps.

    Raises:
        ConfigError: an override would make it another run, or the run names code that is not trusted.
    """
    from metarl.configuration.trained import with_settings
    from metarl.launching.job import CONSOLE, run_frozen, run_resolved

    path = path.absolute()
    if is_sweep(path.parent):
        if overrides:
            raise ConfigError(f"{' '.join(overrides)}: a run of a sweep is resumed unchanged; leave that out")
        run_frozen(path.parent, path.name)
        return
    config = RunDirectory(path).config()
    for override in overrides:
        group = override.partition(".")[0]
        if group not in ("training", "eval"):
            raise ConfigError(f"{override}: a run is resumed with training.* and eval.* alone changed")
        config = with_settings(config, [override], group)
    logging.config.dictConfig(CONSOLE)
    run_resolved(config, path)
