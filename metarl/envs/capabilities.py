"""Optional abilities of environments, beyond the contract ``MetaEnv``: consumers ask for them by ``isinstance``.

    if isinstance(env, Renderable):
        frame = env.render(lane)

An ability that depends on the options of an environment has an attribute that says so, and a function here that takes
both into account (``grid_world``, ``exact_belief``). ``trial_view`` names the figure of a trial that suits.
"""

from abc import ABC, abstractmethod
from operator import itemgetter
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from metarl.tree import tree_map
from metarl.types import Rollout, Timestep

if TYPE_CHECKING:
    import numpy as np


class Renderable(ABC):
    """An environment that can draw a lane."""

    steps_per_second = 20.0  # simulated time, for videos

    @abstractmethod
    def render(self, lane: int = 0) -> "np.ndarray":
        """Image of the present state of one lane, uint8 ``[height, width, 3]``.

        Raises:
            NoRendererError: this machine, or these options of the environment, cannot draw.
        """


class Planar(ABC):
    """An environment whose agents have a position in a plane, for figures.

    Attributes:
        position_axes: name and unit of both coordinates.
    """

    position_axes: tuple[str, str] = ("x", "y")

    @abstractmethod
    def positions(self) -> Tensor:
        """Position of every agent, ``[B, 2]``."""

    def positions_in(self, observation: Tensor) -> Tensor | None:
        """Positions ``[B, 2]`` that observations ``[B, ...]`` show; None if they do not.

        A figure takes the end of an episode from the final observation: the lane itself is at its next start by then.
        """
        return None


class Quantity(NamedTuple):
    """A number that shows what an agent makes of its task, such as its velocity."""

    name: str
    unit: str
    value: float
    target: float | None  # value that the task asks for; None where more is better


class Measured(ABC):
    """An environment whose tasks are about one quantity that changes over an episode.

    Attributes:
        seconds_per_step: simulated time of a step; None without a clock.
    """

    seconds_per_step: float | None = None

    @abstractmethod
    def quantity(self, lane: int = 0) -> Quantity:
        """The quantity in one lane over its last step; undefined before the first step of an episode."""


class MultiArmed(ABC):
    """An environment whose episodes are one choice among arms each."""

    @abstractmethod
    def expected_rewards(self, lane: int = 0) -> Tensor:
        """Expected reward of every arm in one lane, ``[A]``."""


class GridWorld(ABC):
    """An environment made of cells, one of which earns a reward.

    Attributes:
        grid_shape: width and height in cells.
        shows_cells: every observation determines the agent's cell.
        goal_reward: minimum reward of a step onto the goal.
        goal: index of the cell that earns it, ``[B]``, once there are tasks.
    """

    grid_shape: tuple[int, int]
    goal: Tensor
    shows_cells = True
    goal_reward = 1.0

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return self.grid_shape[0] * self.grid_shape[1]

    @abstractmethod
    def cell(self, observation: Tensor) -> Tensor:
        """Index ``[...]`` of the cell in which observations ``[..., *shape]`` show the agent."""


class ExactBelief(ABC):
    """An environment whose posterior over tasks, given a trial so far, can be computed.

    Attributes:
        has_exact_belief: the computation is exact under the options of the environment.
    """

    has_exact_belief = True

    @abstractmethod
    def initial_belief(self, batch_size: int) -> Tensor:
        """Prior at the start of a trial, ``[batch_size, belief_dim]``."""

    @abstractmethod
    def update_belief(self, belief: Tensor, timestep: Timestep) -> Tensor:
        """Posterior after one more step, ``[B, belief_dim]``."""

    def exact_beliefs(self, timestep: Timestep) -> Tensor:
        """Posterior at every step of whole trials ``[T, B, ...]``: ``[T, B, belief_dim]``."""
        belief, beliefs = self.initial_belief(timestep.first.shape[1]), []
        for step in range(len(timestep.first)):
            belief = self.update_belief(belief, tree_map(itemgetter(step), timestep))
            beliefs.append(belief)
        return torch.stack(beliefs)


class KnownRegret(ABC):
    """An environment whose tasks can be solved exactly, so that the regret of every action can be computed."""

    @abstractmethod
    def regrets(self, rollout: Rollout) -> Tensor:
        """Regret of every action at every step, ``V*(s) - Q*(s, a)`` in the given task: ``[T, B, A]``.

        Summed over the actions taken it is, in expectation, the difference between the return of the best policy for
        the task and the return of the trial (performance difference lemma, Kakade & Langford 2002), free of the noise
        of rewards, transitions and tasks. For training only.
        """


TrialView = Literal["quantity", "arms", "cells", "path", "rewards"]


def trial_view(env: object) -> TrialView:
    """Figure of a trial that suits an environment: the most specific one of its abilities, else its rewards."""
    if isinstance(env, Measured):
        return "quantity"
    if isinstance(env, MultiArmed):
        return "arms"
    if grid_world(env) is not None:
        return "cells"
    return "path" if isinstance(env, Planar) else "rewards"


def grid_world(env: object) -> GridWorld | None:
    """The environment, if it is a grid whose observations determine the agent's cell."""
    return env if isinstance(env, GridWorld) and env.shows_cells else None


def exact_belief(env: object) -> ExactBelief | None:
    """The environment, if it has an exact belief under its options."""
    return env if isinstance(env, ExactBelief) and env.has_exact_belief else None
