"""``metarl check`` of a Gymnasium class: one that is broken in one way fails the one check that is about it."""

import multiprocessing
from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from metarl.checking.environments import ENVIRONMENT_CHECKS
from metarl.checking.outcomes import failed, run
from metarl.checking.world import World
from metarl.envs.gymnasium_lanes import GymnasiumEnv

HORIZON = 4


class Walk(gymnasium.Env):
    """Walk along a line to a hidden place, pushed by noise; keeps every promise."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def sample_tasks(self, num_tasks):
        return list(self.np_random.uniform(-1, 1, num_tasks))

    def set_task(self, task):
        self.goal = float(task)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.noise, self.place = self.np_random, self.np_random.normal(0, 0.1, 1)
        return self.seen(), {}

    def step(self, action):
        self.place = self.place + 0.1 * action + self.noise.normal(0, 0.1, 1)
        return self.seen(), -abs(float(self.place[0]) - self.goal), False, False, {}

    def seen(self):
        return self.place.astype(np.float32)


class ArrayReward(Walk):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.array([reward]), *rest


class Precise(Walk):
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def seen(self):
        return 2.0**24 + 1 + 2 * np.round(1000 * self.place)  # odd, of which single precision has none


class MixedTasks(Walk):
    def sample_tasks(self, num_tasks):
        first, *others = self.np_random.uniform(1, 10**6, num_tasks)
        return [int(first), *others]

    def set_task(self, task):
        self.goal = float(task) / 10**6


class Unseeded(Walk):
    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.noise = np.random.default_rng(seed)
        self.place = self.noise.normal(0, 0.1, 1)
        return self.seen(), {}


class Elsewhere(Walk):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward + (multiprocessing.parent_process() is not None), *rest


BROKEN_CLASSES = {
    ArrayReward: "the class answers as Gymnasium asks",
    Precise: "observations agree with the declared space",
    MixedTasks: "tasks survive the way through tensors",
    Unseeded: "Gymnasium's own checker passes",
    Elsewhere: "worker processes change nothing",
}


def wrong_in(kind: type) -> list[str]:
    """Names of the checks that fail; worker processes are started where the class is broken in them."""
    make = partial(GymnasiumEnv, f"test_checking_classes:{kind.__name__}", {}, HORIZON, 2, False)
    workers = partial(make, 2) if kind is Elsewhere else None
    return failed(run("env", ENVIRONMENT_CHECKS, World(partial(make, 0), kind, workers)))


def test_a_sound_class_passes():
    assert wrong_in(Walk) == []


@pytest.mark.parametrize("broken", BROKEN_CLASSES, ids=lambda kind: kind.__name__)
def test_a_broken_class_fails_the_check_it_breaks(broken):
    assert wrong_in(broken) == [BROKEN_CLASSES[broken]]
