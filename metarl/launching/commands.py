"""``metarl status`` and ``metarl resume``: what became of a sweep, and going on with it."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from metarl.analysis.tables import duration
from metarl.errors import ConfigError
from metarl.launching import slurm
from metarl.launching.sweep import JobStatus, Sweep, quoted

UNENDED = ("running", "queued")


def status_rows(sweep: Sweep) -> tuple[list[dict[str, Any]], str]:
    """A row for each job, and a line about all."""
    found = sweep.statuses(slurm.states(sweep))
    common = set.intersection(*(set(job.overrides) for job in sweep.jobs)) if len(found) > 1 else set()
    rows = [_row(status, common) for status in found]
    counts = Counter(status.state for status in found)
    line = ", ".join(f"{count} {state}" for state, count in counts.items())
    left = [status.seconds_left for status in found if status.seconds_left is not None]
    if left:
        line += f"; those that run end in about {duration(max(left))}"
    if set(counts) - {"finished", *UNENDED}:
        line += f"; metarl resume {sweep.path} goes on"
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


def resume(sweep: Sweep, overrides: Sequence[str] = ()) -> int:
    """Launch the sweep again as it was launched; what is finished or runs is left alone. The exit code of the launcher.

    Args:
        sweep: to go on with.
        overrides: of where it runs: ``cluster=...`` and ``hydra.launcher.*``.

    Raises:
        ConfigError: other overrides, which would make it another sweep.
    """
    foreign = [text for text in overrides if not text.lstrip("+~").startswith(("cluster=", "hydra.launcher."))]
    if foreign:
        raise ConfigError(
            f"{' '.join(foreign)}: a sweep goes on as it is; only cluster=... and hydra.launcher.* may change"
        )
    script, *arguments = sweep.command
    replaced = {text.lstrip("+~").partition("=")[0] for text in overrides} | {"hydra.sweep.dir"}
    if "cluster" in replaced:  # the options of one launcher mean nothing to another
        arguments = [text for text in arguments if not text.startswith("hydra.launcher.")]
    kept = [text for text in arguments if text.lstrip("+~").partition("=")[0] not in replaced]
    line = [sys.executable, script, *kept, *overrides, f"hydra.sweep.dir={quoted(sweep.path)}"]
    return subprocess.run(line, cwd=sweep.record["directory"]).returncode
