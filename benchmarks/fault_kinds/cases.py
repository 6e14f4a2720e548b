"""Result type of every kind of fault: the tried cases, with the problem of each failed one."""

import difflib
import re
from dataclasses import dataclass

from fault_kinds.children import Outcome


@dataclass(frozen=True)
class Case:
    """One fault that was tried.

    Attributes:
        name: short description, by which the case can be found again with the same seed.
        problem: description of the failure; None if the case was handled.
    """

    name: str
    problem: str | None = None


def untidy(outcome: Outcome) -> str | None:
    """Problem with the end of a command, whatever its task: a hang, a traceback, no message or several messages."""
    if outcome.timed_out:
        return f"hangs: {outcome.last_line()}"
    if "Traceback (most recent call last)" in outcome.out + outcome.err:
        return f"traceback: {outcome.last_line()}"
    if outcome.code < 0:
        return f"killed by signal {-outcome.code}"
    if outcome.code and len(outcome.errors()) != 1:
        return f"exit code {outcome.code} with {len(outcome.errors())} error lines: {outcome.last_line()}"
    return None


def refusal(outcome: Outcome, *named: str) -> str | None:
    """Problem of a command that must refuse with one line naming all of ``named``; None if it does."""
    if (wrong := untidy(outcome)) is not None:
        return wrong
    if outcome.code == 0:
        return f"accepted: {outcome.last_line()}"
    message = outcome.errors()[0]
    missing = [name for name in named if name not in message]
    return f"the message does not name {', '.join(missing)}: {message[:200]}" if missing else None


def first_difference(found: str, expected: str) -> str:
    """The first lines that differ between two texts, in one line."""
    lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), lineterm="", n=0)
    shown = [line for line in lines if not re.match(r"(---|\+\+\+|@@)", line)]
    return " | ".join(shown[:2])[:200]
