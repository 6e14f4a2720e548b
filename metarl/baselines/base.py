"""Base of all classical solvers: agents that play a trial like a learner, but are not trained."""

from abc import ABC, abstractmethod

import torch
from gymnasium import spaces
from torch import Generator, Tensor

from metarl.types import Decision, Rollout, State, Tasks, Timestep


class Solver(ABC):
    """An agent (see ``metarl.rollout.Agent``) without parameters: one rollout of n episodes, ``adapt`` idle.

    Its state is what it has seen of the task. A solver already does what it believes best, or explores on
    purpose, so ``greedy`` changes nothing.

    Args:
        num_episodes: episodes of a trial, n.
    """

    def __init__(self, num_episodes: int):
        self.rollouts = (num_episodes,)

    @abstractmethod
    def initial_state(self, tasks: Tasks) -> State:
        """The state before anything was seen."""

    @abstractmethod
    def act(
        self, timestep: Timestep, state: State, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, State]:
        """Learn from the last step, then choose actions for all lanes."""

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Everything was learnt while acting."""
        return state


class Random(Solver):
    """Uniform random policy over the action space.

    Args:
        action_space: discrete, or a box. Where this has no bound, actions are normal; where it has one, exponential
            from there, as Gymnasium draws them.
        num_episodes: episodes of a trial, n.

    Raises:
        TypeError: the action space is of another kind.
    """

    def __init__(self, action_space: spaces.Space, num_episodes: int):
        super().__init__(num_episodes)
        if not isinstance(action_space, spaces.Box | spaces.Discrete):
            raise TypeError(f"no random actions of {action_space}; use Discrete or Box")
        self.action_space = action_space

    def initial_state(self, tasks: Tasks) -> State:
        return ()

    def act(
        self, timestep: Timestep, state: State, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, State]:
        space, lanes, device = self.action_space, len(timestep.first), timestep.first.device
        if isinstance(space, spaces.Box):
            low, high = (torch.as_tensor(end, dtype=torch.float32, device=device) for end in (space.low, space.high))
            uniform = torch.rand(lanes, *space.shape, generator=generator, device=device)
            bounded = low + (high - low) * uniform
            return decision_of(bounded if space.is_bounded() else _spread(uniform, bounded, low, high)), state
        assert isinstance(space, spaces.Discrete)
        index = torch.randint(int(space.n), (lanes,), generator=generator, device=device)
        return decision_of(index + int(space.start)), state


def _spread(uniform: Tensor, bounded: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Draws from a box of which some channels have no bound, or one, by the quantiles of ``uniform``."""
    quantile = uniform.clamp(1e-6, 1 - 1e-6)
    beyond = -torch.log1p(-quantile)  # exponential
    drawn = torch.where(low.isfinite(), low + beyond, torch.special.ndtri(quantile))
    drawn = torch.where(high.isfinite() & ~low.isfinite(), high - beyond, drawn)
    return torch.where(low.isfinite() & high.isfinite(), bounded, drawn)


def decision_of(action: Tensor) -> Decision:
    """These actions ``[B, ...]``; solvers keep neither log-probabilities nor values, both are zero."""
    zeros = torch.zeros(action.shape[0], device=action.device)
    return Decision(action, zeros, zeros)


def random_argmax(scores: Tensor, generator: Generator, tolerance: float = 0.0) -> Tensor:
    """Index of the largest score along the last axis; ties, up to ``tolerance``, are broken at random."""
    best = scores >= scores.amax(-1, keepdim=True) - tolerance
    uniform = torch.rand(scores.shape, generator=generator, device=scores.device)
    return torch.where(best, uniform, -1.0).argmax(-1)
