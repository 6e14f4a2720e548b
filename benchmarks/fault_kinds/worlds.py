"""Gymnasium environments for fault injection: a walk, and a walk with poisoned returns."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Walk(gymnasium.Env):
    """A walk along a line to a hidden end, where the episode ends."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Discrete(3)

    def sample_tasks(self, num_tasks: int) -> list[float]:
        return list(self.np_random.uniform(-1, 1, num_tasks))

    def set_task(self, task: float) -> None:
        self.goal = float(task)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place = self.np_random.normal(0, 0.1, 1)
        return self.place.copy(), {}

    def step(self, action: int) -> tuple[np.ndarray, Any, bool, bool, dict]:
        self.place = self.place + 0.2 * (int(action) - 1)
        distance = abs(float(self.place[0]) - self.goal)
        return self.place.copy(), -distance, distance < 0.1, False, {}


POISONS = {"undefined": float("nan"), "infinite": float("inf"), "none": None, "huge": 1e30}


class Poisoned(Walk):
    """A walk with poisoned rewards or observations after some step.

    Args:
        what: poisoned quantity, ``reward`` or ``observation``.
        poison: poison, a key of ``POISONS``.
        after: number of sound steps before.
    """

    def __init__(self, what: str, poison: str, after: int):
        self.what, self.poison, self.left = what, POISONS[poison], after

    def step(self, action: int) -> tuple[np.ndarray, Any, bool, bool, dict]:
        observation, reward, *rest = super().step(action)
        self.left -= 1
        if self.left < 0 and self.what == "reward":
            reward = self.poison
        if self.left < 0 and self.what == "observation":
            observation = np.array([self.poison], dtype=float)
        return observation, reward, *rest
