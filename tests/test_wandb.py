"""Weights & Biases: files hold what ``metrics.jsonl`` holds, resumed runs are one, and nobody is called unasked."""

import builtins
import logging
import os
import re
import socket
import sys
import threading
import time
from pathlib import Path

import matplotlib.pyplot  # noqa: F401 -- until the gap marked below is closed
import pytest
from helpers import read_rows, small_config, tree
from live_runs import assert_history_is, history, live, of_kind
from processes import outcome, run_py, wait_until
from tensorboard_events import assert_events_are
from wandb_records import by_key, is_closed, wandb_files

from metarl.configuration.build import parts
from metarl.runs.loggers import wandb_identity


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Which has its own tests, and takes a second."""
    monkeypatch.setattr("metarl.analysis.report.write_page", lambda runs, path: path)


class Server:
    """Stands for the internet: counts who calls."""

    def __enter__(self) -> "Server":
        self.calls: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.calls.append(connection.recv(200))
            connection.close()

    def __exit__(self, *_) -> None:
        self.socket.close()


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A user who never set W&B up, whose every call out would be noticed, and who is not there to answer."""
    import wandb

    wandb.teardown()  # the service keeps the environment it started with
    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv("NETRC", raising=False)

    def nobody(*_):
        raise AssertionError("asked a question")

    monkeypatch.setattr(builtins, "input", nobody)
    with Server() as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            monkeypatch.setenv(name, server.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield server
        wandb.teardown()


def test_wandb_offline_holds_the_rows_and_what_made_them(tmp_path, stranger):
    run_dir = tmp_path / "run"
    rows = live(run_dir, "logger=wandb", "wandb.tags=[a,b]", sweep="a-sweep")
    (path,) = wandb_files(run_dir)
    assert_history_is(rows, history(path))

    about = of_kind(path, "run")[0]
    assert about.run_group == "a-sweep" and about.project == "metarl" and about.job_type == "train"
    assert list(about.tags) == ["a", "b"] and about.display_name == "run"
    config = {key: value for record in of_kind(path, "run") for key, value in by_key(record.config.update).items()}
    assert config["env"]["num_arms"] == 3 and config["algorithm"]["clip"] == 0.2 and config["seed"] == 0

    metrics = {metric.name or metric.glob_name: metric.step_metric for metric in of_kind(path, "metric")}
    assert "env_steps" in metrics and metrics["*"] == "env_steps"
    assert of_kind(path, "exit")[0].exit_code == 0
    assert stranger.calls == []


def test_wandb_offline_holds_figures_and_the_summary(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # another test may have imported it
    monkeypatch.delattr(matplotlib, "pyplot", raising=False)
    live(tmp_path, "logger=wandb", iterations=2)
    (path,) = wandb_files(tmp_path, patience=3)
    assert any(name.startswith("figures/adaptation_curve") for row in history(path) for name in row)
    summary = [by_key(record.update) for record in of_kind(path, "summary")]
    assert any("evaluation" in name for seen in summary for name in seen)


def test_a_wandb_run_is_closed_even_where_its_figures_fail(tmp_path, monkeypatch):
    import wandb

    def broken(_):
        raise ValueError("no figure")

    monkeypatch.setattr(wandb, "Image", broken)
    try:
        live(tmp_path, "logger=wandb", iterations=2)
        (path,) = wandb_files(tmp_path, patience=3)
        assert is_closed(path)
    finally:
        wandb.teardown()


def test_wandb_group_is_the_one_given_before_the_sweeps(tmp_path):
    live(tmp_path, "logger=wandb", "wandb.group=mine", iterations=1, sweep="a-sweep")
    assert of_kind(wandb_files(tmp_path)[0], "run")[0].run_group == "mine"


def test_a_resumed_run_is_the_same_wandb_run(tmp_path):
    live(tmp_path, "logger=wandb", iterations=1)
    time.sleep(1.1)  # W&B names files by the second
    rows = live(tmp_path, "logger=wandb", iterations=3)
    paths = wandb_files(tmp_path)
    assert len(paths) == 2
    first, second = (of_kind(path, "run")[0] for path in paths)
    assert first.run_id == second.run_id and second.resume  # so that a sync appends to the first
    assert_history_is(rows[2:], history(paths[1]))


@pytest.mark.timeout(1200)
def test_a_sweep_that_was_stopped_is_one_wandb_run_per_job_with_one_curve_each(tmp_path):
    line = ("-m", "seed=0,1", "env=bandit", "model.hidden_size=8", "meta_batch_size=40", "training.total_steps=40_000")
    line += ("eval.final_num_tasks=5", "eval.num_tasks=5", "eval.baselines=false", "logger=wandb")
    line += ("cluster=local_pool", "hydra.launcher.slots=2", "hydra.sweep.dir=seeds")
    runs = [tmp_path / "seeds" / str(number) for number in range(2)]
    process = run_py(*line, directory=tmp_path)
    wait_until(lambda: all(len(read_rows(directory / "metrics.jsonl")) > 3 for directory in runs), process)
    process.terminate()
    outcome(process)
    time.sleep(1.1)  # W&B names files by the second
    code, _, err = outcome(run_py(*line, directory=tmp_path))
    assert code == 0, err
    ids = set()
    for directory in runs:
        files = wandb_files(directory)
        begun = [of_kind(path, "run")[0] for path in files]
        assert len(files) == 2 and len({each.run_id for each in begun}) == 1
        assert {each.run_group for each in begun} == {"seeds"} and {each.job_type for each in begun} == {"train"}
        ids.add(begun[0].run_id)
        steps = [row["env_steps"] for path in files for row in history(path) if "env_steps" in row]
        assert steps == [row["env_steps"] for row in read_rows(directory / "metrics.jsonl")]
    assert len(ids) == 2


def wandb_id(run_dir: Path) -> str:
    return of_kind(wandb_files(run_dir)[-1], "run")[0].run_id


def test_a_moved_directory_is_the_same_wandb_run_and_one_made_anew_is_another(tmp_path):
    live(tmp_path / "run", "logger=wandb", iterations=1)
    first = wandb_id(tmp_path / "run")
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    time.sleep(1.1)  # W&B names files by the second
    live(moved, "logger=wandb", iterations=2)
    assert len(wandb_files(moved)) == 2 and wandb_id(moved) == first
    live(tmp_path / "run", "logger=wandb", iterations=1)
    assert wandb_id(tmp_path / "run") != first
    (tmp_path / "run" / "wandb_id").write_text("../../damaged")
    assert re.fullmatch("[0-9a-f]{16}", wandb_identity(tmp_path / "run")["id"])


def test_other_run_directories_are_other_wandb_runs(tmp_path):
    ids = []
    for name in ("one", "two"):
        live(tmp_path / name, "logger=wandb", iterations=1)
        ids.append(of_kind(wandb_files(tmp_path / name)[0], "run")[0].run_id)
    assert ids[0] != ids[1]


def test_wandb_disabled_writes_nothing_and_calls_nobody(tmp_path, stranger):
    live(tmp_path / "run", "logger=wandb", "wandb.mode=disabled", iterations=1)
    assert not (tmp_path / "run" / "wandb").exists()
    assert tree(tmp_path / "home") == {} and stranger.calls == []


def test_wandb_online_without_an_account_goes_on_offline_and_asks_nothing(tmp_path, stranger, caplog):
    with caplog.at_level(logging.WARNING):
        rows = live(tmp_path / "run", "logger=wandb", "wandb.mode=online", iterations=2)
    assert "continuing offline" in caplog.text
    assert_history_is(rows, history(wandb_files(tmp_path / "run", "offline-run")[-1]))


def test_wandb_online_without_a_network_goes_on_offline(tmp_path, stranger, monkeypatch, caplog):
    import wandb

    settings = wandb.Settings
    monkeypatch.setattr(wandb, "Settings", lambda **keys: settings(**keys | {"init_timeout": 2}))  # not 20 s
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with caplog.at_level(logging.WARNING):
        rows = live(tmp_path / "run", "logger=wandb", "wandb.mode=online", iterations=2)
    assert stranger.calls  # so the tests above would have noticed
    assert "continuing offline" in caplog.text
    assert_history_is(rows, history(wandb_files(tmp_path / "run", "offline-run")[-1]))


def test_several_loggers_work_side_by_side(tmp_path, stranger):
    rows = live(tmp_path / "run", "logger=[tensorboard,wandb]", iterations=2)
    assert_events_are(rows, tmp_path / "run")
    assert_history_is(rows, history(wandb_files(tmp_path / "run")[0]))


@pytest.mark.parametrize(
    ("environment", "override", "mode"),
    [
        (None, None, "offline"),
        ("online", None, "online"),
        ("disabled", None, "disabled"),
        ("dryrun", None, "offline"),
        ("run", None, "online"),
        ("", None, "offline"),
        ("online", "offline", "offline"),
        ("disabled", "online", "online"),
        ("sometimes", None, "offline"),
    ],
)
def test_the_mode_is_what_is_given_or_else_that_of_the_environment(monkeypatch, caplog, environment, override, mode):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if environment is not None:
        monkeypatch.setenv("WANDB_MODE", environment)
    given = [] if override is None else [f"wandb.mode={override}"]
    logger = parts(small_config("logger=wandb", *given)).loggers.active["wandb"]
    assert logger.mode == mode
    assert ("WANDB_MODE=sometimes: must be offline, online or disabled" in caplog.text) == (environment == "sometimes")


def test_wandb_disabled_by_the_environment_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    live(tmp_path / "run", "logger=wandb", iterations=1)
    assert not (tmp_path / "run" / "wandb").exists() and not (tmp_path / "run" / "wandb_id").exists()
