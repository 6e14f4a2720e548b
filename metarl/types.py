"""Contract between agents and environments: what passes between them, and what an agent is.

Shapes are time-major: T steps, B lanes. A trial is everything an agent experiences on one task: one or more rollouts,
with ``Agent.adapt`` between them.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from gymnasium import spaces
from torch import Generator, Tensor

from metarl.tree import tree_map

State = Any  # what an agent carries through a trial: a structure of tensors, lanes on axis 0


class EnvSpec(NamedTuple):
    """Spaces and sizes of an environment, which a model is built for."""

    observation_space: spaces.Space
    action_space: spaces.Space
    task_dim: int  # size of ``Tasks.description``
    trial_length: int  # maximum number of steps of a trial


class Step(NamedTuple):
    """Result of one action in every lane. Every tensor is ``[B, ...]``, B lanes.

    A step that ends the MDP at the horizon is terminated and not truncated: nothing follows it, so no return may
    bootstrap from the value of the observation it led to.
    """

    observation: Tensor  # first observation of the next episode where this step ended one
    reward: Tensor  # float32 [B]
    terminated: Tensor  # bool [B], the MDP itself ended
    truncated: Tensor  # bool [B], the horizon was reached and the MDP did not end; never where terminated
    success: Tensor | None  # bool [B], or None where the environment defines no success
    final_observation: Tensor  # the observation this step led to, before any reset


@dataclass(frozen=True)
class Tasks:
    """N tasks: named parameters, each ``[N, ...]``."""

    parameters: dict[str, Tensor]

    def __len__(self) -> int:
        return next(iter(self.parameters.values())).shape[0]

    @property
    def description(self) -> Tensor:
        """All parameters concatenated, ``[N, task_dim]``, for oracles and task inference."""
        return torch.cat([value.reshape(len(value), -1).float() for value in self.parameters.values()], dim=1)

    def select(self, index: Tensor | slice) -> "Tasks":
        """Tasks at ``index``."""
        return tree_map(lambda value: value[index], self)

    def repeat(self, times: int) -> "Tasks":
        """Each task ``times`` times in a row."""
        return tree_map(lambda value: value.repeat_interleave(times, 0), self)


class Timestep(NamedTuple):
    """Input of an agent before it acts, ``[B, ...]`` or ``[T, B, ...]``."""

    observation: Tensor
    previous_observation: Tensor  # in which the previous action was taken; at the start of a trial as for that action
    previous_action: Tensor  # at the start of a trial 0 (continuous), or one less than the first action: -1 (discrete)
    previous_reward: Tensor  # float32, 0 at the start of a trial
    first: Tensor  # bool, this step starts an episode


class Decision(NamedTuple):
    """Answer of an agent to a timestep, ``[B, ...]`` or ``[T, B, ...]``."""

    action: Tensor
    log_prob: Tensor  # of the action under the policy that acted
    value: Tensor  # expected return, in units of reward
    noise: Tensor | None = None  # latent noise, of agents that sample a latent


class Rollout(NamedTuple):
    """Consecutive steps of all lanes, every tensor ``[T, B, ...]``."""

    timestep: Timestep
    decision: Decision
    next_observation: Tensor  # the one a step led to, of the same episode
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    success: Tensor | None
    mask: Tensor  # bool, False after a lane has finished its episodes
    tasks: Tasks  # one row per lane

    def select(self, lanes: Tensor) -> "Rollout":
        """The rollout of some lanes."""
        steps = tree_map(lambda part: part[:, lanes], self._replace(tasks=None))  # type: ignore[arg-type]
        selected: Rollout = steps._replace(tasks=self.tasks.select(lanes))
        return selected


class Agent(Protocol):
    """Anything that can play a trial: a learner, or a classical solver."""

    @property
    def rollouts(self) -> tuple[int, ...]:
        """Number of episodes of each rollout of a trial; ``adapt`` runs between rollouts."""

    def initial_state(self, tasks: Tasks) -> State:
        """State at the start of a trial, before anything was observed. Only oracles may look at ``tasks``."""

    def act(
        self, timestep: Timestep, state: State, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, State]:
        """Choose actions for all lanes; ``greedy`` takes the most likely action instead of a sample."""

    def adapt(self, state: State, rollout: Rollout) -> State:
        """The state after learning from a support rollout."""
