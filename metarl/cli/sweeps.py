"""Commands for sweeps and runs that are not finished: ``metarl status`` and ``metarl resume``."""

import argparse
import sys
from pathlib import Path
from typing import Any

from metarl.cli.options import add_command, add_trust, print_rows


def add_commands(commands: Any) -> None:
    """Add both commands."""
    listing = add_command(commands, "status", status, "status of a run, or of every run in a sweep")
    listing.add_argument("sweep", type=Path, metavar="RUN", help="run or sweep directory")

    text = "resume a run, or failed and interrupted runs of a sweep"
    resuming = add_command(commands, "resume", resume, text, formats=False)
    resuming.add_argument("sweep", type=Path, metavar="RUN", help="run or sweep directory")
    kinds = "of a sweep: cluster=... and hydra.launcher.*; of a run: training.*, eval.*"
    resuming.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=kinds)
    add_trust(resuming)


def status(options: argparse.Namespace) -> None:
    """Print a row for each run, and one line about all to stderr."""
    from metarl.launching.commands import run_status_rows, status_rows
    from metarl.runs.sweep import Sweep, is_run

    single = is_run(options.sweep)
    rows, line = run_status_rows(options.sweep) if single else status_rows(Sweep(options.sweep))
    columns = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    print_rows([{key: row[key] for key in columns} for row in rows], options.format)
    print(line, file=sys.stderr)


def resume(options: argparse.Namespace) -> None:
    """Resume what is neither running nor finished."""
    from metarl.launching import commands
    from metarl.runs.sweep import Sweep, is_run
    from metarl.trust import extend_environment

    extend_environment(options.trust)  # for the runs
    if is_run(options.sweep):
        commands.resume_run(options.sweep, options.overrides)
        return
    commands.resume(Sweep(options.sweep), options.overrides)
