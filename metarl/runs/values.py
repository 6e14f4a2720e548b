"""Values that files of a run hold: whether a program can work with them and show them. Imports nothing heavy."""

import json
import math
import re
from typing import Any

MOST_VALUES = 100_000  # of a configuration, each counted wherever it is repeated
LARGEST = 1e150  # magnitude of a number: its square is finite, and a figure can have an axis for it
# Lone surrogates cannot be written as UTF-8; control characters would reach the terminal.
UNSHOWABLE = re.compile("[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def is_number(value: Any) -> bool:
    """Whether JSON has held a number of at most ``LARGEST``, an infinity, or null, which was read as NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not LARGEST < abs(value) < math.inf


def read_json(text: str | bytes) -> Any:
    """The content of JSON, with text that can be shown.

    Raises:
        ValueError: it is no JSON.
    """
    return showable(json.loads(text))


def showable(value: Any) -> Any:
    """A copy with a replacement character for each one of ``UNSHOWABLE``, keys of dictionaries included."""
    match value:
        case str():
            return UNSHOWABLE.sub("\ufffd", value)
        case dict():
            return {showable(name): showable(part) for name, part in value.items()}
        case list():
            return [showable(part) for part in value]
    return value


def bounded(value: Any) -> Any:
    """The content of a YAML file, unless its aliases repeat so much that no program could go through it.

    Raises:
        ValueError: there are more than ``MOST_VALUES`` values, or some that hold themselves.
    """
    waiting, count = [value], 0
    while waiting:
        part = waiting.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES:,} values")
        waiting += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return value


def set_names(value: Any) -> list[str]:
    """Names of task sets, given as one name or as a list of different ones.

    Raises:
        ValueError: it is something else, an empty list, or a name has a slash, which parts the keys of metrics.
    """
    names = value if isinstance(value, list) else [value]
    whole = all(isinstance(name, str) and name and "/" not in name for name in names)
    if not whole or not 0 < len(names) == len(set(names)):
        raise ValueError("no name of a task set, and no list of different names")
    return names
