"""W&B online, against a stand-in of its service on this machine that fails in every way."""

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import read_rows, small_config
from live_runs import SIZE, STEPS_OF_AN_ITERATION, assert_history_is, history, live
from wandb_records import wandb_files
from wandb_server import KEY, WandbServer, wait_for

from metarl.configuration.build import build
from metarl.experiment import run
from metarl.runs.loggers import Loggers, WandbLogger


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Which has its own tests, and takes a second."""
    monkeypatch.setattr("metarl.analysis.report.write_page", lambda runs, path: path)


@pytest.fixture
def service(tmp_path, monkeypatch):
    """A service of W&B on this machine, and an account there."""
    import wandb

    wandb.teardown()
    for name in [name for name in os.environ if name.startswith("WANDB_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server
        server.fault = None
        wandb.teardown()


def test_wandb_online_receives_the_run_and_a_resumed_one_as_the_same(tmp_path, service):
    run_dir, online = tmp_path / "run", ("logger=wandb", "wandb.mode=online", "wandb.tags=[a]")
    live(run_dir, *online, iterations=2, sweep="a-sweep")
    (name,) = service.runs
    about, first = service.runs[name], service.rows(name)
    assert (about["groupName"], about["jobType"], about["displayName"]) == ("a-sweep", "train", "run")
    assert (
        about["project"] == "metarl" and about["tags"] == ["a"] and name == (run_dir / "wandb_id").read_text().strip()
    )
    assert json.loads(about["config"])["env"]["value"]["num_arms"] == 3
    moved = run_dir.rename(tmp_path / "moved")
    rows = live(moved, *online, iterations=4, sweep="a-sweep")
    assert list(service.runs) == [name] and service.exit_codes[name] == 0
    assert_history_is(rows, [row for row in service.rows(name) if "env_steps" in row])
    assert service.rows(name)[: len(first)] == first
    assert "evaluation" in service.summary[name]
    sent = service.files[name]
    assert {"config.yaml", "wandb-summary.json", "wandb-metadata.json", "requirements.txt"} <= sent
    assert any(path.startswith("media/images/figures/adaptation_curve") for path in sent)


class Saboteur:
    """A logger that breaks the service at one iteration, and mends it at another."""

    def __init__(self, server: WandbServer, fault: int | str, begin: int, end: int = 99):
        self.server, self.fault, self.begin, self.end = server, fault, begin, end

    def start(self, run_dir, config, group):
        pass

    def log(self, row):
        if row["iteration"] == self.begin:
            assert wait_for(lambda: any("file_stream" in path for path in self.server.requests) or self.begin == 1)
            self.server.fault = self.fault
        if row["iteration"] == self.end:
            time.sleep(0.5)
            self.server.fault = None

    def finish(self, summary, figures):
        pass


def live_with_a_fault(run_dir: Path, saboteur: Saboteur) -> list[dict]:
    config = small_config(*SIZE, f"training.total_steps={4 * STEPS_OF_AN_ITERATION}")
    trainer = build(config, run_dir)
    trainer.loggers = Loggers({"saboteur": saboteur, "wandb": WandbLogger("online")})
    run(trainer, config)
    assert trainer.run_dir.summary() is not None
    return read_rows(run_dir / "metrics.jsonl")


@pytest.mark.parametrize("fault", [401, 500, "hang", "drop"])
def test_a_service_that_fails_in_mid_run_stops_nothing_and_loses_nothing(tmp_path, service, fault, monkeypatch, caplog):
    monkeypatch.setattr("metarl.runs.loggers.FINISH_TIMEOUT", 2.0)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        rows = live_with_a_fault(tmp_path / "run", Saboteur(service, fault, begin=1))
    assert time.monotonic() - began < 60 and len(rows) == 5
    (path,) = wandb_files(tmp_path / "run", "run")
    assert_history_is(rows, history(path))
    (said,) = [record.getMessage() for record in caplog.records if "nothing is lost" in record.getMessage()]
    command = said.partition("to send the run again: ")[2]
    assert command == f"wandb sync --no-skip-online {path.parent}"
    if fault == 401:  # what the message says is what helps
        service.fault = None
        line = [sys.executable, "-m", *command.split()]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        (name,) = service.runs
        assert_history_is(rows, [row for row in service.rows(name) if "env_steps" in row])


def test_a_service_that_comes_back_receives_every_row(tmp_path, service, caplog):
    with caplog.at_level(logging.WARNING):
        rows = live_with_a_fault(tmp_path / "run", Saboteur(service, "drop", begin=1, end=3))
    (name,) = service.runs
    assert_history_is(rows, [row for row in service.rows(name) if "env_steps" in row])
    assert "nothing is lost" not in caplog.text


@pytest.mark.parametrize("fault", [401, 500, "hang", "drop"])
def test_a_service_that_fails_at_the_start_leaves_an_offline_run(tmp_path, service, fault, monkeypatch, caplog):
    import wandb

    settings = wandb.Settings
    monkeypatch.setattr(wandb, "Settings", lambda **keys: settings(**keys | {"init_timeout": 2}))  # not 20 s
    service.fault = fault
    with caplog.at_level(logging.WARNING):
        rows = live(tmp_path / "run", "logger=wandb", "wandb.mode=online", iterations=2)
    (path,) = wandb_files(tmp_path / "run", "offline-run")
    assert f"continuing offline, to be sent later by: wandb sync --no-skip-online {path.parent}" in caplog.text
    assert_history_is(rows, history(path))
