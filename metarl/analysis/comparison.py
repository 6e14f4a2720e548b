"""Methods side by side: what several seeds say, environment by environment."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.analysis.runs import Actions, Run, Score, name_runs, require_finished
from metarl.analysis.statistics import (
    Estimate,
    interquartile_mean,
    mean_and_standard_error,
    probability_of_improvement,
    stratified_bootstrap,
)
from metarl.analysis.tables import Row
from metarl.errors import RunDirectoryError

AGGREGATE = "all, normalised"
FEW_SEEDS = 5

Groups = dict[str, dict[str, list[Run]]]  # runs by environment and method, in order of first appearance
Scores = dict[str, dict[str, np.ndarray]]  # the same, scores [runs]


@dataclass(frozen=True)
class Comparison:
    """Rows for ``format_table``, and what a reader has to know about them.

    Columns: environment, method, seeds (runs), return and standard_error (mean over seeds, null for one), iqm with
    iqm_low and iqm_high (95 % stratified bootstrap), probability_of_improvement over the first method with _low and
    _high. Ends of intervals are null where a seed is alone. Returns are of a whole trial or of its last episode, in
    units of reward, except in the rows of the environment ``AGGREGATE``: there 0 is the random baseline and 1 the
    reference.
    """

    rows: list[Row]
    notes: list[str]
    score: Score


def compare(runs: Sequence[Run], actions: Actions = "sampled", score: Score | None = None) -> Comparison:
    """Compare finished runs, grouped by what they have in common but the seed.

    Args:
        runs: what to compare.
        actions: how they acted.
        score: the return of a whole trial or of its last episode, which alone compares trials of different lengths;
            None takes the trial where all have the same length.

    Raises:
        RunDirectoryError: no run, an unfinished run, two runs of one group and seed, or ``score`` is the return of
            trials that differ in length.
    """
    for run in runs:
        require_finished(run)
    groups = group_by_environment(runs, score=score or "trial")
    if not groups:
        raise RunDirectoryError("no run to compare; give at least one run directory")
    score = _chosen_score(groups, score)
    groups = group_by_environment(runs, score=score)
    _check_seeds(groups)
    scores = {
        environment: {
            method: np.array([score_of(run.evaluations[actions], score) for run in those])
            for method, those in methods.items()
        }
        for environment, methods in groups.items()
    }
    reference = next(iter(next(iter(groups.values()))))
    rows = [row for environment, columns in scores.items() for row in _rows(environment, columns, reference)]
    aggregate, reasons = _aggregate(groups, scores, reference, score)
    return Comparison(rows + aggregate, _notes(scores, reference, actions, score) + reasons, score)


def group_by_environment(runs: Sequence[Run], ignored: Collection[str] = (), score: Score = "trial") -> Groups:
    """Runs by environment, then method; those of one group differ in the seed alone, and in keys ``ignored``."""
    groups: Groups = {}
    for run, name in zip(runs, name_runs(runs, ignored, score), strict=True):
        groups.setdefault(name.environment, {}).setdefault(name.method, []).append(run)
    return groups


def score_of(evaluation: dict[str, Any], score: Score) -> float:
    """The return that counts."""
    return evaluation["return_mean"] if score == "trial" else evaluation["adaptation_curve"][-1]


def _chosen_score(groups: Groups, score: Score | None) -> Score:
    for environment, methods in groups.items():
        runs = [run for those in methods.values() for run in those]
        lengths = sorted({len(run.evaluations["sampled"]["adaptation_curve"]) for run in runs})
        if len(lengths) > 1:
            if score == "trial":
                raise RunDirectoryError(
                    f"--score trial: trials on {environment} have {' and '.join(map(str, lengths))} episodes; "
                    "use --score last_episode"
                )
            return "last_episode"
    return score or "trial"


def _rows(environment: str, columns: dict[str, np.ndarray], reference: str) -> list[Row]:
    rows = []
    for method, scores in columns.items():
        better = None
        if method != reference and reference in columns:
            better = probability_of_improvement([scores], [columns[reference]])
        mean, error = mean_and_standard_error(scores)
        rows.append(_row(environment, method, len(scores), mean, error, stratified_bootstrap([scores]), better))
    return rows


def _row(
    environment: str, method: str, seeds: int, mean: float, error: float | None, iqm: Estimate, better: Estimate | None
) -> Row:
    return {
        "environment": environment,
        "method": method,
        "seeds": seeds,
        "return": mean,
        "standard_error": error,
        "iqm": iqm.value,
        "iqm_low": iqm.low,
        "iqm_high": iqm.high,
        "probability_of_improvement": better.value if better else None,
        "probability_of_improvement_low": better.low if better else None,
        "probability_of_improvement_high": better.high if better else None,
    }


def _aggregate(groups: Groups, scores: Scores, reference: str, score: Score) -> tuple[list[Row], list[str]]:
    """Rows over all environments, or why there are none: returns of different environments have no common unit."""
    if len(groups) == 1:
        return [], []
    methods = list(next(iter(groups.values())))
    if any(set(columns) != set(methods) for columns in groups.values()):
        return [], ["No aggregate over environments: not every method ran on all of them."]
    scales = {}
    for environment, columns in groups.items():
        scale = _scale([run for those in columns.values() for run in those], score)
        if scale is None:
            return [], [f"No aggregate over environments: {environment} has no random baseline below a reference."]
        scales[environment] = scale
    strata = {
        method: [(scores[e][method] - low) / (high - low) for e, (low, high, _) in scales.items()] for method in methods
    }
    ends = "; ".join(f"{environment} {name} {high:.4g}" for environment, (_, high, name) in scales.items())
    note = f'In "{AGGREGATE}" 0 is the random baseline and 1 the reference of each environment ({ends}).'
    return [_aggregate_row(method, strata, reference) for method in methods], [note]


def _aggregate_row(method: str, strata: dict[str, list[np.ndarray]], reference: str) -> Row:
    """Means and their errors weigh environments alike, whatever their number of seeds."""
    columns = strata[method]
    better = probability_of_improvement(columns, strata[reference]) if method != reference else None
    means, errors = zip(*(mean_and_standard_error(column) for column in columns), strict=True)
    error = None if None in errors else float(np.sqrt(np.square(errors).sum()) / len(errors))
    iqm = stratified_bootstrap(columns, interquartile_mean)
    seeds = sum(len(column) for column in columns)
    return _row(AGGREGATE, method, seeds, float(np.mean(means)), error, iqm, better)


def _scale(runs: Sequence[Run], score: Score) -> tuple[float, float, str] | None:
    """Return of the random baseline, of the reference (tightest bound, else best baseline), and the latter's name."""
    references = mean_references(runs, score)
    low = next((value for name, value in references.items() if name.lower() == "random"), None)
    bounds = {name: value for name, value in references.items() if any(name in run.bounds for run in runs)}
    if low is None:
        return None
    best = min(bounds, key=bounds.__getitem__) if bounds else max(references, key=references.__getitem__)
    return (low, references[best], best) if references[best] > low else None


def mean_references(runs: Sequence[Run], score: Score = "trial") -> dict[str, float]:
    """Return of every baseline and bound, averaged over the runs that know it: each met other held-out tasks.

    Bounds are of whole trials alone.
    """
    values: dict[str, list[float]] = {}
    for run in runs:
        for name, evaluation in run.baselines.items():
            values.setdefault(name, []).append(score_of(evaluation, score))
        for name, bound in run.bounds.items() if score == "trial" else ():
            values.setdefault(name, []).append(bound)
    return {name: float(np.mean(found)) for name, found in values.items()}


def _check_seeds(groups: Groups) -> None:
    for environment, methods in groups.items():
        for method, runs in methods.items():
            first: dict[int, Run] = {}
            for run in runs:
                if run.seed in first:
                    raise RunDirectoryError(
                        f"{first[run.seed].path} and {run.path} are the same run ({environment}, {method}, "
                        f"seed={run.seed}) and would count twice; give one of them"
                    )
                first[run.seed] = run


def _notes(scores: Scores, reference: str, actions: Actions, score: Score) -> list[str]:
    several = len({method for columns in scores.values() for method in columns}) > 1
    of = "a trial" if score == "trial" else "the last episode of a trial"
    notes = [f"Return of {of} on held-out tasks, {actions} actions; mean ± standard error over seeds."]
    notes += ["IQM: interquartile mean with a 95 % stratified bootstrap interval (Agarwal et al. 2021)."]
    if several:
        notes.append(f"P(better): probability that a run scores above a run of {reference}; ties count half.")
    counts = [len(column) for columns in scores.values() for column in columns.values()]
    if min(counts) == 1:
        notes.append("One seed tells nothing about others: no standard error and no interval there.")
    if any(1 < count < FEW_SEEDS for count in counts):
        notes.append(f"Intervals from fewer than {FEW_SEEDS} seeds are too narrow.")
    return notes
