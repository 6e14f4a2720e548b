"""The ``metarl`` command: evaluate, compare and report runs. Heavy imports wait until a command needs them."""

import argparse
import difflib
import os
import sys

from metarl import __version__
from metarl.checking.command import add_check_command
from metarl.cli import analyse, compare, describe, evaluate, export, new, sweeps, watch, zoo
from metarl.configuration import search_path
from metarl.configuration.reporting import report
from metarl.errors import ConfigError

FORMER_OPTIONS = {"--tasks-at-once": "--batch-size"}


def main(arguments: list[str] | None = None) -> None:
    """Run one command; exit with code 1 and a message of one line on user errors."""
    options, given = None, sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["train"]:
        from metarl.cli.train import train

        return train("metarl train", given[1:])
    try:
        given = search_path.take(given)
        search_path.find_code()
        options = parsed(given)
        options.command(options)
    except BrokenPipeError:  # the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if not report(error, getattr(options, "overrides", [])):
            raise
        sys.exit(1)


def parsed(arguments: list[str]) -> argparse.Namespace:
    """Options of a command; its ``KEY=VALUE`` may stand anywhere, also after options."""
    top = parser()
    _check_options(arguments, top.get_default("names"))
    options, rest = top.parse_known_args(arguments)
    given = [word for word in rest if "=" in word and not word.startswith("--")]
    if len(given) < len(rest) or (given and not hasattr(options, "overrides")):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if given:
        options.overrides = [*options.overrides, *given]
    return options


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="metarl", description="Train agents that adapt to new tasks, and evaluate and compare them."
    )
    top.add_argument("--version", action="version", version=f"metarl {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("train", help="train an agent, or several with -m; metarl train --help lists the options")
    for family in (evaluate, compare, describe, export, zoo, sweeps, watch, analyse, new):
        family.add_commands(commands)
    add_check_command(commands)
    top.set_defaults(names=tuple(commands.choices))
    return top


def _check_options(arguments: list[str], names: tuple[str, ...]) -> None:
    """Answer the former name of an option with the present one, and a command that does not exist with a close one."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        close = difflib.get_close_matches(arguments[0], names, n=1)
        hint = f"did you mean metarl {close[0]}?" if close else f"there are {', '.join(names)}"
        raise ConfigError(f"metarl {arguments[0]}: no such command; {hint}")
    for argument in arguments:
        former = argument.partition("=")[0]
        if former in FORMER_OPTIONS:
            raise ConfigError(f"{former}: is now called {FORMER_OPTIONS[former]}")
