"""Several processes train as one would on all their lanes, and stop, resume and fail as one."""

import json
import os
import pickle
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import read_rows, small_config, timeless
from processes import Together, free_port, fresh_run_py, outcome, python, run_py, run_together, wait_until

from metarl import parallel
from metarl.configuration.build import build_algorithm
from metarl.configuration.compose import options
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from metarl.system import StopRequest
from metarl.trainer import Trainer
from metarl.tree import tree_map

ADAPTING = ("env=point_navigation", "model=mlp")
BELIEVING = ("env=grid", "conditioning=concatenate", "model.latent_dim=3")
METHODS = {
    "rl2": ["env=tabular_mdp", "algorithm.num_epochs=1", "algorithm.num_minibatches=1"],
    "rl2, minibatches": ["env=tabular_mdp", "algorithm.num_minibatches=2"],
    "rl2 on regrets": ["env=tabular_mdp", "algorithm.objective=regret", "algorithm.regret_coefficient=0.5"],
    "rl2, trials of any length": ["env=point_goal", "env.horizon=20", "meta_batch_size=6"],
    "a2c": ["env=tabular_mdp", "algorithm=a2c"],
    "multitask": ["env=grid", "algorithm=multitask"],
    "varibad": [*BELIEVING, "algorithm=varibad"],
    "varibad, shared": [
        *(*BELIEVING, "algorithm=varibad"),
        *("algorithm.optimizer=shared", "algorithm.num_vae_updates=null", "algorithm.vae_learning_rate=null"),
        *("algorithm.max_vae_gradient_norm=null", "algorithm.rl_loss_through_encoder=true"),
    ],
    "task_inference": [*BELIEVING, "algorithm=task_inference"],
    "task_inference, warm-up": [*BELIEVING, "algorithm=task_inference", "algorithm.warm_up_iterations=3"],
    "hyperx": [*BELIEVING, "algorithm=hyperx"],
    "maml": [*ADAPTING, "algorithm=maml"],
    "maml, ppo": [*ADAPTING, "algorithm=maml", "meta_optimizer=ppo"],
    "meta_sgd": [*ADAPTING, "algorithm=meta_sgd"],
    "e_maml": [*ADAPTING, "algorithm=e_maml"],
    "promp": [*ADAPTING, "algorithm=promp"],
    "maesn": [*ADAPTING, "algorithm=maesn"],
    "adapt_sv": [*ADAPTING, "algorithm=adapt_sv"],
    "tesp": ["env=point_goal", "model=mlp", "algorithm=tesp", "env.horizon=20"],
}


def process(rank: int, port: str, folder: Path) -> None:
    """One of two: the trials of both, and what it learned from them."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port
    }  # fmt: skip
    parallel.init_process_group("cpu")
    results = {}
    for name, overrides in METHODS.items():
        algorithm, parts = build_algorithm(small_config(*overrides))
        env = parts.make_env(num_tasks=3, seed=rank)
        env.sample_tasks()
        trial = parallel.gather_rollouts(collect_trial(env, algorithm, make_generator(rank)))
        results[name] = {"trial": trial} | learned(name, algorithm, trial)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(results))
    parallel.destroy_process_group()


def doubled(part: torch.Tensor) -> torch.Tensor:
    return part.double() if part.is_floating_point() else part


def learned(name: str, algorithm, trial) -> dict:
    if "env=grid" not in METHODS[name]:  # float64 shows what is wrong alone; cells are one-hot in float32
        algorithm.double()
        trial = [tree_map(doubled, rollout) for rollout in trial]
    logs = algorithm.update(trial, 0.3, make_generator(5))
    gradients = {name: p.grad.clone() for name, p in algorithm.named_parameters() if p.grad is not None}
    return {"logs": logs, "gradients": gradients, "weights": algorithm.state_dict()}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    for attempt in range(3):  # another program may take the port before the first process does
        given = (free_port(), str(folder))
        both = Together([python(__file__, str(rank), *given, directory=folder) for rank in range(2)])
        code, _, err = outcome(both)
        if code == 0:
            break
        assert "EADDRINUSE" in err and attempt < 2, err
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_learn_what_one_learns_from_the_trials_of_both(results, name):
    first, second = results[0][name], results[1][name]
    alone = learned(name, build_algorithm(small_config(*METHODS[name]))[0], first["trial"])
    assert first["trial"][0].mask.shape[1] == second["trial"][0].mask.shape[1]
    assert set(first["gradients"]) == set(alone["gradients"])
    for key, gradient in alone["gradients"].items():
        assert torch.equal(first["gradients"][key], second["gradients"][key])
        torch.testing.assert_close(first["gradients"][key], gradient, rtol=1e-6, atol=1e-6, msg=key)
    for key, weight in alone["weights"].items():
        assert torch.equal(first["weights"][key], second["weights"][key])
        torch.testing.assert_close(first["weights"][key], weight, rtol=1e-5, atol=2e-5, msg=key)
    assert first["logs"] == pytest.approx(alone["logs"], rel=1e-4, abs=1e-5)


def test_every_algorithm_is_tried():
    tried = {
        text.partition("=")[2] for overrides in METHODS.values() for text in overrides if text.startswith("algorithm=")
    }
    assert tried | {"rl2"} == set(options("algorithm"))


SMALL = (
    "env=tabular_mdp",
    "meta_batch_size=8",
    "algorithm.num_minibatches=2",
    "model.hidden_size=8",
    "training.total_steps=16_000",
    "training.eval_every=5",
    "eval.num_tasks=10",
    "eval.final_num_tasks=20",
    "eval.baselines=false",
)


def rows(directory: Path) -> list[dict]:
    return [timeless(row) for row in read_rows(directory / "metrics.jsonl")]


def summary(directory: Path) -> dict:
    return json.loads((directory / "summary.json").read_text())


@pytest.mark.timeout(1200)
def test_processes_that_are_stopped_go_on_where_they_were_and_write_one_run(tmp_path):
    code, out, err = outcome(run_together(*SMALL, "hydra.run.dir=whole", directory=tmp_path))
    assert code == 0 and out.count("20 held-out tasks, drawn afresh") == 1, err
    whole = tmp_path / "whole"
    assert [row["env_steps"] for row in rows(whole)] == list(range(0, 16_001, 800))
    process = run_together(*SMALL, "hydra.run.dir=stopped", directory=tmp_path)
    wait_until(lambda: len(rows(tmp_path / "stopped")) >= 4, process)  # of 21, so that there is time to stop it
    process.terminate()
    outcome(process)
    assert not (tmp_path / "stopped" / "summary.json").exists()
    code, _, err = outcome(run_py(*SMALL, "hydra.run.dir=stopped", directory=tmp_path))
    assert code == 1 and "was saved by 2 processes, and there are 1; start 2" in err
    code, _, err = outcome(run_together(*SMALL, "hydra.run.dir=stopped", directory=tmp_path))
    assert code == 0, err
    assert rows(tmp_path / "stopped") == rows(whole)
    code, out, err = outcome(run_together(*SMALL, "hydra.run.dir=stopped", directory=tmp_path))
    assert code == 0 and "20 held-out tasks, drawn afresh" in out, err  # a finished run shows its results again
    for name in ("evaluation", "parameters", "num_tasks"):
        assert summary(tmp_path / "stopped")[name] == summary(whole)[name]


def test_a_signal_that_comes_after_processes_have_agreed_counts_the_next_time(monkeypatch):
    """One that stopped alone would leave the others waiting for it."""
    stop = StopRequest()

    def agree(value: int) -> int:
        stop.record(signal.SIGTERM)
        return value

    monkeypatch.setattr(parallel, "all_reduce_max", agree)
    assert not Trainer._stop_requested(stop)
    assert Trainer._stop_requested(stop)


def test_processes_find_one_directory_where_its_name_is_a_time(tmp_path):
    few = (*SMALL, "training.total_steps=1000")
    code, _, err = outcome(fresh_run_py(*few, directory=tmp_path, processes=2))
    assert code == 0, err
    assert len(list(tmp_path.rglob("config.yaml"))) == len(list((tmp_path / "outputs").glob("*/*"))) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["meta_batch_size=7"], "meta_batch_size=7: must be a multiple of 2, the number of processes"),
        (["algorithm.num_minibatches=5"], "num_minibatches=5 exceeds the 4 trials of an iteration in each process"),
        (["device=meta"], "device=meta: several processes would share it; say cpu, or cuda for a card each"),
        (["-m", "seed=0,1"], "-m: torchrun starts the processes of one run, a sweep starts its own"),
        (["-m", "experiment=search/policy_gradient"], "-m: torchrun starts the processes of one run"),
        (["env=nowhere"], "env=nowhere: no such option"),
    ],
)
def test_what_processes_cannot_share_is_said_once_and_leaves_nothing(tmp_path, overrides, message):
    order = [*overrides, *SMALL] if overrides[0] == "-m" else [*SMALL, *overrides]
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    start = partial(fresh_run_py, processes=2) if overrides == ["meta_batch_size=7"] else run_together
    code, _, err = outcome(start(*order, directory=work, env={"TMPDIR": str(temporary)}))
    assert code != 0 and err.count(message) == 1, err
    assert list(work.rglob("*")) == [] and list(temporary.glob("metarl-*")) == []


def test_a_process_beside_the_main_one_neither_makes_nor_removes_the_directory_of_the_run(tmp_path):
    """The second process fails while the first has not begun, or has made its directory and goes on."""
    folder = tmp_path / "outputs" / "run"
    folder.mkdir(parents=True)
    late = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "TMPDIR": str(tmp_path)}
    process = run_py(*SMALL, "device=meta", f"hydra.run.dir={folder}", directory=tmp_path, env=late)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("metarl-rank-*")):  # it is there, while the process works
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    while list(tmp_path.glob("metarl-rank-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.kill()
    outcome(process)
    assert folder.is_dir()


if __name__ == "__main__":
    process(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
