"""Environments named after papers against numbers of their public code, worked out by hand."""

import math

import numpy as np
import pytest
import torch
from helpers import config_of, make_env

from metarl.envs.mujoco_env import load_model
from metarl.types import Tasks

# ---------------------------------------------------------------- bodies that differ (rand_param_envs)


@pytest.mark.parametrize("option", ["hopper_params", "walker_params"])
def test_random_bodies_are_simulated_at_the_published_step(option):
    env = make_env(f"env={option}")
    assert env.model.opt.timestep == 0.004 and env.physics.control_interval == pytest.approx(0.016)
    assert all(model.opt.timestep == 0.004 for model in env.physics.models)
    own = make_env(f"env={option}", "env.timestep=null")
    assert own.model.opt.timestep == 0.002 and own.physics.control_interval == pytest.approx(0.008)


@pytest.mark.parametrize("option", ["walker_params", "walker_grid"])
def test_feet_of_the_walker_have_the_published_frictions(option):
    def feet(*overrides):
        model = make_env(f"env={option}", *overrides).model
        return [model.geom(name).friction[0] for name in ("foot_geom", "foot_left_geom")]

    assert feet() == [0.9, 1.9] and feet("env.body=walker2d_v5") == [1.9, 1.9]


@pytest.mark.parametrize("option", ["hopper_params", "walker_params", "walker_grid"])
def test_derived_constants_follow_the_task_unless_asked_for_as_published(option):
    def derived(*overrides):
        env = make_env(f"env={option}", *overrides, num_tasks=3)
        env.sample_tasks()
        return env.model, env.physics.models

    nominal, models = derived()
    for model in models:
        assert model.body_subtreemass[0] == pytest.approx(model.body_mass.sum(), rel=1e-6)
        assert not np.allclose(model.dof_invweight0, nominal.dof_invweight0)
    nominal, models = derived("env.constants=nominal")
    for model in models:
        assert not np.allclose(model.body_mass, nominal.body_mass)
        np.testing.assert_array_equal(model.dof_invweight0, nominal.dof_invweight0)
        np.testing.assert_array_equal(model.body_subtreemass, nominal.body_subtreemass)


# ---------------------------------------------------------------- the bonus for survival

FALLEN = {"ant_dir": (2, 1.5, 1.0), "ant_vel": (2, 1.5, 0.05), "humanoid_dir": (2, 0.7, 5.0)} | {
    f"{body}_{kind}": (1, -0.8 if body == "hopper" else 0.4, 1.0)
    for body in ("hopper", "walker")
    for kind in ("grid", "params")
}


@pytest.mark.parametrize("option", FALLEN)
def test_the_step_that_falls_is_paid_the_bonus_as_published_and_not_with_gymnasiums(option):
    place, height, bonus = FALLEN[option]

    def fallen(*overrides):
        env = make_env(f"env={option}", *overrides, num_tasks=2)
        env.sample_tasks()
        env.reset()
        env.physics.qpos[:, place] = height
        return env.step(torch.zeros(2, *env.action_space.shape))

    published, gymnasiums = fallen(), fallen("env.bonus_when_unhealthy=false")
    assert published.terminated.all() and gymnasiums.terminated.all()
    torch.testing.assert_close(published.reward - gymnasiums.reward, torch.full((2,), bonus), rtol=0, atol=1e-3)


@pytest.mark.parametrize("option", [option for option in FALLEN if option != "ant_vel"])
def test_standing_still_is_paid_the_bonus_alone(option):
    """No velocity, no action, no contact."""
    env = make_env(f"env={option}", num_tasks=1)
    env.sample_tasks()
    env.reset()
    np.copyto(env.before, env.physics.state)
    for name in env.observed_before:
        env.physics.observed[name][:] = env.observed_before[name]
        if name == "cfrc_ext":
            env.physics.observed[name][:] = 0
    assert env.reward(np.zeros((1, env.model.nu))) == pytest.approx([FALLEN[option][2]])


# ---------------------------------------------------------------- cheetahs and ants


def test_heights_to_hop_to_are_above_the_ground():
    """At rest the torso is 0.7 m high: 1.3 below the highest goal, 0.4 above the lowest."""
    env = make_env("env=cheetah_hop", num_tasks=2000)
    heights = env.sample_tasks().parameters["height"]
    assert 0.3 <= heights.min() < 0.31 and 1.99 < heights.max() <= 2
    env = make_env("env=cheetah_hop", num_tasks=3)
    env.set_tasks(Tasks({"height": torch.tensor([2.0, 0.3, 0.7])}))
    env.physics.qpos[:] = 0
    assert env.reward(np.zeros((3, 6))) == pytest.approx([-13, -4, 0], abs=1e-5)
    assert env.reward(np.ones((3, 6))) == pytest.approx([-16, -7, -3], abs=1e-5)
    assert load_model("half_cheetah.xml").body("torso").pos[2] == 0.7


def test_hop_or_walk_without_parameters_hops_to_two_metres():
    tasks = make_env("env=cheetah_hop_walk", "env.parametric=false", num_tasks=200).sample_tasks().parameters
    hop = tasks["hop"] > 0
    assert set(tasks["height"][hop].tolist()) == {2.0} and set(tasks["direction"][~hop].tolist()) == {1.0}


def ant_at_rest(option: str, goals, *overrides):
    """The torso at the origin, and contact forces of which three components count 1."""
    env = make_env(f"env={option}", *overrides, num_tasks=len(goals))
    env.set_tasks(Tasks({"goal": torch.tensor(goals)}))
    env.reset()
    env.physics.observed["xpos"][:, 1, :2] = 0
    env.physics.observed["cfrc_ext"][:] = 0
    env.physics.observed["cfrc_ext"][:, 3, :3] = [1.0, -7.0, 2.0]
    return env


def test_sparse_goals_of_the_ant_count_the_straight_distance_and_contacts():
    env = ant_at_rest("ant_goal_sparse", [[0.3, 0.4], [3.0, 0.0], [0.0, -0.6]])
    contacts = 3 * 5e-4
    expected = np.array([-0.5, -0.75, -0.6]) - contacts
    assert env.reward(np.zeros((3, 8))) == pytest.approx(expected)
    assert env.reward(np.full((3, 8), 0.5)) == pytest.approx(expected - 0.01 * 2)
    assert env.succeeded().tolist() == [True, False, True]


def test_dense_goals_of_the_ant_count_the_distance_along_both_axes():
    env = ant_at_rest("ant_goal", [[0.3, 0.4], [3.0, 0.0]])
    assert env.reward(np.full((2, 8), 0.5)) == pytest.approx(np.array([-0.7, -3.0]) - 0.1 * 2 - 3 * 5e-4)
    assert env.succeeded() is None


# ---------------------------------------------------------------- worlds in tensors


@pytest.mark.parametrize(
    ("variant", "walk", "expected"),
    [
        # right twice, up twice, stay; the first of these cells is next to the start and cannot be the goal
        ((), [2, 2, 1, 1, 0], [-0.1, 0.1, 0.1, 0.1, -0.1]),
        (("env.dense=true",), [2, 2, 1, 1, 0], [-7 / 5, 0.1, 0.1, 0.1, -4 / 5]),
    ],
)
def test_a_discovery_is_paid_in_place_of_the_step(variant, walk, expected):
    env = make_env("env=grid", "env.discovery_bonus=0.1", *variant, num_tasks=1)
    env.set_tasks(Tasks({"goal": torch.tensor([[1.0, 1.0]])}))  # the far corner, 8 steps away
    env.reset()
    rewards = [env.step(torch.tensor([action])).reward.item() for action in walk]
    assert rewards == pytest.approx(expected, abs=1e-6)


def test_a_hall_pays_a_new_room_and_has_none_at_its_start():
    env = make_env("env=hall", "env.num_doors=3", "env.discovery_bonus=0.1", "env.show_unchecked=true", num_tasks=1)
    env.set_tasks(Tasks({"goal": torch.tensor([[1.0, 1.0]])}))  # the last of the rooms at x = 1, 2, 3
    assert env.reset()[0].tolist() == [-1, -1, 0] and env.candidates.tolist() == [5, 6, 7]
    walk = [1, 2, 1, 3, 1, 3, 2, 2, 1, 0]  # a wall, the first room twice, the third room
    rewards = [round(env.step(torch.tensor([action])).reward.item(), 6) for action in walk]
    assert rewards == [-0.1, -0.1, 0.1, -0.1, -0.1, -0.1, -0.1, -0.1, 1, 1]


def test_the_sparse_point_moves_a_tenth_and_earns_one_minus_the_distance():
    env = make_env("env=sparse_point", num_tasks=1)
    env.set_tasks(Tasks({"goal": torch.tensor([[0.0, 1.0]])}))
    env.reset()
    rewards = [env.step(torch.tensor([[0.0, 1.0]])).reward.item() for _ in range(12)]
    del rewards[7], rewards[10]  # at the radius itself, give or take rounding
    assert rewards == pytest.approx([0.0] * 7 + [0.9, 1.0, 0.9], abs=1e-5)


def test_the_semicircle_turns_by_tenths_of_a_circle_within_walls():
    env = make_env("env=semicircle", num_tasks=2)
    env.set_tasks(Tasks({"goal": torch.tensor([[-0.2, 0.0], [0.0, 0.2]])}))
    env.reset()
    env.state = torch.zeros(2, 3)
    turned = env.step(torch.tensor([[0.0, 1.0], [0.0, -0.5]])).observation[:, 2]
    assert turned.tolist() == pytest.approx([2 * math.pi / 10, -math.pi / 10], abs=1e-5)
    env.state = torch.tensor([[0.15, 0.1, 0.0], [0.0, -0.15, -math.pi / 2]])
    moved = env.step(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).observation[:, :2]
    assert moved[0].tolist() == pytest.approx([0.2, 0.0], abs=1e-3)  # slides down the wall to its right end
    assert moved[1].tolist() == pytest.approx([0.0, -0.2], abs=1e-6)


# ---------------------------------------------------------------- sizes of the papers

RADII = {"min_radius": 0.2, "train_radius": 1.1, "ood_radius": 1.5}
PUBLISHED = {
    "cheetah_vel": {"min_velocity": 0, "max_velocity": 3, "control_cost": 0.05, "horizon": 200, "num_episodes": 2},
    "cheetah_dir": {"control_cost": 0.05, "horizon": 200},
    "cheetah_dir_sparse": {"sparse_distance": 10, "horizon": 400, "num_episodes": 1},
    "cheetah_hop": {"min_height": 0.3, "max_height": 2, "num_episodes": 1},
    "cheetah_hop_walk": {"min_height": 0.3, "max_height": 2, "num_episodes": 1},
    "ant_dir": {"control_cost": 0.5, "contact_cost": 5e-4, "horizon": 200},
    "ant_vel": {"control_cost": 0.005, "contact_cost": 5e-4, "max_velocity": 3},
    "ant_goal": {"control_cost": 0.1, "contact_cost": 5e-4, "radius": 3, "norm": "l1", "num_episodes": 2},
    "ant_goal_sparse": {"control_cost": 0.01, "contact_cost": 5e-4, "radius": 3, "norm": "l2", "sparse_distance": 0.75},
    "humanoid_dir": {"control_cost": 0.1, "directions": "any"},
    "walker_params": {"spread": 3, "timestep": 0.004, "body": "walker2d", "num_episodes": 2},
    "hopper_params": {"spread": 3, "timestep": 0.004},
    "point_navigation": {"half_width": 0.5, "max_step": 0.1, "arrival": 0.01, "horizon": 100},
    "sparse_point": {"goal_radius": 0.2, "max_step": 0.1, "horizon": 100, "num_episodes": 5},
    "semicircle": {"circle_radius": 0.2, "goal_radius": 0.04, "max_speed": 0.1, "horizon": 10, "walls": True},
    "point_goal": {
        "min_radius": 0.2,
        "train_radius": 0.7,
        "ood_radius": 1.0,
        "max_step": 0.05,
        "min_goal_distance": 0.01,
    },
    "wheeled": {
        "min_radius": 0.2,
        "train_radius": 1.1,
        "ood_radius": 1.5,
        "control_cost": 1e-3,
        "min_goal_distance": 0.1,
    },
    "reacher_4link": {"min_goal_distance": 0.11, "num_goals": 100},
    "grid": {"size": 5, "horizon": 15, "num_episodes": 4},
    "hall": {"num_doors": 15, "horizon": 20, "num_episodes": 4, "room_at_start": False},
    "tmaze": {"length": 100, "num_episodes": 4},
    "tmaze_copying": {"length": 100, "horizon": 150, "num_episodes": 4},
    "planning_game": {"size": 3, "horizon": 100, "num_episodes": 1},
    "rooms": {"num_rooms": 16, "horizon": 200, "num_episodes": 2},
    "tabular_mdp": {"num_states": 10, "num_actions": 5, "horizon": 10},
}


@pytest.mark.parametrize("option", PUBLISHED)
def test_defaults_are_the_published_sizes(option):
    found = config_of(f"env={option}")["env"]
    assert {key: found[key] for key in PUBLISHED[option]} == pytest.approx(PUBLISHED[option])
