"""Trained agents that come with metarl: exported files in one folder, each named ``zoo:NAME``. Imports nothing heavy.

Its files are read as anybody's: as data.
"""

import difflib
from pathlib import Path
from typing import Any

from metarl.errors import ConfigError, RunDirectoryError
from metarl.runs.files import EXPORTED as SUFFIX
from metarl.runs.reader import parsed, read_bytes
from metarl.runs.values import bounded, read_json
from metarl.system import data_folder

PREFIX = "zoo:"
ZOO = data_folder("zoo")


def names() -> list[str]:
    """Names of the agents, in order of the alphabet."""
    return sorted(path.stem for path in ZOO.glob(f"*{SUFFIX}"))


def agent_path(source: str | Path) -> Path:
    """Path of a trained agent: for ``zoo:NAME`` that of its file, for all else the one given.

    Raises:
        ConfigError: the zoo has no such agent.
    """
    name = zoo_name(source)
    if name is None:
        return Path(source)
    present = names()
    if name in present:
        return ZOO / f"{name}{SUFFIX}"
    close = [f"{PREFIX}{other}" for other in difflib.get_close_matches(name, present, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(present) or 'none'}"
    raise ConfigError(f"{PREFIX}{name}: no such agent; {hint}")


def zoo_name(source: str | Path) -> str | None:
    """Name of an agent of the zoo; None for a path."""
    text = str(source)
    return text.removeprefix(PREFIX) if text.startswith(PREFIX) else None


def recorded(source: str | Path) -> str:
    """The source of a trained agent as it is written down: ``zoo:NAME``, or the absolute path."""
    return str(source) if zoo_name(source) is not None else str(Path(source).absolute())


def card(name: str) -> dict[str, Any]:
    """Card of an agent, see ``metarl.runs.exported``, with the ``size`` of its file in bytes.

    Raises:
        ConfigError: the zoo has no such agent.
        RunDirectoryError: its card is missing or damaged.
    """
    file = agent_path(f"{PREFIX}{name}")
    path = file.with_suffix(".json")
    text = read_bytes(path)
    remedy = "install metarl again"
    if text is None:
        raise RunDirectoryError(f"{path} is missing; {remedy}")
    found = parsed(path, "JSON", lambda: bounded(read_json(text)), remedy)
    if not isinstance(found, dict) or not isinstance(found.get("evaluation"), dict):
        raise RunDirectoryError(f"{path} holds no evaluation; {remedy}")
    return found | {"size": file.stat().st_size}
