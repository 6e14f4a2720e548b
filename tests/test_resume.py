"""Killed at any moment or asked to stop, a run resumes to results that are bit for bit those of one left alone.

``METARL_KILLS=20 pytest tests/test_resume.py`` kills more often.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from helpers import read_rows, same, timeless
from processes import fresh_run_py, outcome, run_py, wait_until

from metarl.runs.checkpoint import Checkpoints, load

KILLS = int(os.environ.get("METARL_KILLS", "3"))
ITERATIONS, LANES, PULLS = 40, 32, 5
SIZE = (
    f"training.total_steps={ITERATIONS * LANES * PULLS}",
    f"meta_batch_size={LANES}",
    f"env.num_episodes={PULLS}",
    "training.eval_every=4",
    "model.hidden_size=16",
    "algorithm.num_epochs=2",
    "eval.num_tasks=50",
    "eval.final_num_tasks=10000",
    "eval.batch_size=200",
    "eval.baselines=false",
)
# The clock and the shell decide these.
INCIDENTAL = {"wall_time", "command", "hardware", "versions", "commit"}


def start(run_dir: Path, run=run_py):
    return run(*SIZE, f"hydra.run.dir={run_dir}", directory=run_dir.parent)


def rows_of(run_dir: Path) -> int:
    """Rows of iterations; the first one of the file is that of the untrained agent."""
    path = run_dir / "metrics.jsonl"
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def final_evaluation_began(run_dir: Path, before: int) -> bool:
    path = run_dir / "run.log"
    return path.exists() and path.read_text().count("final evaluation") > before


def assert_same_results(run_dir: Path, undisturbed: Path) -> None:
    found, expected = (
        [timeless(row) for row in read_rows(directory / "metrics.jsonl")] for directory in (run_dir, undisturbed)
    )
    assert len(expected) == ITERATIONS + 1
    assert found == expected
    for which in ("latest", "best"):
        states = [load(Checkpoints(directory / "checkpoints").path(which)) for directory in (run_dir, undisturbed)]
        for state in states:
            state["progress"].pop("wall_time")
        assert same(*states), which
    summaries = [json.loads((directory / "summary.json").read_text()) for directory in (run_dir, undisturbed)]
    first, second = ({name: s[name] for name in s.keys() - INCIDENTAL} for s in summaries)
    assert first == second


def finish(run_dir: Path, run=run_py) -> None:
    code, _, err = outcome(start(run_dir, run))
    assert code == 0 and "Traceback" not in err, err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """By an interpreter of its own: its hashes of texts differ from those of the processes that resume."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(run_dir, fresh_run_py)
    return run_dir


def test_a_run_killed_again_and_again_ends_as_if_left_alone(undisturbed, tmp_path):
    """All kills but the last while training, at moments relative to its rows; the last in the final evaluation."""
    run_dir, dice = tmp_path / "run", random.Random(12)
    moments = sorted(dice.sample(range(2, ITERATIONS - 1), KILLS - 1))
    for rows in moments:
        process = start(run_dir)
        wait_until(lambda rows=rows: rows_of(run_dir) >= rows, process)
        time.sleep(dice.uniform(0, 0.05))  # about an iteration: its rollout, update, evaluation, row or checkpoint
        process.kill()
        assert outcome(process)[0] == -signal.SIGKILL
        assert rows <= rows_of(run_dir) < ITERATIONS
    process = start(run_dir)
    wait_until(lambda: final_evaluation_began(run_dir, 0), process)
    time.sleep(dice.uniform(0, 0.1))
    process.kill()
    assert outcome(process)[0] == -signal.SIGKILL and not (run_dir / "summary.json").exists()
    finish(run_dir)
    assert_same_results(run_dir, undisturbed)


def test_signals_let_the_iteration_finish_save_and_exit_quietly(undisturbed, tmp_path):
    run_dir = tmp_path / "run"
    for number, rows in [(signal.SIGINT, 5), (signal.SIGTERM, 14), (signal.SIGUSR2, 25)]:
        process = start(run_dir)
        wait_until(lambda rows=rows: rows_of(run_dir) >= rows, process)
        process.send_signal(number)
        code, out, err = outcome(process)
        assert code == 0 and "Traceback" not in out + err, err
        assert f"stopped by signal {int(number)}" in (run_dir / "run.log").read_text()
        saved = Checkpoints(run_dir / "checkpoints").path("latest")
        assert rows <= int(saved.stem) == read_rows(run_dir / "metrics.jsonl")[-1]["iteration"] < ITERATIONS
        assert not (run_dir / "summary.json").exists()
    finish(run_dir)
    assert_same_results(run_dir, undisturbed)
