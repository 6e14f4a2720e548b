"""The environment contract over every ``conf/env`` option: the checks of ``metarl check``, and what is refused."""

from functools import cache

import pytest
from helpers import SHOWN, brief, make_env

from metarl.checking.environments import ENVIRONMENT_CHECKS
from metarl.checking.outcomes import NotApplicable
from metarl.checking.tasks import what_tasks_decide
from metarl.checking.world import World


def env_of(env_option: str, *overrides: str, **keywords):
    return make_env(f"env={env_option}", *brief(env_option), *overrides, **keywords)


@cache
def world_of(env_option: str) -> World:
    """With one recorded play for all checks."""
    return World(lambda **given: env_of(env_option, **given))


@pytest.mark.parametrize("check", ENVIRONMENT_CHECKS, ids=lambda check: check.name)
def test_every_environment_keeps_the_contract(env_option, check):
    try:
        check.law(world_of(env_option))
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_rewards_depend_on_the_task(env_option):
    if env_option == "planning_game":
        pytest.skip("its tasks differ in what is seen")
    shown = [SHOWN[env_option]] if env_option in SHOWN else []
    world = World(lambda **given: env_of(env_option, *shown, **given))
    assert "reward" in what_tasks_decide(world, tasks=20) | what_tasks_decide(world, tasks=20, steps=25)


def test_every_task_set_can_be_drawn_and_an_unknown_one_is_refused(env_option):
    env = env_of(env_option)
    assert {"train", "held_out"} <= set(env.task_sets)
    for task_set in env.task_sets:
        assert len(env.sample_tasks(task_set)) == env.num_lanes
    with pytest.raises(ValueError, match=r"task_set='tset'.*train, held_out"):
        env.sample_tasks("tset")


@pytest.mark.parametrize("count", [2, 4])
def test_set_tasks_refuses_the_wrong_number(env_option, count):
    tasks = env_of(env_option, num_tasks=count).sample_tasks()
    with pytest.raises(ValueError, match=f"given {count} tasks.* plays 3"):
        env_of(env_option, num_tasks=3, lanes_per_task=2).set_tasks(tasks)
