"""Subjects of checks from a configuration: small batches, lanes in this process, sizes as configured."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

from metarl.checking.algorithms import LEARNER_CHECKS, Learner
from metarl.checking.environments import ENVIRONMENT_CHECKS
from metarl.checking.models import CHECKS_OF_ANY_SIZE, LONGEST, Memory
from metarl.checking.outcomes import Outcome, run
from metarl.checking.world import World
from metarl.configuration.build import build_env_factory, build_policy_factory
from metarl.configuration.compose import compose, resolved
from metarl.envs.gymnasium_lanes import make_environment
from metarl.trust import TYPED

LANES, LANES_PER_TASK, WORKERS = 8, 2, 2
MOST_MINIBATCHES = 4


def outcomes_of(overrides: Sequence[str], groups: Sequence[str]) -> list[Outcome]:
    """Check the options of these groups that the overrides choose."""
    config = small_configuration(overrides)
    chosen = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    found: list[Outcome] = []
    for group in groups:
        checks, subject = subject_of(group, config)
        found += run(f"{group}={chosen[group]}", checks, subject)
    return found


def small_configuration(overrides: Sequence[str]) -> dict:
    """The configuration of ``run.py``, with few parallel tasks unless an override sets their number."""
    config = resolved(compose(overrides), choices={})
    given = {override.partition("=")[0] for override in overrides}
    if "meta_batch_size" not in given:
        config["meta_batch_size"] = LANES
    if "lanes_per_task" not in given:
        config["lanes_per_task"] = min(config["lanes_per_task"], LANES_PER_TASK)
    minibatches = config["algorithm"].get("num_minibatches")
    if isinstance(minibatches, int) and "algorithm.num_minibatches" not in given:
        config["algorithm"]["num_minibatches"] = min(minibatches, MOST_MINIBATCHES)
    config["eval"] |= {"num_tasks": 1, "final_num_tasks": 1, "batch_size": 1}
    config["device"] = config["device"] if "device" in given else "cpu"
    return config


def subject_of(group: str, config: dict) -> tuple[Sequence, Any]:
    """The checks of a group, and what they are run on."""
    here = copy.deepcopy(config)
    if config["env"].get("num_workers"):
        here["env"]["num_workers"] = 0
    match group:
        case "env":
            return ENVIRONMENT_CHECKS, world_of(here, bool(config["env"].get("num_workers")))
        case "model":
            return CHECKS_OF_ANY_SIZE, memory_of(here)
    return LEARNER_CHECKS, Learner(here)


def world_of(config: dict, has_workers: bool = False) -> World:
    """The environment of a configuration."""
    node, raw, with_workers = config["env"], None, None
    if "make" in node and "options" in node:
        raw = partial(make_environment, node["make"], node["options"])
    if has_workers:
        with_workers = build_env_factory(config | {"env": node | {"num_workers": WORKERS}}, trust=TYPED)
    return World(build_env_factory(config, trust=TYPED), raw, with_workers)


def memory_of(config: dict) -> Memory:
    """The memory of a configuration, for its environment."""
    env = build_env_factory(config, trust=TYPED)(num_tasks=1, seed=0)
    spec = env.spec._replace(trial_length=max(env.trial_length, LONGEST))
    return Memory(partial(build_policy_factory(config, TYPED), spec), spec)
