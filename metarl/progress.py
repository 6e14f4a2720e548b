"""Progress on standard error: a bar in a terminal, lines without carriage returns elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

INTERVAL = 30.0  # seconds between lines in a file


class _Meter:
    """Work whose share that is done is shown: as a bar in a terminal, elsewhere as a line every ``INTERVAL`` seconds.

    Args:
        total: steps of all the work.
        done: steps that are done already.
        shown: False shows nothing.
        look: options of the bar.
    """

    def __init__(self, total: int, done: int = 0, shown: bool = True, **look: Any):
        self.total, self.first, self.done, self.shown = total, done, done, shown
        self.started = self.said = time.monotonic()
        terminal = shown and sys.stderr.isatty()
        options: dict[str, Any] = {
            "total": total,
            "initial": done,
            "unit": "step",
            "dynamic_ncols": True,
            "mininterval": 0.5,
        }
        self.bar = tqdm(**options | look) if terminal else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def line(self) -> str:
        """One line on the state."""
        raise NotImplementedError

    def _advance(self, done: int) -> None:
        """Show that so many steps are done."""
        self.done = done
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
        elif self.shown and (now := time.monotonic()) - self.said >= INTERVAL:
            self.said = now
            self._print()

    def _print(self) -> None:
        print(self.line(), file=sys.stderr, flush=True)

    def _rate(self) -> float:
        """Steps per second since the beginning."""
        elapsed = time.monotonic() - self.started
        return (self.done - self.first) / elapsed if elapsed > 0 else 0.0

    def _share(self) -> str:
        return f"{min(100, 100 * self.done / self.total):.0f}%"

    def _left(self) -> str | None:
        """Time left at this rate; None without a rate, or at the end."""
        rate = self._rate()
        left = max(0, self.total - self.done) / rate if rate > 0 else 0
        return f"{tqdm.format_interval(left)} left" if left else None


class ProgressBar(_Meter):
    """Progress of a training: steps that are done, the time left and the latest return.

    Args:
        total: steps of the whole training.
        done: steps done before, by an earlier part of the run.
        shown: False shows nothing.
    """

    def __init__(self, total: int, done: int, shown: bool = True):
        super().__init__(total, done, shown, unit_scale=True)
        self.remark = ""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self.bar is None and self.shown and self.done > self.first:
            self._print()

    def update(self, done: int, train_return: float | None) -> None:
        """Show the number of steps that are done, and the return of the latest iteration if it has one."""
        if train_return is not None:
            self.remark = f"train return {train_return:.3f}"
        if self.bar is not None:
            self.bar.set_postfix_str(self.remark, refresh=False)
        self._advance(done)

    def line(self) -> str:
        elapsed = tqdm.format_interval(time.monotonic() - self.started)
        parts: list[str | None] = [f"{self._share()} of {self.total:,} steps", f"{self.done:,} done in {elapsed}"]
        parts += [f"{self._rate():,.0f} steps/s", self._left(), self.remark]
        return ", ".join(part for part in parts if part)


class Phase(_Meter):
    """Progress of a part of a run that has no metrics, such as an evaluation; a short one shows nothing.

    Args:
        name: description of the part.
        total: steps of it, or an upper bound.
    """

    def __init__(self, name: str, total: int):
        super().__init__(total, desc=name, delay=1, leave=False)
        self.name = name

    def step(self) -> None:
        """Count one step."""
        self._advance(self.done + 1)

    def line(self) -> str:
        return ", ".join(part for part in (f"{self.name}: {self._share()} done", self._left()) if part)
