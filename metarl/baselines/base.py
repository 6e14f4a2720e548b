"""What all classical solvers share: they play a trial like a learner does, but nobody trained them."""

from abc import ABC, abstractmethod

import torch
from gymnasium import spaces
from torch import Generator, Tensor

from metarl.envs.base import Tasks
from metarl.rollout import Decision, Rollout, State, Timestep


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
    """Uniform over the action space: what an agent gets that does nothing clever.

    Args:
        action_space: discrete, or a bounded box.
        num_episodes: episodes of a trial, n.

    Raises:
        TypeError: there is no uniform distribution over the action space.
    """

    def __init__(self, action_space: spaces.Space, num_episodes: int):
        super().__init__(num_episodes)
        bounded = isinstance(action_space, spaces.Box) and action_space.is_bounded()
        if not bounded and not isinstance(action_space, spaces.Discrete):
            raise TypeError(f"no uniform distribution over {action_space}; use Discrete or a bounded Box")
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
            return decision_of(low + (high - low) * uniform), state
        assert isinstance(space, spaces.Discrete)
        return decision_of(torch.randint(int(space.n), (lanes,), generator=generator, device=device)), state


def decision_of(action: Tensor) -> Decision:
    """These actions ``[B, ...]``; solvers keep neither log-probabilities nor values, both are zero."""
    zeros = torch.zeros(action.shape[0], device=action.device)
    return Decision(action, zeros, zeros)


def random_argmax(scores: Tensor, generator: Generator, tolerance: float = 0.0) -> Tensor:
    """Index of the largest score along the last axis; ties, up to ``tolerance``, are broken at random."""
    best = scores >= scores.amax(-1, keepdim=True) - tolerance
    uniform = torch.rand(scores.shape, generator=generator, device=scores.device)
    return torch.where(best, uniform, -1.0).argmax(-1)
