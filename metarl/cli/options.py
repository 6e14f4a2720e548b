"""Options that several commands share, and printing of tables."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMATS = ("text", "markdown", "csv", "json")


def add_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], None], text: str, formats: bool = True
) -> argparse.ArgumentParser:
    """A new command that calls ``function`` with its options, ``--format`` among them if it prints a table."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(command=function)
    if formats:
        command.add_argument("--format", choices=FORMATS, default="text")
    return command


def add_run(command: argparse.ArgumentParser, every: bool = False) -> None:
    """The run directory, its checkpoint and trust in its code; with ``every`` also all checkpoints."""
    command.add_argument("run", type=Path, help="run directory, a file that metarl export wrote, or zoo:NAME")
    add_checkpoint(command, every)
    add_trust(command)


def add_checkpoint(command: argparse.ArgumentParser, every: bool = False) -> None:
    """The checkpoint of a run; with ``every`` also all of them."""
    names = ("latest", "best", *(["all"] if every else []))
    command.add_argument(
        "--checkpoint",
        type=lambda text: _checkpoint(text, names),
        default="latest",
        metavar=f"{{{','.join(names)},ITERATION}}",
        help="default: latest" + ("; all: a row for each that was kept" if every else ""),
    )


def add_task(command: argparse.ArgumentParser) -> None:
    """Parameters of tasks, set by hand."""
    command.add_argument("--task", nargs="*", default=[], metavar="NAME=NUMBER,...", help="parameters of the task")


def add_trust(command: argparse.ArgumentParser) -> None:
    """Packages whose code the configuration of a run may name."""
    command.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package outside metarl whose code the run may name; also METARL_TRUST=PACKAGE,...",
    )


def add_evaluation(command: argparse.ArgumentParser) -> None:
    """The tasks of an evaluation, their number and the batch size."""
    command.add_argument("--num-tasks", type=positive, default=20_000, help="held-out tasks (default 20000)")
    command.add_argument("--seed", type=natural, default=0, help="task seed; tasks of a finite set stay the same")
    command.add_argument("--batch-size", type=positive, default=2000, help="evaluation batch size (default 2000)")
    command.add_argument(
        "--task-set", nargs="+", default=["held_out"], metavar="NAME", help="sets of tasks (default held_out)"
    )
    command.add_argument("--device", help="default: the device of the run")


def add_selection(command: argparse.ArgumentParser) -> None:
    """The swept key by whose best value each method is represented, and the criterion."""
    command.add_argument("--best", metavar="KEY", help="swept key; report each method at its best value")
    command.add_argument(
        "--by",
        choices=("final", "mean", "auc"),
        help="with --best: criterion over held-out returns during training: the last (default), the mean, or the area "
        "under the curve",
    )


def _checkpoint(text: str, names: tuple[str, ...]) -> str:
    """The name of a checkpoint, or the number of its iteration."""
    if text not in names and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}, and no number of an iteration")
    return text


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def print_rows(rows: list[dict[str, Any]], form: Any) -> None:
    """Print a table in one of ``FORMATS``."""
    from metarl.analysis.tables import format_table

    print(format_table(rows, form))
