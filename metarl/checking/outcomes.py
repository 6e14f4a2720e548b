"""Checks of a contract one after the other: what holds, what does not, and the remedy. A failed check ends no other."""

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metarl.errors import ConfigError

Status = Literal["passed", "failed", "not applicable"]


class Fault(AssertionError):
    """A law that does not hold; the message states what was found."""


class NotApplicable(Exception):
    """A law that does not apply to this subject; the message states why."""


@dataclass(frozen=True)
class Check:
    """A law with its name and its remedy.

    Args:
        name: what holds where the check passes.
        law: raises ``Fault`` or ``NotApplicable``; what it returns, if anything, is a remark for the table.
        remedy: what to change where it fails.
        needed: later checks are skipped if this one fails.
    """

    name: str
    law: Callable[[Any], str | None]
    remedy: str
    needed: bool = False


@dataclass(frozen=True)
class Outcome:
    """Outcome of one check: ``found`` states what failed, why it does not apply, or what to note."""

    subject: str
    check: str
    status: Status
    found: str = ""
    remedy: str = ""

    def row(self) -> dict[str, str]:
        """For a table."""
        return {name: value or "-" for name, value in vars(self).items()}


def run(subject: str, checks: Sequence[Check], on: Any) -> list[Outcome]:
    """All checks of ``on``, which the table calls ``subject``."""
    outcomes: list[Outcome] = []
    for place, check in enumerate(checks):
        outcomes.append(_outcome(subject, check, on))
        if check.needed and outcomes[-1].status == "failed":
            reason = f"needs: {check.name}"
            return outcomes + [Outcome(subject, later.name, "not applicable", reason) for later in checks[place + 1 :]]
    return outcomes


def failed(outcomes: Iterable[Outcome]) -> list[str]:
    """Names of the checks that failed."""
    return [outcome.check for outcome in outcomes if outcome.status == "failed"]


def _outcome(subject: str, check: Check, on: Any) -> Outcome:
    try:
        return Outcome(subject, check.name, "passed", check.law(on) or "")
    except NotApplicable as reason:
        return Outcome(subject, check.name, "not applicable", str(reason))
    except Exception as error:  # a fault, or whatever the code that is checked raises
        return Outcome(subject, check.name, "failed", _told(error), check.remedy)


def _told(error: Exception) -> str:
    """One line; of an unexpected error also where it was raised, outside installed packages if possible."""
    message = " ".join(str(error).split())
    if isinstance(error, Fault | ConfigError):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((one for one in reversed(frames) if "site-packages" not in one.filename), frames[-1])
    return f"{type(error).__name__}: {message} ({Path(frame.filename).name}:{frame.lineno})"
