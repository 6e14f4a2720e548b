"""The one way in which files are written: whole or not at all, on the disk, through no link, in strict JSON."""

import errno
import json
import math
import os

import numpy as np
import pytest

from metarl.errors import FileError
from metarl.runs.files import append_line, replace_file, replacing, to_json


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["ünïcode\n", b"\x00\xff"])
def test_a_file_is_written_in_place_of_the_old_one_and_nothing_is_left_beside_it(tmp_path, content):
    path = tmp_path / "deep" / "a.txt"
    for before in ("first", content):
        replace_file(path, before)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(path.parent) == ["a.txt"]


def test_an_exception_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    replace_file(tmp_path / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.txt") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_the_file_is_on_the_disk_before_it_takes_the_name_and_the_name_after(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    kind = {True: "folder", False: "file"}
    monkeypatch.setattr(os, "fsync", lambda fd: order.append(kind[os.path.isdir(f"/proc/self/fd/{fd}")]) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *paths: order.append("replace") or replace(*paths))
    replace_file(tmp_path / "a.txt", "text")
    assert order == ["file", "replace", "folder"]


def test_a_link_is_replaced_and_its_target_stays(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    with pytest.raises(FileError, match=r"link: cannot be written .* it is a link, which metarl does not follow"):
        append_line(link, "more")
    replace_file(link, "new")
    assert target.read_text() == "precious" and link.read_text() == "new" and not link.is_symlink()


def test_a_file_keeps_the_permissions_that_the_user_gives_to_new_ones(tmp_path):
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_is_said_with_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError) as caught:
        replace_file(tmp_path / "a.txt", "text")
    path = tmp_path / "a.txt"
    assert str(caught.value) == (f"{path}: cannot be written (No space left on device); free some space on that disk")
    assert names(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full, of Linux")
def test_a_line_that_does_not_fit_is_said_with_the_file():
    with pytest.raises(FileError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        append_line("/dev/full", "text")


@pytest.mark.parametrize("path", ["/proc/nothing/run/a.txt", "/dev/null/a.txt"])
def test_a_place_that_takes_no_files_is_said(path):
    with pytest.raises(FileError, match=f"{path}: cannot be written"):
        replace_file(path, "text")


def test_json_is_strict_and_undefined_quantities_are_null():
    value = {"a": math.nan, "b": [1.5, -math.inf, (np.float64("inf"), 2)], "c": {"d": math.nan, "e": "NaN"}}
    expected = {"a": None, "b": [1.5, None, [None, 2]], "c": {"d": None, "e": "NaN"}}
    for indent in (None, 2):
        text = to_json(value, indent)
        assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == expected
    assert to_json({"x": 0.1, "n": 3, "t": True}) == '{"x": 0.1, "n": 3, "t": true}'
