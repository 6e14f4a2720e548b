"""Anyone's Gymnasium environment with tasks, behind the contract of metarl."""

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from metarl.envs.actions import Actions
from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import Renderable
from metarl.envs.gymnasium_contract import (
    check_methods,
    check_time_limit,
    checked_actions,
    flat_space,
    name_of,
    try_out,
)
from metarl.envs.gymnasium_tasks import TaskForm, as_tasks
from metarl.envs.rendering import RenderError
from metarl.envs.streams import seeded_streams
from metarl.envs.vector import AsyncVector, Make, SyncVector, limited, local_buffers
from metarl.errors import ContractError
from metarl.trust import GymName
from metarl.types import Step, Tasks

MAX_SEED = 2**31


class VectorizedGymEnv(MetaEnv, Renderable):
    """Lanes that are Gymnasium environments, in this process or shared out among workers.

    A subclass opens them (``open``) and converts tasks to their own form (``to_native_tasks``).

    Args:
        lanes: see ``MetaEnv``.
    """

    lanes: SyncVector | AsyncVector
    name = "the environment"  # of its class, for messages

    def to_native_tasks(self, tasks: Tasks) -> list:
        """Arguments of ``set_task``, one per lane."""
        raise NotImplementedError

    def open(
        self, makes: list[Make], observation: spaces.Box | spaces.Discrete, actions: Actions, num_workers: int
    ) -> None:
        """Make all lanes, one by each of ``makes``.

        Args:
            makes: of the environments.
            observation: space of what they show.
            actions: from what agents choose to what they execute.
            num_workers: processes; 0 has them in this one.
        """
        self.actions, self.action_space = actions, actions.space
        self.observation_space = _single_precision(observation)
        kind = "int64" if isinstance(observation, spaces.Discrete) else "float64"
        count, seen = (self.num_lanes,), ((self.num_lanes, *(observation.shape or ())), kind)
        executed = actions.native(np.zeros((*count, *(actions.space.shape or ())), int))
        shapes = [(executed.shape, executed.dtype.str), seen, seen]
        shapes += [(count, "float64"), (count, "bool"), (count, "bool"), (count, "int8")]
        makes = [partial(limited, make, self.horizon) for make in makes]
        seeds = self._further_seeds("lanes", self.num_lanes)
        if num_workers:
            self.lanes = AsyncVector(makes, shapes, seeds, min(num_workers, self.num_lanes))
        else:
            self.lanes = SyncVector(makes, local_buffers(shapes), seeds)
        self._elapsed = 0

    def set_tasks(self, tasks):
        tasks = super().set_tasks(tasks)
        of_tasks = self._further_seeds("tasks", self.num_tasks)  # lanes of a task agree on what it draws at random
        self.lanes.set_tasks(
            self.to_native_tasks(tasks), [seed for seed in of_tasks for _ in range(self.lanes_per_task)]
        )
        return tasks

    def _further_seeds(self, purpose: str, count: int) -> list[int]:
        """Seeds that depend on what the generator would draw next, and leave it where it is."""
        ahead = torch.Generator(self.generator.device)
        ahead.set_state(self.generator.get_state())
        words = np.random.SeedSequence([_seeds(1, ahead)[0], *purpose.encode()]).generate_state(count)
        return [int(word) % MAX_SEED for word in words]

    def reset(self) -> Tensor:
        self.lanes.reset(_seeds(self.num_lanes, self.generator))
        self._elapsed = 0
        return self._observed(self.lanes.buffers.observation)

    def step(self, action: Tensor) -> Step:
        buffers = self.lanes.buffers
        buffers.action[:] = self.actions.native(action.detach().cpu().numpy())
        self.lanes.step()
        self._elapsed += 1
        if self.fixed_length and self._elapsed % self.horizon and (buffers.terminated | buffers.truncated).any():
            raise ContractError(
                f"{self.name} ended an episode after {self._elapsed % self.horizon} steps, and env.ends_early=false "
                f"says that all last env.horizon={self.horizon}; use env.ends_early=true"
            )
        return Step(
            self._observed(buffers.observation),
            torch.from_numpy(buffers.reward.astype(np.float32)).to(self.device),
            torch.from_numpy(buffers.terminated.copy()).to(self.device),
            torch.from_numpy(buffers.truncated.copy()).to(self.device),
            self._succeeded(buffers.success),
            self._observed(buffers.final_observation),
        )

    def render(self, lane: int = 0) -> np.ndarray:
        try:
            frame = self.lanes.call(lane, "render")
        except NotImplementedError:
            raise RenderError(f"{self.name} has no method render()") from None
        if frame is None:
            raise RenderError(f"{self.name} does not render; use env.options.render_mode=rgb_array")
        return frame

    def _succeeded(self, success: np.ndarray) -> Tensor | None:
        """Success of every lane; None if no lane reports it."""
        return None if (success < 0).all() else torch.from_numpy(success > 0).to(self.device)

    def _observed(self, values: np.ndarray) -> Tensor:
        space = self.observation_space
        if not isinstance(space, spaces.Discrete):
            return torch.from_numpy(values.astype(np.float32)).to(self.device)
        first, end = int(space.start), int(space.start + space.n)
        if values.min() < first or values.max() >= end:
            raise ContractError(
                f"{self.name} gave the observation {next(seen for seen in values if not first <= seen < end)}, and its "
                f"observation_space promises {first} to {end - 1}; change one of them"
            )
        return torch.from_numpy(values.copy()).to(self.device)


class GymnasiumEnv(VectorizedGymEnv):
    """Lanes of one environment class, in this process or shared out among workers.

    The class has two methods besides Gymnasium's: ``sample_tasks(num_tasks)``, a list of tasks, and ``set_task(task)``,
    which takes effect at the next reset. A task is a number, an array, or a dictionary of them. A class with a finite
    set of equally likely tasks may list them in a method ``all_tasks()``: evaluations then use every task equally
    often. Every trial seeds all random generators anew: ``self.np_random``, those of its spaces, and the global ones of
    Python, NumPy and PyTorch, separate for each lane. A trial therefore depends neither on earlier ones nor on other
    lanes.

    Args:
        make: a Gymnasium id, or ``package.module:Class``.
        options: arguments of either.
        horizon: maximum number of steps of an episode.
        num_episodes: episodes of a trial.
        ends_early: an episode can end before the horizon.
        num_workers: worker processes; 0 steps all lanes in this process.
        scale_actions: rescale finite bounds of actions to -1 and 1; otherwise agents act in the environment's units.
        lanes: see ``MetaEnv``.

    Raises:
        ValueError: there is no such environment, it lacks a method, or its spaces or its time limit do not fit.
        ContractError: its tasks or what it returns do not fit.
    """

    def __init__(
        self,
        make: GymName,
        options: dict[str, Any],
        horizon: PositiveInt,
        num_episodes: PositiveInt,
        ends_early: bool,
        num_workers: NonNegativeInt,
        scale_actions: bool = True,
        **lanes,
    ):
        super().__init__(horizon=horizon, num_episodes=num_episodes, **lanes)
        self.fixed_length, self.native_actions = not ends_early, not scale_actions
        key, make_one = f"env.make={make}", partial(make_environment, make, options)
        with seeded_streams(0):
            self._template = template = make_one()
        self.name = name_of(template)
        check_methods(template, key)
        check_time_limit(template, horizon, key)
        seen = flat_space(template.observation_space, key)
        actions = checked_actions(template.action_space, scale_actions, key)
        examples = self._draw(2)
        tasks = as_tasks(examples, 2, f"{self.name}.sample_tasks", self.device)
        self._form = TaskForm(examples[0])
        self.task_dim = tasks.description.shape[1]
        with seeded_streams(0):
            try_out(limited(lambda: template, horizon), self._form.rows(tasks)[0], actions, seen)
        self.open([make_one] * self.num_lanes, seen, actions, num_workers)

    def draw_tasks(self, num_tasks, task_set):
        return as_tasks(self._draw(num_tasks), num_tasks, f"{self.name}.sample_tasks", self.device)

    def all_tasks(self, task_set):
        listed = getattr(self._template.unwrapped, "all_tasks", None)
        if listed is None:
            return None
        with seeded_streams(0):
            tasks = list(listed())
        return as_tasks(tasks, len(tasks), f"{self.name}.all_tasks", self.device)

    def to_native_tasks(self, tasks):
        return self._form.rows(tasks)

    def _draw(self, num_tasks: int) -> list:
        """Draw tasks by the environment's own hook, from the generator of tasks."""
        inner: Any = self._template.unwrapped
        seed = _seeds(1, self.task_generator)[0]
        with seeded_streams(seed):
            inner.np_random = np.random.default_rng(seed)  # without a reset, which may need a task
            return list(inner.sample_tasks(num_tasks))


def make_environment(make: str, options: Mapping[str, Any]) -> gymnasium.Env:
    """Make an environment by its Gymnasium id, or by its place ``package.module:Class``.

    Raises:
        ValueError: there is none, or it has no such options.
    """
    module, _, name = make.partition(":")
    try:
        if not name.isidentifier():  # an id, perhaps behind the module that registers it
            return gymnasium.make(make, **options)
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, gymnasium.error.Error) as error:
        raise ValueError(f"env.make={make}: {error}; give a Gymnasium id, or package.module:Class") from error
    try:
        inspect.signature(made).bind(**options)
    except TypeError as error:
        raise ValueError(f"env.options={dict(options)}: {name} has {error}") from None
    environment: gymnasium.Env = made(**options)
    return environment


def _seeds(count: int, generator: torch.Generator) -> list[int]:
    drawn: list[int] = torch.randint(MAX_SEED, (count,), generator=generator, device=generator.device).tolist()
    return drawn


def _single_precision(space: spaces.Box | spaces.Discrete) -> spaces.Box | spaces.Discrete:
    """Space with the bounds of a box in single precision."""
    if isinstance(space, spaces.Box):
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32))
    return space
