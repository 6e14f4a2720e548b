"""``metarl status`` and ``metarl resume`` of a single run; a sweep that names foreign code is refused once."""

import shutil

import pytest
import torch
import yaml
from helpers import config_of, read_rows, same, timeless

from metarl.cli import main
from metarl.launching import commands, origin
from metarl.runs.directory import RunDirectory
from metarl.runs.sweep import Sweep


@pytest.fixture(autouse=True)
def console(monkeypatch):
    """Handlers of this process stay those of the tests."""
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)


@pytest.fixture
def interrupted(brief_run, tmp_path):
    """The run, as a kill after its second iteration would have left it."""
    path = tmp_path / "run"
    shutil.copytree(brief_run.path, path)
    (path / "summary.json").unlink()
    RunDirectory(path).checkpoints.path("latest").unlink()
    return path


def test_status_of_a_run(brief_run, interrupted, capsys):
    main(["status", str(brief_run.path), "--format", "csv"])
    out, err = capsys.readouterr()
    assert "finished,env=bandit model=gru algorithm=rl2 seed=0" in out and err == "finished\n"
    main(["status", str(interrupted)])
    out, err = capsys.readouterr()
    assert "stopped" in out and err == f"stopped; metarl resume {interrupted} resumes it\n"


def test_a_run_is_resumed_exactly(brief_run, interrupted):
    main(["resume", str(interrupted)])
    weights = [RunDirectory(path).checkpoints.path("latest") for path in (interrupted, brief_run.path)]
    assert same(*(torch.load(file)["state"]["algorithm"] for file in weights))
    rows = [[timeless(row) for row in read_rows(path / "metrics.jsonl")] for path in (interrupted, brief_run.path)]
    assert rows[0] == rows[1] and len(rows[0]) == 4
    assert RunDirectory(interrupted).summary()["evaluation"] == brief_run.summary()["evaluation"]


def test_a_run_may_go_on_for_longer_and_stays_the_same_otherwise(interrupted, capsys):
    main(["resume", str(interrupted), "training.total_steps=160"])
    assert len(read_rows(interrupted / "metrics.jsonl")) == 5
    for override, fragment in {
        "env.num_arms=3": "training.* and eval.* alone",
        "training.total_step=3": "did you mean training.total_steps",
        "training.total_steps": "has no value",
    }.items():
        with pytest.raises(SystemExit):
            main(["resume", str(interrupted), override])
        assert fragment in capsys.readouterr().err


def test_a_run_of_a_sweep_is_resumed_as_the_sweep_froze_it(interrupted, monkeypatch, capsys):
    config = yaml.safe_load((interrupted / "config.yaml").read_text())
    sweep = interrupted.parent
    interrupted.rename(sweep / "0")
    Sweep.launched(sweep, {}, [["seed=0"]], 0, {0: config})
    main(["resume", str(sweep / "0")])
    assert RunDirectory(sweep / "0").summary() is not None
    with pytest.raises(SystemExit):
        main(["resume", str(sweep / "0"), "training.total_steps=900"])
    assert "a run of a sweep is resumed unchanged" in capsys.readouterr().err


def test_a_sweep_that_names_foreign_code_is_refused_once(tmp_path, monkeypatch, capsys):
    config = config_of()
    config["env"]["_target_"] = "elsewhere.Env"
    sweep = Sweep.launched(tmp_path / "sweep", {}, [["seed=0"], ["seed=1"]], 0, {0: config_of(), 1: config})

    class Launcher:
        def check(self):
            pass

    monkeypatch.setattr(origin, "launcher", lambda sweep, overrides: (Launcher(), {}))
    with pytest.raises(SystemExit):
        main(["resume", str(sweep.path)])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "env._target_=elsewhere.Env: is code outside metarl" in said
    monkeypatch.setenv("METARL_TRUST", "elsewhere")
    commands.check_trust(sweep)
    config["env"] = config_of()["env"] | {"make": "elsewhere:Env"}
    monkeypatch.delenv("METARL_TRUST")
    other = Sweep.launched(tmp_path / "other", {}, [["seed=0"]], 0, {0: config})
    with pytest.raises(commands.ConfigError, match=r"env\.make=elsewhere"):
        commands.check_trust(other)
