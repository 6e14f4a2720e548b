"""Classical bandit solvers, as compared by Duan et al. 2016 (RL², section 3.1).

All but Random are index policies: they score every arm from its own statistics and pull the best, ties at random.
"""

from abc import abstractmethod
from functools import cached_property

import torch
from torch import Generator, Tensor

from metarl.baselines.arm_beliefs import ArmBelief, ArmStatistics, BetaBelief, no_pulls
from metarl.baselines.base import Solver, decision_of, random_argmax
from metarl.baselines.gittins import gittins_index, gittins_table
from metarl.tree import tree_map
from metarl.types import Decision, Tasks, Timestep


class IndexPolicy(Solver):
    """Pull the arm of the highest score.

    Args:
        belief: how pulls are read.
        num_arms: k.
        num_episodes: pulls of a trial, n.
    """

    def __init__(self, belief: ArmBelief, num_arms: int, num_episodes: int):
        super().__init__(num_episodes)
        self.belief = belief
        self.num_arms = num_arms
        self.num_episodes = num_episodes

    def initial_state(self, tasks: Tasks) -> ArmStatistics:
        return no_pulls(tasks, self.num_arms)

    def act(
        self, timestep: Timestep, state: ArmStatistics, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, ArmStatistics]:
        state = state.after(timestep)
        return decision_of(random_argmax(self.scores(state, generator), generator)), state

    @abstractmethod
    def scores(self, statistics: ArmStatistics, generator: Generator) -> Tensor:
        """Score of every arm, ``[B, k]``."""


class Greedy(IndexPolicy):
    """The highest posterior mean."""

    def scores(self, statistics: ArmStatistics, generator: Generator) -> Tensor:
        return self.belief.mean(statistics)


class EpsilonGreedy(Greedy):
    """Greedy, but with probability ``epsilon`` any arm (Sutton & Barto 2018, section 2.2)."""

    def __init__(self, belief: ArmBelief, num_arms: int, num_episodes: int, epsilon: float):
        super().__init__(belief, num_arms, num_episodes)
        self.epsilon = epsilon

    def scores(self, statistics: ArmStatistics, generator: Generator) -> Tensor:
        mean = super().scores(statistics, generator)
        uniform = torch.rand(mean.shape[0], self.num_arms + 1, generator=generator, device=mean.device)
        explore, anything = uniform[:, :1] < self.epsilon, uniform[:, 1:]
        return torch.where(explore, anything.to(mean.dtype), mean)


class UCB1(IndexPolicy):
    """Posterior mean plus ``c sqrt(2 ln t) width`` (Auer et al. 2002, with a scale c; c = 1 is theirs).

    t counts the pulls so far, the next one and those the prior is worth.
    """

    def __init__(self, belief: ArmBelief, num_arms: int, num_episodes: int, c: float):
        super().__init__(belief, num_arms, num_episodes)
        self.c = c

    def scores(self, statistics: ArmStatistics, generator: Generator) -> Tensor:
        time = statistics.pulls.sum(1, keepdim=True) + 1 + self.belief.prior_pulls * self.num_arms
        bonus = torch.sqrt(2 * time.log()) * self.belief.width(statistics)
        return self.belief.mean(statistics) + self.c * bonus


class Thompson(IndexPolicy):
    """One draw from the posterior (Thompson 1933)."""

    def scores(self, statistics: ArmStatistics, generator: Generator) -> Tensor:
        return self.belief.sample(statistics, generator)


class OptimisticThompson(IndexPolicy):
    """The most probable of N joint draws from the posterior (OTS in Duan et al. 2016, after May et al. 2012).

    Of the readings of "takes the one with the highest probability" this is the one that gives their results; the
    per-arm maximum of N draws does not.
    """

    def __init__(self, belief: ArmBelief, num_arms: int, num_episodes: int, num_samples: int):
        super().__init__(belief, num_arms, num_episodes)
        self.num_samples = num_samples

    def scores(self, statistics: ArmStatistics, generator: Generator) -> Tensor:
        repeated = tree_map(lambda entry: entry.expand(self.num_samples, -1, -1), statistics)  # [N, B, arms]
        means = self.belief.sample(repeated, generator)
        best = self.belief.log_density(repeated, means).sum(-1).argmax(0)
        return means[best, torch.arange(len(best), device=best.device)]


class Gittins(IndexPolicy):
    """The finite-horizon Gittins index of Bernoulli arms: see ``gittins_table``.

    Optimal to every digit we can compute for 10 pulls of 5 or more arms, and nearly so for more pulls.

    Args:
        num_arms: k.
        num_episodes: pulls of a trial, n.
        num_charges: resolution of the index, see ``gittins_table``; None chooses one that takes seconds.
    """

    def __init__(self, num_arms: int, num_episodes: int, num_charges: int | None = None):
        super().__init__(BetaBelief(), num_arms, num_episodes)
        self.num_charges = num_charges or max(128, min(2048, 200_000 // num_episodes))

    @cached_property
    def table(self) -> Tensor:
        return gittins_table(self.num_episodes, self.num_charges)

    def scores(self, statistics: ArmStatistics, generator: Generator) -> Tensor:
        if self.table.device != statistics.pulls.device:
            self.table = self.table.to(statistics.pulls.device)
        return gittins_index(self.table, statistics)
