"""Samples of each task in a rollout, and advantages over baselines that are fitted to them."""

from collections.abc import Callable
from operator import itemgetter
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metarl.algorithms.advantages import generalized_advantages
from metarl.tree import tree_map
from metarl.types import Rollout, Timestep

Baseline = Literal["linear", "linear_time", "zero", "network"]
RIDGE = 1e-5
ROUNDING = 1e-6  # relative, of float32
ATTEMPTS = 5  # each with a ridge ten times as large


class Samples(NamedTuple):
    """Steps of N tasks, M each, ``[N, M, ...]``; the M steps are those of the lanes of a task, lane after lane."""

    timestep: Timestep
    action: Tensor
    log_prob: Tensor  # under the behavior policy
    advantage: Tensor
    returns: Tensor  # value targets
    centered_reward: Tensor  # discounted reward minus its time baseline (DiCE)
    mask: Tensor  # bool
    lane_steps: int  # steps of each lane: M over the lanes of a task
    context: dict[str, Tensor]  # further inputs of a method for each task, [N, ...]
    behavior_params: Tensor | None = None  # distribution parameters of the behavior policies
    gradients: dict[str, Tensor] | None = None  # inner gradients of the tasks, [N, ...]; None to compute them anew

    def select(self, tasks: slice) -> "Samples":
        """Samples of some tasks, as views."""
        selected: Samples = tree_map(itemgetter(tasks), self)
        return selected

    def mean(self, values: Tensor) -> Tensor:
        """Mean of ``values [N, M]`` over the steps that count, for each task ``[N]``."""
        return (values * self.mask).sum(1) / self.mask.sum(1).clamp(min=1)


class AdvantageConfig(NamedTuple):
    """Options of advantage estimation.

    Args:
        discount, gae_lambda: discount per step and lambda, within each episode.
        baseline: ``linear`` in observations, their squares and powers of time (Duan et al. 2016), or ``linear_time``,
            in powers of time only, both refitted for every task and rollout; ``zero``; or ``network``, the critic.
        standardize: advantages of each task and rollout get zero mean and unit variance.
        bootstrap: add the linear baseline's value of the state in which the time limit truncates an episode. The
            baseline then has no time feature, and predicts returns of episodes that are not truncated.
    """

    discount: float
    gae_lambda: float
    baseline: Baseline
    standardize: bool
    bootstrap: bool


def make_samples(
    rollout: Rollout,
    lanes_per_task: int,
    config: AdvantageConfig,
    observed: Callable[[Tensor], Tensor] = lambda observation: observation,
) -> Samples:
    """Samples of the ``B / lanes_per_task`` tasks of a rollout ``[T, B, ...]``.

    ``observed`` turns observations into vectors, for the baseline.
    """

    def by(part: Tensor) -> Tensor:
        return by_task(part, lanes_per_task)

    # A step that is both terminated and truncated counts as terminated: no value follows it.
    rollout = rollout._replace(truncated=rollout.truncated & ~rollout.terminated)
    mask, time = rollout.mask, steps_of_episodes(rollout.timestep.first)
    continues = (~(rollout.terminated | rollout.truncated)).float()
    reward = rollout.reward * mask
    returns = generalized_advantages(reward, torch.zeros_like(reward), config.discount, 1.0, continues=continues)
    vectors = observed(rollout.timestep.observation), observed(rollout.next_observation)
    values, values_after = _values(rollout, vectors, time, returns, lanes_per_task, config)
    if config.bootstrap:
        reward = reward + config.discount * values_after * (rollout.truncated & mask)
    estimate = (config.discount, config.gae_lambda)
    advantage = generalized_advantages(reward, values * mask, *estimate, continues=continues)
    discounted = rollout.reward * mask * config.discount**time
    centered_reward = discounted - _time_baseline(discounted, time, mask, lanes_per_task)
    action, log_prob = by(rollout.decision.action), by(rollout.decision.log_prob)
    estimates = by(advantage), by(advantage + values), by(centered_reward)
    noise = rollout.decision.noise
    context = {} if noise is None else {"noise": by(noise)}
    timestep = tree_map(by, rollout.timestep)
    samples = Samples(timestep, action, log_prob, *estimates, by(mask), len(mask), context)
    return samples._replace(advantage=_standardized(samples)) if config.standardize else samples


def by_task(part: Tensor, lanes_per_task: int) -> Tensor:
    """Reorder ``[T, N * lanes, ...]`` to ``[N, lanes * T, ...]``."""
    return part.unflatten(1, (-1, lanes_per_task)).movedim(0, 2).flatten(1, 2)  # [N, lanes * T, ...]


def by_lane(part: Tensor, lane_steps: int) -> Tensor:
    """Reorder ``[N, lanes * T, ...]`` back to ``[T, N * lanes, ...]``."""
    return part.unflatten(1, (-1, lane_steps)).flatten(0, 1).transpose(0, 1)  # [T, N * lanes, ...]


def _standardized(samples: Samples) -> Tensor:
    mean = samples.mean(samples.advantage).unsqueeze(1)
    variance = samples.mean((samples.advantage - mean).square()).unsqueeze(1)
    varies = variance > (ROUNDING * mean).square()  # otherwise all are equal up to float32 rounding
    return varies * (samples.advantage - mean) / (variance.sqrt() + 1e-8)


def _values(
    rollout: Rollout,
    vectors: tuple[Tensor, Tensor],
    time: Tensor,
    returns: Tensor,
    lanes_per_task: int,
    config: AdvantageConfig,
) -> tuple[Tensor, Tensor]:
    """V(s_t) and V(s_t+1), each ``[T, B]``."""
    if config.baseline == "zero":
        return torch.zeros_like(returns), torch.zeros_like(returns)
    if config.baseline == "network":
        return rollout.decision.value, torch.zeros_like(returns)
    before, after = vectors
    if config.baseline == "linear_time":
        before = after = returns.new_zeros(*returns.shape, 0)
    times = (None, None) if config.bootstrap else (time, time + 1)
    features = [baseline_features(*part) for part in zip((before, after), times, strict=True)]
    explained = features[0]
    if config.bootstrap:  # return = V(first state) - discounted V(state after truncation)
        explained = explained - _cut(features[1], rollout, config.discount)
    explained, *features = (by_task(part, lanes_per_task) for part in (explained, *features))
    weights = ridge_regression(explained, by_task(returns, lanes_per_task), by_task(rollout.mask, lanes_per_task))
    found, led_to = (
        by_lane((part @ weights.unsqueeze(2)).squeeze(2), len(returns)).to(returns.dtype) for part in features
    )
    return found, led_to


def _cut(after: Tensor, rollout: Rollout, discount: float) -> Tensor:
    """Discounted features of the state where the time limit truncates the episode, ``[T, B, F]``; zeros otherwise."""
    truncated = (rollout.truncated & rollout.mask).unsqueeze(2)
    continues = (~(rollout.terminated | rollout.truncated)).double().unsqueeze(2)
    ends = discount * after * truncated
    return generalized_advantages(ends, torch.zeros_like(ends), discount, 1.0, continues=continues)


def _time_baseline(discounted: Tensor, time: Tensor, mask: Tensor, lanes_per_task: int) -> Tensor:
    """Baseline of discounted rewards, linear in powers of time, ``[T, B]`` (for DiCE)."""
    features = by_task(baseline_features(discounted.new_zeros(*time.shape, 0), time), lanes_per_task)
    weights = ridge_regression(features, by_task(discounted, lanes_per_task), by_task(mask, lanes_per_task))
    return by_lane((features @ weights.unsqueeze(2)).squeeze(2), len(time)).to(discounted.dtype) * mask


def steps_of_episodes(first: Tensor) -> Tensor:
    """Number of steps since the start of the episode, ``[T, B]``; ``first`` marks the starts."""
    count = torch.arange(len(first), device=first.device).unsqueeze(1)
    return count - torch.where(first, count, 0).cummax(0).values


def baseline_features(observation: Tensor, time: Tensor | None) -> Tensor:
    """Features ``[o, o^2, t/100, (t/100)^2, (t/100)^3, 1]``, float64 ``[T, B, F]``, of o clipped to ±10.

    Without a time ``[T, B]`` its powers are left out.
    """
    observation = observation.double().reshape(*observation.shape[:2], -1).clamp(-10, 10)  # [T, B, features]
    powers = []
    if time is not None:
        t = time.double().unsqueeze(-1) / 100
        powers = [t, t**2, t**3]
    return torch.cat([observation, observation.square(), *powers, observation.new_ones(*observation.shape[:2], 1)], -1)


def ridge_regression(features: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Weights ``[N, F]`` that predict ``targets [N, M]`` from ``features [N, M, F]`` over the mask, for each task.

    Weights are zero for a task whose normal equations are singular or not finite.
    """
    weighted = features * mask.unsqueeze(2)
    moments, products = weighted.mT @ features, weighted.mT @ targets.double().unsqueeze(2)
    identity = torch.eye(features.shape[2], dtype=torch.float64, device=features.device)
    found, missing = torch.zeros_like(products), torch.ones_like(products[:, :1, :1], dtype=torch.bool)
    for attempt in range(ATTEMPTS):
        weights, _ = torch.linalg.solve_ex(moments + RIDGE * 10**attempt * identity, products)
        solved = missing & weights.isfinite().all(1, keepdim=True)
        found, missing = torch.where(solved, weights, found), missing & ~solved
        if not missing.any():
            break
    return found.squeeze(2)
