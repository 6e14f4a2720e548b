"""Options of ``conf/`` as fixtures: every law applies to a new YAML file without a change here."""

import gc
import os
from inspect import isfunction
from pathlib import Path

import pytest
import torch
from helpers import combinations, few_combinations, usual_combinations
from run_directories import BANDIT_BASELINES, BANDIT_BOUNDS, BRIEF, write_run

from metarl.configuration.compose import options
from metarl.trainer import Trainer

torch.set_num_threads(1)

GROUP_OF_FIXTURE = {"env_option": "env", "model_option": "model", "algorithm_option": "algorithm"}
COMBINATIONS_OF_FIXTURE = {
    "combination": combinations,
    "usual_combination": usual_combinations,
    "few_combination": few_combinations,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--fast``, for daily work."""
    parser.addoption("--fast", action="store_true", help="the first case of each test, and no slow test")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``env_option`` and the like run over ``conf/``, ``combination`` over all options that fit, or some of them."""
    most = 1 if metafunc.config.getoption("fast") else None
    for fixture, group in GROUP_OF_FIXTURE.items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, options(group)[:most])
    for fixture, found in COMBINATIONS_OF_FIXTURE.items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, found()[:most], ids="-".join)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select for ``--fast``; the cluster first: its tests wait for it, while other processes have theirs to do."""
    if config.getoption("fast"):
        firsts = {_test(item): item for item in reversed(items)}
        items[:] = [item for item in items if item is firsts[_test(item)] and not _is_slow(item)]
    items.sort(key=lambda item: item.get_closest_marker("slurm") is None)
    gc.freeze()  # collections need not visit what was imported and collected until now, over and over


def _test(item: pytest.Item) -> tuple[object, str]:
    """The test that an item is a case of."""
    return item.parent, getattr(item, "originalname", item.name)


# Files that ``--fast`` leaves out: simulators in processes of their own, pictures, pages, services, long solutions.
SLOW = {"attention_analysis", "cells", "dashboard", "foreign_files", "frozen", "gymnasium", "lane_randomness"}
SLOW |= {"metaworld", "report", "tables", "video", "wandb", "wandb_service"}


def _is_slow(item: pytest.Item) -> bool:
    """Whether a test starts programs (it, or a function of its file), trains until it learns, or is in a slow file."""
    names, test = vars(item.module), item.function  # type: ignore[attr-defined]
    if item.path.stem.removeprefix("test_") in SLOW or "learns" in item.name:
        return True
    if any(getattr(value, "__module__", None) == "processes" for value in names.values()):
        return True
    called = [names[name] for name in test.__code__.co_names if isfunction(names.get(name))]
    return any("subprocess" in function.__code__.co_names for function in (test, *called))


@pytest.fixture(autouse=True, scope="session")
def _stops_are_seen():
    """A training that goes on after it was asked to stop fails at once, not after all of its steps."""
    train, iterate = Trainer.train, Trainer._iterate
    last: dict[int, int | None] = {}

    def bounded_train(self, stop):
        last[id(self)] = getattr(stop, "iteration", None)  # of StopAt
        try:
            return train(self, stop)
        finally:
            del last[id(self)]

    def bounded_iterate(self):
        end = last.get(id(self))
        assert end is None or self.progress.iteration < end, f"training goes on after the stop at iteration {end}"
        return iterate(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train", bounded_train)
        patch.setattr(Trainer, "_iterate", bounded_iterate)
        yield


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


@pytest.fixture(scope="session")
def brief_run(tmp_path_factory):
    """A finished run that tests only read, trained by ``metarl.train``."""
    import metarl

    return metarl.train(BRIEF, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Simulated GPUs: call it with the free memory of each in MiB, of 10,000."""
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
