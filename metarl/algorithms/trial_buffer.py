"""The latest trials, whole, for what is learned off the policy."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from metarl.tree import tree_map
from metarl.types import Rollout, Timestep


class Trials(NamedTuple):
    """Whole trials: tensors ``[T, B, ...]``; task ``[B, task_dim]``."""

    timestep: Timestep
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    mask: Tensor
    task: Tensor

    def select(self, lanes: Tensor) -> "Trials":
        """The trials of some lanes."""
        steps = tree_map(lambda part: part[:, lanes], self._replace(task=None))  # type: ignore[arg-type]
        selected: Trials = steps._replace(task=self.task[lanes])
        return selected


def trials_of(rollout: Rollout) -> Trials:
    """A rollout from the start of trials to their end."""
    action, task = rollout.decision.action, rollout.tasks.description
    return Trials(rollout.timestep, action, rollout.reward, rollout.next_observation, rollout.mask, task)


class TrialBuffer:
    """A ring of trials. Fields that can be derived (previous observation, action and reward) are not stored.

    Args:
        capacity: trials.
        trial_length: most steps of a trial.
    """

    def __init__(self, capacity: int, trial_length: int):
        self.capacity, self.trial_length = capacity, trial_length
        self.columns: dict[str, Tensor] = {}  # [capacity, T, ...], made when the first trial shows its shapes
        self.position = self.size = 0

    def add(self, rollout: Rollout) -> None:
        """Store the trials of all lanes, over the oldest; of more than the capacity the last ones."""
        timestep, task = rollout.timestep, rollout.tasks.description
        new = {
            "observation": timestep.observation,
            "next_observation": rollout.next_observation,
            "action": rollout.decision.action,
            "reward": rollout.reward,
            "first": timestep.first,
            "mask": rollout.mask,
        }
        columns = {name: value.transpose(0, 1)[-self.capacity :] for name, value in new.items()}
        columns["task"] = task[-self.capacity :]
        if not self.columns:
            self.columns = {name: self._empty(name, value) for name, value in columns.items()}
            self.nothing = [part[0, :1].clone() for part in (timestep.previous_observation, timestep.previous_action)]
        count, steps = columns["mask"].shape
        rows = (self.position + torch.arange(count, device=task.device)) % self.capacity
        self.columns["mask"][rows] = False
        for name, value in columns.items():
            if name == "task":
                self.columns[name][rows] = value
            else:
                self.columns[name][rows, :steps] = value
        self.position = (self.position + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def _empty(self, name: str, like: Tensor) -> Tensor:
        shape = like.shape[1:] if name == "task" else (self.trial_length, *like.shape[2:])
        return like.new_zeros(self.capacity, *shape)

    def sample(self, count: int, generator: Generator) -> Trials:
        """Trials drawn without replacement, as long as the longest; all of them where there are fewer."""
        rows = torch.randperm(self.size, generator=generator)[:count].to(self.columns["mask"].device)
        drawn = {name: column[rows] for name, column in self.columns.items()}
        length = int(drawn["mask"].sum(1).max())
        task = drawn.pop("task")
        parts = {name: value[:, :length].transpose(0, 1) for name, value in drawn.items()}
        no_observation, no_action = self.nothing
        timestep = Timestep(
            parts["observation"],
            _delayed(parts["observation"], no_observation),
            _delayed(parts["action"], no_action),
            _delayed(parts["reward"], torch.zeros_like(parts["reward"][0, :1])),
            parts["first"],
        )
        return Trials(timestep, parts["action"], parts["reward"], parts["next_observation"], parts["mask"], task)

    def state_dict(self) -> dict:
        """The trials, and where the next goes."""
        columns = {name: column[: self.size].clone() for name, column in self.columns.items()}
        nothing = self.nothing if self.columns else []
        return {"columns": columns, "nothing": nothing, "position": self.position, "size": self.size}

    def load_state_dict(self, state: dict) -> None:
        """Hold the trials of ``state_dict``."""
        self.position, self.size, self.nothing = state["position"], state["size"], state["nothing"]
        self.columns = {}
        for name, rows in state["columns"].items():
            self.columns[name] = rows.new_zeros(self.capacity, *rows.shape[1:])
            self.columns[name][: self.size] = rows


def _delayed(values: Tensor, start: Tensor) -> Tensor:
    """Values shifted by one step, ``[T, B, ...]``, with ``start`` before the first."""
    return torch.cat([start.expand_as(values[:1]), values[:-1]])
