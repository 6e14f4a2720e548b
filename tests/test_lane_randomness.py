"""Environments that draw from every generator there is: equal seeds give equal tasks and trials, and nothing leaks."""

import os
import random

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import global_randomness, random_actions, same

from metarl.envs.gymnasium_lanes import GymnasiumEnv
from metarl.envs.streams import PYTHON, PythonState, seeded_streams
from metarl.seeding import make_generator

SOURCES = ("python", "numpy", "torch", "own", "spaces", "gauss")


class Dice(gymnasium.Env):
    """Draws from one source wherever an environment can."""

    observation_space = spaces.Box(-np.inf, np.inf, (5,))
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, source):
        self.source = source
        self.made = self.draw() if source not in ("own", "spaces") else 0.0

    def draw(self):
        return {
            "python": random.random,
            "numpy": np.random.normal,
            "torch": lambda: torch.rand(1).item(),
            "own": lambda: self.np_random.random(),
            "spaces": lambda: float(self.action_space.sample()[0]),
            "globals": lambda: random.random() + np.random.normal() + torch.rand(1).item(),
            "gauss": lambda: random.gauss(0, 1),
        }[self.source]()

    def sample_tasks(self, num_tasks):
        return [self.np_random.random() if self.source == "spaces" else self.draw() for _ in range(num_tasks)]

    def set_task(self, task):
        self.task = (task, 0.0 if self.source == "spaces" else self.draw())

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.look(), {}

    def look(self):
        return np.array([self.made, *self.task, self.draw(), self.draw()])

    def step(self, action):
        return self.look(), self.draw(), False, False, {}


def dice(source, num_workers=0, num_tasks=3, seed=0, **given):
    return GymnasiumEnv(
        "test_lane_randomness:Dice",
        {"source": source},
        4,
        2,
        False,
        num_workers,
        num_tasks=num_tasks,
        seed=seed,
        **given,
    )


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


def trial(env) -> list:
    generator = make_generator(0)
    said = [env.sample_tasks().description, env.reset()]
    for _ in range(8):
        said += env.step(random_actions(env, generator))
    return said


@pytest.mark.parametrize("source", SOURCES)
def test_equal_seeds_give_equal_trials_whatever_was_drawn_before(source):
    env = dice(source)
    first = trial(env), trial(env)
    random.seed(), np.random.seed(), torch.seed()
    env = dice(source)
    assert same(first, (trial(env), trial(env)))
    assert not same(first[0], first[1]) and not same(first[0], trial(dice(source, seed=1)))


def test_equal_seeds_give_equal_trials_whatever_the_number_of_workers():
    assert same(trial(dice("globals")), trial(dice("globals", num_workers=2)))


@pytest.mark.parametrize("source", SOURCES)
def test_a_lane_draws_as_if_it_were_alone(source):
    alone, among = trial(dice(source, num_tasks=1)), trial(dice(source, num_tasks=3))
    for mine, theirs in zip(alone[1:], among[1:], strict=True):
        assert mine is None or same(
            mine[0, 2:] if mine.ndim > 1 else mine, theirs[0, 2:] if mine.ndim > 1 else theirs[:1]
        )


@pytest.mark.parametrize("source", SOURCES)
def test_lanes_of_one_task_agree_on_what_it_draws_and_on_nothing_else(source):
    env = dice(source, num_tasks=2, lanes_per_task=2)
    seen = trial(env)[1]
    assert torch.equal(seen[0, 1:3], seen[1, 1:3]) and not torch.equal(seen[0, 3:], seen[1, 3:])
    assert source == "spaces" or not torch.equal(seen[0, 2], seen[2, 2])


@pytest.mark.parametrize("source", SOURCES)
def test_a_resumed_environment_goes_on_as_the_first_would_have(source):
    env = dice(source)
    trial(env)
    state, expected = env.state_dict(), trial(env)
    resumed = dice(source)
    resumed.load_state_dict(state)
    assert same(expected, trial(resumed))


@pytest.mark.parametrize("source", SOURCES)
def test_the_programs_own_generators_are_left_alone(source):
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    random.gauss(0, 1), np.random.normal()  # of each another waits
    before = global_randomness()
    trial(dice(source))
    assert same(before, global_randomness())
    found = random.gauss(0, 1), np.random.normal(), np.random.normal()
    random.seed(5), np.random.seed(5)
    expected = [random.gauss(0, 1) for _ in range(2)][1], *(np.random.normal() for _ in range(3))
    assert found == (expected[0], expected[2], expected[3])


def test_a_waiting_normal_number_that_was_used_does_not_come_back():
    np.random.seed(1)
    expected = [np.random.normal() for _ in range(4)]
    np.random.seed(1)
    found = []
    for _ in range(4):
        found.append(np.random.normal())
        with seeded_streams(0):
            np.random.normal()
    assert found == expected


def test_a_failure_gives_the_programs_generators_back():
    before = global_randomness()
    with pytest.raises(KeyError), seeded_streams(1):
        random.random(), np.random.normal(), torch.rand(1)
        raise KeyError
    assert same(before, global_randomness())


@pytest.mark.parametrize("quick", [True, False])
def test_pythons_generator_is_copied_whole(quick, monkeypatch):
    if quick and not PythonState._quick:
        pytest.skip("another interpreter")
    monkeypatch.setattr(PythonState, "_quick", quick)
    outside = PythonState(PYTHON)
    held, expected = PythonState(PYTHON), [random.gauss(0, 1) for _ in range(701)]
    held.restore(PYTHON)
    assert [random.gauss(0, 1) for _ in range(701)] == expected
    outside.restore(PYTHON)
