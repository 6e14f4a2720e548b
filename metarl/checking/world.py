"""Environment under test: a factory of fresh instances, and one recorded play."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import gymnasium
import torch
from torch import Tensor

from metarl.checking.comparing import random_actions
from metarl.envs.base import MetaEnv
from metarl.envs.gymnasium_lanes import VectorizedGymEnv
from metarl.seeding import make_generator
from metarl.types import Step, Tasks

MOST_SIMULATIONS = 4  # in parallel, where each lane is an object of its own
MOST_STEPS = 1000  # of a recorded play, beyond the first episode


class Play(NamedTuple):
    """Random actions in all lanes, from new tasks on."""

    env: MetaEnv
    tasks: Tasks
    first: Tensor  # observation
    steps: list[Step]


class World:
    """An environment to check.

    Args:
        make: makes it, given ``num_tasks``, ``seed`` and other arguments of ``MetaEnv``.
        raw: makes what a lane is, where lanes are objects of a Gymnasium class.
        with_workers: makes it with worker processes, where it is configured to have some.
    """

    def __init__(
        self,
        make: Callable[..., MetaEnv],
        raw: Callable[[], gymnasium.Env] | None = None,
        with_workers: Callable[..., MetaEnv] | None = None,
    ):
        self._make, self.raw, self.with_workers = make, raw, with_workers

    def env(self, num_tasks: int = 4, lanes_per_task: int = 1, seed: int = 0) -> MetaEnv:
        """A new one."""
        return self._make(num_tasks=num_tasks, lanes_per_task=lanes_per_task, seed=seed)

    @cached_property
    def sample(self) -> MetaEnv:
        """One to ask, not to play."""
        return self.env()

    def many(self, most: int) -> int:
        """Number of tasks that can be played in parallel at little cost, up to ``most``."""
        if isinstance(self.sample, VectorizedGymEnv):
            most = min(most, MOST_SIMULATIONS)
        return min(most, self.sample.max_num_tasks("train") or most)

    def draw(self, count: int, task_set: str = "train", seed: int = 0) -> Tasks:
        """Tasks of a set, without playing them."""
        env = self.env(num_tasks=1, seed=seed)
        return env.draw_tasks(min(count, env.max_num_tasks(task_set) or count), task_set)

    @cached_property
    def play(self) -> Play:
        """Two lanes on each of four tasks, for three episodes of full length where these are not very long."""
        env = self.env(lanes_per_task=2)
        tasks, first, generator = env.sample_tasks(), env.reset(), make_generator(0)
        count = env.horizon + min(2 * env.horizon, MOST_STEPS) + 1
        return Play(env, tasks, first, [env.step(random_actions(env, generator)) for _ in range(count)])


def stream(env: MetaEnv, steps: int, tasks: Tasks | None = None, seed: int = 3) -> list:
    """All outputs of the environment over some steps of random actions, on new tasks or the given ones."""
    generator = make_generator(seed)
    given = env.sample_tasks() if tasks is None else env.set_tasks(tasks)
    said: list[Any] = [given.description, env.reset()]
    for _ in range(steps):
        said += [part for part in env.step(random_actions(env, generator)) if part is not None]
    return said


def stack(steps: list[Step], name: str) -> Tensor:
    """One field of all steps, ``[T, B, ...]``."""
    return torch.stack([getattr(step, name) for step in steps])
