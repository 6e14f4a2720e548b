"""Programs in processes of their own: run, watched, stopped and killed."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE = 300  # seconds a program may take on a busy machine


class Forked:
    """A process of ``fork_server.py``, used as one of ``subprocess.Popen`` with text on both streams."""

    def __init__(self, arguments: list[str], *, cwd: Path, env: dict[str, str], report: bool):
        self.args, self.returncode = arguments, None
        order = {"arguments": arguments, "directory": str(cwd), "environment": dict(env), "report": report}
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        self.pid = _ask(order, [out_end, err_end])
        for end in (out_end, err_end):
            os.close(end)
        self.stdout, self.stderr = os.fdopen(out), os.fdopen(err)

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        if self.returncode is None:
            self.returncode = _ask({"status": self.pid})
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code, as soon as it has ended."""
        wait_until(lambda: self.poll() is not None, timeout=timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        """Everything it writes until it ends."""
        texts = ["", ""]

        def read(index: int) -> None:
            texts[index] = (self.stdout, self.stderr)[index].read()

        readers = [threading.Thread(target=read, args=(index,), daemon=True) for index in range(2)]
        for reader in readers:
            reader.start()
        deadline = time.monotonic() + timeout
        for reader in readers:
            reader.join(max(0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.wait(max(1, deadline - time.monotonic()))
        self.stdout.close()
        self.stderr.close()
        return texts[0], texts[1]


@cache
def _server() -> socket.socket:
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line = [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(its.fileno())]
    process = subprocess.Popen(line, pass_fds=[its.fileno()], env=os.environ | {"OMP_NUM_THREADS": "1"})
    its.close()

    def end() -> None:
        mine.close()
        process.wait(PATIENCE)

    atexit.register(end)
    return mine


def _ask(order: dict, descriptors: list[int] | None = None):
    socket.send_fds(_server(), [json.dumps(order).encode()], descriptors or [])
    return json.loads(_server().recv(2**16))


def wait_until(condition: Callable[[], object], process=None, timeout: float = PATIENCE) -> None:
    """Until something holds, or the process that should bring it about has ended."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"ended early: {process.communicate()}")
        assert time.monotonic() < deadline, f"not after {timeout:g} seconds"
        time.sleep(0.005)


def python(*arguments: str, directory: Path, env: dict[str, str] | None = None, report: bool = False) -> Forked:
    """``python`` with a script, or with ``-m`` and a module, in another directory and with one thread.

    Args:
        arguments: of the interpreter.
        directory: where it runs.
        env: variables of the environment beside those of this process.
        report: whether a run draws its report at its end, which takes it longer than to train.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    return Forked(list(arguments), cwd=directory, env=environment, report=report)


def run_py(*overrides: str, directory: Path, **options) -> Forked:
    """``python run.py`` from another directory; for the options see ``python``."""
    return python(str(REPOSITORY / "run.py"), *overrides, directory=directory, **options)


def fresh_run_py(*overrides: str, directory: Path, processes: int = 1, env: dict[str, str] | None = None):
    """``run_py`` that imports everything itself, as users' do; or several by ``torchrun``."""
    many = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    line = [sys.executable, *(many if processes > 1 else []), str(REPOSITORY / "run.py"), *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    streams = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, cwd=directory, env=environment, **streams)


def outcome(process: Forked | subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, output and errors, once it has ended."""
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err
