"""Comparison of methods over several seeds, environment by environment."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.analysis.runs import Actions, Run, Score, name_runs, require_finished
from metarl.analysis.statistics import (
    FEW_SEEDS,
    Estimate,
    Spread,
    interquartile_mean,
    paired_difference,
    probability_of_improvement,
    spread_over_seeds,
    stratified_bootstrap,
)
from metarl.analysis.tables import Row
from metarl.analysis.task_notes import sentence
from metarl.errors import RunDirectoryError

AGGREGATE = "all, normalised"

Groups = dict[str, dict[str, list[Run]]]  # runs by environment and method, in order of first appearance


@dataclass(frozen=True)
class Comparison:
    """Rows for ``format_table``, and notes on them.

    Columns: environment, method, seeds (runs), return (mean over seeds); from ``FEW_SEEDS`` seeds on error_over_seeds,
    else task_error, lowest and highest (seed); iqm, difference to the first method (of runs with the same seed and
    tasks) and probability_of_improvement over it, each with its ends _low and _high. What fewer seeds do not support is
    null: intervals of the IQM, and the probability. Returns are of a whole trial or of its last episode, in units of
    reward, except in the rows of the environment ``AGGREGATE``: there 0 is the random baseline and 1 the reference.
    """

    rows: list[Row]
    notes: list[str]
    score: Score


def compare(runs: Sequence[Run], actions: Actions = "sampled", score: Score | None = None) -> Comparison:
    """Compare finished runs, grouped by what they have in common but the seed.

    Args:
        runs: finished runs.
        actions: kind of evaluation, of sampled or greedy actions.
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
    reference = next(iter(next(iter(groups.values()))))
    rows = [
        row for environment, methods in groups.items() for row in _rows(environment, methods, reference, actions, score)
    ]
    aggregate, reasons = _aggregate(groups, reference, actions, score)
    return Comparison(rows + aggregate, _notes(groups, rows, reference, actions, score) + reasons, score)


def group_by_environment(runs: Sequence[Run], ignored: Collection[str] = (), score: Score = "trial") -> Groups:
    """Runs by environment, then method; runs of one group differ only in the seed and in ``ignored`` keys."""
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


def _rows(environment: str, methods: dict[str, list[Run]], reference: str, actions: Actions, score: Score) -> list[Row]:
    baseline = methods.get(reference)
    rows = []
    for method, runs in methods.items():
        scores = _scores(runs, actions, score)
        better = difference = None
        if method != reference and baseline is not None:
            better = _improvement([scores], [_scores(baseline, actions, score)])
            difference = _difference(runs, baseline, actions, score)
        few = len(runs) < FEW_SEEDS
        error = task_error([run.evaluations[actions] for run in runs], score) if few else None
        iqm = _interquartile([scores])
        rows.append(_row(environment, method, len(runs), spread_over_seeds(scores), error, iqm, difference, better))
    return rows


def _row(
    environment: str,
    method: str,
    seeds: int,
    spread: Spread,
    task_error: float | None,
    iqm: Estimate,
    difference: Estimate | None,
    better: Estimate | None,
) -> Row:
    row: Row = {"environment": environment, "method": method, "seeds": seeds, "return": spread.mean}
    row |= {"error_over_seeds": spread.error, "task_error": task_error}
    row |= {"lowest": spread.lowest, "highest": spread.highest}
    for name, estimate in (("iqm", iqm), ("difference", difference), ("probability_of_improvement", better)):
        value, low, high = estimate or (None, None, None)
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row


def _scores(runs: Sequence[Run], actions: Actions, score: Score) -> np.ndarray:
    return np.array([score_of(run.evaluations[actions], score) for run in runs])


def _interquartile(strata: Sequence[np.ndarray]) -> Estimate:
    """Interquartile mean, with its interval where every environment has enough seeds."""
    estimate = stratified_bootstrap(strata, interquartile_mean)
    return estimate if _enough(strata) else Estimate(estimate.value)


def _improvement(strata: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Estimate | None:
    """None where a method has too few seeds: three seeds are above three others by chance once in twenty times."""
    return probability_of_improvement(strata, reference) if _enough([*strata, *reference]) else None


def _enough(strata: Sequence[np.ndarray]) -> bool:
    return min(map(len, strata)) >= FEW_SEEDS


def _difference(runs: Sequence[Run], others: Sequence[Run], actions: Actions, score: Score) -> Estimate | None:
    """Difference of runs paired by seed and held-out tasks; None without such pairs."""
    pairs = [(run, other) for run in runs for other in others if _same_tasks(run, other)]
    if not pairs:
        return None
    ours, theirs = zip(*pairs, strict=True)
    return paired_difference(_scores(ours, actions, score), _scores(theirs, actions, score))


def _same_tasks(run: Run, other: Run) -> bool:
    """Whether the final evaluations of two runs in one environment had one seed and played the same tasks."""
    ours, theirs = ([(run.summary or {}).get(key) for key in ("evaluation_seed", "num_tasks")] for run in (run, other))
    batch_sizes = [(run.config.get("eval") or {}).get("batch_size") for run in (run, other)]
    return run.seed == other.seed and None not in ours and ours == theirs and batch_sizes[0] == batch_sizes[1]


def task_error(evaluations: Sequence[dict[str, Any]], score: Score) -> float:
    """Standard error of the mean over some runs that comes from the tasks they played, or the trials on these.

    Runs of other seeds play other tasks, so errors add up as those of independent means; those on a fixed set do not.
    """
    errors = np.array([e["return_se"] if score == "trial" else e["adaptation_se"][-1] for e in evaluations])
    if all(e.get("task_source") == "fixed" and e.get("error_over") == "tasks" for e in evaluations):
        return float(errors.mean())
    return float(np.sqrt(np.square(errors).sum()) / len(errors))


def _aggregate(groups: Groups, reference: str, actions: Actions, score: Score) -> tuple[list[Row], list[str]]:
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
    strata: dict[str, list[np.ndarray]] = {method: [] for method in methods}
    errors: dict[str, list[float]] = {method: [] for method in methods}
    for environment, (low, high, _) in scales.items():
        for method, runs in groups[environment].items():
            strata[method].append((_scores(runs, actions, score) - low) / (high - low))
            errors[method].append(task_error([run.evaluations[actions] for run in runs], score) / (high - low))
    ends = "; ".join(f"{environment} {name} {high:.4g}" for environment, (_, high, name) in scales.items())
    note = f'In "{AGGREGATE}" 0 is the random baseline and 1 the reference of each environment ({ends}).'
    return [_aggregate_row(method, strata, errors[method], reference) for method in methods], [note]


def _aggregate_row(method: str, strata: dict[str, list[np.ndarray]], task_errors: list[float], reference: str) -> Row:
    """Means and their errors, with equal weight for every environment, whatever its number of seeds."""
    columns = strata[method]
    better = _improvement(columns, strata[reference]) if method != reference else None
    spreads = [spread_over_seeds(column) for column in columns]
    errors = [spread.error for spread in spreads if spread.error is not None]
    error = _mean_error(errors) if len(errors) == len(spreads) else None
    spread = Spread(float(np.mean([spread.mean for spread in spreads])), error, None, None)
    seeds = sum(len(column) for column in columns)
    own = _mean_error(task_errors) if error is None else None
    return _row(AGGREGATE, method, seeds, spread, own, _interquartile(columns), None, better)


def _mean_error(errors: Sequence[float]) -> float:
    """Standard error of the mean of independent means."""
    return float(np.sqrt(np.square(errors).sum()) / len(errors))


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
    """Return of every baseline and bound, averaged over the runs that have it, each with its own held-out tasks.

    Bounds apply only to whole trials.
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


def _notes(groups: Groups, rows: Sequence[Row], reference: str, actions: Actions, score: Score) -> list[str]:
    of = "a trial" if score == "trial" else "the last episode of a trial"
    notes = [f"Return of {of} on held-out tasks, {actions} actions; mean over seeds."]
    if any(row["error_over_seeds"] is not None for row in rows):
        notes.append(f"Error over seeds: standard error of the mean, from {FEW_SEEDS} seeds on.")
    if any(row["seeds"] < FEW_SEEDS for row in rows):
        notes.append(
            f"With fewer than {FEW_SEEDS} seeds: task error (standard error over held-out tasks; over trials if all "
            "existing tasks were played), which says nothing about other seeds; lowest and highest seed."
        )
    interval = f", with a 95 % stratified bootstrap interval from {FEW_SEEDS} seeds on"
    notes.append(f"IQM: interquartile mean{interval} (Agarwal et al. 2021).")
    if any(row["difference"] is not None for row in rows):
        notes.append(
            f"Difference to {reference}: mean over pairs of runs with the same seed and held-out tasks, with Student's "
            f"95 % interval from {FEW_SEEDS} pairs on, else the smallest and the largest one."
        )
    if any(row["probability_of_improvement"] is not None for row in rows):
        notes.append(f"P(better): probability that a run scores above a run of {reference}; ties count half.")
    return notes + _task_notes(groups, actions)


def _task_notes(groups: Groups, actions: Actions) -> list[str]:
    """Tasks that were evaluated, if recorded by the runs; environment by environment if there are several."""
    notes = []
    for environment, methods in groups.items():
        runs = [run for those in methods.values() for run in those if "task_source" in run.evaluations[actions]]
        said = dict.fromkeys(sentence(run.evaluations[actions], run.selected_on) for run in runs)
        notes += [f"{environment}: {text}." if len(groups) > 1 else f"Tasks: {text}." for text in said]
    return notes
