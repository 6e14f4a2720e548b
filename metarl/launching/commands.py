"""``metarl status`` and ``metarl resume``: status of a sweep, and resuming it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from metarl.analysis.tables import duration
from metarl.errors import ConfigError
from metarl.launching import origin, slurm
from metarl.launching.proposals import is_search
from metarl.runs.sweep import JobStatus, Sweep, launching

UNENDED = ("running", "queued")


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
    if is_search(sweep.path):
        from metarl.launching.search import resume as resume_search

        print(resume_search(sweep.path, launcher))
        return
    with launching(sweep.path):
        sweep.relaunch(launch)
        statuses = launcher.go_on(sweep, sweep.jobs)
    raise_on_failures(sweep.path, statuses)
