"""Locks: one process works in a directory, and others can see which; imports nothing heavy.

A lock is ``flock`` on a file, which the system drops with the process. Some cluster file systems have none: there, a
second file that only one process can create stands for it. It names host and process, and its age is renewed while the
process is alive, so that the lock of a killed process can be told from one that is held.
"""

import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from metarl.runs.files import naming

RETRIES = 10  # status queries hold the lock briefly
PAUSE = 0.05  # seconds between retries
BEAT = 20.0  # seconds between renewals of a lock without flock
STALE = 120.0  # seconds without renewal after which a process of another host is taken to be gone
HELD = (errno.EAGAIN, errno.EWOULDBLOCK)

log = logging.getLogger(__name__)


class Lock:
    """The lock of the file at ``path``, to be acquired once."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._descriptor: int | None = None
        self._substitute: _Substitute | None = None

    def acquire(self, content: dict[str, Any]) -> bool:
        """Take the lock, unless another process holds it; its folder is made. ``content`` may be noted in the file.

        Raises:
            FileError: the file cannot be written.
        """
        for retry in range(RETRIES + 1):
            with naming(self.path):
                if self._take(content):
                    return True
            if retry < RETRIES:
                time.sleep(PAUSE)
        return False

    def note(self, content: dict[str, Any]) -> None:
        """Write the note that ``holder`` reads into the file of a held lock."""
        assert self._descriptor is not None
        with naming(self.path):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(content).encode(), 0)

    def release(self) -> None:
        """Let others in."""
        if self._substitute is not None:
            self._substitute.release()
        if self._descriptor is not None:
            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # also where a forked process has inherited it
            os.close(self._descriptor)
        self._substitute = self._descriptor = None

    def remove(self) -> None:
        """Remove the file of a held lock, and release it."""
        with suppress(OSError):
            self.path.unlink()
        self.release()

    def _take(self, content: dict[str, Any]) -> bool:
        self._descriptor = _opened(self.path)
        taken = _flock(self._descriptor, fcntl.LOCK_EX)
        if taken is None:
            _warn(self.path)
            self._substitute = _Substitute(_beside(self.path))
            taken = self._substitute.acquire(content)
        elif taken:  # no other process has it, nor one that found no flock, nor was the file removed meanwhile
            taken = _substitute_holder(_beside(self.path)) is None and _is_at(self._descriptor, self.path)
        if not taken:
            self._substitute = None
            os.close(self._descriptor)
            self._descriptor = None
        return taken


def holder(path: str | Path) -> dict[str, Any] | None:
    """Note of the process that holds the lock; None if no process holds it."""
    path = Path(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if _flock(descriptor, fcntl.LOCK_SH) is False:
            return _parsed(os.pread(descriptor, 1 << 16, 0))
    except OSError:  # a folder of that name
        return None
    finally:
        os.close(descriptor)
    return _substitute_holder(_beside(path))


def lock_owner() -> dict[str, object]:
    """Identity of this process, and the graphics cards it may use."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}


class _Substitute:
    """A lock where there is no flock: a file that one process creates, and renews while it is alive."""

    def __init__(self, path: Path):
        self.path = path
        self.token = secrets.token_hex(8)
        self._ended = threading.Event()

    def acquire(self, content: dict[str, Any]) -> bool:
        if self.path.exists() and _substitute_holder(self.path) is None:
            self._set_aside()
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            json.dump(content | {"token": self.token, "place": _place(), "pid": os.getpid()}, file)
        threading.Thread(target=self._renew, daemon=True).start()
        return True

    def _set_aside(self) -> None:
        """Remove the file of a process that is gone; of several processes that try, one succeeds."""
        aside = self.path.with_name(f"{self.path.name}.{self.token}")
        with suppress(OSError):
            os.rename(self.path, aside)
            if _substitute_holder(aside) is not None:  # another was faster, and this is its new file
                os.link(aside, self.path)
            aside.unlink()

    def _renew(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(OSError):
                os.utime(self.path, follow_symlinks=False)

    def release(self) -> None:
        self._ended.set()
        with suppress(OSError):
            if (_parsed(self.path.read_bytes()) or {}).get("token") == self.token:
                self.path.unlink()


def _substitute_holder(path: Path) -> dict[str, Any] | None:
    """Note in the file of a lock without flock; None if there is none, or its process has ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        age = time.time() - os.fstat(descriptor).st_mtime
        content = _parsed(file.read(1 << 16))
    if content.get("place") == _place():
        return content if _is_alive(content.get("pid")) else None
    return content if age < STALE else None


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, TypeError, OverflowError):
        return False
    except PermissionError:  # there is one, of another user
        return True
    return True


def _place() -> list[str]:
    """Host, start of its system and space of process numbers: two processes of one place can see each other."""
    found = [socket.gethostname()]
    with suppress(OSError):
        found += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return found


def _opened(path: Path) -> int:
    """A descriptor of the file at ``path``, made with its folder where there is none."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except FileNotFoundError:
            if path.parent.is_dir():
                raise
            # else another process has removed the folder, which was empty


def _flock(descriptor: int, kind: int) -> bool | None:
    """Whether the lock was taken; None where the file system has none."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in HELD else None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.held")


_warned: set[Path] = set()


def _warn(path: Path) -> None:
    if not _warned:
        log.warning("%s: this file system knows no flock; %s is used instead", path, _beside(path))
    _warned.add(path)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
