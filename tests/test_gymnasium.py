"""Gymnasium both ways: our environments in its registry, anyone's behind our contract, workers that fail."""

import multiprocessing
import os
import re
import signal
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from helpers import make_env, random_actions, same

from metarl.configuration.compose import options
from metarl.envs.gymnasium_lanes import GymnasiumEnv
from metarl.envs.rendering import RenderError
from metarl.seeding import make_generator


class Drifting(gymnasium.Env):
    """A number drifts by the task and by noise; the episode ends beyond 3."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, fail_at: float = np.inf):
        self.fail_at = fail_at

    def sample_tasks(self, num_tasks):
        return [{"drift": drift} for drift in np.random.uniform(0, 1, num_tasks)]

    def set_task(self, task):
        self.drift = task["drift"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(0, 0.1, 1)
        return self.place.copy(), {}

    def step(self, action):
        self.place = self.place + 0.1 * action + self.drift + self.np_random.normal(0, 0.1, 1)
        if self.place[0] > self.fail_at:
            raise ArithmeticError("out of bounds")
        return self.place.copy(), -self.drift, bool(self.place[0] > 3), False, {"success": bool(self.place[0] > 2)}


class Smooth(gymnasium.Env):
    """Pays for the change of the action, which it keeps; its reset needs a task; it knows no success."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def sample_tasks(self, num_tasks):
        return list(self.np_random.uniform(1, 2, num_tasks))

    def set_task(self, task):
        self.scale = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.previous = np.full(1, -self.scale * 0)
        return np.zeros(1), {}

    def step(self, action):
        change = abs(action - self.previous).item()
        self.previous = action
        return np.zeros(1), change, False, False, {}


def drifting(num_workers: int = 0, num_tasks: int = 4, horizon: int = 8, **given):
    settings = {
        "make": "test_gymnasium:Drifting",
        "options": {},
        "num_episodes": 2,
        "ends_early": True,
        "seed": 0,
    } | given
    return GymnasiumEnv(num_workers=num_workers, num_tasks=num_tasks, horizon=horizon, **settings)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


def played(env, steps: int = 20) -> list:
    generator = make_generator(0)
    said = [env.sample_tasks().description, env.reset()]
    for _ in range(steps):
        said += env.step(random_actions(env, generator))
    return said


def test_anyones_environment_keeps_the_contract():
    env = drifting(num_tasks=50)
    env.sample_tasks()
    drift = env.tasks.parameters["drift"].float()
    assert env.task_dim == 1 and drift.min() >= 0 and drift.max() <= 1 and len(drift.unique()) == 50
    before, age = env.reset(), torch.zeros(50)
    for _ in range(30):
        step = env.step(torch.full((50, 1), 5.0))  # clipped to 1
        age += 1
        torch.testing.assert_close(step.reward, -drift)
        torch.testing.assert_close((step.final_observation - before).squeeze(1), 0.1 + drift, atol=0.6, rtol=0)
        assert torch.equal(step.terminated, step.final_observation.squeeze(1) > 3)
        assert torch.equal(step.success, step.final_observation.squeeze(1) > 2)
        assert torch.equal(step.truncated & ~step.terminated, (age == 8) & ~step.terminated)
        done = step.terminated | step.truncated
        assert (step.observation[done].abs() < 0.6).all()
        before, age = step.observation, age * ~done


def test_lanes_in_workers_are_those_of_this_process():
    assert same(played(drifting(0)), played(drifting(3)))


def test_an_environment_may_keep_the_actions_it_is_given():
    env = drifting(make="test_gymnasium:Smooth")
    env.sample_tasks()
    env.reset()
    steps = [env.step(torch.full((4, 1), sign * 0.5)) for sign in (1, -1, 1)]
    assert [step.reward[0].item() for step in steps] == [0.5, 1.0, 1.0]
    assert all(step.success is None for step in steps)


def test_a_worker_that_cannot_draw_goes_on():
    env = drifting(1)
    played(env, 3)
    with pytest.raises(RenderError, match=r"has no method render\(\)"):
        env.render()
    env.step(torch.zeros(4, 1))


def test_drawing_tasks_leaves_the_global_stream_alone():
    env = drifting()
    np.random.seed(3)
    expected = np.random.uniform(size=2)
    np.random.seed(3)
    first = np.random.uniform()
    env.sample_tasks()
    assert [first, np.random.uniform()] == expected.tolist()


def test_a_worker_that_fails_says_why():
    env = drifting(2, options={"fail_at": 1.5})
    with pytest.raises(RuntimeError, match=r"in a worker process(.|\n)*ArithmeticError: out of bounds"):
        played(env)


def test_a_worker_that_is_gone_is_noticed_and_asking_it_to_stop_does_nothing():
    before = set(multiprocessing.active_children())
    env = drifting(1)
    played(env, 3)
    (worker,) = set(multiprocessing.active_children()) - before
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        os.kill(worker.pid, name)
    env.step(torch.zeros(4, 1))
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="a worker process of the environments died"):
        env.step(torch.zeros(4, 1))


@pytest.mark.parametrize(
    ("make", "fragment"),
    [
        ("NoSuchEnv-v0", "env.make=NoSuchEnv-v0: .*give a Gymnasium id, or package.module:Class"),
        ("no_such.module:Class", "env.make=no_such.module:Class: No module named"),
        ("CartPole-v1", "env.make=CartPole-v1: CartPoleEnv has no method sample_tasks"),
    ],
)
def test_what_cannot_be_made_is_refused(make, fragment):
    with pytest.raises(ValueError, match=fragment):
        drifting(make=make)


# ---------------------------------------------------------------- our environments, registered


def test_every_environment_is_registered():
    import metarl.gymnasium_envs  # noqa: F401 (importing it registers them)

    assert {f"metarl/{option}-v0" for option in options("env")} <= set(gymnasium.registry)


UNBOUNDED = "A Box observation space (maximum|minimum) value is"  # as those of Gymnasium's own simulators are


def test_a_registered_environment_passes_gymnasiums_checker(env_option):
    keys = {"task": "reach"} if env_option == "ml1" else {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_env(gymnasium.make(f"metarl.gymnasium_envs:metarl/{env_option}-v0", **keys).unwrapped)
    assert not [str(each.message) for each in said if not re.search(UNBOUNDED, str(each.message))]


@pytest.mark.parametrize("option", ["bandit", "tabular_mdp", "planning_game", "grid"])
def test_observations_of_a_registered_environment_are_no_object_of_others(option):
    env = gymnasium.make(f"metarl.gymnasium_envs:metarl/{option}-v0").unwrapped
    first, second = env.reset(seed=0)[0], env.step(0)[0]
    discrete = isinstance(env.observation_space, gymnasium.spaces.Discrete)
    assert type(first) is np.int64 if discrete else not np.shares_memory(first, second)


def test_tasks_of_a_registered_environment_depend_on_its_seed_alone():
    def tasks(seed):
        env = gymnasium.make("metarl.gymnasium_envs:metarl/bandit-v0").unwrapped
        env.reset(seed=seed)
        return [task["mean"].tolist() for task in env.sample_tasks(2)]

    assert tasks(3) == tasks(3) != tasks(4)


@pytest.mark.parametrize("option", ["bandit", "tabular_mdp", "cheetah_vel", "ant_dir", "point_goal", "wheeled"])
def test_a_registered_environment_is_one_lane_of_ours(option):
    env = gymnasium.make(f"metarl.gymnasium_envs:metarl/{option}-v0").unwrapped
    task = env.sample_tasks(3)[1]
    env.set_task(task)
    ours, generator = make_env(f"env={option}", num_tasks=1, seed=5), make_generator(0)
    ours.sample_tasks()
    ours.set_tasks(env._env.tasks)
    observation, _ = env.reset(seed=5)
    np.testing.assert_array_equal(observation, ours.reset()[0])
    for _ in range(10):
        action = random_actions(ours, generator)
        observation, reward, terminated, truncated, _ = env.step(action[0].numpy())
        step = ours.step(action)
        np.testing.assert_array_equal(observation, step.final_observation[0])
        assert reward == step.reward.item()
        assert (terminated, truncated) == (step.terminated.item(), step.truncated.item())
    assert {name: value.tolist() for name, value in task.items()} == {
        name: value[0].tolist() for name, value in env._env.tasks.parameters.items()
    }


def test_nulls_are_keys_like_others():
    env = gymnasium.make("metarl.gymnasium_envs:metarl/wheeled-v0", num_goals=None).unwrapped
    assert len({task["goal"].tobytes() for task in env.sample_tasks(300)}) == 300


def test_keys_of_a_registered_environment_are_those_of_its_yaml():
    env = gymnasium.make("metarl.gymnasium_envs:metarl/cheetah_vel-v0", max_velocity=0.5, horizon=3).unwrapped
    assert max(task["velocity"] for task in env.sample_tasks(100)) < 0.5
    env.reset(seed=0)
    assert [env.step(np.zeros(6, np.float32))[3] for _ in range(3)] == [False, False, True]
