"""Audit hook that records what a command does while it reads an untrusted run."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

STARTING = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn")
REACHING = ("socket.connect", "socket.bind", "urllib.Request", "ftplib.connect", "smtplib.connect", "webbrowser.open")
CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink")
HARMLESS = ("__pycache__", "matplotlib", "imageio_ffmpeg")  # caches, and the video writer
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def watch(log: Path, allowed: Sequence[Path]) -> None:
    """Record every started process, every connection and every file change outside ``allowed``; runs in the child.

    Args:
        log: file for the records.
        allowed: folders whose files may change.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    roots = tuple(os.path.realpath(path) for path in allowed)

    def hook(event: str, arguments: tuple) -> None:
        if event in STARTING or event in REACHING:
            os.write(descriptor, f"{event} {arguments!r}"[:300].encode(errors="replace") + b"\n")
        elif event == "open" and _writes(arguments) and not _opened_inside(arguments, roots):
            os.write(descriptor, f"{event} {arguments[0]!r}"[:300].encode(errors="replace") + b"\n")
        elif event in CHANGING and not _named_inside(event, arguments, roots):
            os.write(descriptor, f"{event} {arguments!r}"[:300].encode(errors="replace") + b"\n")

    sys.addaudithook(hook)


def _writes(arguments: tuple) -> bool:
    return isinstance(arguments[2], int) and bool(arguments[2] & WRITING)


def _opened_inside(arguments: tuple, roots: tuple[str, ...]) -> bool:
    """Whether the file to be opened is inside the allowed folders; a link can be refused instead of followed."""
    if arguments[2] & os.O_NOFOLLOW and isinstance(arguments[0], str | bytes | os.PathLike):
        folder, name = os.path.split(os.path.abspath(os.fsdecode(arguments[0])))
        return _inside(os.path.join(os.path.realpath(folder), name), roots, follow=False)
    return _inside(arguments[0], roots)


def _named_inside(event: str, arguments: tuple, roots: tuple[str, ...]) -> bool:
    """Whether the name to be changed is inside the allowed folders; the target of a link of that name is unchanged."""
    path = arguments[1] if event in ("os.rename", "os.link", "os.symlink") else arguments[0]
    if not isinstance(path, str | bytes | os.PathLike):
        return True
    folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
    if event == "os.mkdir" and os.path.isdir(os.path.join(folder, name)):
        return True  # already exists
    return _inside(os.path.join(os.path.realpath(folder), name) if name else folder, roots, follow=False)


def _inside(path: object, roots: tuple[str, ...], follow: bool = True) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return True  # a descriptor that is already open
    real = os.path.realpath(os.fsdecode(path)) if follow else os.fsdecode(path)
    return real == os.devnull or any(real == root or real.startswith(root + os.sep) for root in roots)


def seen(log: Path) -> list[str]:
    """Records of the child, without those of every metarl command."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [line for line in lines if not any(harmless in line for harmless in HARMLESS)]
