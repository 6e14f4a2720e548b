"""Goals of Meta-World, remembered in a file of this user: arrays without pickle, checked before they are used."""

import io
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from metarl.runs.files import replace_file

Goals = dict[str, dict[str, np.ndarray]]  # of each set, the vectors [50, size] of each class
SETS = ("train", "held_out")
MOST_BYTES = 2**22  # of the file, packed or not; 50 goals of 50 classes and two sets are a quarter of a megabyte


def remembered(name: str, draw: Callable[[], Goals], fits: Callable[[Goals], bool]) -> Goals:
    """The goals in the file ``name``, or else those that ``draw`` makes, which are kept there.

    A file that is damaged, a link or of another user is not read, but drawn again. Without a home nothing is kept.
    """
    folder = _folder()
    if folder is None:
        return draw()
    goals = _read(folder / name)
    if goals is not None and fits(goals):
        return goals
    goals = draw()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_own(os.lstat(folder), stat.S_ISDIR):
            folder.chmod(0o700)  # so that other users cannot write what is read here
            replace_file(folder / name, _packed(goals))
    except OSError:
        pass  # the goals are drawn again next time
    return goals


def _folder() -> Path | None:
    """``metarl`` in the cache of this user: ``XDG_CACHE_HOME``, or ``~/.cache``; None where there is no home."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "")
        return (cache if cache.is_absolute() else Path.home() / ".cache") / "metarl"
    except RuntimeError:  # neither HOME nor an entry of this user
        return None


def _is_own(found: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Whether something is of this kind, and of this user."""
    return is_kind(found.st_mode) and found.st_uid == os.geteuid()


def _read(path: Path) -> Goals | None:
    try:
        folder = os.lstat(path.parent)
        if not _is_own(folder, stat.S_ISDIR) or folder.st_mode & 0o022:
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            return _unpacked(file.read()) if _is_own(found, stat.S_ISREG) and found.st_size <= MOST_BYTES else None
    except Exception:  # NumPy and zip files raise many kinds over damaged content
        return None


def _packed(goals: Goals) -> bytes:
    file = io.BytesIO()
    np.savez(
        file, allow_pickle=False, **{f"{name}/{kind}": rows for name in goals for kind, rows in goals[name].items()}
    )
    return file.getvalue()


def _unpacked(data: bytes) -> Goals | None:
    """None where it would be large once unpacked."""
    if sum(member.file_size for member in zipfile.ZipFile(io.BytesIO(data)).infolist()) > MOST_BYTES:
        return None
    goals: Goals = {name: {} for name in SETS}
    with np.load(io.BytesIO(data), allow_pickle=False) as held:
        for key in held.files:
            name, _, kind = key.partition("/")
            goals[name][kind] = held[key]
    return goals
