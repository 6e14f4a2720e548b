"""Replay buffer of whole trials, for off-policy losses such as VariBAD's ELBO."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from metarl.tree import tree_map
from metarl.types import Rollout, Timestep


class Trials(NamedTuple):
    """Whole trials ``[T, B, ...]`` and their task descriptions ``[B, task_dim]``."""

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
    """Trials that a rollout from their start to their end holds."""
    action, task = rollout.decision.action, rollout.tasks.description
    return Trials(rollout.timestep, action, rollout.reward, rollout.next_observation, rollout.mask, task)


class TrialBuffer:
    """Ring buffer of trials. Fields that can be derived (previous observation, action and reward) are not stored.

    Args:
        capacity: number of trials.
        trial_length: maximum number of steps of a trial.
    """

    def __init__(self, capacity: int, trial_length: int):
        self.capacity, self.trial_length = capacity, trial_length
        self.columns: dict[str, Tensor] = {}  # [capacity, T, ...], allocated by the first ``add``
        self.position = self.size = 0

    def add(self, rollout: Rollout) -> None:
        """Store the trials of all lanes in place of the oldest; the last ``capacity`` of them if there are more."""
        timestep, task = rollout.timestep, rollout.tasks.description
        new = {
            "observation": timestep.observation,
            "next_observation": rollout.next_observation,
            "action": rollout.decision.action,
            "reward": rollout.reward,
            "first": timestep.first,
            "mask": rollout.mask,
        }
        columns = {name: value.transpose(0, 1)[-self.capacity :] for name, value in new.items()}  # [B, T, ...]
        columns["task"] = task[-self.capacity :]
        if not self.columns:
            self.columns = {name: self._empty(name, value) for name, value in columns.items()}
            self.null_elements = [
                part[0, :1].clone() for part in (timestep.previous_observation, timestep.previous_action)
            ]
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
        """Up to ``count`` trials drawn without replacement, cut to the length of the longest."""
        rows = torch.randperm(self.size, generator=generator)[:count].to(self.columns["mask"].device)
        drawn = {name: column[rows] for name, column in self.columns.items()}
        length = int(drawn["mask"].sum(1).max())
        task = drawn.pop("task")
        parts = {name: value[:, :length].transpose(0, 1) for name, value in drawn.items()}  # [T, B, ...]
        no_observation, no_action = self.null_elements
        timestep = Timestep(
            parts["observation"],
            _delayed(parts["observation"], no_observation),
            _delayed(parts["action"], no_action),
            _delayed(parts["reward"], torch.zeros_like(parts["reward"][0, :1])),
            parts["first"],
        )
        return Trials(timestep, parts["action"], parts["reward"], parts["next_observation"], parts["mask"], task)

    def state_dict(self) -> dict:
        """Stored trials and the position of the next one."""
        columns = {name: column[: self.size].clone() for name, column in self.columns.items()}
        null_elements = self.null_elements if self.columns else []
        return {"columns": columns, "nothing": null_elements, "position": self.position, "size": self.size}

    def load_state_dict(self, state: dict) -> None:
        """Restore ``state_dict``."""
        self.position, self.size, self.null_elements = state["position"], state["size"], state["nothing"]
        self.columns = {}
        for name, rows in state["columns"].items():
            self.columns[name] = rows.new_zeros(self.capacity, *rows.shape[1:])
            self.columns[name][: self.size] = rows


def _delayed(values: Tensor, start: Tensor) -> Tensor:
    """Values shifted by one step, ``[T, B, ...]``, with ``start`` before the first."""
    return torch.cat([start.expand_as(values[:1]), values[:-1]])
