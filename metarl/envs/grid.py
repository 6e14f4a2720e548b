"""Navigation to an unknown goal in grids and halls (Zintgraf et al. 2020, section 5.1; Beck et al. 2023)."""

from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from gymnasium import spaces
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import ExactBelief, GridWorld, Planar, Renderable
from metarl.types import Step, Tasks

if TYPE_CHECKING:
    from metarl.types import Timestep

STEP_REWARD = -0.1  # of every step that earns nothing else
PIXELS = 32  # a cell in a picture
MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))  # stay, up, right, down, left


class CellWorld(MetaEnv, GridWorld, ExactBelief, Renderable, Planar):
    """An agent in cells ``[0, width) x [0, height)``, one of which is the goal; episodes last ``horizon`` steps.

    Observation: the cell's coordinates, each scaled to [-1, 1]. Actions: stay, up, right, down, left. A step onto the
    goal, or one that stays there, earns ``goal_reward``, any other -0.1. Task parameters are the goal's coordinates.
    The published codes show coordinates as they are, from 0 up.

    Args:
        width, height: cells.
        candidates: numbers ``y * width + x`` of the cells that may be the goal, equally likely.
        goal_reward: reward of a step that ends in the goal cell.
        discovery_bonus: reward of the first visit in a trial of a cell that may be the goal and is not, in place of
            what the step would earn (hyper's variants: 0.1); 0 has no such reward.
        horizon: steps of an episode.
        num_episodes: episodes of a trial.
        lanes: see ``MetaEnv``.
    """

    task_dim = 2
    action_space = spaces.Discrete(len(MOVES))
    home: int | None = 0  # number of the cell where episodes start; None where that differs

    def __init__(
        self,
        width: int,
        height: int,
        candidates: list[int],
        goal_reward: float,
        discovery_bonus: float,
        *,
        horizon: PositiveInt,
        num_episodes: PositiveInt,
        **lanes,
    ):
        super().__init__(horizon=horizon, num_episodes=num_episodes, **lanes)
        self.width, self.height = self.grid_shape = width, height
        self.goal_reward, self.discovery_bonus = goal_reward, discovery_bonus
        if discovery_bonus >= goal_reward:
            raise ValueError(
                f"env.discovery_bonus={discovery_bonus}: must be less than the goal earns, {goal_reward}; lower it"
            )
        self.observation_space = spaces.Box(-1.0, 1.0, (2,))
        self.candidates = torch.tensor(candidates, device=self.device)
        self._moves = torch.tensor(MOVES, device=self.device)
        self._most = torch.tensor([width - 1, height - 1], device=self.device)
        cells = torch.arange(self.num_cells, device=self.device)
        self._coordinates = 2.0 * torch.stack([cells % width, cells // width], dim=1) / self._most.clamp(min=1) - 1.0
        self.position = torch.zeros(self.num_lanes, 2, dtype=torch.long, device=self.device)
        self._lanes = torch.arange(self.num_lanes, device=self.device)
        self._elapsed = 0

    # ---------------------------------------------------------------- cells

    def number(self, position: Tensor) -> Tensor:
        """Index of the cells at ``[..., 2]``."""
        return position[..., 1] * self.width + position[..., 0]

    def position_in(self, observation: Tensor) -> Tensor:
        """Cells ``[..., 2]`` that observations ``[..., 2]`` show."""
        return ((observation + 1) / 2 * self._most).round().long()

    def cell(self, observation):
        return self.number(self.position_in(observation))

    # ---------------------------------------------------------------- tasks

    def draw_tasks(self, num_tasks, task_set):
        chosen = torch.randint(len(self.candidates), (num_tasks,), generator=self.task_generator, device=self.device)
        return Tasks({"goal": self._coordinates[self.candidates[chosen]]})

    def all_tasks(self, task_set):
        return Tasks({"goal": self._coordinates[self.candidates]})

    def set_tasks(self, tasks):
        tasks = super().set_tasks(tasks)
        self.goal = self.cell(tasks.parameters["goal"])  # its number, [B]
        visited = torch.ones(self.num_lanes, self.width * self.height, dtype=torch.bool, device=self.device)
        visited[:, self.candidates] = False
        self._visited = visited.scatter_(1, self.goal.unsqueeze(1), True)  # discoveries are other candidates
        return tasks

    def trial_state(self):
        return {"visited": self._visited.clone()}

    def load_trial_state(self, state):
        self._visited = state["visited"].clone()

    # ---------------------------------------------------------------- stepping

    def start(self) -> Tensor:
        """Cells in which episodes start, ``[B, 2]``: the corner."""
        return torch.zeros_like(self.position)

    def moved(self, position: Tensor, action: Tensor) -> Tensor:
        """Cells ``[B, 2]`` after actions ``[B]`` there; walls hold."""
        return (position + self._moves[action]).clamp(min=0).minimum(self._most)

    def base_reward(self, at_goal: Tensor) -> Tensor:
        """Reward of the present cells, before any bonus, ``[B]``."""
        return torch.where(at_goal, self.goal_reward, STEP_REWARD)

    def observe(self) -> Tensor:
        """``[B, ...]``."""
        return self._coordinates[self.number(self.position)]

    def after_step(self) -> Tensor:
        """Observation of the state that a step led to, ``[B, ...]``."""
        return self.observe()

    def reset(self):
        self._elapsed = 0
        self.position = self.start()
        return self.observe()

    def step(self, action):
        self.position = self.moved(self.position, action)
        here = self.number(self.position)
        at_goal = here == self.goal
        reward = self.base_reward(at_goal)
        if self.discovery_bonus:
            reward = torch.where(self._visited[self._lanes, here], reward, self.discovery_bonus)
            self._visited[self._lanes, here] = True
        final = self.after_step()
        self._elapsed += 1
        over = self._elapsed == self.horizon
        observation = self.reset() if over else final
        return Step(observation, reward, self._false, self._true if over else self._false, at_goal, final)

    def positions(self):
        return self._coordinates[self.number(self.position)]

    def render(self, lane=0):
        """Cells from above: the agent blue, the goal green."""
        colours = np.full((self.height, self.width, 3), 255, np.uint8)
        goal, (x, y) = int(self.goal[lane]), self.position[lane].tolist()
        colours[goal // self.width, goal % self.width] = (0, 158, 115)
        colours[y, x] = (0, 114, 178)
        return np.pad(colours[::-1].repeat(PIXELS, 0).repeat(PIXELS, 1), ((2, 2), (2, 2), (0, 0)))

    # ---------------------------------------------------------------- exact belief

    def initial_belief(self, batch_size):
        """Probability that each cell is the goal, ``[batch_size, num_cells]``."""
        belief = torch.zeros(batch_size, self.width * self.height, device=self.device)
        belief[:, self.candidates] = 1 / len(self.candidates)
        return belief

    def update_belief(self, belief, timestep: "Timestep"):
        """Bayes' rule: a cell was the goal, or it is not."""
        moved = timestep.previous_action >= 0
        before = self.position_in(timestep.previous_observation)
        arrived = self.number(self.moved(before, timestep.previous_action.clamp(min=0))).unsqueeze(1)
        found = (timestep.previous_reward >= self.goal_reward).unsqueeze(1)
        certain = torch.zeros_like(belief).scatter_(1, arrived, 1.0)
        others = belief.scatter(1, arrived, 0.0)
        revised = torch.where(found, certain, others / others.sum(1, keepdim=True).clamp(min=1e-9))
        return torch.where(moved.unsqueeze(1), revised, belief)

    @cached_property
    def neighbours(self) -> list[list[int]]:
        """The cells that lie a step from each, by number."""
        cells = torch.arange(self.width * self.height, device=self.device)
        positions = torch.stack([cells % self.width, cells // self.width], dim=1)
        after = [self.number(self.moved(positions, torch.full_like(cells, action))) for action in range(len(MOVES))]
        return torch.stack(after, dim=1).tolist()


class GridNavigation(CellWorld):
    """A square grid without obstacles.

    Args:
        size: cells a side.
        start: first cell of episodes: a ``corner``, the ``middle``, or ``random`` cells that are not the goal (hyper's
            code also starts on the goal).
        goals: ``all`` cells not next to the start (diagonals included; where it is random, all cells), or the ``ring``
            of cells along the border that are not (hyper's code leaves out the start alone, which is the same from the
            middle of 5 cells a side or more).
        dense: steps elsewhere earn minus the distance to the goal in moves over ``size``, in place of -0.1.
        show_goal: a step that ends where the episode started is shown the goal's coordinates instead of its own.
        discovery_bonus: see ``CellWorld``.
        inherited: ``horizon`` and ``num_episodes``.

    Raises:
        ValueError: no cell can be a goal.
    """

    def __init__(
        self,
        size: PositiveInt,
        start: Literal["corner", "middle", "random"],
        goals: Literal["all", "ring"],
        dense: bool,
        show_goal: bool,
        discovery_bonus: NonNegativeFloat,
        *,
        horizon: PositiveInt,
        num_episodes: PositiveInt,
        **lanes,
    ):
        middle = size // 2
        home = {"corner": 0, "middle": middle, "random": None}[start]
        candidates = [
            y * size + x
            for y in range(size)
            for x in range(size)
            if (home is None or max(abs(x - home), abs(y - home)) > 1)
            and (goals == "all" or not (0 < x < size - 1 and 0 < y < size - 1))
        ]
        if len(candidates) < 2:
            raise ValueError(f"env.size={size}: leaves {len(candidates)} cells that may be the goal; raise it")
        episodes = {"horizon": horizon, "num_episodes": num_episodes}
        super().__init__(size, size, candidates, 1.0, discovery_bonus, **episodes, **lanes)
        self.size, self.dense, self.show_goal = size, dense, show_goal
        self.home = None if home is None else home * size + home
        # Distances, a visible goal and starts that exclude the goal carry further information.
        self.has_exact_belief = not dense and not show_goal and home is not None
        self.shows_cells = not show_goal

    def start(self):
        if self.home is not None:
            return torch.full_like(self.position, self.home % self.size)  # on the diagonal
        # Uniform over the cells that are not the goal: those beyond it move up by one.
        others = self.width * self.height - 1
        drawn = torch.randint(others, (self.num_lanes,), generator=self.generator, device=self.device)
        drawn = drawn + (drawn >= self.goal)
        return torch.stack([drawn % self.width, drawn // self.width], dim=1)

    def reset(self):
        observation = super().reset()
        self._started = self.position
        return observation

    def base_reward(self, at_goal):
        if not self.dense:
            return super().base_reward(at_goal)
        goal = torch.stack([self.goal % self.width, self.goal // self.width], dim=1)
        return torch.where(at_goal, 1.0, -(self.position - goal).abs().sum(1) / self.size)

    def after_step(self):
        if not self.show_goal:
            return self.observe()
        home = (self.position == self._started).all(1, keepdim=True)
        return torch.where(home, self.tasks.parameters["goal"], self.observe())


class Hall(CellWorld):
    """A corridor along y = 0 with rooms behind doors: up enters a room, and only down leaves it.

    Args:
        num_doors: rooms, one of which is the goal.
        room_at_start: every cell of the corridor has a room; else all but the one where episodes start, as published:
            15 doors for hyper's hall of 16 cells.
        goal_reward, discovery_bonus: see ``CellWorld``.
        show_unchecked: a third channel of the observation is 1 where the room at hand was not entered in this trial.
        inherited: ``horizon`` and ``num_episodes``.
    """

    def __init__(
        self,
        num_doors: PositiveInt,
        room_at_start: bool,
        goal_reward: PositiveFloat,
        discovery_bonus: NonNegativeFloat,
        show_unchecked: bool,
        *,
        horizon: PositiveInt,
        num_episodes: PositiveInt,
        **lanes,
    ):
        if num_doors < 2:
            raise ValueError(f"env.num_doors={num_doors}: the goal is one of several; use 2 or more")
        self.first_room = 0 if room_at_start else 1
        width = self.first_room + num_doors
        rooms = list(range(width + self.first_room, 2 * width))
        episodes = {"horizon": horizon, "num_episodes": num_episodes}
        super().__init__(width, 2, rooms, goal_reward, discovery_bonus, **episodes, **lanes)
        self.show_unchecked = show_unchecked
        if show_unchecked:
            self.observation_space = spaces.Box(-1.0, 1.0, (3,))

    def set_tasks(self, tasks):
        tasks = super().set_tasks(tasks)
        self._entered = torch.zeros(self.num_lanes, self.width, dtype=torch.bool, device=self.device)
        self._entered[:, : self.first_room] = True  # where there is none
        return tasks

    def trial_state(self):
        return super().trial_state() | {"entered": self._entered.clone()}

    def load_trial_state(self, state):
        super().load_trial_state(state)
        self._entered = state["entered"].clone()

    def moved(self, position, action):
        column, row = position.unbind(1)
        stuck = (row == 1) & ((action == 2) | (action == 4)) | (column < self.first_room) & (action == 1)
        return torch.where(stuck.unsqueeze(1), position, super().moved(position, action))

    def position_in(self, observation):
        return super().position_in(observation[..., :2])

    def observe(self):
        seen = super().observe()
        if not self.show_unchecked:
            return seen
        column, row = self.position.unbind(1)
        self._entered[self._lanes, column] |= row == 1
        return torch.cat([seen, (~self._entered[self._lanes, column]).float().unsqueeze(1)], dim=1)
