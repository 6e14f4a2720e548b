"""Upper bounds on the Bayes-optimal return of a Bernoulli bandit, where the optimum itself is out of reach.

Two ways to give the player more than it has; the smaller bound counts. The first is better for many arms, the second
for few. Arms have uniform priors, returns are undiscounted; n pulls, k arms.
"""

import numpy as np
from scipy.optimize import minimize

CONFIDENCE = 3.0  # standard errors added to a simulated bound: it holds with a probability of 99.9%
CHARGES = np.linspace(0.65, 0.95, 7)


def upper_bound(num_arms: int, num_pulls: int, seed: int = 0) -> float:
    """The best bound we have on the expected return of any player."""
    num_paths = max(50_000 // num_arms, 200)  # seconds, and fewer where the other bound is the better
    mean, error = information_relaxation(num_arms, num_pulls, num_paths, seed)
    return min(lagrangian_relaxation(num_arms, num_pulls), mean + CONFIDENCE * error)


def lagrangian_relaxation(num_arms: int, num_pulls: int) -> float:
    """Let the player pull any number of arms at once, one on average (Whittle 1988; Hawkins 2003).

    By weak duality ``sum_t charge_t + k V(charges)`` bounds the optimum for any charges, V being the optimum of one
    arm whose pull at time t costs ``charge_t``. The charges fall linearly in time: freely chosen ones gain little.
    """

    def dual(ends: np.ndarray) -> float:
        charges = np.linspace(ends[0], ends[1], num_pulls).clip(min=0)
        return charges.sum() + num_arms * _charged_arm(charges)

    start = min((np.array([charge + 0.05, charge - 0.05]) for charge in CHARGES), key=dual)
    options = {"maxfev": 60, "xatol": 1e-4, "fatol": 1e-3}
    return float(minimize(dual, start, method="Nelder-Mead", options=options).fun)


def _charged_arm(charges: np.ndarray) -> float:
    """Optimal value of one arm that may be pulled or skipped at each time, ``charges [n]`` apart."""
    num_pulls = len(charges)
    pulls, successes = np.ogrid[: num_pulls + 1, : num_pulls + 1]
    mean = (successes + 1) / (pulls + 2)
    value = np.zeros((num_pulls + 1, num_pulls + 1))  # [pulls, successes]
    for past in range(num_pulls - 1, -1, -1):
        now, size = mean[: past + 1, : past + 1], past + 1
        failure, success = value[1 : size + 1, :size], value[1 : size + 1, 1 : size + 1]
        pulled = now - charges[past] + failure + now * (success - failure)
        value = np.maximum(pulled, value[:size, :size])
    return value[0, 0]


def information_relaxation(num_arms: int, num_pulls: int, num_paths: int, seed: int = 0) -> tuple[float, float]:
    """Show the player all rewards before it chooses, and charge it for the knowledge (Brown, Smith & Sun 2010).

    The pulls of an arm pay their posterior means, less the surprise in the value of a player who may stop at any
    time and is charged the same for each pull: a martingale difference, so that a player who does not look ahead
    pays nothing on average. Knowing all sample paths, the best is to divide n pulls among the arms.

    Returns:
        Mean and standard error of the bound over ``num_paths`` simulated bandits.
    """
    # The charge, and the weight of the control variate, are chosen on other paths, or they would bias the estimate.
    pilots, main = (np.random.default_rng([seed, stream]) for stream in range(2))
    pilot_paths = max(num_paths // 20, 50)
    trials = [(charge, *_penalised(num_arms, num_pulls, charge, pilot_paths, pilots)) for charge in CHARGES]
    charge, pilot, excess = min(trials, key=lambda trial: trial[1].mean())
    weight = np.cov(pilot, excess)[0, 1] / excess.var(ddof=1)
    returns, excess = _penalised(num_arms, num_pulls, charge, num_paths, main)
    returns = returns - weight * excess
    return float(returns.mean()), float(returns.std(ddof=1) / np.sqrt(num_paths))


def _penalised(
    num_arms: int, num_pulls: int, charge: float, num_paths: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Best penalised return in hindsight, and by how much the best arm's mean is above its expectation, ``[paths]``."""
    value, expected = _stopping_values(num_pulls, charge)
    means = generator.random((num_arms, num_paths))
    best = _arm_payoffs(value, expected, means[0], generator)  # [paths, pulls divided so far]
    for mean in means[1:]:
        payoff = _arm_payoffs(value, expected, mean, generator)
        longer = best + payoff[:, :1]  # not a pull of this arm
        for pulls in range(1, num_pulls + 1):
            np.maximum(longer[:, pulls:], best[:, :-pulls] + payoff[:, pulls, None], out=longer[:, pulls:])
        best = longer
    return best[:, -1], means.max(0) - num_arms / (num_arms + 1)


def _arm_payoffs(value: list, expected: list, mean: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Penalised payoff of the first 0, 1, ..., n pulls of one arm of each ``mean [paths]``: ``[paths, n + 1]``."""
    successes = np.zeros(len(mean), dtype=int)
    payoffs = np.zeros((len(mean), len(value)), dtype=np.float32)
    for pulls in range(len(value) - 1):
        surprise = -expected[pulls][successes]
        posterior_mean = (successes + 1) / (pulls + 2)
        successes = successes + (generator.random(len(mean)) < mean)
        surprise += value[pulls + 1][successes]
        payoffs[:, pulls + 1] = payoffs[:, pulls] + posterior_mean - surprise
    return payoffs


def _stopping_values(num_pulls: int, charge: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Value of an arm pulled m = 0 ... n times, by successes, when n - m pulls are left at ``charge`` each.

    Returns:
        The values, and those expected after one more pull.
    """
    value: list[np.ndarray] = [np.zeros(num_pulls + 1)]
    expected: list[np.ndarray] = []
    for pulls in range(num_pulls - 1, -1, -1):
        mean = (np.arange(pulls + 1) + 1) / (pulls + 2)
        expected.insert(0, mean * value[0][1:] + (1 - mean) * value[0][:-1])
        value.insert(0, np.maximum(0, mean - charge + expected[0]))
    return value, expected
