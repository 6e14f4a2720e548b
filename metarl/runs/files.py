"""Names of the files of a run directory, and the one way in which metarl writes files; imports nothing heavy.

A file is written beside its place under a new random name, flushed to the disk, and then takes the name: a crash, a
full disk or a power cut leaves the old file or the new one. Links are never followed: a link of that name is replaced,
and its target stays as it was.
"""

import fcntl
import json
import math
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from metarl.errors import FileError, RunDirectoryError

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
START = "start.json"
ERROR = "error.txt"
LOCK = ".lock"
EXPORTED = ".safetensors"  # suffix of an exported agent
PARTIAL = ".partial"  # suffix of a file that is being written
PARTIAL_NAME = re.compile(r"\..+\.[0-9a-f]{16}" + re.escape(PARTIAL))


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A new binary file that takes the name ``path`` at the end, unless an exception comes first.

    Args:
        path: of the file; its folder is made where there is none.

    Raises:
        FileError: it cannot be written, naming the file.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}{PARTIAL}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")
        try:
            with file:
                _hold(file.fileno())
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        sync_folder(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Remove the files that writers of this folder left half-written when they were killed.

    A file that is still being written is held by its writer, and stays: reports are written without the lock of a run.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in [path for path in folder.iterdir() if PARTIAL_NAME.fullmatch(path.name)]:
        with suppress(OSError):
            descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if _hold(descriptor):
                    path.unlink()
            finally:
                os.close(descriptor)


def _hold(descriptor: int) -> bool:
    """Hold an open file until it is closed; False where another process holds it. Without flock, all succeed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return not isinstance(error, BlockingIOError)
    return True


def replace_file(path: str | Path, content: str | bytes) -> None:
    """Write ``content``, text as UTF-8, in place of whatever is at ``path``; see ``replacing``.

    Raises:
        FileError: it cannot be written, naming the file.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def appending(path: str | Path) -> Iterator[BinaryIO]:
    """The binary file at ``path`` to write at its end, unbuffered; made where there is none.

    Raises:
        FileError: it cannot be written or is a link, naming the file.
    """
    with naming(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            yield file


def append_line(path: str | Path, text: str) -> None:
    """Write a line at the end of a file, by one call of the system.

    Raises:
        FileError: it cannot be written, naming the file.
    """
    with appending(path) as file:
        data = (text + "\n").encode()
        while data:  # a disk that is nearly full takes a part, and refuses the rest
            data = data[file.write(data) :]


def refuse_link(folder: Path) -> None:
    """Refuse to work in a folder of a run directory that is a link, which would lead out of it.

    Raises:
        RunDirectoryError: it is one.
    """
    if folder.is_symlink():
        raise RunDirectoryError(
            f"{folder} is a link, which metarl does not follow; put a folder there, or make the whole run directory one"
        )


def sync_file(path: str | Path) -> None:
    """Have on the disk what was written to a file, if there is one.

    Raises:
        FileError: the disk refuses it, naming the file.
    """
    with naming(path), suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk; some file systems cannot, and need not."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Have errors of the system say which file could not be written; a write to a full disk does not."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(error.errno, error.strerror or str(error), str(path)) from None


def to_json(value: Any, indent: int | None = None) -> str:
    """Strict JSON: a number that is not finite becomes null, which stands for an undefined quantity."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """A copy with None in place of every number that is NaN or infinite."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: finite(part) for name, part in value.items()}
        case list() | tuple():
            return [finite(part) for part in value]
    return value
