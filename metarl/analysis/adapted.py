"""Success and return in episodes after adaptation, by class of tasks, and as Meta-World computes it."""

from collections.abc import Sequence

import numpy as np

from metarl.analysis.tables import Row


def adapted_table(
    returns: np.ndarray,
    successes: np.ndarray | None,
    steps: np.ndarray,
    classes: Sequence[str],
    numbers: Sequence[int] | None = None,
) -> list[Row]:
    """A row for each class of tasks and, where there are several, their mean.

    Every task counts the same in its class, and every class in the mean.

    Args:
        returns: ``[N, episodes]``.
        successes: bool ``[N, episodes]``; None leaves out all that is about success.
        steps: until the first success or the end of the episode, ``[N, episodes]``.
        classes: of each task.
        numbers: which task each row is of, where some were played in several trials; None where all differ.

    Returns:
        Rows of class, tasks, return and success_rate with their standard_error, what these are over (error_over: tasks,
        or the trials of each where every task had several), and ``library_count``, see ``metaworld_success_rate``.
    """
    labels, number = np.array(classes), np.arange(len(classes)) if numbers is None else np.array(numbers)
    rows: list[Row] = []
    for name in dict.fromkeys(classes):
        mine = labels == name
        those = [np.flatnonzero(number[mine] == one) for one in np.unique(number[mine])]
        rows.append({"class": name, "tasks": len(those)} | _scores(returns[mine], those, "return", "standard_error"))
        rows[-1]["error_over"] = "trials" if min(map(len, those)) > 1 else "tasks"
        if successes is not None:
            rows[-1] |= _scores(successes[mine], those, "success_rate", "success_error")
            rows[-1]["library_count"] = metaworld_success_rate(successes[mine], steps[mine])
    if len(rows) > 1:
        rows.append({"class": "mean", "tasks": len({*number.tolist()})} | _mean(rows))
    return rows


def _scores(values: np.ndarray, tasks: Sequence[np.ndarray], name: str, error: str) -> Row:
    """Mean of ``[N, episodes]`` and its standard error; ``tasks`` has the rows of each task."""
    per_trial = values.mean(1)
    count = len(per_trial)
    if min(map(len, tasks)) > 1:  # a mean over strata
        spread = np.sqrt(sum(per_trial[rows].var(ddof=1) / len(rows) for rows in tasks)) / len(tasks)
    else:
        spread = per_trial.std(ddof=1) / count**0.5 if count > 1 else 0.0
    return {name: float(per_trial.mean()), error: float(spread)}


def _mean(rows: Sequence[Row]) -> Row:
    """Mean over classes; errors combine as those of independent means."""
    columns = {
        key: np.array([row[key] for row in rows]) for key in rows[0] if key not in ("class", "tasks", "error_over")
    }
    return {"error_over": rows[0]["error_over"]} | {
        key: float(np.sqrt(np.square(column).sum()) / len(rows) if key.endswith("error") else column.mean())
        for key, column in columns.items()
    }


def metaworld_success_rate(successes: np.ndarray, steps: np.ndarray) -> float:
    """The success rate that ``metaworld.evaluation.metalearning_evaluation`` reports for a class, only for comparison.

    It ends an episode at its success and counts the first episodes that end, as many as a single goal should play,
    among all goals of a class: an agent that solves a tenth of the goals is reported as perfect.

    Args:
        successes: bool ``[goals, episodes]``, whether an episode had one.
        steps: until then, or until the end of the episode.
    """
    ends = steps.cumsum(axis=1).ravel()
    first = ends.argsort(kind="stable")[: steps.shape[1]]
    return float(successes.ravel()[first].mean())
