"""``metarl new``: a package of one's own with an environment, a memory, an algorithm and their tests."""

import argparse
import keyword
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from metarl.cli.options import add_command
from metarl.errors import ConfigError, FileError

NAME, SUFFIX = "my_project", ".txt"  # name of the package in the templates, and what their files end in
TAKEN = ("metarl", "hydra_plugins", "tests", "conf")


def add_commands(commands: Any) -> None:
    """Add the command."""
    creating = add_command(commands, "new", new, "write a package of your own to start from", formats=False)
    creating.add_argument("path", type=Path, help="folder to make; its name is the name of the package")


def new(options: argparse.Namespace) -> None:
    """Write the package into a new folder, and print how to try it."""
    folder, name = options.path, options.path.name
    if not name.isidentifier() or keyword.iskeyword(name) or name in TAKEN:
        raise ConfigError(f"metarl new {folder}: {name!r} cannot be the name of a package; use letters, digits and _")
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise ConfigError(f"metarl new {folder}: is there already; give another name")
    try:
        _write(files("metarl") / "templates", folder, name)
    except OSError as error:
        raise FileError(error.errno, error.strerror, str(error.filename)) from None
    print(f"{folder}: cd {folder} && pip install -e . && pytest; README.md says how to go on")


def _write(template: Traversable, target: Path, name: str) -> None:
    """Copy a template, file by file, with the name of the package in it."""
    if template.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for part in template.iterdir():
            if part.is_dir() or part.name.endswith(SUFFIX):
                _write(part, target / part.name.replace(NAME, name).removesuffix(SUFFIX), name)
        return
    target.write_text(template.read_text(encoding="utf-8").replace(NAME, name), encoding="utf-8")
