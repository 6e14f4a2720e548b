"""Progress of a training: lines without carriage returns where standard error is no terminal."""

import sys

import pytest

from metarl import progress
from metarl.errors import RunDirectoryError
from metarl.progress import ProgressBar
from metarl.runs.sweep import run_directories


def test_progress_in_a_file_is_lines_with_rate_time_left_and_train_return(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with ProgressBar(1000, 100) as bar:
        for done in (200, 300, 400):
            now[0] += 20
            bar.update(done, 1.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "30% of 1,000 steps, 300 done in 00:40, 5 steps/s, 02:20 left, train return 1.500"
    assert len(lines) == 2 and lines[1].startswith("40% of 1,000 steps")


def test_a_terminal_has_a_bar_that_names_the_return(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ProgressBar(1000, 0) as bar:
        bar.update(500, 2.25)
    err = capsys.readouterr().err
    assert "\r" in err and "train return 2.250" in err


def test_processes_that_are_not_the_main_one_are_silent(capsys):
    with ProgressBar(10, 0, shown=False) as bar:
        bar.update(5, 1.0)
    assert capsys.readouterr().err == ""


def test_runs_are_found_below_a_directory(tmp_path):
    for name, files in {"a/one": ("config.yaml", "summary.json"), "b/two": ("config.yaml",)}.items():
        (tmp_path / name).mkdir(parents=True)
        for file in files:
            (tmp_path / name / file).touch()
    assert run_directories([tmp_path], finished=True) == [tmp_path / "a/one"]
    assert run_directories([tmp_path], finished=False) == [tmp_path / "a/one", tmp_path / "b/two"]
    with pytest.raises(RunDirectoryError, match="none of the 1 runs below"):
        run_directories([tmp_path / "b"], finished=True)
    (tmp_path / "empty").mkdir()
    assert run_directories([tmp_path / "empty"], finished=True) == [tmp_path / "empty"]
