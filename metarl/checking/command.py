"""``metarl check``: an environment, a model or an algorithm against its contract. Heavy imports wait for the call."""

import argparse
import sys
from typing import Any

from metarl.errors import ConfigError

FORMATS = ("text", "markdown", "csv", "json")
GROUPS = ("env", "model", "algorithm")


def add_check_command(commands: Any) -> None:
    """Add ``check`` to the commands of ``metarl``."""
    text = "an environment, a model or an algorithm against its contract"
    command = commands.add_parser("check", help=text, description=text)
    command.set_defaults(command=check)
    command.add_argument(
        "overrides",
        nargs="+",
        metavar="KEY=VALUE",
        help="as for run.py; env=, model= and algorithm= select the subjects, other keys change them",
    )
    command.add_argument("--format", choices=FORMATS, default="text")


def check(options: argparse.Namespace) -> None:
    """Print a table, and end with exit code 1 where a check failed."""
    from metarl.analysis.tables import format_table
    from metarl.checking.outcomes import failed
    from metarl.checking.subjects import outcomes_of

    chosen = [override.partition("=")[0] for override in options.overrides]
    groups = [group for group in GROUPS if group in chosen]
    if not groups:
        raise ConfigError(f"{' '.join(options.overrides)}: nothing to check; add env=..., model=... or algorithm=...")
    outcomes = outcomes_of(options.overrides, groups)
    rows = [outcome.row() for outcome in outcomes]
    if options.format in ("text", "markdown"):  # without empty columns
        known = [key for key in rows[0] if any(row[key] != "-" for row in rows)]
        print(format_table([{key: row[key] for key in known} for row in rows], options.format))
    else:
        print(format_table(rows, options.format))
    wrong = failed(outcomes)
    passed = sum(outcome.status == "passed" for outcome in outcomes)
    print(f"{passed} passed, {len(wrong)} failed, {len(rows) - passed - len(wrong)} not applicable", file=sys.stderr)
    if wrong:
        sys.exit(1)
