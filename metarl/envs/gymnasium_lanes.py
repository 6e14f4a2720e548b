"""Anyone's Gymnasium environment with tasks, behind the contract of metarl."""

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from metarl.envs.base import MetaEnv, Step, Tasks
from metarl.envs.lanes import LocalLanes, Make, WorkerLanes, limited, local_room
from metarl.trust import GymName

MOST_SEED = 2**31


class LaneEnv(MetaEnv):
    """Lanes that are Gymnasium environments, in this process or shared out among workers.

    A subclass opens them (``open``), and says what tasks they know (``as_given``).

    Args:
        lanes: see ``MetaEnv``.
    """

    lanes: LocalLanes | WorkerLanes

    def as_given(self, tasks: Tasks) -> list:
        """What ``set_task`` of each lane is called with."""
        raise NotImplementedError

    def open(self, makes: list[Make], observation: spaces.Space, action: spaces.Space, num_workers: int) -> None:
        """Make all lanes, one by each of ``makes``; they have these spaces. ``num_workers=0`` has them in here."""
        self.observation_space, self.action_space = _single_precision(observation), _single_precision(action)
        count, seen = (self.num_lanes,), observation.shape or ()
        kind = "int64" if isinstance(observation, spaces.Discrete) else "float64"
        done = "int64" if isinstance(action, spaces.Discrete) else "float32"
        shapes = [((*count, *(action.shape or ())), done), ((*count, *seen), kind), ((*count, *seen), kind)]
        shapes += [(count, "float64"), (count, "bool"), (count, "bool"), (count, "int8")]
        makes = [partial(limited, make, self.horizon) for make in makes]
        if num_workers:
            self.lanes = WorkerLanes(makes, shapes, min(num_workers, self.num_lanes))
        else:
            self.lanes = LocalLanes(makes, local_room(shapes))

    def set_tasks(self, tasks):
        tasks = super().set_tasks(tasks)
        self.lanes.set_tasks(self.as_given(tasks))
        return tasks

    def reset(self) -> Tensor:
        self.lanes.reset(_seeds(self.num_lanes, self.generator))
        return self._observed(self.lanes.room.observation)

    def step(self, action: Tensor) -> Step:
        room = self.lanes.room
        room.action[:] = self._acted(action.detach().cpu().numpy())
        self.lanes.step()
        terminated, truncated = torch.from_numpy(room.terminated.copy()), torch.from_numpy(room.truncated.copy())
        return Step(
            self._observed(room.observation),
            torch.from_numpy(room.reward.astype(np.float32)).to(self.device),
            terminated.to(self.device),
            truncated.to(self.device),
            self._succeeded(room.success),
            self._observed(room.final_observation),
        )

    def picture(self, lane: int = 0) -> np.ndarray:
        drawn = self.lanes.call(lane, "render")
        if drawn is None:
            raise NotImplementedError(
                "an environment of Gymnasium draws pictures with env.options.render_mode=rgb_array"
            )
        return drawn

    def _succeeded(self, success: np.ndarray) -> Tensor | None:
        """None where no lane says anything of success."""
        return None if (success < 0).all() else torch.from_numpy(success > 0).to(self.device)

    def _acted(self, action: np.ndarray) -> np.ndarray:
        space = self.action_space
        return action.clip(space.low, space.high) if isinstance(space, spaces.Box) else action

    def _observed(self, values: np.ndarray) -> Tensor:
        kind = np.int64 if isinstance(self.observation_space, spaces.Discrete) else np.float32
        return torch.from_numpy(values.astype(kind)).to(self.device)


class GymnasiumEnv(LaneEnv):
    """Lanes of one environment class, in this process or shared out among workers.

    The class has two methods beside Gymnasium's: ``sample_tasks(num_tasks)``, a list of tasks, and ``set_task(task)``,
    which counts from the next reset on. A task is a number, an array, or a dictionary of them. Its own randomness comes
    from ``self.np_random``: every trial seeds it anew, so that a trial does not depend on those before it. One that has
    few tasks may list them all, each as likely as any other, in a method ``every_task()``: evaluations then play every
    task equally often.

    Args:
        make: a Gymnasium id, or ``package.module:Class``.
        options: arguments of either.
        horizon: most steps of an episode.
        num_episodes: of a trial.
        ends_early: an episode can end before the horizon.
        num_workers: processes; 0 steps all lanes in this one.
        lanes: see ``MetaEnv``.

    Raises:
        ValueError: there is no such environment, or it lacks a method.
    """

    def __init__(
        self,
        make: GymName,
        options: dict[str, Any],
        horizon: PositiveInt,
        num_episodes: PositiveInt,
        ends_early: bool,
        num_workers: NonNegativeInt,
        **lanes,
    ):
        super().__init__(horizon=horizon, num_episodes=num_episodes, **lanes)
        self.fixed_length = not ends_early
        self._template = partial(make_environment, make, options)()
        for name in ("sample_tasks", "set_task"):
            if not hasattr(self._template.unwrapped, name):
                raise ValueError(f"env.make={make}: {type(self._template.unwrapped).__name__} has no method {name}")
        makes: list[Make] = [partial(make_environment, make, options)] * self.num_lanes
        self.open(makes, self._template.observation_space, self._template.action_space, num_workers)
        self.task_dim = _as_tasks(self._draw(1)).description.shape[1]

    def draw_tasks(self, num_tasks, task_set):
        return _as_tasks(self._draw(num_tasks))

    def every_task(self, task_set):
        listed = getattr(self._template.unwrapped, "every_task", None)
        return None if listed is None else _as_tasks(listed())

    def as_given(self, tasks):
        return _as_given(tasks)

    def _draw(self, num_tasks: int) -> list:
        """By the environment's own hook, from the generator of tasks."""
        before = np.random.get_state()  # some hooks draw from the global stream
        inner: Any = self._template.unwrapped
        try:
            seed = _seeds(1, self.task_generator)[0]
            np.random.seed(seed)
            inner.np_random = np.random.default_rng(seed)  # without a reset, which may need a task
            return inner.sample_tasks(num_tasks)
        finally:
            np.random.set_state(before)


def make_environment(make: str, options: Mapping[str, Any]) -> gymnasium.Env:
    """By its Gymnasium id, or its place ``package.module:Class``.

    Raises:
        ValueError: there is none.
    """
    module, _, name = make.partition(":")
    try:
        return getattr(importlib.import_module(module), name)(**options) if name else gymnasium.make(make, **options)
    except (ImportError, AttributeError, gymnasium.error.Error) as error:
        raise ValueError(f"env.make={make}: {error}; give a Gymnasium id, or package.module:Class") from error


def _seeds(count: int, generator: torch.Generator) -> list[int]:
    drawn: list[int] = torch.randint(MOST_SEED, (count,), generator=generator, device=generator.device).tolist()
    return drawn


def _single_precision(space: spaces.Space) -> spaces.Space:
    """The same space with what torch computes in."""
    if isinstance(space, spaces.Box):
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32))
    return space


def _as_tasks(given: list) -> Tasks:
    """Tasks of an environment as tensors."""
    rows = [task if isinstance(task, Mapping) else {"task": task} for task in given]
    return Tasks({name: torch.as_tensor(np.array([row[name] for row in rows])) for name in rows[0]})


def _as_given(tasks: Tasks) -> list:
    """Tensors as the tasks an environment knows."""
    columns = {name: value.cpu().numpy() for name, value in tasks.parameters.items()}
    rows = [{name: column[lane] for name, column in columns.items()} for lane in range(len(tasks))]
    return [row["task"] for row in rows] if list(columns) == ["task"] else rows
