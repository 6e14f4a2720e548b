"""Options of ``conf/`` as fixtures: a new YAML meets every law without a change here."""

import os
from pathlib import Path

import pytest
import torch
from helpers import combinations, few_combinations, usual_combinations
from run_directories import BANDIT_BASELINES, BANDIT_BOUNDS, write_run

from metarl.configuration.compose import options

torch.set_num_threads(1)

GROUP_OF_FIXTURE = {"env_option": "env", "model_option": "model", "algorithm_option": "algorithm"}
COMBINATIONS_OF_FIXTURE = {
    "combination": combinations,
    "usual_combination": usual_combinations,
    "few_combination": few_combinations,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``env_option`` and the like run over ``conf/``, ``combination`` over all options that fit, or some of them."""
    for fixture, group in GROUP_OF_FIXTURE.items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, options(group))
    for fixture, found in COMBINATIONS_OF_FIXTURE.items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, found(), ids="-".join)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cluster first: its tests wait for it, while other processes have theirs to do."""
    items.sort(key=lambda item: item.get_closest_marker("slurm") is None)


MDP_BASELINES = {"Random": 100.0, "PSRL": 140.0}


@pytest.fixture
def bandit(tmp_path) -> Path:
    """A finished run with baselines and a bound."""
    return write_run(tmp_path / "bandit", baselines=BANDIT_BASELINES, bounds=BANDIT_BOUNDS)


@pytest.fixture
def sweep(tmp_path) -> list[Path]:
    """Two methods, three seeds, two environments."""
    paths = []
    for env, base, bounds in (("tabular_mdp", MDP_BASELINES, {}), ("bandit", BANDIT_BASELINES, BANDIT_BOUNDS)):
        top = bounds.get("Bayes optimum", base.get("PSRL"))
        for model, share in (("gru", 0.8), ("lstm", 0.7)):
            for seed in range(3):
                final = base["Random"] + (share + 0.02 * seed) * (top - base["Random"])
                path = tmp_path / f"{env}-{model}-{seed}"
                settings = dict(env=env, model=model, seed=seed, final=final, baselines=base, bounds=bounds)
                paths.append(write_run(path, **settings))
    return paths


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Cards that are not there: call it with the free memory in MiB of each; each has 10,000."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def pretend(*free: int | str) -> None:
        rows = "\n".join(f"{i}, GPU-{i}f00aaaa-1111, {memory}, 10000" for i, memory in enumerate(free))
        tool = folder / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho '{rows}'\n")
        tool.chmod(0o755)

    return pretend
