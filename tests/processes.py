"""Programs in separate processes: started, monitored, stopped and killed."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE = 300  # seconds a program may take on a busy machine
QUICK_START = Path(__file__).with_name("quick_start")  # for processes that a program starts
LIMIT = 2 * PATIENCE  # seconds after which a forked process ends, whatever has become of its test


class Forked:
    """A process of ``fork_server.py``, used as one of ``subprocess.Popen`` with text on both streams."""

    def __init__(self, arguments: list[str], *, cwd: Path, env: dict[str, str], report: bool, project: Path):
        self.args, self.returncode = arguments, None
        order = {"arguments": arguments, "directory": str(cwd), "environment": dict(env), "report": report}
        order["limit"] = LIMIT
        self.streams = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 -- as long as this
        self.server, self.pid = _start(project, order, [stream.fileno() for stream in self.streams])

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        if self.returncode is None:
            self.returncode = _ask(self.server, {"status": self.pid})
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
        self.wait(timeout)
        return self.written()

    def written(self) -> tuple[str, str]:
        """Everything it has written until now."""
        texts = []
        for stream in self.streams:
            stream.seek(0)
            texts.append(stream.read())
        return texts[0], texts[1]


class Together:
    """Processes of one run, as ``torchrun`` has them: where one fails, those that have come to wait are ended."""

    def __init__(self, processes: list[Forked]):
        self.processes = processes
        self.waiting = 0.0  # since when, where one has failed and all others wait

    @property
    def returncode(self) -> int | None:
        """Zero, or the exit code of the first that failed; None where one is at work."""
        codes = [process.returncode for process in self.processes]
        return next((code for code in codes if code != 0), 0)

    def poll(self) -> int | None:
        """See ``returncode``."""
        codes = [process.poll() for process in self.processes]
        left = [process for process, code in zip(self.processes, codes, strict=True) if code is None]
        if not any(codes) or not all(_sleeps(process.pid) for process in left):
            self.waiting = time.monotonic()
        if time.monotonic() - self.waiting > 0.5:
            self.terminate()
        return None if left else self.returncode

    def terminate(self) -> None:
        """Ask all to end."""
        for process in self.processes:
            process.terminate()

    def kill(self) -> None:
        """End all."""
        for process in self.processes:
            process.kill()

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        """Everything they write until they end."""
        wait_until(lambda: self.poll() is not None, timeout=timeout)
        out, err = zip(*(process.written() for process in self.processes), strict=True)
        return "".join(out), "".join(err)


@cache
def _server(project: Path) -> socket.socket:
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line = [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(its.fileno())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(project)}
    process = subprocess.Popen(line, pass_fds=[its.fileno()], env=environment)
    its.close()
    mine.settimeout(PATIENCE)

    def end() -> None:
        mine.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()

    atexit.register(end)
    return mine


def _start(project: Path, order: dict, descriptors: list[int]) -> tuple[socket.socket, int]:
    """The server that started a process, and its identifier; a server that has died is replaced once."""
    server = _server(project)
    try:
        return server, _ask(server, order, descriptors)
    except ServerDied:
        _server.cache_clear()
        return _server(project), _ask(_server(project), order, descriptors)


class ServerDied(AssertionError):
    """The program that forks processes has ended, and with it the exit codes of its processes."""


def _ask(server: socket.socket, order: dict, descriptors: list[int] | None = None):
    try:
        socket.send_fds(server, [json.dumps(order).encode()], descriptors or [])
        answer = server.recv(2**16)
    except TimeoutError:
        raise AssertionError(f"fork_server.py gave no answer in {PATIENCE} seconds to {order}") from None
    except ConnectionError:
        answer = b""
    if not answer:
        raise ServerDied(f"fork_server.py has ended before it answered {order}")
    return json.loads(answer)


def wait_until(condition: Callable[[], object], process=None, timeout: float = PATIENCE) -> None:
    """Until something holds, or the process that should bring it about has ended."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"ended early: {process.communicate()}")
        assert time.monotonic() < deadline, f"not after {timeout:g} seconds"
        time.sleep(0.005)


def python(
    *arguments: str,
    directory: Path,
    env: dict[str, str] | None = None,
    report: bool = False,
    project: Path = REPOSITORY,
) -> Forked:
    """``python`` with a script, or with ``-m`` and a module, in another directory and with one thread.

    Args:
        arguments: of the interpreter.
        directory: where it runs.
        env: variables of the environment beside those of this process.
        report: whether a run draws its report at its end, which takes it longer than to train.
        project: repository, or a copy of it, whose metarl it imports.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(QUICK_START), environment.get("PYTHONPATH")]))
    return Forked(list(arguments), cwd=directory, env=environment, report=report, project=project)


def run_py(*overrides: str, directory: Path, **options) -> Forked:
    """``python run.py`` from another directory; for the options see ``python``."""
    return python(str(REPOSITORY / "run.py"), *overrides, directory=directory, **options)


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "R"


def run_together(*overrides: str, directory: Path, processes: int = 2, env: dict[str, str] | None = None) -> Together:
    """Several processes of one run, with the environment that ``torchrun`` gives them."""
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()} | (env or {})
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    return Together([run_py(*overrides, directory=directory, env=shared | rank) for rank in ranks])


def free_port() -> str:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def fresh_run_py(*overrides: str, directory: Path, processes: int = 1, env: dict[str, str] | None = None):
    """``run_py`` that imports everything itself, as users' do; or several by ``torchrun``."""
    many = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    line = [sys.executable, *(many if processes > 1 else []), str(REPOSITORY / "run.py"), *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    streams = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, cwd=directory, env=environment, **streams)


def outcome(process: Forked | Together | subprocess.Popen) -> tuple[int, str, str]:
    """Exit code, output and errors, once it has ended; one that does not end in time is killed."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except (AssertionError, subprocess.TimeoutExpired) as late:
        process.kill()
        raise AssertionError(f"{late}; it had written {process.communicate(timeout=60)}") from None
    return process.returncode, out, err
