"""Commands for sweeps: ``metarl status`` and ``metarl resume``."""

import argparse
import sys
from pathlib import Path
from typing import Any

from metarl.cli.options import add_command, add_trust, print_rows


def add_commands(commands: Any) -> None:
    """Add both commands."""
    listing = add_command(commands, "status", status, "status of every run in a sweep")
    listing.add_argument("sweep", type=Path, help="sweep directory")

    resuming = add_command(commands, "resume", resume, "resume failed or interrupted runs of a sweep", formats=False)
    resuming.add_argument("sweep", type=Path, help="sweep directory")
    resuming.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="cluster=... and hydra.launcher.*")
    add_trust(resuming)


def status(options: argparse.Namespace) -> None:
    """Print a row for each run, and one line about all to stderr."""
    from metarl.launching.commands import status_rows
    from metarl.runs.sweep import Sweep

    rows, line = status_rows(Sweep(options.sweep))
    columns = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    print_rows([{key: row[key] for key in columns} for row in rows], options.format)
    print(line, file=sys.stderr)


def resume(options: argparse.Namespace) -> None:
    """Resume what is neither running nor finished."""
    from metarl.launching import commands
    from metarl.runs.sweep import Sweep
    from metarl.trust import extend_environment

    extend_environment(options.trust)  # for the runs
    commands.resume(Sweep(options.sweep), options.overrides)
