"""The one reader of a run directory's files. Whatever is wrong with them is one ``RunDirectoryError``, of one line.

Reads regular files alone: no links, no pipes. Imports nothing heavy.
"""

import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metarl.configuration.renamed import present
from metarl.errors import RunDirectoryError
from metarl.runs.files import CONFIG, ERROR, METRICS, SUMMARY

MOST_BYTES = 2**24  # of a file that is read at once
MOST_METRICS = 2**30
MOST_VALUES = 100_000  # of a configuration, each counted wherever it is repeated
TAIL = 64 * 1024  # bytes at the end of a metrics file that tell a run's present speed
RECENT = 20  # rows there

# What an evaluation holds, and of which kind.
NUMBERS = ("return_mean", "return_se")
CURVES = ("adaptation_curve", "adaptation_se", "episodes_met")


class Rows(NamedTuple):
    """Rows of metrics, in the order of the file, and what is wrong with lines that are none."""

    rows: list[dict[str, Any]]
    problems: list[str]


def read_config(directory: str | Path, of_run: bool = True) -> dict[str, Any]:
    """``config.yaml`` of a run, under present names where an earlier version wrote it.

    Args:
        directory: of the run.
        of_run: ask for what every run has, the choices of env and algorithm, and the seed.

    Raises:
        RunDirectoryError: there is none, or it is damaged or of another program.
    """
    import yaml

    path = Path(directory) / CONFIG
    text = read_bytes(path)
    if text is None:
        raise RunDirectoryError(
            f"{directory} is not a run directory (no {CONFIG}); give the folder that training wrote"
        )
    config = parsed(path, "YAML", lambda: bounded(yaml.safe_load(text.decode())))
    if not isinstance(config, dict) or (of_run and not _has_choices(config)):
        raise RunDirectoryError(f"{path} names no choices of env and algorithm, or no seed; it is not of a metarl run")
    return present(config)


def read_summary(directory: str | Path) -> dict[str, Any] | None:
    """``summary.json`` of a finished run, numbers that are undefined as NaN; None while the run is unfinished.

    Raises:
        RunDirectoryError: it is damaged, or lacks what all readers need.
    """
    path = Path(directory) / SUMMARY
    text = read_bytes(path)
    if text is None:
        return None
    remedy = "delete it and run the training command again to rewrite it"
    summary = parsed(path, "JSON", lambda: json.loads(text), remedy)
    if not isinstance(summary, dict) or not isinstance(summary.get("evaluation"), dict):
        raise RunDirectoryError(f"{path} holds no evaluation; {remedy}")
    played = {"evaluation": summary["evaluation"], "baselines": summary.get("baselines") or {}}
    for group, found in played.items():
        if not isinstance(found, dict):
            raise RunDirectoryError(f"{path}: {group} is damaged; {remedy}")
        summary[group] = {name: _with_nan(part) for name, part in found.items()}
    for where, value in [
        ("evaluation.sampled.return_mean", (summary["evaluation"].get("sampled") or {}).get("return_mean")),
        ("env_steps", summary.get("env_steps")),
    ]:
        if not is_number(value):
            raise RunDirectoryError(f"{path}: {where} is no number: it holds no evaluation; {remedy}")
    summary.setdefault("pruned", summary.get("given_up", False))  # the name that earlier versions wrote
    return summary


def check_evaluations(directory: str | Path, summary: Mapping[str, Any]) -> None:
    """That every evaluation of a summary has its numbers and curves.

    Raises:
        RunDirectoryError: naming the first that is missing or of another kind.
    """
    path = Path(directory) / SUMMARY
    for group in ("evaluation", "baselines"):
        for name, found in summary[group].items():
            for key, fits in [(k, is_number) for k in NUMBERS] + [(k, _is_curve) for k in CURVES]:
                if not isinstance(found, dict) or not fits(found.get(key)):
                    raise RunDirectoryError(
                        f"{path}: {group}.{name}.{key} is missing or damaged; delete the file and run the training "
                        "command again to rewrite it"
                    )
            if len({len(found[key]) for key in CURVES}) != 1:
                raise RunDirectoryError(
                    f"{path}: the curves of {group}.{name} differ in length; delete the file and run the training "
                    "command again to rewrite it"
                )


def read_rows(directory: str | Path, unended: bool = True) -> Rows:
    """All of ``metrics.jsonl``; a last line that was cut off by a crash, or is written just now, is no problem.

    Args:
        directory: of the run.
        unended: take a last line without its line break too, if it is whole.

    Raises:
        RunDirectoryError: the file cannot be read.
    """
    path = Path(directory) / METRICS
    *lines, last = (read_bytes(path, most=MOST_METRICS) or b"").split(b"\n")
    found = _rows(path, lines, 1)
    return Rows(found.rows + _rows(path, [last], 1).rows, found.problems) if unended else found


def read_last_rows(directory: str | Path) -> Rows:
    """The last rows of ``metrics.jsonl`` that are there in full.

    Raises:
        RunDirectoryError: the file cannot be read.
    """
    path = Path(directory) / METRICS
    text = read_bytes(path, TAIL)
    if text is None:
        return Rows([], [])
    lines = text.split(b"\n")
    whole = lines[1:-1] if len(text) == TAIL else lines[:-1]
    return _rows(path, whole[-RECENT:], None)


def read_error(directory: str | Path) -> str | None:
    """The last line of what a run that failed left; None where there is none."""
    try:
        text = read_bytes(Path(directory) / ERROR, TAIL)
    except RunDirectoryError as error:
        return str(error)
    if text is None:
        return None
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "unknown error"


def read_text(path: str | Path) -> str | None:
    """A small text file of a run; None where there is none.

    Raises:
        RunDirectoryError: it cannot be read or is no text.
    """
    data = read_bytes(Path(path))
    return None if data is None else parsed(Path(path), "text", data.decode)


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


def is_number(value: Any) -> bool:
    """Whether JSON has held a number, or null, which was read as NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rows(path: Path, lines: list[bytes], first: int | None) -> Rows:
    rows, problems = [], []
    for number, line in enumerate(lines, first or 1):
        try:
            row = json.loads(line)
            if not isinstance(row["iteration"], int) or not is_number(row.get("env_steps", 0)):
                raise ValueError("no whole number of iterations, or of steps")
            rows.append(row)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            where = f", line {number}" if first else ""
            problems.append(f"{path}{where}: not a row of metrics ({_first_line(error)})")
    return Rows(rows, problems)


def read_bytes(path: Path, tail: int | None = None, most: int | None = None) -> bytes | None:
    """A regular file, or its end; None where there is none.

    Args:
        path: of the file.
        tail: bytes at the end that are wanted; None reads all.
        most: bytes that all may be; None is ``MOST_BYTES``.

    Raises:
        RunDirectoryError: it is a link, a pipe or the like, or too large.
    """
    most = MOST_BYTES if most is None else most
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RunDirectoryError(f"{path} is no regular file; remove it")
            size = os.fstat(descriptor).st_size
            if tail is None and size > most:
                raise RunDirectoryError(f"{path} is too large ({size:,} bytes; at most {most:,} are read); remove it")
            if tail is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - tail))
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        link = " it is a link, which metarl does not follow" if path.is_symlink() else error.strerror
        raise RunDirectoryError(f"{path} cannot be read ({str(link).strip()})") from None


def parsed(path: Path, kind: str, parse: Callable[[], Any], remedy: str | None = None) -> Any:
    """What ``parse`` makes of the content of a file.

    Raises:
        RunDirectoryError: it fails, whatever it raises.
    """
    try:
        return parse()
    except Exception as error:  # parsers raise many kinds over damaged files
        if remedy is None:
            raise RunDirectoryError(f"{path} is not readable as {kind} ({_first_line(error)})") from None
        raise RunDirectoryError(f"{path} is damaged ({_first_line(error)}); {remedy}") from None


def _with_nan(part: Any) -> Any:
    """NaN for null, which JSON has for a quantity that is undefined."""
    match part:
        case None:
            return math.nan
        case dict():
            return {name: _with_nan(value) for name, value in part.items()}
        case list():
            return [_with_nan(value) for value in part]
    return part


def _has_choices(config: dict[str, Any]) -> bool:
    choices = config.get("choices")
    return isinstance(choices, dict) and {"env", "algorithm"} <= set(choices) and is_number(config.get("seed"))


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
