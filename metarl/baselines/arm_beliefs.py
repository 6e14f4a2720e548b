"""Posterior over the mean of an arm after some pulls, with a prior of U[0, 1].

Everything works on any leading axes: statistics ``[..., k]`` of k arms give ``[..., k]``.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from metarl.types import Tasks, Timestep


class ArmStatistics(NamedTuple):
    """Sufficient statistics of each arm, both ``[..., k]``."""

    pulls: Tensor
    reward_sum: Tensor

    def after(self, timestep: Timestep) -> "ArmStatistics":
        """Statistics with the previous step ``[B]`` counted; at the start of a trial there is none."""
        pulled = (timestep.previous_action >= 0).unsqueeze(1).to(self.pulls.dtype)
        arm = timestep.previous_action.clamp(min=0).unsqueeze(1)
        reward = timestep.previous_reward.unsqueeze(1) * pulled
        return ArmStatistics(self.pulls.scatter_add(1, arm, pulled), self.reward_sum.scatter_add(1, arm, reward))


def no_pulls(tasks: Tasks, num_arms: int) -> ArmStatistics:
    """Statistics ``[B, k]`` at the start of a trial."""
    device = next(iter(tasks.parameters.values())).device
    return ArmStatistics(*torch.zeros(2, len(tasks), num_arms, device=device))


class ArmBelief(ABC):
    """The posterior over the mean of each arm.

    Attributes:
        prior_pulls: pulls of an arm that its prior is counted for.
    """

    prior_pulls: int

    @abstractmethod
    def mean(self, statistics: ArmStatistics) -> Tensor:
        """Posterior mean."""

    @abstractmethod
    def width(self, statistics: ArmStatistics) -> Tensor:
        """Scale of the uncertainty of the mean; UCB1 explores in proportion to it."""

    @abstractmethod
    def sample(self, statistics: ArmStatistics, generator: Generator) -> Tensor:
        """One mean drawn from the posterior."""

    @abstractmethod
    def log_density(self, statistics: ArmStatistics, mean: Tensor) -> Tensor:
        """Log-density of ``mean`` under the posterior, up to a constant that does not depend on ``mean``."""


class BetaBelief(ArmBelief):
    """Bernoulli rewards: after s successes and f failures the mean is Beta(s + 1, f + 1)."""

    prior_pulls = 2  # one success and one failure

    def mean(self, statistics: ArmStatistics) -> Tensor:
        return (statistics.reward_sum + 1) / (statistics.pulls + 2)

    def width(self, statistics: ArmStatistics) -> Tensor:
        return (statistics.pulls + 2).rsqrt()

    def sample(self, statistics: ArmStatistics, generator: Generator) -> Tensor:
        successes, failures = self._successes_and_failures(statistics)
        # Two gamma draws give a beta draw; torch.distributions.Beta accepts no generator.
        positive = torch._standard_gamma(successes + 1, generator=generator)
        return positive / (positive + torch._standard_gamma(failures + 1, generator=generator))

    def log_density(self, statistics: ArmStatistics, mean: Tensor) -> Tensor:
        successes, failures = self._successes_and_failures(statistics)
        return torch.special.xlogy(successes, mean) + torch.special.xlog1py(failures, -mean)

    def _successes_and_failures(self, statistics: ArmStatistics) -> tuple[Tensor, Tensor]:
        return statistics.reward_sum, statistics.pulls - statistics.reward_sum


class TruncatedNormalBelief(ArmBelief):
    """Normal rewards of known deviation: the mean is N(average, reward_std^2 / pulls), cut to [0, 1].

    In float64, for the tails. ``width`` is the deviation of the posterior itself, 1 / sqrt(12) before a pull.

    Args:
        reward_std: standard deviation of a reward.
    """

    prior_pulls = 0
    _PRIOR_PRECISION = 1e-6  # of the normal before it is cut: as good as flat on [0, 1], and never a division by zero

    def __init__(self, reward_std: float):
        self.reward_std = reward_std

    def mean(self, statistics: ArmStatistics) -> Tensor:
        centre, std, low, high = self._cut_normal(statistics)
        return (centre + std * self._first_moment(low, high)).clamp(0, 1)

    def width(self, statistics: ArmStatistics) -> Tensor:
        _, std, low, high = self._cut_normal(statistics)
        edges = (low * _normal_density(low) - high * _normal_density(high)) / _normal_mass(low, high)
        return std * (1 + edges - self._first_moment(low, high).square()).clamp(min=1e-12).sqrt()

    def sample(self, statistics: ArmStatistics, generator: Generator) -> Tensor:
        centre, std, low, high = self._cut_normal(statistics)
        # Reflected where the upper tail is meant: the normal distribution function is exact near 0, not near 1.
        upper = low + high > 0
        start = torch.where(upper, -high, low)
        uniform = torch.rand(centre.shape, generator=generator, device=centre.device, dtype=centre.dtype)
        quantile = torch.special.ndtri(torch.special.ndtr(start) + uniform * _normal_mass(low, high))
        return (centre + std * torch.where(upper, -quantile, quantile)).clamp(0, 1)

    def log_density(self, statistics: ArmStatistics, mean: Tensor) -> Tensor:
        centre, std, _, _ = self._cut_normal(statistics)
        return -0.5 * ((mean - centre) / std).square()

    def _cut_normal(self, statistics: ArmStatistics) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and deviation before the cut, and both cuts in standard units."""
        noise_precision = self.reward_std**-2
        precision = self._PRIOR_PRECISION + noise_precision * statistics.pulls.double()
        prior_mean = 0.5
        centre = (noise_precision * statistics.reward_sum + self._PRIOR_PRECISION * prior_mean) / precision
        std = precision.rsqrt()
        return centre, std, -centre / std, (1 - centre) / std

    def _first_moment(self, low: Tensor, high: Tensor) -> Tensor:
        """Mean of a standard normal cut to [low, high]."""
        return (_normal_density(low) - _normal_density(high)) / _normal_mass(low, high)


def _normal_density(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


def _normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """Probability of [low, high], taken in the lower tail where it is exact."""
    upper = low + high > 0
    start, stop = torch.where(upper, -high, low), torch.where(upper, -low, high)
    return (torch.special.ndtr(stop) - torch.special.ndtr(start)).clamp(min=1e-300)
