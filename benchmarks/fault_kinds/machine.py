"""Faults of the machine: full disks, unwritable folders, no locks, no home directory, badly timed signals."""

import ctypes
import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

from fault_kinds.cases import Case, refusal, untidy
from fault_kinds.children import MOST_SECONDS, Child, Outcome, call
from fault_kinds.runs import difference
from fault_kinds.seams import Moment
from fault_kinds.stage import FINISHED, KILLED, Stage, stage_in

NOBODY = 54321  # a user without an entry in the list of users
KEEP_CAPABILITIES, CAPABILITIES_VERSION, MAY_READ = 8, 0x20080522, 1 << 2  # PR_SET_KEEPCAPS, version 3, DAC_READ_SEARCH
UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
Problem = str | None
Try = Callable[[Stage, Random], Problem]


def run(number: int, dice: Random, folder: Path, short: bool = False) -> Iterator[Case]:
    """Try every fault once, then repeat the random ones up to ``number`` cases."""
    stage = stage_in(folder)
    tries = list(_tries())
    if short:
        dice.shuffle(tries)
    again = [pair for pair in tries if pair[0].startswith(("disk full", "SIGTERM"))]
    for index in range(number if short else max(number, len(tries))):
        name, attempt = tries[index] if index < len(tries) else again[index % len(again)]
        stage.restore()
        yield Case(name, attempt(stage, dice))


def _tries() -> Iterator[tuple[str, Try]]:
    yield "disk full: a new run", _full_disk
    yield "disk full: files may not grow", _short_files
    yield "SIGTERM in the final evaluation", _stopped_at_the_end
    yield "SIGTERM at some moment", _stopped_somewhere
    for code in UNSUPPORTED:
        name = errno.errorcode[code]
        yield f"no flock ({name}): going on", partial(_no_flock, code)
    yield "flock held by another", _held
    yield "read-only run directory: looking", _read_only_looks
    yield "read-only run directory: going on", _read_only_run
    yield "read-only place for a new run", _read_only_place
    for name, home in (("no HOME", None), ("HOME that is no folder", "/dev/null"), ("HOME not there", "/nowhere/home")):
        yield f"{name}: going on", partial(_home, home, "train")
        yield f"{name}: W&B offline", partial(_home, home, "wandb")
        yield f"{name}: evaluate", partial(_home, home, "evaluate")
        yield f"{name}: report", partial(_home, home, "report")
    for name in ("run", "sweep", "report", "figures", "analysis", "video", "evaluate", "status", "compare"):
        yield f"/proc path: {name}", partial(_proc, name)
    yield "output to a full device", partial(_output_to, "/dev/full")
    yield "deleted current directory", _gone_directory
    yield "no folder for temporary files", _no_temporary


def _full_disk(stage: Stage, dice: Random) -> Problem:
    """Try a file system that becomes full; with more space, the same command must finish with the right result."""
    place = stage.folder / "small"
    size = dice.randint(30, 900)
    with _small(place, size) as grow:
        if grow is None:
            return _short_files(stage, dice)
        command = ["run.py", *stage.train(FINISHED)[1:-1], f"hydra.run.dir={place / 'run'}"]
        outcome = call(command, stage.folder / "io")
        if outcome.code and (wrong := refusal(outcome, str(place), "space")) is not None:
            return f"{size} KiB: {wrong}"
        grow()
        return _as_whole(call(command, stage.folder / "io"), place / "run", stage, FINISHED)


@contextmanager
def _small(place: Path, kibibytes: int) -> Iterator[Callable[[], object] | None]:
    """A file system of a given size in KiB, and a way to enlarge it; None if this user may not mount one."""
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "none", str(place)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=100m", str(place)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _short_files(stage: Stage, dice: Random) -> Problem:
    """Try a limit on the size of files."""
    size = dice.randint(1, 120) * 1024
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
    outcome = call(stage.train(KILLED), stage.folder / "io", limit)
    if outcome.code and (wrong := refusal(outcome, str(stage.run(KILLED)))) is not None:
        return f"{size} bytes: {wrong}"
    return _as_whole(call(stage.train(KILLED), stage.folder / "io"), stage.run(KILLED), stage, KILLED)


def _as_whole(outcome: Outcome, run_dir: Path, stage: Stage, number: int) -> Problem:
    if (wrong := untidy(outcome)) is not None or outcome.code:
        return wrong or outcome.last_line()
    return difference(run_dir, stage.whole(number))


def _stopped_at_the_end(stage: Stage, dice: Random) -> Problem:
    """Try a stop signal in a long final evaluation: the run stops soon, and resuming repeats the evaluation."""
    more = ["eval.final_num_tasks=4000", "eval.batch_size=50"]
    last = max(int(path.stem) for path in (stage.whole(KILLED) / "checkpoints").glob("0*.pt"))
    moment = Moment(f"rename {last:08d}.pt", 1, 0.0)
    child = Child([*stage.train(KILLED), *more], stage.folder / "io", partial(moment.prepare, stage.run(KILLED)))
    child.moment(MOST_SECONDS)
    child.moment(dice.uniform(0.05, 0.5))
    child.kill(signal.SIGTERM)
    outcome = child.wait()
    if (wrong := untidy(outcome)) is not None:
        return wrong
    if (stage.run(KILLED) / "summary.json").exists():
        return "the final evaluation went on to its end"
    if "stopped by signal" not in (stage.run(KILLED) / "run.log").read_text():
        return "the stop is not logged"
    return _as_whole(call(stage.train(KILLED), stage.folder / "io"), stage.run(KILLED), stage, KILLED)


def _stopped_somewhere(stage: Stage, dice: Random) -> Problem:
    """Try any stop signal at a random moment."""
    number = dice.choice((signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2))
    moment = Moment("open metrics.jsonl", 1, 0.0)
    child = Child(stage.train(KILLED), stage.folder / "io", partial(moment.prepare, stage.run(KILLED)))
    child.moment(MOST_SECONDS)
    child.moment(dice.uniform(0.05, 1.0))
    child.kill(number)
    outcome = child.wait()
    if (wrong := untidy(outcome)) is not None or outcome.code:
        return f"{signal.Signals(number).name}: {wrong or outcome.last_line()}"
    return _as_whole(call(stage.train(KILLED), stage.folder / "io"), stage.run(KILLED), stage, KILLED)


def _no_flock(code: int, stage: Stage, dice: Random) -> Problem:
    """Try a file system without locks: one warning, and training continues."""
    prepare = partial(_refuse_locks, code)
    outcome = call(stage.train(KILLED), stage.folder / "io", prepare)
    if (wrong := _as_whole(outcome, stage.run(KILLED), stage, KILLED)) is not None:
        return wrong
    said = [line for line in (outcome.err + outcome.out).splitlines() if "lock" in line]
    if len(said) != 1:
        return f"{len(said)} lines about locks on the console"
    status = call(stage.command("status"), stage.folder / "io", prepare)
    return untidy(status) or (status.last_line() if status.code else None)


def _refuse_locks(code: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    fcntl.flock = flock  # type: ignore[assignment]


def _held(stage: Stage, dice: Random) -> Problem:
    """Try a run whose lock is held by another process: no file may change."""
    with open(stage.run(KILLED) / ".lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (wrong := refusal(call(stage.train(KILLED), stage.folder / "io"), str(stage.run(KILLED)))) is not None:
            return wrong
    return _as_whole(call(stage.train(KILLED), stage.folder / "io"), stage.run(KILLED), stage, KILLED)


def _become_nobody() -> None:
    """Drop root privileges, so that write permissions apply; imports of Python stay readable."""
    if os.getuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(KEEP_CAPABILITIES, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)(MAY_READ, MAY_READ)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capabilities cannot be set")


@contextmanager
def _unwritable(folder: Path) -> Iterator[None]:
    """Remove all write permissions below a folder."""
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


def _as_nobody(stage: Stage, arguments: list[str], environment: dict[str, str | None] | None = None) -> Outcome:
    shutil.rmtree(stage.folder / "nobody", ignore_errors=True)
    (stage.folder / "nobody").mkdir()
    (stage.folder / "nobody").chmod(0o777)
    return call(arguments, stage.folder / "nobody", _become_nobody, environment)


def _read_only_looks(stage: Stage, dice: Random) -> Problem:
    """Try read-only commands in an unwritable folder; they must work."""
    with _unwritable(stage.sweep):
        for name in ("status", "compare", "evaluate"):
            outcome = _as_nobody(stage, stage.command(name))
            if (wrong := untidy(outcome)) is not None or outcome.out != stage.expected[name].out:
                return f"{name}: {wrong or outcome.last_line()}"
        wrong = refusal(_as_nobody(stage, stage.command("report")), str(stage.run(FINISHED)))
        return None if wrong is None else f"report: {wrong}"


def _read_only_run(stage: Stage, dice: Random) -> Problem:
    with _unwritable(stage.sweep):
        for number in (FINISHED, KILLED):
            if (wrong := refusal(_as_nobody(stage, stage.train(number)), str(stage.run(number)))) is not None:
                return wrong
    return _as_whole(call(stage.train(KILLED), stage.folder / "io"), stage.run(KILLED), stage, KILLED)


def _read_only_place(stage: Stage, dice: Random) -> Problem:
    with _unwritable(stage.sweep):
        for command, key in ((stage.train(FINISHED), "hydra.run.dir"), (stage.launch(), "hydra.sweep.dir")):
            place = str(stage.sweep / "new" / "place")
            wrong = refusal(_as_nobody(stage, [*command[:-1], f"{key}={place}"]), str(stage.sweep))
            if wrong is not None:
                return f"{key}: {wrong}"
    return None


def _home(home: str | None, what: str, stage: Stage, dice: Random) -> Problem:
    """Try a user without an entry in the user database and without a home directory."""
    environment = {"HOME": home, "XDG_CACHE_HOME": None, "XDG_CONFIG_HOME": None, "USER": None, "LOGNAME": None}
    for path in (stage.sweep, *stage.sweep.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    command = stage.train(KILLED) if what in ("train", "wandb") else stage.command(what)
    outcome = _as_nobody(stage, [*command, "logger=wandb"] if what == "wandb" else command, environment)
    if (wrong := untidy(outcome)) is not None or outcome.code:
        return wrong or outcome.last_line()
    if "failed and is off" in outcome.err:
        return outcome.last_line()
    if what == "evaluate" and outcome.out != stage.expected["evaluate"].out:
        return "another result"
    return difference(stage.run(KILLED), stage.whole(KILLED)) if what in ("train", "wandb") else None


def _proc(what: str, stage: Stage, dice: Random) -> Problem:
    """Try paths of the kernel: one line must name the path."""
    place = f"/proc/metarl-{what}"
    command = {
        "run": [*stage.train(FINISHED)[:-1], f"hydra.run.dir={place}"],
        "sweep": [*stage.launch()[:-1], f"hydra.sweep.dir={place}"],
        "report": [*stage.command("report"), "--output", f"{place}/report.html"],
        "figures": [*stage.command("compare"), "--figures", place],
        "analysis": [*stage.command("analyse")[:-1], place],
        "video": [*stage.command("watch")[:-1], f"{place}.gif"],
        "evaluate": ["metarl", "evaluate", "/proc/self"],
        "status": ["metarl", "status", "/proc/self"],
        "compare": ["metarl", "compare", "/proc/self"],
    }[what]
    return refusal(call(command, stage.folder / "io"), "/proc/")


def _output_to(device: str, stage: Stage, dice: Random) -> Problem:
    """Try standard output that cannot be written."""

    def redirect() -> None:
        os.dup2(os.open(device, os.O_WRONLY), 1)

    outcome = call(stage.command("status"), stage.folder / "io", redirect)
    return refusal(outcome)


def _gone_directory(stage: Stage, dice: Random) -> Problem:
    """Try a deleted working directory: commands with full paths work, others report it."""

    def leave() -> None:
        gone = stage.folder / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    for name in ("status", "evaluate"):
        if (wrong := untidy(call(stage.command(name), stage.folder / "io", leave))) is not None:
            return f"{name}: {wrong}"
    return untidy(call(stage.train(KILLED), stage.folder / "io", leave))


def _no_temporary(stage: Stage, dice: Random) -> Problem:
    outcome = call(stage.train(KILLED), stage.folder / "io", environment={"TMPDIR": "/nowhere"})
    return _as_whole(outcome, stage.run(KILLED), stage, KILLED)
