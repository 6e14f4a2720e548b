"""Progress on standard error: a bar in a terminal, lines without carriage returns elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

INTERVAL = 30.0  # seconds between lines in a file


class ProgressBar:
    """Steps that are done, the time left and the latest return.

    Args:
        total: steps of the whole training.
        done: steps done before, by an earlier part of the run.
        shown: False shows nothing.
    """

    def __init__(self, total: int, done: int, shown: bool = True):
        self.total, self.first, self.done, self.remark = total, done, done, ""
        self.started = time.monotonic()
        self.shown, self.said = shown, self.started
        terminal = shown and sys.stderr.isatty()
        self.bar = (
            tqdm(total=total, initial=done, unit="step", unit_scale=True, dynamic_ncols=True, mininterval=0.5)
            if terminal
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.shown and self.done > self.first:
            print(self.line(), file=sys.stderr, flush=True)

    def update(self, done: int, train_return: float | None) -> None:
        """Show the number of steps that are done, and the return of the latest iteration if it has one."""
        if train_return is not None:
            self.remark = f"train return {train_return:.3f}"
        if self.bar is not None:
            self.bar.set_postfix_str(self.remark, refresh=False)
            self.bar.update(done - self.bar.n)
        self.done = done
        if self.bar is None and self.shown and time.monotonic() - self.said >= INTERVAL:
            self.said = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """One line on the state."""
        elapsed = time.monotonic() - self.started
        rate = (self.done - self.first) / elapsed if elapsed > 0 else 0.0
        left = max(0, self.total - self.done) / rate if rate > 0 else None
        parts = [
            f"{min(100, 100 * self.done / self.total):.0f}% of {self.total:,} steps",
            f"{self.done:,} done in {tqdm.format_interval(elapsed)}",
            f"{rate:,.0f} steps/s",
            *([f"{tqdm.format_interval(left)} left"] if left else []),
            *([self.remark] if self.remark else []),
        ]
        return ", ".join(parts)


class Phase:
    """A part of a run that has no metrics, such as an evaluation: what it is, the share that is done, the time left.

    Args:
        name: description of the part.
        total: steps of it, or an upper bound.
    """

    def __init__(self, name: str, total: int):
        self.name, self.total, self.done = name, total, 0
        self.started = self.said = time.monotonic()
        terminal = sys.stderr.isatty()
        self.bar = (
            tqdm(desc=name, total=total, unit="step", dynamic_ncols=True, mininterval=0.5, delay=1, leave=False)
            if terminal
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self) -> None:
        """Count one step."""
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        elif (now := time.monotonic()) - self.said >= INTERVAL:
            self.said = now
            left = (now - self.started) * max(0, self.total - self.done) / self.done
            share = f"{100 * self.done / self.total:.0f}% done, {tqdm.format_interval(left)} left"
            print(f"{self.name}: {share}", file=sys.stderr, flush=True)
