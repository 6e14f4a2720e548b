"""``metarl describe``: keys of an option, with value, type and meaning."""

import argparse
import shutil
import textwrap
from typing import Any

from metarl.cli.options import add_command, print_rows


def add_commands(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "describe", describe, "keys of an option, with value, type and meaning")
    command.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="env=cheetah_vel, model=gru, algorithm=rl2, conditioning=film, meta_optimizer=trpo, cluster=slurm, "
        "logger=wandb, training, eval, or run for the keys at the top",
    )


def describe(options: argparse.Namespace) -> None:
    """Print the keys of each option, where the other options are those given beside it."""
    from metarl.configuration.describing import describe as rows_of
    from metarl.configuration.describing import heading

    options.overrides = [name for name in options.names if "=" in name]
    found = {name: rows_of(name, options.overrides) for name in options.names if "." not in name.partition("=")[0]}
    if options.format != "text":
        print_rows([row for rows in found.values() for row in rows], options.format)
        return
    for name, rows in found.items():
        print(f"{name}: {heading(name)}" if heading(name) else name, "\n")
        print("\n".join(map(as_text, rows)) or "  no keys")


def as_text(row: dict[str, str]) -> str:
    """A key with its value and type, and its meaning below."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    kind = f"   ({row['type']})" if row["type"] else ""
    meaning = textwrap.fill(row["meaning"], width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return f"  {row['key']}={row['value']}{kind}\n{meaning}"
