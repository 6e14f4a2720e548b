"""Comparing runs with few seeds, as Agarwal et al. 2021 advise (arXiv:2108.13264).

Scores come as strata: one array of runs per environment, of any lengths. Only runs of one environment are exchanged
by the bootstrap, so an interval speaks about new seeds in the same environments.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike
from scipy.stats import t, trim_mean

Strata = Sequence[ArrayLike]  # scores [runs] of each environment
Statistic = Callable[[np.ndarray], np.ndarray]  # [replications, scores] -> [replications]

FEW_SEEDS = 5  # below, neither a standard error nor an interval over seeds says anything
REPLICATIONS = 10_000  # the ends of a 95 % interval then wander by about 1 % of its width


class Estimate(NamedTuple):
    """A statistic and its interval; without one where an environment has a single run, which has no spread."""

    value: float
    low: float | None = None
    high: float | None = None


class Spread(NamedTuple):
    """Mean over seeds and how far to trust it: its standard error from ``FEW_SEEDS`` on, else the range of seeds."""

    mean: float
    error: float | None
    lowest: float | None
    highest: float | None

    @property
    def low(self) -> float | None:
        """Lower end of a band: one standard error below the mean, or the lowest seed."""
        return self.lowest if self.error is None else self.mean - self.error

    @property
    def high(self) -> float | None:
        """Upper end of a band: one standard error above the mean, or the highest seed."""
        return self.highest if self.error is None else self.mean + self.error


def spread_over_seeds(values: ArrayLike) -> Spread:
    """Mean over seeds ``[runs]``; a single seed has neither an error nor a range."""
    values = np.asarray(values, dtype=float)
    mean, error = mean_and_standard_error(values)
    if values.size >= FEW_SEEDS:
        return Spread(mean, error, None, None)
    return Spread(mean, None, *((float(values.min()), float(values.max())) if values.size > 1 else (None, None)))


def mean_and_standard_error(values: ArrayLike) -> tuple[float, float | None]:
    """Mean and standard error of independent values; a single one has no standard error."""
    values = np.asarray(values, dtype=float)
    if values.size < 2:
        return float(values.mean()), None
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half along the last axis (section 4.3); fewer than four scores are not trimmed."""
    return trim_mean(scores, 0.25, axis=-1)


def stratified_bootstrap(
    strata: Strata,
    statistic: Statistic = interquartile_mean,
    *,
    level: float = 0.95,
    replications: int = REPLICATIONS,
    generator: Generator | None = None,
) -> Estimate:
    """A statistic of all scores together, with its percentile interval (section 4.1).

    With under about ten runs in all the interval is too narrow.

    Args:
        strata: scores of each environment.
        statistic: maps ``[replications, scores]``, the strata concatenated, to ``[replications]``.
        level: coverage.
        replications: resamples.
        generator: of the resamples; by default the same at every call.

    Raises:
        ValueError: no scores, or an environment without any.
    """
    columns = _columns(strata)
    value = float(statistic(np.concatenate(columns)[None])[0])
    if min(map(len, columns)) < 2:
        return Estimate(value)
    generator = generator or np.random.default_rng(0)
    resampled = [column[generator.integers(len(column), size=(replications, len(column)))] for column in columns]
    return Estimate(value, *_percentiles(statistic(np.concatenate(resampled, axis=1)), level))


def probability_of_improvement(
    x: Strata,
    y: Strata,
    *,
    level: float = 0.95,
    replications: int = REPLICATIONS,
    generator: Generator | None = None,
) -> Estimate:
    """Probability that a run of X scores above a run of Y, averaged over environments; ties count half.

    Section 4.3 and equation A.2, the Mann-Whitney U statistic divided by the number of pairs. X and Y are resampled
    independently.

    Args:
        x, y: scores of each environment, the same environments in the same order.
        level, replications, generator: see ``stratified_bootstrap``.

    Raises:
        ValueError: no scores, an environment without any, or not as many environments in both.
    """
    pairs = list(zip(_columns(x), _columns(y), strict=True))
    wins = [np.heaviside(a[:, None] - b, 0.5) for a, b in pairs]  # [runs of X, runs of Y]
    value = float(np.mean([win.mean() for win in wins]))
    if min(min(win.shape) for win in wins) < 2:
        return Estimate(value)
    generator = generator or np.random.default_rng(0)
    draws = np.zeros(replications)
    for win in wins:
        # A resample is determined by how often each run is drawn.
        of_x, of_y = (generator.multinomial(n, np.full(n, 1 / n), size=replications) / n for n in win.shape)
        draws += ((of_x @ win) * of_y).sum(1)
    return Estimate(value, *_percentiles(draws / len(wins), level))


def paired_difference(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> Estimate:
    """Mean of ``x - y``, pair by pair, what both have in common cancelling out.

    From ``FEW_SEEDS`` pairs on with Student's interval, which holds for few pairs too where differences are about
    normal; from fewer with the smallest and the largest difference; of a single pair without either.
    """
    differences = np.asarray(x, dtype=float) - np.asarray(y, dtype=float)
    spread = spread_over_seeds(differences)
    if spread.error is None:
        return Estimate(spread.mean, spread.lowest, spread.highest)
    reach = float(t.ppf((1 + level) / 2, differences.size - 1)) * spread.error
    return Estimate(spread.mean, spread.mean - reach, spread.mean + reach)


def _columns(strata: Strata) -> list[np.ndarray]:
    columns = [np.asarray(column, dtype=float) for column in strata]
    if not columns or any(column.ndim != 1 or column.size == 0 for column in columns):
        raise ValueError("strata must be one non-empty array of scores per environment; columns of a matrix: list(x.T)")
    return columns


def _percentiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
