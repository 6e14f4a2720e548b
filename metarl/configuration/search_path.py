"""Configurations of the user's own, outside metarl: where they are, and the code beside them. Imports nothing heavy.

A folder like ``conf/``, with ``env/``, ``model/`` or ``algorithm/`` in it, is named by

- ``--config-dir FOLDER`` of any command, or the environment variable ``METARL_SEARCH_PATH``, which may list several.
  Python then also finds the package around the folder, or those beside it;
- an installed package, as its entry point of the group ``metarl.configs``: ``my_project = "my_project.conf"``.
"""

import importlib.util
import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from metarl.errors import ConfigError
from metarl.system import data_folder

VARIABLE, OPTION, GROUP = "METARL_SEARCH_PATH", "--config-dir", "metarl.configs"
CONF = data_folder("conf")  # metarl's own configurations


def folders() -> list[Path]:
    """Folders of the user's own configurations, in order.

    Raises:
        ConfigError: a folder does not exist, or has a file that metarl has, too.
    """
    found = list(dict.fromkeys([*_named(), *_installed()]))
    for folder in found:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; correct {OPTION}, {VARIABLE} or the entry point {GROUP}")
        taken = [path for file in CONF.rglob("*.yaml") if (folder / (path := file.relative_to(CONF))).exists()]
        if taken:
            raise ConfigError(f"{folder / taken[0]}: metarl has a {taken[0]} of its own; give yours another name")
    return found


def _named() -> list[Path]:
    return [Path(name).absolute() for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]


@cache
def _installed() -> tuple[Path, ...]:
    """Folders that installed packages name; their code is not run."""
    places = []
    for point in entry_points(group=GROUP):
        top, *parts = point.value.split(".")
        spec = importlib.util.find_spec(top)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"entry point {GROUP}: {point.value}: no such package; install it again, or remove it")
        places += [Path(root).joinpath(*parts) for root in spec.submodule_search_locations]
    return tuple(places)


def take(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command without ``--config-dir FOLDER``, whose folder this process and its children then use.

    Raises:
        ConfigError: the folder is missing.
    """
    rest, words = [], iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in (OPTION, "-cd"):
            rest.append(word)
            continue
        folder = value if equals else next(words, "")
        if not folder:
            raise ConfigError(f"{OPTION}: give a folder with configurations, such as {OPTION} conf")
        places = [str(Path(folder).absolute()), os.environ.get(VARIABLE, "")]
        os.environ[VARIABLE] = os.pathsep.join(filter(None, places))
    return rest


def given() -> list[str]:
    """Options that name the same folders again, for a command that is recorded."""
    return [f"{OPTION}={folder}" for folder in _named()]


def find_code() -> None:
    """Let Python find the packages beside the folders that the user named, or around them."""
    sys.path += [path for folder in _named() if (path := str(_above_packages(folder.parent))) not in sys.path]


def _above_packages(folder: Path) -> Path:
    """The folder itself, or the first one above it that is not inside a package."""
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def option_file(group: str, option: str) -> Path:
    """File of an option, of metarl or of the user."""
    files = [folder / group / f"{option}.yaml" for folder in (CONF, *folders())]
    return next((file for file in files if file.is_file()), files[0])
