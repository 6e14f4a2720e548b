"""Loggers: what they show is what ``metrics.jsonl`` holds, and nothing they do can hurt a run."""

import logging

import matplotlib.pyplot  # noqa: F401 -- until the gap marked below is closed
import pytest
from helpers import read_rows, small_config
from live_runs import SIZE, STEPS_OF_AN_ITERATION, live
from tensorboard_events import assert_events_are, events

from metarl.configuration.build import build
from metarl.experiment import run
from metarl.runs.loggers import Loggers, TensorboardLogger, scalars


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Which has its own tests, and takes a second."""
    monkeypatch.setattr("metarl.analysis.report.write_page", lambda runs, path: path)


# ---------------------------------------------------------------- always


def test_every_run_writes_its_rows(tmp_path):
    rows = live(tmp_path / "run")
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    assert [row["env_steps"] for row in rows] == [0, 18, 36, 54]
    assert all({"wall_time", "train/return", "time/collect", "update/approx_kl"} <= set(row) for row in rows[1:])
    assert ["eval/greedy/return_mean" in row for row in rows] == [True, False, True, False]
    assert not (tmp_path / "run" / "tensorboard").exists() and not (tmp_path / "run" / "wandb").exists()


def test_an_adaptation_curve_becomes_its_ends_and_numbers_stay():
    row = {"env_steps": 3, "eval/curve": [1.0, 2.0, 4.0], "update/kl": 0.5}
    assert scalars(row) == {"env_steps": 3, "eval/curve/first": 1.0, "eval/curve/last": 4.0, "update/kl": 0.5}


# ---------------------------------------------------------------- TensorBoard


def test_tensorboard_shows_rows_against_environment_steps_and_figures_also_after_a_resume(tmp_path):
    assert_events_are(live(tmp_path, "logger=tensorboard", iterations=2), tmp_path)
    assert "learning_curve" in events(tmp_path).Tags()["images"]
    assert_events_are(live(tmp_path, "logger=tensorboard", iterations=4), tmp_path)


@pytest.mark.parametrize("known", [0, 2])
def test_tensorboard_repeats_nothing_after_a_kill(tmp_path, known):
    """Rows were shown after the last checkpoint, at a moment when the run was killed."""
    if known:
        live(tmp_path, "logger=tensorboard", iterations=known)
    logger = TensorboardLogger()
    logger.start(tmp_path, {}, None)
    for iteration in range(known + 1, known + 4):
        logger.log({"env_steps": iteration * STEPS_OF_AN_ITERATION, "train/return": -99.0, "iteration": iteration})
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    assert_events_are(live(tmp_path, "logger=tensorboard", iterations=known + 2), tmp_path)


def test_tensorboard_holds_every_row_as_soon_as_it_is_logged(tmp_path):
    logger = TensorboardLogger()
    logger.start(tmp_path, {}, None)
    row = {"env_steps": 18, "train/return": 1.5}
    logger.log(row)  # and nothing more: it is killed
    assert_events_are([row], tmp_path)


# ---------------------------------------------------------------- failing ones


class Recorder:
    """Notes what it is told; raises where it should."""

    def __init__(self, fails_in: str = ""):
        self.fails_in, self.told = fails_in, []

    def _tell(self, what: str, value=None) -> None:
        if what == self.fails_in:
            raise ConnectionError("the service is down")
        self.told.append((what, value))

    def start(self, run_dir, config, group):
        self._tell("start", group)

    def log(self, row):
        self._tell("log", row["iteration"])

    def finish(self, summary, figures):
        self._tell("finish", summary is not None)


@pytest.mark.parametrize("fails_in", ["start", "log", "finish"])
def test_a_failing_logger_is_switched_off_with_a_warning_and_the_run_goes_on(tmp_path, caplog, fails_in):
    config = small_config(*SIZE, f"training.total_steps={2 * STEPS_OF_AN_ITERATION}")
    trainer = build(config, tmp_path)
    good, bad = Recorder(), Recorder(fails_in)
    trainer.loggers = Loggers({"bad": bad, "good": good})
    with caplog.at_level(logging.WARNING):
        run(trainer, config, "a-sweep")
    assert good.told == [("start", "a-sweep"), ("log", 0), ("log", 1), ("log", 2), ("finish", True)]
    warnings = [record.getMessage() for record in caplog.records if "is off from here" in record.getMessage()]
    assert len(warnings) == 1 and "logger bad" in warnings[0] and "the service is down" in warnings[0]
    assert trainer.run_dir.summary() is not None and len(read_rows(tmp_path / "metrics.jsonl")) == 3
    assert "the service is down" in (tmp_path / "run.log").read_text()


def test_an_interrupted_run_finishes_its_loggers_without_a_summary(tmp_path):
    config = small_config(*SIZE, "training.total_steps=1000000")
    trainer = build(config, tmp_path)
    recorder = Recorder()
    trainer.loggers = Loggers({"recorder": recorder})
    trainer.algorithm.update = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run(trainer, config)
    assert recorder.told == [("start", None), ("log", 0), ("finish", False)]


def test_a_finished_run_starts_no_logger_again(tmp_path):
    live(tmp_path, iterations=1)
    config = small_config(*SIZE, f"training.total_steps={STEPS_OF_AN_ITERATION}")
    trainer = build(config, tmp_path)
    recorder = Recorder()
    trainer.loggers = Loggers({"recorder": recorder})
    run(trainer, config)
    assert recorder.told == []
