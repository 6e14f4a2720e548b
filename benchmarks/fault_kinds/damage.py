"""Damaged files: every command reports the damage in one line, or continues with a correct result.

A flipped bit of a text file can be a valid edit (a 2 becomes a 3); then a command only has to end cleanly. If the bit
makes an invalid byte, and for checkpoints, which contain a digest, the result must be correct too.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fault_kinds.cases import Case, first_difference, untidy
from fault_kinds.children import Outcome, call
from fault_kinds.runs import difference, summary_difference
from fault_kinds.stage import FAILED, FINISHED, KILLED, Stage, rows, stage_in
from metarl.errors import MetarlError

WAYS = ("truncated", "empty", "deleted", "bit flipped", "edited", "a directory", "garbage", "not UTF-8", "foreign")
TEXTS = (".yaml", ".json", ".jsonl", ".txt", ".lock")
NO_SWEEP = -1
# Files by run; best.pt and the checkpoints below checkpoints/.
FILES = (
    *((FINISHED, name) for name in ("config.yaml", "metrics.jsonl", "summary.json", "trial.json", ".lock")),
    *((FINISHED, name) for name in ("checkpoints/latest", "checkpoints/best.pt")),
    *((KILLED, name) for name in ("config.yaml", "metrics.jsonl", ".lock")),
    *((KILLED, name) for name in ("checkpoints/latest", "checkpoints/earlier", "checkpoints/best.pt")),
    (FAILED, "error.txt"),
    *((NO_SWEEP, name) for name in ("sweep.json", ".lock")),
)


@dataclass(frozen=True)
class Damage:
    """Damage to one file.

    Attributes:
        number: number of the run, or ``NO_SWEEP`` for a file of the sweep.
        path: path of the file.
        way: kind of damage, one of ``WAYS``.
    """

    number: int
    path: Path
    way: str

    @property
    def run(self) -> int:
        """Run on which the commands are tried."""
        return FINISHED if self.number == NO_SWEEP else self.number

    @property
    def name(self) -> str:
        """Short description of the damage."""
        place = "sweep" if self.number == NO_SWEEP else ("finished", "killed", "failed")[self.number]
        return f"{place}: {self.path.name} {self.way}"

    @property
    def leaves_no_trace(self) -> bool:
        """Whether the run looks like one that stopped before it wrote this file."""
        return self.way == "deleted" and self.path.name in ("summary.json", "error.txt")

    def named(self, text: str) -> bool:
        """Whether a text names the file or the run."""
        if self.leaves_no_trace:
            return True
        return str(self.path) in text or self.path.name in text or f"{self.path.parent.name}/" in text


def run(number: int, dice: Random, folder: Path, short: bool = False) -> Iterator[Case]:
    """Try ``number`` damaged files."""
    stage = stage_in(folder)
    pairs = [(place, way) for place in FILES for way in WAYS if way != "foreign" or place[1].endswith(TEXTS)]
    dice.shuffle(pairs)
    for index in range(number):
        (run_number, name), way = pairs[index % len(pairs)]
        stage.restore()
        damage = Damage(run_number, _find(stage, run_number, name), way)
        harm(damage.path, way, dice)
        problems = list(_problems(stage, damage, short))
        yield Case(damage.name, "; ".join(problems) if problems else None)
    stage.restore()


def _find(stage: Stage, number: int, name: str) -> Path:
    run_dir = stage.sweep if number == NO_SWEEP else stage.run(number)
    if name in ("checkpoints/latest", "checkpoints/earlier"):
        saved = sorted(path for path in (run_dir / "checkpoints").glob("*.pt") if path.stem.isdecimal())
        return saved[-1 if name.endswith("latest") else 0]
    return run_dir / name


def harm(path: Path, way: str, dice: Random) -> None:
    """Damage a file."""
    content = path.read_bytes() if path.exists() else b"{}"
    if way in ("deleted", "a directory"):
        path.unlink(missing_ok=True)
    if way == "a directory":
        path.mkdir()
    elif way != "deleted":
        path.write_bytes(_harmed(content, way, path.name.endswith(TEXTS), dice))


def _harmed(content: bytes, way: str, text: bool, dice: Random) -> bytes:
    place = dice.randrange(max(1, len(content)))
    if way == "truncated":
        return content[:place]
    if way == "garbage":
        return dice.randbytes(200)
    if way == "not UTF-8":
        return content[:place] + b"\xff\xfe" + content[place:]
    if way == "foreign":
        return dice.choice((b"{}", b"[1, 2]", b"null", b'"text"', b'{"a": {"b": 1}}', b"3\n")) + b"\n"
    if way in ("bit flipped", "edited") and content:
        bit = 0x80 if text and way == "bit flipped" else 1 << dice.randrange(7)
        return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
    return b""


def _problems(stage: Stage, damage: Damage, short: bool) -> Iterator[str]:
    """Problems of all commands, that of the resuming command last."""
    yield from _named("status", _status(stage, damage))
    numbered = damage.run != FAILED
    if numbered:
        which = "evaluate best" if damage.path.name == "best.pt" else "evaluate"
        known = stage.expected["evaluate"] if (which, damage.run) == ("evaluate", FINISHED) else None
        yield from _named(which, _same_or_said(stage.tell(which, damage.run), known, damage))
        yield from _named("report", untidy(stage.tell("report", damage.run)))
    if not short or not numbered:
        yield from _named("compare", _same_or_said(stage.tell("compare"), stage.expected["compare"], damage))
    if numbered:
        yield from _named("going on", _going_on(stage, damage))


def _named(command: str, problem: str | None) -> list[str]:
    return [] if problem is None else [f"{command}: {problem}"]


def _same_or_said(outcome: Outcome, expected: Outcome | None, damage: Damage) -> str | None:
    """Problem of a read-only command, which must print the same output or a line about the file."""
    if (wrong := untidy(outcome)) is not None:
        return wrong
    if outcome.code:
        return None if damage.named(outcome.errors()[0]) else f"the message names no file: {outcome.errors()[0]}"
    if expected is None or damage.way == "edited" or outcome.out == expected.out or damage.named(outcome.err):
        return None
    return f"a different result without a message: {first_difference(outcome.out, expected.out)}"


def _status(stage: Stage, damage: Damage) -> str | None:
    """Problem of ``metarl status``: other runs must be unchanged, the damaged one must show its state or the damage."""
    outcome = stage.tell("status")
    if (wrong := untidy(outcome)) is not None:
        return wrong
    if outcome.code:
        fine = damage.number == NO_SWEEP and damage.named(outcome.errors()[0])
        return None if fine else f"no table: {outcome.errors()[0]}"
    before, now = rows(stage.expected["status"]), rows(outcome)
    if before.keys() != now.keys() and damage.way != "edited":
        return f"runs {sorted(now)}"
    for number, row in now.items():
        other = {key: (before[number].get(key), value) for key, value in row.items() if number in before}
        wrong = {key: pair for key, pair in other.items() if pair[0] != pair[1] and pair[1] not in (None, "-")}
        if wrong and not (
            number == damage.number and (row.get("error") or damage.way == "edited" or damage.leaves_no_trace)
        ):
            return f"run {number} differs without a message: {json.dumps(wrong)[:150]}"
    return None


def _going_on(stage: Stage, damage: Damage) -> str | None:
    """Problem of resuming: equal to the undisturbed run, or one line; a file it says to delete is deleted once."""
    for attempt in range(2):
        outcome = call(stage.train(damage.run), stage.folder / "io")
        if (wrong := untidy(outcome)) is not None:
            return wrong
        if not outcome.code:
            return _went_on(stage, damage, outcome)
        message = outcome.errors()[0]
        if not damage.named(message) and damage.path.name != "config.yaml":
            return f"the message names no file: {message}"
        if attempt or "delete it" not in message:
            return None
        if damage.path.is_dir():
            shutil.rmtree(damage.path)
        damage.path.unlink(missing_ok=True)
    return None


def _went_on(stage: Stage, damage: Damage, outcome: Outcome) -> str | None:
    """Problem with the results: a finished run shows them again, a resumed run equals the undisturbed one."""
    compare = summary_difference if damage.run == FINISHED else difference
    try:
        wrong = compare(stage.run(damage.run), stage.whole(damage.run))
    except (MetarlError, ValueError, OSError) as error:
        wrong = f"a file it leaves cannot be read: {error}"
    told = "\n".join(line for line in (outcome.err + outcome.out).splitlines() if "; report: " not in line)
    said = damage.named(told) or "lost" in told
    return None if wrong is None or said or damage.way == "edited" else f"{wrong} without a message"
