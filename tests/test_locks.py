"""Locks: one holder, visible to others, on file systems with flock and without; a lock dies with its process."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from metarl.runs import locks
from metarl.runs.locks import Lock, holder

CHILD = """
import fcntl, os, sys, time
from metarl.runs import locks
if sys.argv[2] != "0":
    def refuse(descriptor, kind):
        raise OSError(int(sys.argv[2]), os.strerror(int(sys.argv[2])))
    fcntl.flock = refuse
assert locks.Lock(sys.argv[1]).acquire({"gpus": "5"})
lock = locks.Lock(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""
NONE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EIO)


@pytest.fixture(params=[0, *NONE], ids=lambda number: errno.errorcode.get(number, "flock"))
def kind(request, monkeypatch):
    """A file system with flock, or one that answers with an error."""
    if request.param:

        def refuse(descriptor, kind):
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_warned", set())
    return request.param


def test_a_lock_has_one_holder_whom_others_see(tmp_path, kind):
    path = tmp_path / "deep" / ".lock"
    assert holder(path) is None
    first, second = Lock(path), Lock(path)
    assert first.acquire({"pid": 1})
    first.note({"gpus": "0"})
    assert holder(path) is not None and not second.acquire({})
    first.release()
    assert holder(path) is None and second.acquire({})
    second.release()


def test_only_one_warning_says_that_there_is_no_flock(tmp_path, kind, caplog):
    for _ in range(3):
        lock = Lock(tmp_path / ".lock")
        assert lock.acquire({})
        lock.release()
    assert len(caplog.records) == bool(kind)


@pytest.mark.parametrize("number", [0, errno.ENOSYS])
def test_a_lock_ends_with_its_process(tmp_path, number, monkeypatch):
    path = tmp_path / ".lock"
    process = subprocess.Popen([sys.executable, "-c", CHILD, path, str(number)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    if number:
        assert holder(path)["gpus"] == "5"  # whether the one who asks has flock or not
    assert holder(path) is not None and not Lock(path).acquire({})
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert holder(path) is None
    lock = Lock(path)
    assert lock.acquire({})
    lock.release()


def test_a_lock_of_another_host_ends_when_nobody_renews_it(tmp_path, monkeypatch):
    held = tmp_path / ".lock.held"
    held.write_text(json.dumps({"place": ["another host"], "pid": 1, "gpus": "2"}))
    assert holder(tmp_path / ".lock") is None  # without the lock's own file there is no lock
    (tmp_path / ".lock").touch()
    assert holder(tmp_path / ".lock")["gpus"] == "2" and not Lock(tmp_path / ".lock").acquire({})
    old = time.time() - locks.STALE - 1
    os.utime(held, (old, old))
    assert holder(tmp_path / ".lock") is None
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "none")))
    lock = Lock(tmp_path / ".lock")
    assert lock.acquire({}) and json.loads(held.read_text())["pid"] == os.getpid()
    lock.release()
    assert not held.exists()


def test_a_held_lock_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "none")))
    monkeypatch.setattr(locks, "BEAT", 0.01)
    lock = Lock(tmp_path / ".lock")
    assert lock.acquire({})
    os.utime(tmp_path / ".lock.held", (0, 0))
    deadline = time.time() + 120
    while (tmp_path / ".lock.held").stat().st_mtime == 0:
        assert time.time() < deadline
        time.sleep(0.01)
    lock.release()


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b"{", b"[" * 100_000])
def test_a_damaged_note_is_no_error(tmp_path, content):
    path = tmp_path / ".lock"
    lock = Lock(path)
    assert lock.acquire({})
    path.write_bytes(content)
    assert holder(path) == {}
    lock.release()


@pytest.mark.parametrize("kind_of_file", ["folder", "pipe", "link"])
def test_what_is_no_lock_file_blocks_nobody(tmp_path, kind_of_file):
    path = tmp_path / ".lock"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("/etc/passwd")}[
        kind_of_file
    ]()
    assert holder(path) is None
