"""Statistics against the slow obvious version, known values and rliable 1.2.0."""

import itertools

import numpy as np
import pytest

from metarl.analysis.statistics import (
    interquartile_mean,
    mean_and_standard_error,
    probability_of_improvement,
    stratified_bootstrap,
)


def formula_scores() -> tuple[np.ndarray, np.ndarray]:
    """Scores of 10 and of 8 runs on 6 environments, without random numbers."""
    run, environment = np.arange(10)[:, None], np.arange(6)[None]
    x = 0.5 + 0.3 * np.sin(7 * run + 3 * environment) + 0.02 * environment
    y = 0.45 + 0.35 * np.cos(5 * run + 2 * environment)
    return x, y[:8]


def test_interquartile_mean_of_known_scores():
    assert interquartile_mean(np.arange(1.0, 9.0)) == pytest.approx(4.5)
    assert interquartile_mean(np.array([-100.0, 1.0, 3.0, 1000.0])) == pytest.approx(2.0)
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == pytest.approx(3.0)  # too few to trim
    assert interquartile_mean(np.array([5.0])) == 5.0


def test_interquartile_mean_works_on_the_last_axis():
    scores = np.random.default_rng(0).normal(size=(50, 12))
    expected = [np.sort(row)[3:9].mean() for row in scores]
    np.testing.assert_allclose(interquartile_mean(scores), expected)


def test_interquartile_mean_agrees_with_rliable():
    x, _ = formula_scores()
    estimate = stratified_bootstrap(list(x.T), replications=50_000)
    assert estimate.value == pytest.approx(0.55254266)
    # rliable's interval over two seeds of 50,000 replications: [0.4756, 0.4761] and [0.6298, 0.6308].
    assert estimate.low == pytest.approx(0.4759, abs=0.002)
    assert estimate.high == pytest.approx(0.6303, abs=0.002)


def test_probability_of_improvement_agrees_with_rliable():
    x, y = formula_scores()
    estimate = probability_of_improvement(list(x.T), list(y.T))
    assert estimate.value == pytest.approx(0.62291667)
    # rliable's interval over two seeds of 5,000 replications: [0.508, 0.510] and [0.731, 0.733].
    assert estimate.low == pytest.approx(0.509, abs=0.005)
    assert estimate.high == pytest.approx(0.732, abs=0.005)


def test_probability_of_improvement_is_a_double_loop_over_pairs():
    rng = np.random.default_rng(1)
    x = [rng.integers(0, 5, size) for size in (3, 6)]  # integers tie often
    y = [rng.integers(0, 5, size) for size in (4, 5)]
    expected = np.mean(
        [np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(p, q)]) for p, q in zip(x, y, strict=True)]
    )
    assert probability_of_improvement(x, y).value == pytest.approx(expected)


def test_probability_of_improvement_of_clear_cases():
    low, high = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    assert probability_of_improvement([high], [low]) == (1.0, 1.0, 1.0)
    assert probability_of_improvement([low], [high]) == (0.0, 0.0, 0.0)
    assert probability_of_improvement([low], [low]).value == 0.5
    assert probability_of_improvement([[2.0, 2.0]], [[2.0, 2.0]]) == (0.5, 0.5, 0.5)


def test_probability_of_improvement_is_that_of_its_mirror_image():
    rng = np.random.default_rng(2)
    x, y = [rng.normal(0.3, 1, 7)], [rng.normal(size=9)]
    forth, back = probability_of_improvement(x, y), probability_of_improvement(y, x)
    assert forth.value == pytest.approx(1 - back.value)
    assert forth.low == pytest.approx(1 - back.high, abs=0.02)


def test_bootstrap_agrees_with_a_loop_over_replications():
    rng = np.random.default_rng(3)
    strata = [rng.normal(size=6), rng.normal(5, 2, size=9)]
    draws = [
        interquartile_mean(np.concatenate([rng.choice(column, len(column)) for column in strata])) for _ in range(4000)
    ]
    estimate = stratified_bootstrap(strata)
    assert estimate.low == pytest.approx(np.quantile(draws, 0.025), abs=0.1)
    assert estimate.high == pytest.approx(np.quantile(draws, 0.975), abs=0.1)


def test_bootstrap_exchanges_runs_of_one_environment_only():
    strata = [np.full(5, 1.0), np.full(5, 3.0)]  # no spread within, all of it between
    assert stratified_bootstrap(strata, lambda scores: scores.mean(-1)) == (2.0, 2.0, 2.0)


def test_bootstrap_repeats_itself_unless_given_a_generator():
    scores = [np.random.default_rng(4).normal(size=20)]
    again = stratified_bootstrap(scores, replications=50)
    assert stratified_bootstrap(scores, replications=50) == again
    assert stratified_bootstrap(scores, replications=50, generator=np.random.default_rng(9)) != again


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(5)
    iqm_hits, improvement_hits = 0, 0
    for _ in range(300):
        x, y = rng.normal(size=(2, 15))
        iqm = stratified_bootstrap([x], replications=500, generator=rng)
        improvement = probability_of_improvement([x], [y], replications=500, generator=rng)
        iqm_hits += iqm.low <= 0 <= iqm.high
        improvement_hits += improvement.low <= 0.5 <= improvement.high
    # Nominal 95 %; with 15 runs a percentile interval has a little less. Three standard errors of 300 are 4 %.
    assert 0.88 <= iqm_hits / 300 <= 0.99
    assert 0.88 <= improvement_hits / 300 <= 0.99


def test_a_single_run_has_no_interval():
    assert stratified_bootstrap([[2.0]]) == (2.0, None, None)
    assert stratified_bootstrap([[2.0], [1.0, 3.0]]) == (2.0, None, None)
    assert probability_of_improvement([[2.0]], [[1.0, 3.0]]) == (0.5, None, None)
    assert mean_and_standard_error([2.0]) == (2.0, None)


def test_standard_error():
    assert mean_and_standard_error([1.0, 2.0, 3.0, 6.0]) == pytest.approx((3.0, np.sqrt(14 / 3 / 4)))


@pytest.mark.parametrize("strata", [[], [[]], [[[1.0, 2.0]]]])
def test_scores_that_are_no_strata_are_refused(strata):
    with pytest.raises(ValueError, match="one non-empty array of scores per environment"):
        stratified_bootstrap(strata)
