"""Tables: rows of plain numbers, shown for people or handed on for machines."""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from tabulate import tabulate

from metarl.runs.files import finite

Row = dict[str, Any]
Format = Literal["text", "markdown", "csv", "json"]
FORMATS: tuple[Format, ...] = ("text", "markdown", "csv", "json")

PERCENT = frozenset({"share_of_bound", "success_rate", "fall_rate"})
PROBABILITY = frozenset({"probability_of_improvement"})
ERRORS = ("standard_error", "error_over_seeds", "task_error")  # the first that a row has decides how it is rounded
IN_UNITS_OF_RETURN = frozenset({"return", "regret", "iqm", "lowest", "highest", "difference", *ERRORS})
ROUNDING = 1e-9  # a spread smaller than this share of the value is rounding, not spread
HEADERS = {"iqm": "IQM", "probability_of_improvement": "P(better)", "share_of_bound": "share of bound"}


class Cells(NamedTuple):
    """A table as shown.

    Attributes:
        header: names of the columns.
        body: rows of texts.
        numeric: marks columns that align right.
        values: rows of the values behind the texts.
    """

    header: list[str]
    body: list[list[str]]
    numeric: list[bool]
    values: list[list[Any]]


def final_table(summary: dict[str, Any]) -> list[Row]:
    """Returns of the agent, baselines and bounds, best first.

    Args:
        summary: ``summary.json``; without baselines or bounds their rows and columns are left out.

    Returns:
        Rows of name, kind (agent, baseline, bound), return of a trial, its standard_error and what that is over
        (error_over: tasks, or trials); where there is an upper bound, share_of_bound (of a positive one) and regret to
        the tightest; where the environment reports success, success_rate (of the last episode).
    """
    method = "/".join(str(summary[name]) for name in ("model", "algorithm") if summary.get(name))
    bounds = summary.get("bounds") or {}
    tightest = min(bounds.values(), default=None)
    rows = [
        *(_row(f"{method} ({name})", "agent", e, tightest) for name, e in summary["evaluation"].items()),
        *(_row(name, "baseline", e, tightest) for name, e in (summary.get("baselines") or {}).items()),
        *(_row(name, "bound", {"return_mean": value}, tightest) for name, value in bounds.items()),
    ]
    present = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    return sorted(({key: row[key] for key in present} for row in rows), key=lambda row: -row["return"])


def format_table(rows: Sequence[Row], format: Format = "text") -> str:
    """Rows as a table; columns in order of first appearance.

    ``text`` and ``markdown`` round to what the standard error or the interval supports (two significant digits of it)
    and draw ``x_low`` and ``x_high`` together with ``x``. ``csv`` and ``json`` keep every digit.

    Raises:
        ValueError: an unknown format.
    """
    if format == "json":
        return json.dumps(finite(list(rows)), indent=2, ensure_ascii=False, allow_nan=False)
    if format == "csv":
        return _csv(rows)
    if format not in FORMATS:
        raise ValueError(f"format={format} is not one of {', '.join(FORMATS)}")
    cells = display(rows)
    align = ["right" if numeric else "left" for numeric in cells.numeric]
    if format == "text":
        return tabulate(cells.body, cells.header, tablefmt="simple", disable_numparse=True, colalign=align)
    body = [[cell.replace("|", "\\|") for cell in line] for line in cells.body]
    return tabulate(body, cells.header, tablefmt="github", disable_numparse=True, colalign=align)


def display(rows: Sequence[Row]) -> Cells:
    """Rows as the strings a person reads, without columns that no row has a value of."""
    keys = [key for key in _keys(rows) if not _is_limit(key, rows) and any(row.get(key) is not None for row in rows)]
    numeric = [not any(isinstance(row.get(key), str) for row in rows) for key in keys]
    body = [[_cell(row, key) for key in keys] for row in rows]
    values = [[row.get(key) for key in keys] for row in rows]
    return Cells([HEADERS.get(key, key.replace("_", " ")) for key in keys], body, numeric, values)


def error_over(evaluation: dict[str, Any]) -> str | None:
    """Unit over which the standard error of an evaluation is taken; None without an error."""
    return evaluation.get("error_over", "tasks") if "return_se" in evaluation else None


def duration(seconds: float | None) -> str | None:
    """A number of seconds in words; None stays None."""
    if seconds is None:
        return None
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _row(name: str, kind: str, evaluation: dict[str, Any], bound: float | None) -> Row:
    mean = evaluation["return_mean"]
    return {
        "name": name,
        "kind": kind,
        "return": mean,
        "standard_error": evaluation.get("return_se"),
        "error_over": error_over(evaluation),
        "share_of_bound": mean / bound if bound is not None and bound > 0 else None,
        "regret": bound - mean if bound is not None else None,
        "success_rate": evaluation.get("success_rate"),
    }


def _keys(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _is_limit(key: str, rows: Sequence[Row]) -> bool:
    """Whether the column is the end of an interval that is drawn with its estimate."""
    estimate = key.removesuffix("_low").removesuffix("_high")
    return estimate != key and any(estimate in row for row in rows)


def _cell(row: Row, key: str) -> str:
    value = row.get(key)
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    spread = _error(row) if key in IN_UNITS_OF_RETURN else None
    if key in ERRORS and value < ROUNDING * abs(row.get("return") or 0):
        return "0"
    if low is None or high is None:
        return _number(key, value, spread)
    shown = [_number(key, number, spread if spread is not None else high - low) for number in (value, low, high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _error(row: Row) -> float | None:
    return next((row[name] for name in ERRORS if row.get(name) is not None), None)


def _number(key: str, value: float, spread: float | None) -> str:
    if key in PERCENT:
        return f"{100 * value:.1f} %"
    if key in PROBABILITY:
        return f"{value:.2f}"
    if spread is not None and math.isfinite(value) and ROUNDING * abs(value) < spread < math.inf:
        return f"{value:.{_decimals(spread, 2)}f}"
    return f"{value:.{_decimals(value, 4)}f}" if 1e-4 <= abs(value) < 1e15 else f"{value:.4g}"


def _decimals(value: float, digits: int) -> int:
    """Decimals that show so many significant digits."""
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return max(0, digits - 1 - exponent)


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _keys(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")
