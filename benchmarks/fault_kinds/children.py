"""Commands in forked children: slow imports are already loaded, and a fault can be prepared in the child.

The parent does no computation and starts no thread, so forking it is safe.
"""

import atexit
import importlib
import os
import random
import runpy
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BENCHMARKS = REPOSITORY / "benchmarks"
MOST_SECONDS = 1200.0  # a busy machine is slow
PRELOADED = (
    *("torch", "torch._dynamo", "hydra", "metarl.envs", "mujoco"),  # MuJoCo reads MUJOCO_GL, which metarl.envs sets
    *("scipy.stats", "matplotlib.figure", "matplotlib.font_manager"),
    *("matplotlib.backends.backend_svg", "metarl.experiment", "metarl.configuration.build", "metarl.cli"),
    *(
        "metarl.analysis.report",
        "metarl.analysis.video_recorder",
        "metarl.envs.half_cheetah",
        "metarl.envs.gymnasium_lanes",
    ),
    *("metarl.algorithms.hyperx", "metarl.algorithms.maml"),
)

Prepare = Callable[[], object]


def preload() -> None:
    """Import all modules that children need."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in PRELOADED:
        importlib.import_module(name)
    torch = sys.modules["torch"]
    torch.set_num_threads(1)
    if threading.active_count() > 1:
        raise RuntimeError(f"threads before a fork: {threading.enumerate()}")


@dataclass(frozen=True)
class Outcome:
    """Exit of a command.

    Attributes:
        code: exit code; negative number of the signal that killed it.
        out, err: standard output and standard error.
        timed_out: killed because it did not end in time.
    """

    code: int
    out: str
    err: str
    timed_out: bool = False

    def errors(self) -> list[str]:
        """Error messages of the command."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    def last_line(self) -> str:
        """Last line of its output."""
        lines = (self.err.strip() or self.out.strip()).splitlines()
        return (lines[-1] if lines else "no output")[:300]


class Child:
    """A command in a forked process with its own session.

    Args:
        arguments: ``run.py`` or ``metarl``, followed by its arguments.
        folder: working directory, in which its output is kept.
        prepare: called in the child before the command.
        environment: variables to set; None removes a variable.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        prepare: Prepare | None = None,
        environment: Mapping[str, str | None] | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = folder / "stdout.txt", folder / "stderr.txt"
        self._signal, theirs = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._signal)
            _become(arguments, folder, prepare, environment or {}, theirs)
        os.close(theirs)

    def moment(self, seconds: float) -> bool:
        """Wait until the child calls ``tell`` or the time is over; False if the child ended before."""
        ready, _, _ = select.select([self._signal], [], [], seconds)
        return not ready or os.read(self._signal, 1) == b"!"

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the child only, as an out-of-memory killer would."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float = MOST_SECONDS) -> Outcome:
        """Outcome of the child, which is killed after a time limit; processes it left behind are killed too."""
        deadline, status = time.monotonic() + seconds, None
        while status is None and time.monotonic() < deadline:
            found, code = os.waitpid(self.pid, os.WNOHANG)
            status = code if found else None
            if status is None:
                select.select([self._signal], [], [], 0.02)
                time.sleep(0.002)
        timed_out = status is None
        if status is None:
            self.kill()
            _, status = os.waitpid(self.pid, 0)
        os.close(self._signal)
        self._end_others()
        code = os.waitstatus_to_exitcode(status)
        return Outcome(code, self.out.read_text(errors="replace"), self.err.read_text(errors="replace"), timed_out)

    def _end_others(self) -> None:
        """Kill remaining worker processes of the child, so that none outlives a case."""
        for _ in range(100):
            try:
                os.killpg(self.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.02)
        with suppress(ProcessLookupError):  # they have just ended
            os.killpg(self.pid, signal.SIGKILL)


TELL: list[int] = []  # the child's end of the pipe


def tell() -> None:
    """Signal from a child to its parent that the awaited moment has come."""
    os.write(TELL[0], b"!")


def call(
    arguments: Sequence[str],
    folder: Path,
    prepare: Prepare | None = None,
    environment: Mapping[str, str | None] | None = None,
    seconds: float = MOST_SECONDS,
) -> Outcome:
    """Run a command to its end and return its outcome."""
    return Child(arguments, folder, prepare, environment).wait(seconds)


def _become(
    arguments: Sequence[str],
    folder: Path,
    prepare: Prepare | None,
    environment: Mapping[str, str | None],
    pipe: int,
) -> None:
    """Turn this forked process into the command; does not return."""
    code = 1
    try:
        os.setsid()
        TELL[:] = [pipe]
        _redirect(folder)
        os.chdir(folder)
        _set_environment(environment)
        _stir()
        if prepare is not None:
            prepare()
        code = _run(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        _exit(code)


def _redirect(folder: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666), descriptor)


def _set_environment(environment: Mapping[str, str | None]) -> None:
    for name in ("HYDRA_FULL_ERROR", "WANDB_MODE"):
        os.environ.pop(name, None)
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    tempfile.tempdir = None  # cached by the parent


def _stir() -> None:
    """Reseed the global generators, which a fork would copy."""
    import numpy as np
    import torch

    random.seed()
    np.random.seed()
    torch.seed()


def _run(arguments: Sequence[str]) -> int:
    script = str(REPOSITORY / "run.py") if arguments[0] == "run.py" else arguments[0]
    sys.argv = [script, *arguments[1:]]
    try:
        if arguments[0] == "run.py":
            runpy.run_path(script, run_name="__main__")
        else:
            importlib.import_module("metarl.cli").main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _exit(code: int) -> None:
    """Exit like an interpreter (threads, then atexit handlers, then buffers) without the parent's handlers."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
