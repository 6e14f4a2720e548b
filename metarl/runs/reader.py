"""The one reader of a run directory's files. Whatever is wrong with them is one ``RunDirectoryError``, of one line.

Reads regular files alone: no links, no pipes. Imports nothing heavy.
"""

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from metarl.configuration.renamed import present
from metarl.errors import RunDirectoryError
from metarl.runs.files import CONFIG, ERROR, EXPORTED, METRICS, SUMMARY
from metarl.runs.values import bounded, is_number, read_json, set_names, showable

MOST_BYTES = 2**24  # of a file that is read at once
MOST_METRICS = 2**30
TAIL = 64 * 1024  # bytes at the end of a metrics file that tell a run's present speed
RECENT = 20  # rows there

# What an evaluation holds, and of which kind.
NUMBERS = ("return_mean", "return_se")
CURVES = ("adaptation_curve", "adaptation_se", "episodes_met")
COUNTS = ("num_tasks", "trials_per_task", "success_rate", "fall_rate", "pooled_return")  # which not all have
Actions = Literal["sampled", "greedy"]  # of an evaluation
ACTIONS: tuple[Actions, ...] = ("sampled", "greedy")
EVALUATION = re.compile(rf"eval/(?:[^/]+/)?(?:{'|'.join(ACTIONS)})/")  # prefix of the keys of an evaluation
OF_SUMMARY = ("iteration", "wall_time", "parameters", "num_tasks", "evaluation_seed")
GROUPS = ("env", "model", "algorithm", "training", "eval")  # of a configuration


class Rows(NamedTuple):
    """Rows of metrics, in the order of the file, and what is wrong with lines that are none."""

    rows: list[dict[str, Any]]
    problems: list[str]


def read_config(directory: str | Path, of_run: bool = True) -> dict[str, Any]:
    """``config.yaml`` of a run, under present names where an earlier version wrote it.

    Args:
        of_run: ask for what every run has: the choices of env, model and algorithm, the seed, a whole last line.

    Raises:
        RunDirectoryError: there is none, or it is damaged or of another program.
    """
    import yaml

    path = Path(directory) / CONFIG
    text = read_bytes(path)
    if text is None:
        raise RunDirectoryError(f"{directory} is not a run directory (no {CONFIG}); {instead_of(Path(directory))}")
    config = parsed(path, "YAML", lambda: showable(bounded(yaml.safe_load(text.decode()))))
    config = checked_config(path, config, of_run)
    if of_run and not text.endswith(b"\n"):
        raise RunDirectoryError(
            f"{path} ends within a line, as a file that was cut short; put the one of the run back, or end the line"
        )
    return config


def instead_of(path: Path) -> str:
    """Advice for a path that is no directory of a run."""
    if path.name.startswith("zoo:") or path.suffix == EXPORTED:
        return "an exported agent has weights alone: evaluate, watch and analyse take it, and training.start_from"
    return "give the folder that training wrote" + ("" if path.exists() else ": there is nothing of that name")


def checked_config(path: Path, config: Any, of_run: bool = True) -> dict[str, Any]:
    """The content of a configuration file, under present names where an earlier version wrote it.

    Args:
        path: of the file, for messages.
        config: its content.
        of_run: see ``read_config``.

    Raises:
        RunDirectoryError: it is no configuration, or lacks what is asked for.
    """
    config = present(config) if isinstance(config, dict) else None
    if config is None or (of_run and not _has_choices(config)):
        raise RunDirectoryError(
            f"{path} names no choices of env, model and algorithm, or no seed; it is damaged, or not of a metarl run"
        )
    if of_run and (wrong := next((name for name in GROUPS if not isinstance(config.get(name) or {}, dict)), None)):
        raise RunDirectoryError(f"{path}: {wrong} holds no keys; it is damaged: put the one of the run back")
    try:
        task_sets(config if of_run else {})
    except ValueError as error:
        raise RunDirectoryError(f"{path}: eval.task_sets is {error}; put the file of the run back") from None
    return config


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
    summary = parsed(path, "JSON", lambda: read_json(text), remedy)
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
    """Check that a summary has all that readers show: numbers and curves of every evaluation, bounds and counters.

    Raises:
        RunDirectoryError: naming the first that is missing or of another kind.
    """
    for where, wrong in _wrong_in_summary(summary):
        remedy = "delete the file and run the training command again to rewrite it"
        raise RunDirectoryError(f"{Path(directory) / SUMMARY}: {where}{wrong}; {remedy}")


def _wrong_in_summary(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Everything that is wrong in a summary: where, and what."""
    played = {group: summary[group] for group in ("evaluation", "baselines")}
    for kind in ("sampled", "greedy"):
        if kind not in played["evaluation"]:
            yield f"evaluation.{kind}", " is missing"
    for group, found in played.items():
        for name, evaluation in found.items():
            if (wrong := _wrong_in(evaluation)) is not None:
                yield f"{group}.{name}.", wrong
    bounds = summary.get("bounds") or {}
    if not isinstance(bounds, dict) or not all(map(is_number, bounds.values())):
        yield "bounds", " is damaged"
    for name in OF_SUMMARY:
        if not is_number(summary.get(name) or 0):
            yield name, " is no number"


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


def saved_iteration(directory: str | Path) -> int:
    """Iteration of the latest checkpoint, by its name; 0 where there is none."""
    try:
        stems = [Path(name).stem for name in os.listdir(Path(directory) / "checkpoints") if name.endswith(".pt")]
    except OSError:
        return 0
    return max((int(stem) for stem in stems if stem.isdecimal()), default=0)


def lost(directory: str | Path, saved: int, rows: Rows) -> str | None:
    """Results of a run that are gone, in a line; None if there are none.

    Args:
        directory: of the run.
        saved: ``saved_iteration``, looked up before the rows: a row is on the disk before its checkpoint is.
        rows: the last ones.
    """
    path, last = Path(directory), rows.rows[-1]["iteration"] if rows.rows else 0
    if (saved or last) and not os.path.lexists(path / CONFIG):
        return f"{path / CONFIG} is missing, and the run has results; put it back"
    if last < saved:
        return f"{path / METRICS} ends with iteration {last}, and checkpoint {saved:08d}.pt is there: rows are lost"
    return None


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


def _rows(path: Path, lines: list[bytes], first: int | None) -> Rows:
    rows, problems = [], []
    for number, line in enumerate(lines, first or 1):
        try:
            row = read_json(line) if b"\\u" in line else json.loads(line)
            row = _with_nan(row) if b"null" in line else row
            _check_row(row)
            rows.append(row)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            where = f", line {number}" if first else ""
            problems.append(f"{path}{where}: not a row of metrics ({_first_line(error)})")
    return Rows(rows, problems)


def _check_row(row: Any) -> None:
    """Raise ``ValueError`` or ``KeyError`` unless a row has its counters, and whole evaluations."""
    if type(row["iteration"]) is not int or not (is_number(row["env_steps"]) and math.isfinite(row["env_steps"])):
        raise ValueError("no whole number of iterations, or of steps")
    if not is_number(row.get("wall_time", 0)):
        raise ValueError("wall_time is no number")
    for prefix in sorted({found[0] for key in row if (found := EVALUATION.match(key))}):
        evaluation = {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}
        if (wrong := _wrong_in(evaluation)) is not None:
            raise ValueError(f"{prefix}{wrong}")


def _wrong_in(evaluation: Any) -> str | None:
    """The first part of an evaluation that is missing or of another kind, in words; None where all is there."""
    kinds = [(name, is_number) for name in NUMBERS] + [(name, _is_curve) for name in CURVES]
    for name, fits in kinds:
        if not isinstance(evaluation, dict) or not fits(evaluation.get(name)):
            return f"{name} is missing or damaged"
    for name in COUNTS:
        if not is_number(evaluation.get(name, 0)):
            return f"{name} is damaged"
    if len({len(evaluation[name]) for name in CURVES}) != 1:
        return f"{CURVES[0]} differs in length from {CURVES[1]} or {CURVES[2]}"
    return None if evaluation[CURVES[0]] else f"{CURVES[0]} is empty"


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
    except MemoryError:
        raise RunDirectoryError(f"{path} is larger than the free memory; remove it") from None
    except OSError as error:
        link = " it is a link, which metarl does not follow" if path.is_symlink() else error.strerror
        raise RunDirectoryError(f"{path} cannot be read ({str(link).strip()})") from None


def parsed(path: Path, kind: str, parse: Callable[[], Any], remedy: str | None = None) -> Any:
    """Parsed content of a file.

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


def task_sets(config: Mapping[str, Any]) -> list[str]:
    """Task sets of the evaluations during training, of which the first selects ``best.pt``; see ``set_names``."""
    return set_names((config.get("eval") or {}).get("task_sets", "held_out"))


def _has_choices(config: dict[str, Any]) -> bool:
    choices = config.get("choices")
    return isinstance(choices, dict) and {"env", "model", "algorithm"} <= set(choices) and is_number(config.get("seed"))


def _is_curve(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_number, value))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
