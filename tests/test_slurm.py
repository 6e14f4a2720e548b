"""Sweeps on a real SLURM cluster of one node: preempted, requeued, out of time, and the same in the end."""

import os
import subprocess
import time

import pages
import pytest
import slurm
from helpers import read_rows, timeless
from processes import REPOSITORY, outcome, python, run_py, run_together
from run_directories import BRIEF

from metarl.cli import main
from metarl.launching.slurm import states
from metarl.runs.sweep import Sweep, finished_summary

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not slurm.installed(), reason="SLURM is not installed"),
]

THREE = (
    "seed=0,1,2",
    "env=tabular_mdp",
    "training.total_steps=48_000",
    "meta_batch_size=4",
    "algorithm.num_minibatches=2",
    "eval.final_num_tasks=20",
    "eval.num_tasks=10",
    "eval.baselines=false",
    "model.hidden_size=8",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def in_cluster(environment, monkeypatch):
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, environment[name])
    return environment


def submit(tmp_path, environment, *arguments: str) -> Sweep:
    options = (
        "cluster=slurm",
        "hydra.launcher.partition=main",
        "hydra.launcher.cpus_per_task=1",
        "hydra.sweep.dir=sweep",
    )
    code, out, err = outcome(run_py("-m", *arguments, *options, directory=tmp_path, env=environment))
    assert code == 0 and "submitted" in out, err
    return Sweep(tmp_path / "sweep")


def until(condition, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the cluster did not get there"
        time.sleep(0.5)


def metrics(directory):
    return [timeless(row) for row in read_rows(directory / "metrics.jsonl")]


def test_an_array_that_is_requeued_and_runs_out_of_time_ends_like_an_uninterrupted_one(tmp_path, in_cluster):
    sweep = submit(tmp_path, in_cluster, *THREE, "hydra.launcher.array_parallelism=2", "hydra.launcher.timeout_min=60")
    waiting, first = sweep.jobs[2], sweep.jobs[0]
    assert sweep.status(waiting, states(sweep)[sweep.cluster_id(waiting)]).state == "queued"
    until(lambda: len(metrics(first.directory)) > 20)
    assert sweep.status(first, states(sweep)[sweep.cluster_id(first)]).state == "running"
    slurm.told(in_cluster, "scontrol", "requeue", sweep.cluster_id(first))  # told to stop, and killed soon after
    second = sweep.jobs[1]
    until(lambda: len(metrics(second.directory)) > 30)
    subprocess.run(
        ["timeout", "2", "scancel", "--signal=USR2", sweep.cluster_id(second)], env=in_cluster
    )  # out of time
    until(lambda: all(finished_summary(job.directory) for job in sweep.jobs))
    until(lambda: not states(sweep))
    for job in (first, second):
        log = "".join(path.read_text() for path in (sweep.path / "logs").glob(f"{sweep.cluster_id(job)}_*_log.*"))
        assert "resuming" in log, log
    alone = ("-m", *THREE, "seed=0,1", "cluster=local", "hydra.sweep.dir=alone")
    code, _, err = outcome(run_py(*alone, directory=tmp_path))
    assert code == 0, err
    for number in range(2):
        assert metrics(sweep.jobs[number].directory) == metrics(tmp_path / "alone" / str(number))
    code, out, _ = outcome(
        run_py("-m", *THREE, "cluster=slurm", "hydra.sweep.dir=sweep", directory=tmp_path, env=in_cluster)
    )
    assert code == 0 and "3 of 3 runs in" in out and "submitted" not in out


ONE = (
    "seed=7",
    "env=tabular_mdp",
    "meta_batch_size=4",
    "algorithm.num_minibatches=2",
    "eval.final_num_tasks=20",
    "eval.baselines=false",
    "model.hidden_size=8",
)


def test_a_run_that_is_preempted_and_meets_its_time_limit_ends_like_an_uninterrupted_one(tmp_path, in_cluster):
    whole = (*ONE, "training.total_steps=160_000")
    alone = run_py(*whole, "hydra.run.dir=alone", directory=tmp_path)
    sweep = submit(tmp_path, in_cluster, *whole, "hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=30")
    (run,) = sweep.jobs
    until(lambda: len(metrics(run.directory)) > 5)
    slurm.told(in_cluster, "sbatch", "--partition=high", "--cpus-per-task=8", "--output=/dev/null", "--wrap=sleep 1")
    until(lambda: finished_summary(run.directory))
    log = "".join(path.read_text() for path in (sweep.path / "logs").glob(f"{sweep.cluster_id(run)}_*_log.*"))
    assert log.count("Caught signal SIGUSR2") >= 2, log  # preempted, and out of time
    assert outcome(alone)[0] == 0
    assert metrics(run.directory) == metrics(tmp_path / "alone")


def test_tasks_of_a_run_train_one_agent(tmp_path, in_cluster):
    few = (*ONE, "training.total_steps=16_000")
    sweep = submit(tmp_path, in_cluster, *few, "hydra.launcher.tasks_per_node=2")
    (run,) = sweep.jobs
    until(lambda: len(metrics(run.directory)) > 5)
    told = ["timeout", "2", "scancel", "--signal=USR2", sweep.cluster_id(run)]
    subprocess.run(told, env=in_cluster)  # all tasks at once
    code, _, err = outcome(run_together(*few, "hydra.run.dir=alone", directory=tmp_path))
    assert code == 0, err
    until(lambda: finished_summary(run.directory))
    log = "".join(path.read_text() for path in (sweep.path / "logs").glob(f"{sweep.cluster_id(run)}_*_log.*"))
    assert "resuming" in log, log
    assert metrics(run.directory) == metrics(tmp_path / "alone")


def test_a_run_that_failed_is_submitted_again_and_is_in_the_queue_then(tmp_path, in_cluster):
    line = (
        "-m",
        "seed=0",
        "algorithm.clip=-1",
        "cluster=slurm",
        "hydra.launcher.cpus_per_task=1",
        "hydra.sweep.dir=sweep",
    )
    code, _, err = outcome(run_py(*line, "hydra.launcher.wait=true", directory=tmp_path, env=in_cluster))
    assert code == 1 and "error: runs 0 of 1 failed" in err
    sweep = Sweep(tmp_path / "sweep")
    assert sweep.status(sweep.jobs[0]).error == "ConfigError: algorithm.clip=-1: must be greater than 0"
    code, out, err = outcome(run_py(*line, directory=tmp_path, env=in_cluster))
    assert code == 0 and "submitted 1 runs" in out, err


def test_an_unknown_partition_is_refused_before_anything_is_submitted(tmp_path, in_cluster):
    line = ("-m", "seed=0", "cluster=slurm", "hydra.launcher.partition=nowhere")
    code, _, err = outcome(run_py(*line, directory=tmp_path, env=in_cluster))
    assert code == 1 and "hydra.launcher.partition=nowhere: no such partition; there are high, main" in err
    assert os.listdir(tmp_path) == []


def test_the_command_of_the_tutorial_submits_a_sweep(tmp_path, in_cluster):
    shown = pages.blocks(REPOSITORY / "docs" / "tutorial" / "sweep.md")
    (command,) = (block.text for block in shown if "train -m" in block.text and "cluster=slurm" in block.text)
    small = " ".join([*ONE, "model=gru", "env=bandit", "training.total_steps=400", "hydra.launcher.cpus_per_task=1"])
    page = tmp_path / "page.md"
    page.write_text(f"<!-- run with {small} hydra.launcher.wait=true -->\n```\n{command}```\n")
    pages.run(page, tmp_path)
    (run,) = Sweep(tmp_path / "sweeps" / "bandit").jobs
    assert finished_summary(run.directory)["env_steps"] == 400


def test_a_package_of_ones_own_runs_on_the_cluster(tmp_path, in_cluster):
    main(["new", str(tmp_path / "lab")])
    line = ("train", "-m", "env=lab_numbers", "model=lab_averages", "algorithm=lab_rl2", *BRIEF, "seed=0")
    launcher = ("cluster=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.wait=true", "hydra.sweep.dir=sweep")
    command = python(
        "-m", "metarl", *line, *launcher, "--config-dir", "lab/conf", directory=tmp_path / "lab", env=in_cluster
    )
    code, _, err = outcome(command)
    assert code == 0, err
    (run,) = Sweep(tmp_path / "lab" / "sweep").jobs
    assert finished_summary(run.directory)["env"] == "lab_numbers"
