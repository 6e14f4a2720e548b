"""Progress of a training: lines without carriage returns where standard error is no terminal."""

import sys
from types import SimpleNamespace

import pytest
from helpers import small_config

from metarl import progress
from metarl.configuration.build import build_algorithm
from metarl.errors import RunDirectoryError
from metarl.evaluation import evaluate
from metarl.experiment import Counted
from metarl.launching import overview
from metarl.progress import Phase, ProgressBar
from metarl.runs.sweep import JobStatus, run_directories


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


def test_a_long_phase_says_how_far_it_is_and_a_short_one_nothing(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for seconds, expected in ((1.0, []), (20.0, ["greedy actions: 20% done, 02:40 left"])):
        with Phase("greedy actions", 10) as phase:
            for _ in range(3):
                now[0] += seconds
                phase.step()
        assert capsys.readouterr().err.splitlines() == expected


def test_a_phase_is_a_bar_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Phase("greedy actions", 2) as phase:
        phase.bar.delay = 0
        phase.step()
        phase.bar.refresh()
    assert "greedy actions:  50%" in capsys.readouterr().err


def test_every_step_of_an_evaluation_is_counted():
    agent, built = build_algorithm(small_config("env=bandit"))
    steps = []
    evaluate(Counted(agent, lambda: steps.append(1)), built.make_env, num_tasks=5, seed=0, batch_size=2)
    assert len(steps) == 3 * sum(agent.rollouts) * built.make_env(num_tasks=1, seed=0).horizon


def test_a_sweep_says_how_many_runs_have_ended_and_the_time_left(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(overview.time, "monotonic", lambda: now[0])
    states = [("pending", None), ("pending", None), ("pending", None), ("pending", None)]
    sweep = SimpleNamespace(status=lambda job: JobStatus(job, states[job][0], states[job][1], 1000))
    seen = overview.Overview(sweep, range(4))
    assert not seen.due()
    assert seen.line() == "0 of 4 runs have ended, 0 running, 0% of all steps"
    states[:3] = [("finished", 1000), ("failed", 10), ("running", 500)]
    now[0] = 100.0
    assert seen.due() and not seen.due()
    assert seen.line() == "2 of 4 runs have ended, 1 failed, 1 running, 62% of all steps, about 01:00 left"


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
