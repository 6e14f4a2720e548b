"""The planning game: find hidden goals on a torus whose labels are shuffled (Ritter et al. 2020; Beck et al. 2024)."""

import itertools

import torch
from gymnasium import spaces
from pydantic import PositiveInt
from torch import Tensor

from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import Planar
from metarl.types import Step, Tasks


class PlanningGame(MetaEnv, Planar):
    """Collect goals on a torus of cells; each that is collected earns 1, and another cell becomes the goal.

    Observation: one-hot labels of the agent's cell and of the goal's, concatenated. A task is which label belongs to
    which cell. Actions: up, down, left, right, collect.

    Hyper's code shuffles labels at every reset, which is the same in its trials of one episode, and describes a task by
    the present goal.

    Args:
        size: cells a side.
        show_labels: else the observation is one number, 1 on the goal and 0 elsewhere.
        horizon: steps of an episode.
        num_episodes: episodes of a trial.
        lanes: see ``MetaEnv``.

    Raises:
        ValueError: there are no other cells.
    """

    action_space = spaces.Discrete(5)

    def __init__(
        self, size: PositiveInt, show_labels: bool, *, horizon: PositiveInt, num_episodes: PositiveInt, **lanes
    ):
        super().__init__(horizon=horizon, num_episodes=num_episodes, **lanes)
        if size < 2:
            raise ValueError(f"env.size={size}: goals must be able to move; use 2 or more")
        self.size, self.num_places, self.show_labels = size, size * size, show_labels
        self.task_dim = self.num_places
        self.observation_space = spaces.Box(0.0, 1.0, (2 * self.num_places if show_labels else 1,))
        self._moves = torch.tensor([[0, 1], [0, -1], [-1, 0], [1, 0], [0, 0]], device=self.device)
        self._one_hot = torch.eye(self.num_places, device=self.device)

    def draw_tasks(self, num_tasks, task_set):
        order = torch.rand(num_tasks, self.num_places, generator=self.task_generator, device=self.device).argsort(1)
        return Tasks({"labels": order.float()})

    def all_tasks(self, task_set):
        if self.size > 2:  # 9! orders of labels, of which evaluations draw a part
            return None
        orders = list(itertools.permutations(range(self.num_places)))
        return Tasks({"labels": torch.tensor(orders, device=self.device).float()})

    def set_tasks(self, tasks):
        tasks = super().set_tasks(tasks)
        self._labels = tasks.parameters["labels"].long()
        return tasks

    def _random(self, below: int) -> Tensor:
        return torch.randint(below, (self.num_lanes,), generator=self.generator, device=self.device)

    def reset(self):
        self._elapsed = 0
        self.place = self._random(self.num_places)
        self.goal = self._another(self.place)
        return self._observe()

    def _another(self, place: Tensor) -> Tensor:
        """A cell that is not this one, for each lane."""
        return (place + 1 + self._random(self.num_places - 1)) % self.num_places

    def _observe(self) -> Tensor:
        if not self.show_labels:
            return (self.place == self.goal).float().unsqueeze(1)
        labels = self._labels.gather(1, torch.stack([self.place, self.goal], dim=1))
        return self._one_hot.index_select(0, labels.flatten()).view(self.num_lanes, -1)

    def moved(self, place: Tensor, action: Tensor) -> Tensor:
        """Places that actions lead to, ``[B]``."""
        move = self._moves.index_select(0, action)
        column = (place % self.size + move[:, 0]) % self.size
        return (place // self.size + move[:, 1]) % self.size * self.size + column

    def step(self, action):
        collected = (action == 4) & (self.place == self.goal)
        self.place = self.moved(self.place, action)
        self.goal = torch.where(collected, self._another(self.place), self.goal)
        final = self._observe()
        self._elapsed += 1
        over = self._elapsed == self.horizon
        observation = self.reset() if over else final
        return Step(observation, collected.float(), self._false, self._true if over else self._false, collected, final)

    def positions(self):
        return torch.stack([self.place % self.size, self.place // self.size], dim=1).float()
