"""The file of Meta-World's goals: of this user alone, without pickle, and drawn again if it is damaged."""

import io
import os
import zipfile

import numpy as np
import pytest

from metarl.envs import goal_cache, metaworld
from metarl.envs.goal_cache import remembered

NAME = "metaworld-3-reach-v3-0.npz"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "metarl" / NAME


class Draw:
    """Counts how often goals are drawn."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        generator = np.random.default_rng(0)
        return {name: {"reach-v3": generator.uniform(size=(50, 3))} for name in goal_cache.SETS}


def known(draw: Draw):
    return remembered(NAME, draw, lambda goals: metaworld._fits(goals, "ML1", "reach-v3"))


def test_goals_are_drawn_once_and_kept_for_this_user(cache):
    draw = Draw()
    first, second = known(draw), known(draw)
    assert draw.times == 1 and cache.parent.stat().st_mode & 0o777 == 0o700
    for name in goal_cache.SETS:
        np.testing.assert_array_equal(first[name]["reach-v3"], second[name]["reach-v3"])


def packed(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/reach-v3.npy", bytes(10**8))
    return file.getvalue()


good = np.zeros((50, 3))
DAMAGE = {
    "text": b"hello",
    "empty": b"",
    "pickle": packed(**{"train/reach-v3": np.array([{"a": 1}], dtype=object), "held_out/reach-v3": good}),
    "another class": packed(**{"train/push-v3": good, "held_out/push-v3": good}),
    "another set": packed(**{"train/reach-v3": good, "test/reach-v3": good}),
    "a set missing": packed(**{"train/reach-v3": good}),
    "a goal missing": packed(**{"train/reach-v3": good[1:], "held_out/reach-v3": good}),
    "too long": packed(**{"train/reach-v3": np.zeros((50, 7)), "held_out/reach-v3": good}),
    "not finite": packed(**{"train/reach-v3": good + np.nan, "held_out/reach-v3": good}),
    "words": packed(**{"train/reach-v3": good.astype(str), "held_out/reach-v3": good}),
    "bomb": bomb(),
    "large": bytes(goal_cache.MOST_BYTES + 1),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_or_foreign_is_drawn_again_and_replaced(kind, cache):
    cache.parent.mkdir(parents=True)
    cache.parent.chmod(0o700)
    cache.write_bytes(DAMAGE[kind])
    draw = Draw()
    known(draw)
    known(draw)
    assert draw.times == 1


def test_links_pipes_and_what_others_may_write_are_not_read(cache, tmp_path):
    draw = Draw()
    known(draw)
    elsewhere = tmp_path / "elsewhere"
    cache.rename(elsewhere)
    before = elsewhere.read_bytes()
    cache.symlink_to(elsewhere)
    known(draw)
    assert draw.times == 2 and not cache.is_symlink() and elsewhere.read_bytes() == before
    cache.unlink()
    os.mkfifo(cache)
    known(draw)
    assert draw.times == 3
    cache.parent.chmod(0o777)  # others may have written it
    known(draw)
    assert draw.times == 4 and cache.parent.stat().st_mode & 0o777 == 0o700
    known(draw)
    assert draw.times == 4


def test_without_a_home_goals_are_drawn_and_nothing_is_kept(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    draw = Draw()
    known(draw)
    known(draw)
    assert draw.times == 2


def test_a_home_that_cannot_be_written_is_no_obstacle(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    draw = Draw()
    assert known(draw).keys() == set(goal_cache.SETS) and draw.times == 1
