"""Cores this process may use, and signals that ask a run to stop. Imports nothing heavy."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1)


def available_cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Interrupted(BaseException):
    """The end of work that a signal interrupted; no error, and nothing that catches errors catches it."""


class StopRequest:
    """Notes SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 while it is entered; truthy once one has come.

    A second SIGINT interrupts at once. Forked workers ignore the note: only the process that entered owns it.
    ``pass_on`` hands the signal to whoever listened before (a cluster launcher that requeues the job).
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, object] = {}
        self._interrupts = False

    def __enter__(self) -> "StopRequest":
        self._owner = os.getpid()
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self._interrupts:
            self._interrupts = False
            raise Interrupted

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Work that a signal ends at once: it changes nothing, and is done again on resume.

        Raises:
            Interrupted: a signal has come, now or before.
        """
        self._interrupts = True
        try:
            if self:
                raise Interrupted
            yield
        finally:
            self._interrupts = False

    def pass_on(self) -> None:
        """Call the handler that was there before, if it was a launcher's; Python's own would only raise."""
        handler = self._previous.get(self.signal) if self.signal is not None else None
        if callable(handler) and handler is not signal.default_int_handler:
            handler(self.signal, None)
