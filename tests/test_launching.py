"""Sweeps: what a launcher starts, in which order and where; what is lost when everything is killed: nothing."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fake_sweeps import TINY, fake_command, fake_sweep, notes, pool_of
from helpers import read_rows, timeless
from processes import outcome, python, run_py
from run_directories import write_run

from metarl.cli import main
from metarl.errors import ConfigError, RunDirectoryError
from metarl.launching import slurm
from metarl.launching.cards import Slot, cpu_slots, gpu_slots
from metarl.launching.commands import resume, status_rows
from metarl.runs.sweep import (
    Sweep,
    finished_summary,
    launching,
    owner_of,
    quoted,
    run_directories,
    sweep_name,
)


def most_at_once(rows: list[dict]) -> int:
    return max(sum(other["started"] <= row["started"] < other["ended"] for other in rows) for row in rows)


# ---------------------------------------------------------------- the pool


def test_twelve_jobs_on_four_cards_two_on_each(tmp_path, nvidia_smi):
    nvidia_smi(9000, 9000, 9000, 9000)
    jobs = [f"seconds=0.6 number={i}" + (" crash=yes" if i == 2 else "") for i in range(12)]
    sweep = fake_sweep(tmp_path, *jobs)
    slots = gpu_slots(None, 2)
    assert [slot.gpu for slot in slots] == [*"01230123"]
    said = []
    pool_of(sweep, slots, threads=3).run(sweep.jobs, said.append)
    rows = notes(sweep)
    assert sorted(row["run"] for row in rows) == list(range(12))
    for gpu in "0123":
        assert most_at_once([row for row in rows if row["CUDA_VISIBLE_DEVICES"] == gpu]) <= 2
    assert most_at_once(rows) > 4 and {row["OMP_NUM_THREADS"] for row in rows} == {"3"}
    starts = [line for line in said if "started" in line]
    assert [int(line.partition(":")[0]) for line in starts] == list(range(12))
    assert "0: started on GPU 0: seconds=0.6 number=0" in starts[0]
    states = [status.state for status in sweep.statuses()]
    assert states == ["failed" if i == 2 else "finished" for i in range(12)]
    assert "2: failed (ValueError: as it was told)" in said


def test_runs_of_an_earlier_launcher_keep_their_slots_and_are_not_started_again(tmp_path):
    sweep = fake_sweep(tmp_path, *[f"seconds=1 number={i}" for i in range(3)])
    orphan = subprocess.Popen(fake_command(sweep, sweep.jobs[1]), env=os.environ | {"CUDA_VISIBLE_DEVICES": "5"})
    while owner_of(sweep.jobs[1].directory) is None:
        time.sleep(0.01)
    pool_of(sweep, [Slot("5"), Slot("6")]).run(sweep.jobs, lambda line: None)
    assert orphan.wait() == 0
    rows = notes(sweep)
    assert sorted(row["run"] for row in rows) == [0, 1, 2]
    assert most_at_once([row for row in rows if row["CUDA_VISIBLE_DEVICES"] == "5"]) == 1


def test_a_pool_that_is_asked_to_stop_asks_its_runs_and_starts_no_more(tmp_path):
    sweep = fake_sweep(tmp_path, *[f"seconds=300 number={i}" for i in range(3)])
    held = pool_of(sweep, cpu_slots(1))

    def tell(line: str) -> None:
        if "started" in line:
            os.kill(os.getpid(), signal.SIGINT)

    began = time.monotonic()
    held.run(sweep.jobs, tell)
    assert time.monotonic() - began < 200 and held.stopping and not held.running
    assert [status.state for status in sweep.statuses()][1:] == ["pending", "pending"]


# ---------------------------------------------------------------- sweeps that are killed


def sweep_line(directory: str) -> tuple[str, ...]:
    where = ("cluster=local_pool", "hydra.launcher.slots=2", f"hydra.sweep.dir={directory}")
    return ("-m", "seed=0,1,2", *TINY, "training.total_steps=30_000", *where)


@pytest.mark.timeout(1800)
def test_kill_everything_then_resume_and_nothing_is_lost_or_done_twice(tmp_path):
    code, _, said = outcome(run_py(*sweep_line("whole"), directory=tmp_path))
    assert code == 0, said
    dice = random.Random(0)
    launcher = run_py(*sweep_line("killed"), directory=tmp_path)
    wait_until(lambda: (tmp_path / "killed" / "sweep.json").exists(), launcher)  # before, nothing is launched
    for _ in range(3):
        time.sleep(dice.uniform(1, 5))
        for process in (*workers(tmp_path / "killed"), launcher.pid):
            if dice.random() < 0.7:
                kill(process)
        kill(launcher.pid)
        launcher.communicate()
        launcher = python("-m", "metarl", "resume", "killed", directory=tmp_path)
    while launcher.wait() or unfinished(tmp_path / "killed"):
        with contextlib.suppress(RunDirectoryError):  # which names runs that were killed
            resume(Sweep(tmp_path / "killed"))
    for number in range(3):
        whole, killed = (read_rows(tmp_path / name / str(number) / "metrics.jsonl") for name in ("whole", "killed"))
        assert [row["iteration"] for row in killed] == list(range(31))
        assert [timeless(row) for row in killed] == [timeless(row) for row in whole]


def wait_until(condition, launcher: subprocess.Popen, seconds: float = 300) -> None:
    """Until the launcher has come so far."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert launcher.poll() is None, f"ended early: {launcher.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers(sweep: Path) -> list[int]:
    found = []
    for number in range(3):
        at_work = owner_of(sweep / str(number))
        found += [at_work["pid"]] if at_work else []
    return found


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def unfinished(sweep: Path) -> bool:
    return any(finished_summary(sweep / str(number)) is None for number in range(3))


@pytest.mark.parametrize("cluster", ["local", "local_pool"])
def test_a_run_that_fails_stops_no_other_and_only_it_is_resumed(tmp_path, capsys, cluster):
    line = ("-m", "algorithm.clip=0.2,-1,0.1", *TINY, f"cluster={cluster}", "hydra.sweep.dir=sweep")
    code, out, err = outcome(run_py(*line, directory=tmp_path))
    assert code == 1 and "error: runs 1 of 3 failed; metarl status" in err and "Traceback" not in err
    sweep = Sweep(tmp_path / "sweep")
    assert [status.state for status in sweep.statuses()] == ["finished", "failed", "finished"]
    main(["status", str(sweep.path), "--format", "json"])
    said = capsys.readouterr()
    row = json.loads(said.out)[1]
    assert row["error"] == "ConfigError: algorithm.clip=-1: must be greater than 0"
    assert row["overrides"] == "algorithm.clip=-1"
    assert "2 finished, 1 failed" in said.err
    before = [(sweep.path / number / "metrics.jsonl").stat().st_mtime for number in ("0", "2")]
    code, out, err = outcome(run_py(*line, directory=tmp_path))
    assert code == 1 and "2 of 3 runs in" in out
    assert [(sweep.path / number / "metrics.jsonl").stat().st_mtime for number in ("0", "2")] == before


def test_a_sweep_is_named_by_what_it_is_about_and_its_runs_know_it(tmp_path):
    code, out, err = outcome(run_py("-m", "seed=0,1", *TINY, directory=tmp_path))
    assert code == 0, err
    (directory,) = (tmp_path / "multirun").iterdir()
    assert directory.name == sweep_name(["cluster=slurm", "seed=0,1", *TINY])
    assert directory.name.startswith("seed-0-1-training")
    assert sweep_name(["seed=0,2", *TINY]) != directory.name
    code, out, _ = outcome(run_py("-m", "seed=0,1", *TINY, "cluster=local_pool", directory=tmp_path))
    assert code == 0 and "2 of 2 runs" in out and "started" not in out


# ---------------------------------------------------------------- what is refused


REFUSED = {
    "no -m": (("cluster=local_pool",), "cluster=local_pool: needs a sweep: run python run.py -m"),
    "a grid, no -m": (("experiment=sweeps/bandits",), "experiment=sweeps/bandits: is a sweep: run python run.py -m"),
    "a search, no -m": (("experiment=search/trmrl",), "experiment=search/trmrl: is a sweep: run python run.py -m"),
    "no slots": (
        ("-m", "cluster=local_pool", "hydra.launcher.slots=0"),
        "hydra.launcher.slots=0: must be a whole number above 0",
    ),
    "no such gpus": (("-m", "cluster=gpus", "hydra.launcher.gpus=some"), "hydra.launcher.gpus=some: all, or a list"),
    "no cards": (("-m", "cluster=gpus"), "nvidia-smi not found"),
    "an empty list": (("-m", "cluster=gpus", "hydra.launcher.gpus=[]"), "no GPU found; use cluster=local_pool"),
    "no sbatch": (("-m", "cluster=slurm"), "cluster=slurm: sbatch not found"),
    "no srun": (("-m", "cluster=slurm"), "cluster=slurm: srun not found; launch on a login node"),
    "no account": (("-m", "cluster=lumi"), "hydra.launcher.account is required on this cluster"),
    "no such option": (("-m", "cluster=local_pool", "hydra.launcher.cores=3"), "hydra.launcher.cores"),
    "a subdirectory": (("-m", "hydra.sweep.subdir=a"), "hydra.sweep.subdir=a: run directories are numbered"),
    "no subdirectory": (("-m", "hydra.sweep.subdir="), "hydra.sweep.subdir=: run directories are numbered"),
    "a file in the way": (("-m", "hydra.sweep.dir=taken/sweep"), "Not a directory: 'taken/sweep'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_launched_is_refused_before_anything_is_written(case, tmp_path):
    arguments, message = REFUSED[case]
    (tmp_path / "taken").touch()
    empty = tmp_path / "bin"
    empty.mkdir()
    if case == "no srun":
        pretend(empty / "sbatch", "")
    process = run_py(*arguments, "seed=0", *TINY, directory=tmp_path, env={"PATH": str(empty)})
    code, _, err = outcome(process)
    assert code == 1 and message in err and "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "bin"}


def pretend(tool: Path, output: str) -> None:
    """A program that says this, whatever it is asked."""
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f"#!/bin/sh\necho '{output}' # \"$@\"\n")
    tool.chmod(0o755)


def test_partitions_may_be_several_or_hidden(tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    for name in ("sbatch", "srun"):
        pretend(tools / name, "")
    (tools / "sinfo").write_text('#!/bin/sh\necho short\ncase "$*" in *-a*) echo long;; esac\n')
    (tools / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    for partition in (None, "short", "long", "short,long"):
        slurm.check(partition)
    with pytest.raises(ConfigError, match="partition=short,other: no such partition as other; there are long, short"):
        slurm.check("short,other")
    with pytest.raises(ConfigError, match="partition=other: no such partition; there are long, short"):
        slurm.check("other")
    (tools / "sinfo").write_text("#!/nowhere/sh\n")
    with pytest.raises(ConfigError, match="cluster=slurm: sinfo does not answer"):
        slurm.check("short")


def test_a_directory_holds_one_sweep_and_one_launcher(tmp_path):
    sweep = fake_sweep(tmp_path, "a=1", "a=2")
    with pytest.raises(RunDirectoryError, match="its job 1 is a=2, not a=3; choose another"):
        Sweep.launched(sweep.path, {}, [["a=1"], ["a=3"]], 0)
    again = launching(sweep.path)
    with launching(sweep.path), pytest.raises(RunDirectoryError, match="is being launched already"), again:
        pass
    with pytest.raises(RunDirectoryError, match="is not a sweep directory"):
        Sweep(tmp_path)
    (sweep.path / "sweep.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="is damaged"):
        Sweep(sweep.path)


def test_a_sweep_goes_on_as_it_is(tmp_path):
    with pytest.raises(ConfigError, match="seed=4: a sweep is resumed unchanged; only cluster="):
        resume(fake_sweep(tmp_path, "a=1"), ["seed=4"])


def test_paths_survive_hydra():
    assert quoted(Path("/a b/it's, [1]")) == "'/a b/it\\'s, [1]'"


def test_status_tells_speed_and_time_left(tmp_path):
    sweep = fake_sweep(tmp_path, "a=1 b=1", "a=1 b=2")
    directory = sweep.jobs[1].directory
    directory.mkdir()
    (directory / "config.yaml").write_text("training: {total_steps: 4000}")
    rows = [{"iteration": i, "env_steps": 100 * i, "wall_time": 10.0 * i} for i in range(1, 6)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"half')
    rows, line = status_rows(sweep)
    assert [row["state"] for row in rows] == ["pending", "stopped"] and rows[1]["overrides"] == "b=2"
    assert rows[1]["steps"] == "500 of 4,000" and "1 pending, 1 stopped; metarl resume" in line
    status = sweep.status(sweep.jobs[1], "RUNNING")
    assert status.state == "running" and status.steps_per_second == pytest.approx(10)
    assert status.seconds_left == pytest.approx(350)
    assert sweep.status(sweep.jobs[0], "PENDING").state == "queued"


def test_a_sweep_is_compared_and_reported_as_its_runs(tmp_path, capsys):
    sweep = fake_sweep(tmp_path, "model=gru", "model=lstm", "model=mlp")
    for job in sweep.jobs[:2]:
        model = job.overrides[0].removeprefix("model=")
        write_run(job.directory, model=model, finished=model == "gru")
    main(["compare", str(sweep.path), "--format", "json"])
    assert [row["method"] for row in json.loads(capsys.readouterr().out)] == ["gru/rl2"]
    main(["report", str(sweep.path)])
    assert "Unfinished" in (sweep.path / "report.html").read_text()
    (tmp_path / "other").mkdir()
    empty = fake_sweep(tmp_path / "other", "a=1")
    with pytest.raises(RunDirectoryError, match="has begun; metarl status"):
        run_directories([empty.path], finished=False)
