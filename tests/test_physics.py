"""Batches of simulations: threads, divergence, starts, bodies that differ between lanes."""

import logging

import mujoco
import numpy as np
import pytest
import torch
from helpers import make_env, random_actions, same

from metarl.envs.mujoco_env import load_model
from metarl.envs.physics import BatchedPhysics, ObservedPhysics
from metarl.seeding import make_generator
from metarl.types import Tasks

BOTH = pytest.mark.parametrize("kind", [BatchedPhysics, ObservedPhysics])


def started(kind, lanes: int, threads: int = 1):
    physics = kind([load_model("half_cheetah.xml")], lanes, 5, threads)
    random = np.random.default_rng(0)
    physics.place(np.ones(lanes, bool), random.uniform(-0.1, 0.1, (lanes, 9)), random.normal(size=(lanes, 9)))
    return physics


@BOTH
@pytest.mark.parametrize("lanes", [1, 2, 7, 32])
def test_lanes_do_not_depend_on_the_number_of_threads(kind, lanes):
    one, two, random = started(kind, lanes, 1), started(kind, lanes, 2), np.random.default_rng(1)
    for _ in range(20):
        control = random.uniform(-1, 1, (lanes, 6))
        one.advance(control)
        two.advance(control)
        np.testing.assert_array_equal(one.state, two.state)


def test_both_kinds_agree_on_a_step():
    batched, observed = started(BatchedPhysics, 5), started(ObservedPhysics, 5)
    control = np.random.default_rng(1).uniform(-1, 1, (5, 6))
    batched.advance(control)
    observed.advance(control)
    np.testing.assert_allclose(batched.qpos, observed.qpos, rtol=0, atol=1e-12)
    np.testing.assert_allclose(batched.qvel, observed.qvel, rtol=0, atol=1e-9)


@BOTH
def test_a_diverging_lane_is_found_and_leaves_the_others_alone(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole, broken = started(kind, 4), started(kind, 4)
    broken.qvel[1], broken.qvel[3] = 1e8, np.nan
    for _ in range(3):
        whole.advance(np.zeros((4, 6)))
        broken.advance(np.zeros((4, 6)))
    assert broken.unstable().tolist() == [False, True, False, True] and not whole.unstable().any()
    np.testing.assert_array_equal(broken.state[[0, 2]], whole.state[[0, 2]])
    assert list(tmp_path.iterdir()) == []  # MuJoCo's own log


@pytest.mark.parametrize("option", ["cheetah_vel", "ant_dir"])
def test_a_diverging_simulation_ends_its_episode_and_starts_anew(option, caplog):
    env = make_env(f"env={option}", num_tasks=3)
    env.sample_tasks()
    env.reset()
    generator = make_generator(0)
    env.step(random_actions(env, generator))
    env.physics.qvel[1] = 1e9
    with caplog.at_level(logging.WARNING):
        step = env.step(random_actions(env, generator))
    assert step.terminated.tolist() == [False, True, False] and step.reward[1] == 0
    assert all(part.isfinite().all() for part in (step.observation, step.final_observation, step.reward))
    assert env.num_unstable == 1 and "1 simulations" in caplog.text
    for _ in range(3):
        assert not env.step(random_actions(env, generator)).terminated.any()


@pytest.mark.parametrize("option", ["cheetah_vel", "ant_dir", "walker_params", "reacher_2link"])
def test_a_trial_does_not_depend_on_the_number_of_threads(option):
    def played(threads: int) -> list:
        env, generator = make_env(f"env={option}", f"env.num_threads={threads}", num_tasks=6), make_generator(0)
        env.sample_tasks()
        return [env.reset(), *(env.step(random_actions(env, generator)).final_observation for _ in range(30))]

    assert same(played(1), played(2))


def test_episodes_start_at_rest_with_noise_and_every_start_is_another():
    env = make_env("env=cheetah_vel", "env.horizon=3", "env.num_episodes=2", num_tasks=2000)
    env.sample_tasks()
    env.reset()
    starts = [(env.physics.qpos.copy(), env.physics.qvel.copy())]
    for _ in range(3):
        env.step(torch.zeros(2000, 6))
    starts.append((env.physics.qpos.copy(), env.physics.qvel.copy()))
    assert not np.array_equal(starts[0][0], starts[1][0])
    for position, velocity in starts:
        assert abs(position).max() <= 0.1 and position.std() == pytest.approx(0.1 / 3**0.5, rel=0.02)
        assert velocity.std() == pytest.approx(0.1, rel=0.02)


def test_bodies_differ_as_their_tasks_say():
    env = make_env("env=walker_grid", num_tasks=2)
    env.set_tasks(Tasks({"mass": torch.tensor([0.75, 1.25]), "damping": torch.tensor([1.15, 1.0])}))
    nominal = load_model("walker2d_v5.xml")
    for lane, (mass, damping) in enumerate([(0.75, 1.15), (1.25, 1.0)]):
        model = env.physics.models[lane]
        np.testing.assert_allclose(model.body_mass, nominal.body_mass * np.float32(mass))
        np.testing.assert_allclose(model.dof_damping, nominal.dof_damping * np.float32(damping))
        np.testing.assert_array_equal(model.body_inertia, nominal.body_inertia)
        assert model.body_subtreemass[0] == pytest.approx(nominal.body_subtreemass[0] * mass)
    env.set_tasks(Tasks({"mass": torch.ones(2), "damping": torch.ones(2)}))
    np.testing.assert_allclose(env.physics.models[1].body_mass, nominal.body_mass)


def test_the_grid_of_dynamics_holds_out_its_cells():
    env = make_env("env=cheetah_grid", num_tasks=400)

    def cells(task_set):
        drawn = env.draw_tasks(400, task_set).parameters
        ratios = torch.tensor([0.75, 0.85, 1.0, 1.15, 1.25])
        row, column = (torch.searchsorted(ratios, drawn[name]) for name in ("mass", "damping"))
        return set((5 * row + column).tolist())

    assert cells("held_out") == {6, 8, 16, 18} and cells("train") == set(range(25)) - {6, 8, 16, 18}


def test_factors_of_random_dynamics_have_the_published_spread():
    env = make_env("env=walker_params", num_tasks=50)
    exponents = env.sample_tasks().parameters
    assert {name: value.shape[1] for name, value in exponents.items()} == {
        "mass": 8,
        "inertia": 24,
        "friction": 24,
        "damping": 9,
    }
    nominal = load_model("walker2d_v5.xml")
    masses = np.array([model.body_mass[1:] / nominal.body_mass[1:] for model in env.physics.models])
    dampings = np.array([model.dof_damping[3:] / nominal.dof_damping[3:] for model in env.physics.models])
    for factors, base in ((masses, 1.5), (dampings, 1.3)):
        power = np.log(factors) / np.log(base)
        assert abs(power).max() <= 3.0001 and power.std() == pytest.approx(3**0.5, rel=0.1)


def test_an_own_model_is_never_changed_for_others():
    shared = load_model("hopper.xml")
    env = make_env("env=hopper_params", num_tasks=3)
    env.sample_tasks()
    assert not np.array_equal(env.physics.models[0].body_mass, env.physics.models[1].body_mass)
    np.testing.assert_array_equal(env.model.body_mass, shared.body_mass)
    assert isinstance(env.model, mujoco.MjModel)
