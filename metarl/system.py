"""Available cores, folders of data files, and handling of stop signals. Imports nothing heavy."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

PACKAGE = Path(__file__).resolve().parent
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1)


def data_folder(name: str) -> Path:
    """A folder of metarl's data files: inside the package where it is installed, beside it in a checkout."""
    installed = PACKAGE / name
    return installed if installed.is_dir() else PACKAGE.parent / name


def available_cores() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Interrupted(BaseException):
    """Raised when a signal interrupts work; not an ``Exception``, so that error handlers do not catch it."""


class StopRequest:
    """Records SIGINT, SIGTERM, SIGUSR1 and SIGUSR2 while entered; true once one was received.

    A second SIGINT interrupts immediately. Forked workers ignore signals: only the process that entered handles them.
    ``chain_previous_handler`` calls the previous handler (of a cluster launcher that requeues the job).
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._previous: dict[int, object] = {}
        self._interrupts = False

    def __enter__(self) -> "StopRequest":
        self._owner = os.getpid()
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @property
    def signal(self) -> int | None:
        """Number of the signal received; None before."""
        return self._signal

    def record(self, number: int) -> None:
        """Note a signal received, by this process or another of the same run."""
        self._signal = number

    def __bool__(self) -> bool:
        return self.signal is not None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.record(number)
        if self._interrupts:
            self._interrupts = False
            raise Interrupted

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Work that a signal interrupts immediately; it has no lasting effect and is repeated on resume.

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

    def chain_previous_handler(self) -> None:
        """Call the previous handler if it is a launcher's; Python's own would only raise."""
        handler = self._previous.get(self.signal) if self.signal is not None else None
        if callable(handler) and handler is not signal.default_int_handler:
            handler(self.signal, None)
