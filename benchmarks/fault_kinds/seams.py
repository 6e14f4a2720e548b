"""Moments at which files of a run change, recorded by an audit hook: where kills are most likely to do damage."""

import os
import re
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_kinds.children import tell

WRITING = os.O_WRONLY | os.O_RDWR
KNOWN = re.compile(r"^\.?([\w-]+\.(?:yaml|jsonl|json|pt|html|png|txt|log|partial))")


@dataclass(frozen=True)
class Seam:
    """One change of a file.

    Attributes:
        name: operation and file, such as ``rename 00000003.pt``.
        seconds: seconds since the start of the command.
    """

    name: str
    seconds: float


@dataclass(frozen=True)
class Moment:
    """Moment of a kill.

    Attributes:
        seam: change to wait for; None: only wait for the time.
        occurrence: index among the changes of that name since the start of the process.
        delay: seconds after the change; None: kill just before it.
    """

    seam: str | None
    occurrence: int = 1
    delay: float | None = 0.0

    def prepare(self, run_dir: Path) -> None:
        """Signal or kill at the given moment; runs in the child."""
        if self.seam is None:
            return
        left = [self.occurrence]

        def arrived(name: str) -> None:
            if name == self.seam:
                left[0] -= 1
                if left[0] == 0 and self.delay is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                if left[0] == 0:
                    tell()

        watch(run_dir, arrived)


def watch(run_dir: Path, arrived: Any) -> None:
    """Call ``arrived(name)`` before every change of a file of ``run_dir``; runs in the child."""
    root, owner = str(run_dir), os.getpid()

    def hook(event: str, arguments: tuple) -> None:
        if event not in ("open", "os.rename", "os.remove") or os.getpid() != owner:
            return
        path = arguments[1] if event == "os.rename" else arguments[0]
        if event == "open" and (not isinstance(arguments[2], int) or not arguments[2] & WRITING):
            return
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if isinstance(path, str | os.PathLike) and root in os.path.abspath(path):
            arrived(f"{event.removeprefix('os.')} {plain(os.path.basename(path))}")

    sys.addaudithook(hook)


def record(run_dir: Path, log: Path) -> None:
    """Record every change; runs in the child."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    started = time.monotonic()
    watch(run_dir, lambda name: os.write(descriptor, f"{time.monotonic() - started:.4f} {name}\n".encode()))


def recorded(log: Path) -> list[Seam]:
    """Changes that ``record`` wrote."""
    rows = (line.split(" ", 1) for line in log.read_text().splitlines())
    return [Seam(name, float(seconds)) for seconds, name in rows]


def occurrences(seams: list[Seam]) -> Counter:
    """Number of occurrences of each change."""
    return Counter(seam.name for seam in seams)


def plain(name: str) -> str:
    """Name of a file without the unique part of temporary names."""
    found = KNOWN.match(name)
    return found.group(1) if found else name


def is_temporary(name: str) -> bool:
    """Whether a file is a temporary one, to be renamed when complete."""
    return bool(re.search(r"\.(partial|tmp|temp)$", name)) or (name.startswith(".") and name.count(".") > 2)
