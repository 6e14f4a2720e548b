"""Sweeps: what a launcher starts, in which order and where; what is lost when everything is killed: nothing."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers import REPOSITORY, config_of, outcome, read_rows, run_py, timeless
from run_directories import write_run

from metarl.cli import main
from metarl.errors import ConfigError, MetarlError, RunDirectoryError
from metarl.launching import frozen, origin, pool
from metarl.launching.commands import resume, status_rows
from metarl.launching.pool import Pool, Slot, cpu_slots, gpu_slots
from metarl.launching.sweep import (
    Job,
    Sweep,
    finished_summary,
    launching,
    occupant,
    quoted,
    run_directories,
    sweep_name,
)

TINY = (
    "training.total_steps=3000",
    "meta_batch_size=100",
    "eval.final_num_tasks=20",
    "eval.num_tasks=10",
    "eval.baselines=false",
    "model.hidden_size=8",
)

# A run as launchers see it: it holds its directory, notes where and when it ran, and leaves a summary.
FAKE = """
import fcntl, json, os, sys, time
from pathlib import Path
given = dict(text.split("=", 1) for text in sys.argv[1:])
folder = Path(given["hydra.run.dir"].strip("'"))
folder.mkdir(parents=True, exist_ok=True)
lock = open(folder / ".lock", "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.truncate(0)
lock.write(json.dumps({"gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}))
lock.flush()
started = time.time()
time.sleep(float(given["seconds"]))
with open(folder.parent / "notes.jsonl", "a") as notes:
    row = {"run": int(folder.name), "started": started, "ended": time.time()}
    notes.write(json.dumps(row | {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")})
        + "\\n")
if "crash" in given:
    (folder / "error.txt").write_text("Trace\\nValueError: as it was told\\n")
    sys.exit(1)
summary = {"env_steps": 1, "evaluation": {"sampled": {"return_mean": 1.0}}}
(folder / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Cards that are not there: call it with ``index, free memory in MiB`` of each."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def pretend(*cards: str) -> None:
        rows = "\n".join(cards)
        tool = folder / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\ncase $1 in *memory*) echo '{rows}';; *) echo '{rows}' | cut -d, -f1;; esac\n")
        tool.chmod(0o755)

    return pretend


def fake_sweep(path: Path, *jobs: str, script: str = FAKE) -> Sweep:
    (path / "fake.py").write_text(script)
    return Sweep.launched(path / "sweep", {"cluster": "local_pool"}, [job.split() for job in jobs], 0)


def fake_command(sweep: Sweep, job: Job) -> list[str]:
    script = sweep.path.parent / "fake.py"
    return [sys.executable, str(script), *job.overrides, f"hydra.run.dir={quoted(job.directory)}"]


def pool_of(sweep: Sweep, slots: list[Slot], **options) -> Pool:
    return Pool(sweep, slots, command=fake_command, **options)


def notes(sweep: Sweep) -> list[dict]:
    return [json.loads(line) for line in (sweep.path / "notes.jsonl").read_text().splitlines()]


def most_at_once(rows: list[dict]) -> int:
    return max(sum(other["started"] <= row["started"] < other["ended"] for other in rows) for row in rows)


# ---------------------------------------------------------------- the pool


def test_twelve_jobs_on_four_cards_two_on_each(tmp_path, nvidia_smi):
    nvidia_smi("0, 9000", "1, 9000", "2, 9000", "3, 9000")
    jobs = [f"seconds=0.6 number={i}" + (" crash=yes" if i == 2 else "") for i in range(12)]
    sweep = fake_sweep(tmp_path, *jobs)
    slots = gpu_slots(None, 2)
    assert [slot.gpu for slot in slots] == [0, 1, 2, 3, 0, 1, 2, 3]
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
    while occupant(sweep.jobs[1].directory) is None:
        time.sleep(0.01)
    pool_of(sweep, [Slot(5), Slot(6)]).run(sweep.jobs, lambda line: None)
    assert orphan.wait() == 0
    rows = notes(sweep)
    assert sorted(row["run"] for row in rows) == [0, 1, 2]
    assert most_at_once([row for row in rows if row["CUDA_VISIBLE_DEVICES"] == "5"]) == 1


def test_a_card_without_room_gets_no_run(tmp_path, nvidia_smi, monkeypatch):
    nvidia_smi("0, 1024", "1, 9000")
    monkeypatch.setattr(pool, "MEMORY_INTERVAL", 0.05)
    sweep = fake_sweep(tmp_path, "seconds=0 a=1", "seconds=0 a=2")
    pool_of(sweep, [Slot(0), Slot(1)], min_free_memory=4).run(sweep.jobs, lambda line: None)
    assert [row["CUDA_VISIBLE_DEVICES"] for row in notes(sweep)] == ["1", "1"]


DEATHS = {
    "killed": ("import os; print('so far', flush=True); os.kill(os.getpid(), 9)", "killed by SIGKILL", "so far"),
    "a crash of a library": ("import os; print('so far', flush=True); os.abort()", "killed by SIGABRT", "so far"),
    "an error before the run began": ("raise ValueError('too early')", "exit code 1", "ValueError: too early"),
    "an end without a word": ("import os; os._exit(0)", "exit code 0, without a result; it said nothing in", ""),
}


@pytest.mark.parametrize("case", DEATHS)
def test_a_run_whose_process_dies_has_failed_with_the_end_of_its_log(tmp_path, case):
    script, ending, said = DEATHS[case]
    sweep = fake_sweep(tmp_path, "seed=0", script=script)
    lines = []
    pool_of(sweep, cpu_slots(1)).run(sweep.jobs, lines.append)
    status = sweep.status(sweep.jobs[0])
    assert status.state == "failed" and status.error.startswith(f"ProcessDied: {ending}"), status
    assert status.error.endswith(said) and lines[-1] == f"0: failed ({status.error})"
    tail = (sweep.jobs[0].directory / "error.txt").read_text().splitlines()[:-1]
    assert (tail == []) if said == "" else tail[-1] == said
    assert pool.died(status) == ("killed" in ending)


def test_a_pool_that_is_asked_to_stop_asks_its_runs_and_starts_no_more(tmp_path):
    sweep = fake_sweep(tmp_path, *[f"seconds=30 number={i}" for i in range(3)])
    held = pool_of(sweep, cpu_slots(1))

    def tell(line: str) -> None:
        if "started" in line:
            os.kill(os.getpid(), signal.SIGINT)

    began = time.monotonic()
    held.run(sweep.jobs, tell)
    assert time.monotonic() - began < 20 and held.stopping and not held.running
    assert [status.state for status in sweep.statuses()][1:] == ["pending", "pending"]


# ---------------------------------------------------------------- sweeps that are killed


def sweep_line(directory: str) -> tuple[str, ...]:
    where = ("cluster=local_pool", "hydra.launcher.slots=2", f"hydra.sweep.dir={directory}")
    return ("-m", "seed=0,1,2", *TINY, "training.total_steps=60_000", *where)


def test_kill_everything_then_resume_and_nothing_is_lost_or_done_twice(tmp_path):
    code, _, said = outcome(run_py(*sweep_line("whole"), directory=tmp_path))
    assert code == 0, said
    dice = random.Random(0)
    launcher = run_py(*sweep_line("killed"), directory=tmp_path)
    wait_until(lambda: (tmp_path / "killed" / "sweep.json").exists(), launcher)  # before, nothing is launched
    for _ in range(3):
        time.sleep(dice.uniform(2, 7))
        for process in (*workers(tmp_path / "killed"), launcher.pid):
            if dice.random() < 0.7:
                kill(process)
        kill(launcher.pid)
        launcher.communicate()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        line = [sys.executable, "-m", "metarl", "resume", "killed"]
        launcher = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while launcher.wait() or unfinished(tmp_path / "killed"):
        with contextlib.suppress(RunDirectoryError):  # which names runs that were killed
            resume(Sweep(tmp_path / "killed"))
    for number in range(3):
        whole, killed = (read_rows(tmp_path / name / str(number) / "metrics.jsonl") for name in ("whole", "killed"))
        assert [row["iteration"] for row in killed] == list(range(1, 61))
        assert [timeless(row) for row in killed] == [timeless(row) for row in whole]


def wait_until(condition, launcher: subprocess.Popen, seconds: float = 120) -> None:
    """Until the launcher has come so far."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert launcher.poll() is None, f"ended early: {launcher.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers(sweep: Path) -> list[int]:
    found = []
    for number in range(3):
        at_work = occupant(sweep / str(number))
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


# ---------------------------------------------------------------- what was launched is what runs


SMALL_SWEEP = ("-m", "seed=0,1", *TINY, "training.total_steps=1000", "cluster=local_pool", "hydra.sweep.dir=sweep")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the program, whose configurations can be edited."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("metarl", "conf", "launch"):
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(REPOSITORY / "run.py", folder)
    return folder


def run_copy(checkout: Path, *line: str, directory: Path) -> tuple[int, str, str]:
    paths = os.pathsep.join([str(checkout), str(checkout / "launch")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, *line], cwd=directory, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_edited_yaml_changes_nothing_of_a_sweep_that_waits(checkout, tmp_path):
    run = str(checkout / "run.py")
    code, _, err = run_copy(checkout, run, *SMALL_SWEEP, "hydra.launcher.slots=1", directory=tmp_path)
    assert code == 0, err
    sweep = Sweep(tmp_path / "sweep")
    before = [(sweep.path / "configs" / f"{number}.yaml").read_text() for number in range(2)]
    for number in ("0", "1"):
        shutil.rmtree(sweep.path / number)
    default = checkout / "conf" / "algorithm" / "rl2.yaml"
    text = default.read_text()
    try:
        default.write_text(text + "\nclip: 0.31\n")
        code, _, err = run_copy(checkout, "-m", "metarl", "resume", "sweep", directory=tmp_path)
        assert code == 0, err
        shutil.rmtree(sweep.path / "1")
        code, out, err = run_copy(checkout, run, *SMALL_SWEEP, directory=tmp_path)
        assert code == 0 and "note: run 0 goes on as it was launched, with algorithm.clip=0.2" in out, err
    finally:
        default.write_text(text)
    for number, frozen_text in enumerate(before):
        assert (sweep.path / "configs" / f"{number}.yaml").read_text() == frozen_text
        ran = yaml.safe_load((sweep.path / str(number) / "config.yaml").read_text())
        assert ran["algorithm"]["clip"] == 0.2 and ran == yaml.safe_load(frozen_text)


def test_the_commit_of_a_launch_is_recorded(tmp_path, monkeypatch):
    git = tmp_path / "git"
    git.mkdir()
    monkeypatch.setattr(frozen, "CONF", git / "conf")
    assert frozen.commit() == {"commit": None, "dirty": None}
    for line in ("init -q", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m first"):
        subprocess.run(["git", *line.split()], cwd=git, check=True)
    (git / "conf").mkdir()
    found = frozen.commit()
    assert found["dirty"] is False and len(found["commit"]) >= 7
    (git / "file").touch()
    subprocess.run(["git", "add", "file"], cwd=git, check=True)
    assert frozen.commit() == found | {"dirty": True}
    row = fake_sweep(tmp_path, "a=1").record["jobs"]["0"]
    assert row == found | {"dirty": True, "overrides": ["a=1"]}


def test_a_job_without_a_frozen_configuration_is_refused_and_says_so_to_its_sweep(tmp_path):
    sweep = fake_sweep(tmp_path, "seed=0")
    with pytest.raises(RunDirectoryError, match="runs 0 of 1 failed"):
        resume(Sweep(sweep.path), ["cluster=local_pool"])
    assert "run 0 has no frozen configuration; launch the sweep again" in sweep.status(sweep.jobs[0]).error


def test_the_record_of_a_sweep_is_never_executed(tmp_path):
    trap, evil = tmp_path / "trap", tmp_path / "evil.py"
    evil.write_text(f"open({str(trap)!r}, 'w')")
    sweep = fake_sweep(tmp_path, "seed=0")
    record = json.loads((sweep.path / "sweep.json").read_text())
    commands = {"command": [str(evil)], "directory": str(tmp_path), "launcher": "pool", "options": {"slots": 1}}
    hostile = [
        {"command": [str(evil), "-m"]},
        {"launcher": "../../evil"},
        {"cluster": "local_pool,hydra.launcher._target_=os.system"},
        {"options": {"python": str(evil)}},
        {"options": {"setup": [f"touch {trap}"]}},
        {"options": {"partition": f"a\n touch {trap}"}},
        {"options": {"_target_": "os.system"}},
        {"options": ["os.system"]},
    ]
    for change in hostile:
        (sweep.path / "sweep.json").write_text(json.dumps(record | commands | change))
        with pytest.raises(MetarlError) as raised:
            resume(Sweep(sweep.path))
        assert "\n" not in str(raised.value) and not trap.exists(), change
    said = r"was launched with hydra.launcher.setup=.* not repeated from a file: add 'hydra.launcher.setup=...'"
    (sweep.path / "sweep.json").write_text(json.dumps(record | commands | hostile[4]))
    with pytest.raises(ConfigError, match=said):
        resume(Sweep(sweep.path))


def test_a_sweep_goes_on_with_the_options_it_was_launched_with(tmp_path):
    launch = {"cluster": "local_pool", "launcher": "pool", "directory": str(tmp_path)}
    launch["options"] = {"slots": 3, "first": ["seed=0"], "threads": 2, "shuffle": True, "gpus": None}
    sweep = Sweep.launched(tmp_path / "sweep", launch, [["seed=0"]], 0, {0: config_of("seed=0")})
    found, launch = origin.launcher(sweep, [])
    assert (found.slots, found.first, found.threads, found.shuffle, found.gpus) == (3, ["seed=0"], 2, True, None)
    assert launch["options"]["slots"] == 3 and launch["cluster"] == "local_pool"
    assert origin.launcher(sweep, ["hydra.launcher.slots=1"])[0].slots == 1
    assert type(origin.launcher(sweep, ["cluster=local"])[0]).__name__ == "ProcessLauncher"
    with pytest.raises(ConfigError, match=r"its runs have device=cuda, those of .* were launched with device=cpu"):
        origin.launcher(sweep, ["cluster=gpus"])


# ---------------------------------------------------------------- what is refused


REFUSED = {
    "no -m": (("cluster=local_pool",), "cluster=local_pool: is for sweeps; say python run.py -m"),
    "a grid, no -m": (("experiment=sweeps/bandits",), "experiment=sweeps/bandits: has many runs; say python run.py -m"),
    "a search, no -m": (("experiment=search/trmrl",), "experiment=search/trmrl: has many runs; say python run.py -m"),
    "no slots": (
        ("-m", "cluster=local_pool", "hydra.launcher.slots=0"),
        "hydra.launcher.slots=0: a whole number above 0",
    ),
    "no such gpus": (("-m", "cluster=gpus", "hydra.launcher.gpus=some"), "hydra.launcher.gpus=some: all, or a list"),
    "no cards": (("-m", "cluster=gpus"), "nvidia-smi, which tells the cards, is not there"),
    "an empty list": (("-m", "cluster=gpus", "hydra.launcher.gpus=[]"), "no graphics card; use cluster=local_pool"),
    "no sbatch": (("-m", "cluster=slurm"), "cluster=slurm: sbatch is not there"),
    "no account": (("-m", "cluster=lumi"), "hydra.launcher.account: has to be said here"),
    "no such option": (("-m", "cluster=local_pool", "hydra.launcher.cores=3"), "hydra.launcher.cores"),
    "a file in the way": (("-m", "hydra.sweep.dir=taken/sweep"), "Not a directory: 'taken/sweep'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_launched_is_refused_before_anything_is_written(case, tmp_path):
    arguments, message = REFUSED[case]
    (tmp_path / "taken").touch()
    empty = tmp_path / "bin"
    empty.mkdir()
    process = run_py(*arguments, "seed=0", *TINY, directory=tmp_path, env={"PATH": str(empty)})
    code, _, err = outcome(process)
    assert code == 1 and message in err and "Traceback" not in err
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "bin"}


def test_a_directory_holds_one_sweep_and_one_launcher(tmp_path):
    sweep = fake_sweep(tmp_path, "a=1", "a=2")
    with pytest.raises(RunDirectoryError, match="its job 1 is a=2, not a=3; choose another"):
        Sweep.launched(sweep.path, {}, [["a=1"], ["a=3"]], 0)
    again = launching(sweep.path)
    with launching(sweep.path), pytest.raises(RunDirectoryError, match="is being launched already"), again:
        pass
    with pytest.raises(RunDirectoryError, match="holds no sweep"):
        Sweep(tmp_path)
    (sweep.path / "sweep.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="is damaged"):
        Sweep(sweep.path)


def test_a_sweep_goes_on_as_it_is(tmp_path):
    with pytest.raises(ConfigError, match="seed=4: a sweep goes on as it is; only cluster="):
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
