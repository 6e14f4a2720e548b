"""Limits that keep a fault from holding up all tests: on programs that hang or die, and on stops that are not seen."""

import os
import signal
from pathlib import Path

import processes
import pytest
from helpers import StopAt, small_config, trainer_of
from processes import outcome, python

from metarl.trainer import Trainer


@pytest.fixture
def script(tmp_path) -> Path:
    """A program that writes a word, and then sleeps for as long as is asked."""
    path = tmp_path / "program.py"
    path.write_text("import sys, time\nprint('began', flush=True)\ntime.sleep(float(sys.argv[1]))\n")
    return path


def run(script: Path, seconds: int):
    return python(str(script), str(seconds), directory=script.parent)


def test_a_program_ends_at_its_limit(script, monkeypatch):
    monkeypatch.setattr(processes, "LIMIT", 1)
    assert outcome(run(script, 1000))[0] == -signal.SIGALRM


def test_a_program_that_does_not_end_in_time_is_killed_and_what_it_wrote_is_said(script, monkeypatch):
    process = run(script, 1000)
    processes.wait_until(lambda: process.written()[0], process)
    monkeypatch.setattr(processes, "PATIENCE", 0.5)
    with pytest.raises(AssertionError, match=r"not after 0\.5 seconds; it had written \(.began"):
        outcome(process)
    assert process.returncode == -signal.SIGKILL


def test_a_server_of_forks_that_has_died_is_said_and_replaced(script):
    process = run(script, 1000)
    server = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert server != os.getpid()
    os.kill(server, signal.SIGKILL)
    with pytest.raises(processes.ServerDied, match="has ended"):
        process.wait()
    os.kill(process.pid, signal.SIGKILL)
    assert outcome(run(script, 0))[:2] == (0, "began\n")


def test_a_training_that_does_not_see_its_stop_fails_at_once(tmp_path, monkeypatch):
    trainer = trainer_of(small_config("training.total_steps=100_000", "training.eval_every=0"), tmp_path)
    monkeypatch.setattr(Trainer, "_stop_requested", staticmethod(lambda stop: False))
    with pytest.raises(AssertionError, match="goes on after the stop at iteration 2"):
        trainer.train(StopAt(trainer, 2))
    assert trainer.progress.iteration == 2
    trainer.run_dir.close()
