"""Recorders of what a figure of a trial shows, one for each ``TrialView``: all read the first lane alone."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from metarl.analysis.trial_recording import Course, Path, Pulls, Rewards, View, Visits
from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import TrialView, trial_view
from metarl.types import Step


class ViewRecorder(Protocol):
    """Recorder of one view; ``view`` is None as long as there is nothing to show."""

    @property
    def view(self) -> View | None:
        """Content of the figure so far."""

    def begin(self, observation: Tensor) -> None:
        """Record the start of an episode."""

    def add(self, action: Tensor, step: Step, over: bool) -> None:
        """Record a step; ``over`` where it ends the episode, and the lane is at the start of its next one."""


class RewardRecorder:
    """Recorder of the reward of every step."""

    def __init__(self) -> None:
        self.view = Rewards()

    def begin(self, observation: Tensor) -> None:
        self.view.rewards.append([])

    def add(self, action: Tensor, step: Step, over: bool) -> None:
        self.view.rewards[-1].append(float(step.reward[0]))


class PathRecorder:
    """Recorder of positions; the end of an episode where its final observation shows it."""

    def __init__(self, env: Any):
        goal = env.tasks.parameters.get("goal")
        flat = None if goal is None or goal.shape[1:] != (2,) else goal[0].tolist()
        self.env, self.view = env, Path(env.position_axes, goal=flat)

    def begin(self, observation: Tensor) -> None:
        self.view.positions.append([])
        self._keep(self.env.positions())

    def add(self, action: Tensor, step: Step, over: bool) -> None:
        self._keep(self.env.positions_in(step.final_observation) if over else self.env.positions())

    def _keep(self, positions: Tensor | None) -> None:
        if positions is not None:
            self.view.positions[-1].append(positions[0].tolist())


class QuantityRecorder:
    """Recorder of a quantity after every step that does not end its episode."""

    def __init__(self, env: Any):
        self.env = env
        self.view: Course | None = None
        self._values: list[list[float]] = []

    def begin(self, observation: Tensor) -> None:
        self._values.append([])

    def add(self, action: Tensor, step: Step, over: bool) -> None:
        if over:
            return
        now = self.env.quantity(0)
        self._values[-1].append(float(now.value))
        if self.view is None:
            target = None if now.target is None else float(now.target)
            self.view = Course(now.name, now.unit, target, self.env.seconds_per_step, self._values)


class VisitRecorder:
    """Recorder of visited cells."""

    def __init__(self, env: Any):
        goal = getattr(env, "goal", None)
        self.env, self.view = env, Visits(env.grid_shape, None if goal is None else int(goal[0]))

    def begin(self, observation: Tensor) -> None:
        self.view.cells.append([int(self.env.cell(observation)[0])])

    def add(self, action: Tensor, step: Step, over: bool) -> None:
        self.view.cells[-1].append(int(self.env.cell(step.final_observation)[0]))


class PullRecorder:
    """Recorder of the arms that are pulled."""

    def __init__(self, env: Any):
        self.view = Pulls(env.expected_rewards(0).tolist())

    def begin(self, observation: Tensor) -> None:
        pass

    def add(self, action: Tensor, step: Step, over: bool) -> None:
        self.view.arms.append(int(action[0]))
        self.view.rewards.append(float(step.reward[0]))


def view_recorder(env: MetaEnv) -> ViewRecorder:
    """The recorder that suits an environment with tasks."""
    kinds: dict[TrialView, Callable[[MetaEnv], ViewRecorder]] = {
        "quantity": QuantityRecorder,
        "arms": PullRecorder,
        "cells": VisitRecorder,
        "path": PathRecorder,
    }
    kind = kinds.get(trial_view(env))
    return kind(env) if kind is not None else RewardRecorder()
