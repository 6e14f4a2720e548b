"""``run.py`` as a user meets it: errors of one line, quick help, and a complete run with all its files."""

import json
import subprocess
import sys

import pytest
import yaml
from helpers import read_rows, tree
from processes import REPOSITORY, fresh_run_py, outcome, run_py

TINY = (
    "training.total_steps=2000",
    "meta_batch_size=100",
    "training.eval_every=1",
    "eval.final_num_tasks=200",
    "eval.num_tasks=100",
    "model.hidden_size=8",
)

WRONG = {
    "env=banditt": "such as bandit",
    "env.num_arm=5": "did you mean env.num_arms",
    "env.num_arms=0": "greater than 0",
    "device=cuda:17": "cpu",
    "meta_batch_size=2 algorithm.num_minibatches=3": "raise meta_batch_size",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_line_ends_with_one_line_and_leaves_nothing(line, tmp_path):
    code, out, err = outcome(run_py(*line.split(), directory=tmp_path))
    assert code != 0 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err, err
    assert WRONG[line] in err
    assert tree(tmp_path) == {}


def without_torch(tmp_path) -> dict[str, str]:
    """An environment where importing torch is fatal."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "torch.py").write_text("raise SystemExit('torch was imported')")
    return {"PYTHONPATH": str(tmp_path / "fake")}


def test_showing_the_configuration_takes_no_torch(tmp_path):
    process = fresh_run_py("--cfg", "job", "model=lstm", "seed=7", directory=tmp_path, env=without_torch(tmp_path))
    code, out, err = outcome(process)
    assert code == 0, err
    shown = yaml.safe_load(out)
    assert shown["seed"] == 7 and shown["env"]["num_arms"] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fake"]


def test_help_takes_no_torch_and_lists_the_options(tmp_path):
    code, out, err = outcome(fresh_run_py("--help", directory=tmp_path, env=without_torch(tmp_path)))
    assert code == 0, err
    for option in ("tabular_mdp", "lstm", "rl2", "wandb", "meta_batch_size"):
        assert option in out


def test_composing_and_the_help_of_the_command_take_no_torch(tmp_path):
    script = (
        "from metarl import cli; from metarl.configuration import compose; "
        "compose.compose(['env=tabular_mdp']); cli.main(['list', '.']); cli.main(['--help'])"
    )
    environment = without_torch(tmp_path)["PYTHONPATH"] + ":" + str(REPOSITORY)
    result = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": environment}, capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0 and "evaluate" in result.stdout, result.stderr
    assert "HalfCheetah runs at a velocity" in result.stdout


def test_importing_torch_would_have_been_noticed(tmp_path):
    code, out, err = outcome(fresh_run_py(*TINY, directory=tmp_path, env=without_torch(tmp_path)))
    assert code != 0 and "torch was imported" in out + err


# ---------------------------------------------------------------- a complete run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete tiny run in the directory it chooses itself: the directory, and what it said."""
    home = tmp_path_factory.mktemp("home")
    code, out, err = outcome(run_py(*TINY, directory=home, report=True))
    assert code == 0, err
    (directory,) = home.glob("outputs/bandit/gru-seed0-*")
    return directory, out, err


def test_a_run_writes_all_its_files(finished):
    directory, _, _ = finished
    names = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
    written = {"config.yaml", "metrics.jsonl", "summary.json", "report.html", "trial.json", "run.log"}
    assert names == written | {"checkpoints"}
    saved = {path.name for path in (directory / "checkpoints").iterdir()}
    assert saved == {"00000001.pt", "00000002.pt", "best.pt"}
    assert not list(directory.rglob("*.partial"))


def test_a_run_writes_what_it_is_and_what_it_reached(finished):
    directory, _, _ = finished
    config = yaml.safe_load((directory / "config.yaml").read_text())
    assert config["training"]["total_steps"] == 2000 and config["model"]["hidden_size"] == 8
    assert config["choices"]["env"] == "bandit" and config["choices"]["model"] == "gru"
    rows = read_rows(directory / "metrics.jsonl")
    assert [row["env_steps"] for row in rows] == [0, 1000, 2000]
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["num_tasks"] == 200 and summary["env_steps"] == 2000 and summary["iteration"] == 2
    for actions in ("sampled", "greedy"):
        evaluation = summary["evaluation"][actions]
        assert 0 < evaluation["return_mean"] < 10 and len(evaluation["adaptation_curve"]) == 10
    assert {"Random", "Gittins", "Thompson"} <= set(summary["baselines"])
    assert all(evaluation["num_tasks"] == 200 for evaluation in summary["baselines"].values())
    assert "<html" in (directory / "report.html").read_text()


def test_a_run_ends_with_a_table_and_no_traceback(finished):
    _, out, err = finished
    assert "Random" in out and "sampled" in out and "report.html" in out
    assert "Traceback" not in err and "error:" not in err


def test_what_is_logged_is_in_the_log_file_too(finished):
    directory, _, _ = finished
    assert "final evaluation on 200 held-out tasks" in (directory / "run.log").read_text()


def table(said: str) -> list[str]:
    lines = said.splitlines()
    (heading,) = (number for number, line in enumerate(lines) if line.split()[:2] == ["name", "kind"])
    return lines[heading:-1]


def test_a_finished_run_started_again_shows_its_results_without_training(finished, tmp_path):
    directory, out, _ = finished
    before = tree(directory)
    code, again, err = outcome(run_py(*TINY, f"hydra.run.dir={directory}", directory=tmp_path, report=True))
    assert code == 0, err
    assert table(again) == table(out)
    after = tree(directory)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"run.log", "report.html", ".lock"}
    assert tree(tmp_path) == {}


def test_a_sweep_gives_every_job_its_directory(tmp_path):
    few = (*TINY, "training.total_steps=1000", "eval.final_num_tasks=20", "eval.baselines=false")
    sweep = ("-m", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    code, out, err = outcome(run_py(*sweep, *few, directory=tmp_path))
    assert code == 0, err
    runs = sorted(path.parent for path in tmp_path.rglob("summary.json"))
    assert [path.name for path in runs] == ["0", "1"]
    assert [yaml.safe_load((path / "config.yaml").read_text())["seed"] for path in runs] == [0, 1]
    first, second = (read_rows(path / "metrics.jsonl") for path in runs)
    assert first[-1]["train/return"] != second[-1]["train/return"]
    assert out.count("held-out tasks, drawn afresh: no earlier evaluation played them; report") == 2


def test_two_runs_cannot_share_a_directory(finished, tmp_path):
    import fcntl

    directory, _, _ = finished
    before = tree(directory)
    with open(directory / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = outcome(run_py(*TINY, f"hydra.run.dir={directory}", directory=tmp_path))
    assert code != 0 and "in use by another run" in err and err.count("\n") == 1
    assert tree(directory) == before


REMOVED_TWICE = """
import runpy, sys
from pathlib import Path

left, mkdir = [1, 1], Path.mkdir

def removed(path, *given, **named):
    if path.name == "run" and left:
        left.pop()
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return mkdir(path, *given, **named)

Path.mkdir = removed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_directory_that_another_process_removes_just_then_is_made_again(tmp_path):
    """Two runs at once: one was refused and removes the empty ``outputs/`` in which Hydra makes that of the other."""
    line = [sys.executable, "-c", REMOVED_TWICE, str(REPOSITORY / "run.py"), "seed=-1", "hydra.run.dir=outputs/run"]
    ended = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.startswith("error: seed=-1: "), ended.stderr
    assert list(tmp_path.iterdir()) == []
