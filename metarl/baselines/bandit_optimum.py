"""The exact Bayes-optimal return of a Bernoulli bandit with uniform priors, undiscounted.

The state of knowledge is a multiset: successes and failures of each arm, in any order of arms. Backward
induction over all multisets (Bellman 1956), one layer per number of pulls made, is exact.

An arm pulled m times with s successes is the number m (m+1) / 2 + s: 0 is an arm never pulled.
"""

from math import comb, factorial
from typing import NamedTuple

import numpy as np

MOST_STATES = 5_000_000  # seconds, and at most 100 bytes a state for each arm


class Layer(NamedTuple):
    """All M multisets after the same number of pulls, and where a pull of each arm leads."""

    mean: np.ndarray  # [M, k], posterior mean of each arm
    success: np.ndarray  # [M, k], index of the multiset in the next layer if the arm succeeds
    failure: np.ndarray  # [M, k], and if it fails


def num_states(num_arms: int, num_pulls: int) -> int:
    """Number of multisets from which there is still a pull to make: the work of ``bayes_optimum``.

    Coefficients of ``prod_m (1 - y x^m)^-(m+1)``: an arm pulled m times has m + 1 outcomes, so j of them have
    C(m + j, j); x counts pulls and y the arms that were pulled.
    """
    arms = min(num_arms, num_pulls)
    counts = np.zeros((arms + 1, num_pulls))  # [arms pulled, pulls]; float64, for they overflow integers
    counts[0, 0] = 1
    for pulls in range(1, num_pulls):
        fewer = counts.copy()
        for alike in range(1, min(arms, (num_pulls - 1) // pulls) + 1):  # arms pulled this often
            counts[alike:, alike * pulls :] += comb(pulls + alike, alike) * fewer[:-alike, : -alike * pulls]
    return int(counts.sum())


def is_tractable(num_arms: int, num_pulls: int) -> bool:
    """Whether ``bayes_optimum`` has no more than ``MOST_STATES`` states."""
    # A lower bound spares the count for long trials: what j arms show in order, over the orders of j arms.
    arms = min(num_arms, num_pulls, 5)
    if comb(num_pulls - 1 + 2 * arms, 2 * arms) // factorial(arms) > MOST_STATES:
        return False
    return num_states(num_arms, num_pulls) <= MOST_STATES


def bayes_optimum(num_arms: int, num_pulls: int) -> float:
    """Expected return of n pulls of k arms when every pull is optimal.

    Raises:
        ValueError: there are too many states.
    """
    if not is_tractable(num_arms, num_pulls):
        raise ValueError(f"more than {MOST_STATES} states; use bandit_bounds.upper_bound")
    layers, last_mean = _layers(min(num_arms, num_pulls), num_pulls)  # no more arms than pulls can matter
    value = last_mean.max(1)
    for layer in reversed(layers):
        success, failure = value[layer.success], value[layer.failure]
        value = (layer.mean * (1 + success) + (1 - layer.mean) * failure).max(1)
    return float(value[0])


def _layers(num_arms: int, num_pulls: int) -> tuple[list[Layer], np.ndarray]:
    """Layers with a successor, and the posterior means ``[M, k]`` of the one before the last pull."""
    pulls = np.repeat(np.arange(num_pulls + 1), np.arange(1, num_pulls + 2))
    successes = np.arange(len(pulls)) - pulls * (pulls + 1) // 2
    mean = (successes + 1) / (pulls + 2)
    # A multiset's key is the sum of random numbers of its members, so their order is of no account; two of a
    # million multisets share a key of 64 bits with a probability of 3e-8.
    signature = np.random.default_rng(0).integers(0, 2**64, len(pulls), dtype=np.uint64)
    arms = np.zeros((1, num_arms), dtype=np.int64)
    layers = []
    for _ in range(num_pulls - 1):
        successor = np.stack([arms + pulls[arms] + 2, arms + pulls[arms] + 1])  # [2, M, k]
        keys = signature[arms].sum(1)[:, None] - signature[arms] + signature[successor]
        _, first, index = np.unique(keys, return_index=True, return_inverse=True)
        success, failure = index.reshape(keys.shape).astype(np.int32)
        layers.append(Layer(mean[arms], success, failure))
        _, origin, pulled = np.unravel_index(first, keys.shape)
        arms = arms[origin]
        arms[np.arange(len(arms)), pulled] = successor.reshape(-1)[first]
    return layers, mean[arms]
