"""What episodes after adaptation say: success over tasks and classes of tasks, and how Meta-World counts it."""

from collections.abc import Sequence

import numpy as np

from metarl.analysis.tables import Row


def adapted_table(returns: np.ndarray, successes: np.ndarray, steps: np.ndarray, classes: Sequence[str]) -> list[Row]:
    """A row for each class of tasks and, where there are several, their mean.

    Every task counts the same in its class, and every class in the mean.

    Args:
        returns: ``[N, episodes]``.
        successes: bool ``[N, episodes]``.
        steps: until the first success or the end of the episode, ``[N, episodes]``.
        classes: of each task.

    Returns:
        Rows of class, tasks, return and success_rate with their standard_error over tasks, and ``library_count``, see
        ``counted_by_the_library``.
    """
    labels = np.array(classes)
    rows = [
        _row(name, returns[labels == name], successes[labels == name], steps[labels == name])
        for name in dict.fromkeys(classes)
    ]
    if len(rows) > 1:
        mean: Row = {"class": "mean", "tasks": len(labels)}
        for key in ("return", "success_rate", "library_count"):
            mean[key] = float(np.mean([row[key] for row in rows]))
        for key in ("standard_error", "success_error"):
            mean[key] = float(np.sqrt(np.sum([row[key] ** 2 for row in rows])) / len(rows))
        rows.append({key: mean[key] for key in rows[0]})
    return rows


def _row(name: str, returns: np.ndarray, successes: np.ndarray, steps: np.ndarray) -> Row:
    per_task = {"return": returns.mean(1), "success_rate": successes.mean(1)}
    error = {key: _standard_error(values) for key, values in per_task.items()}
    return {
        "class": name,
        "tasks": len(returns),
        "return": float(per_task["return"].mean()),
        "standard_error": error["return"],
        "success_rate": float(per_task["success_rate"].mean()),
        "success_error": error["success_rate"],
        "library_count": counted_by_the_library(successes, steps),
    }


def counted_by_the_library(successes: np.ndarray, steps: np.ndarray) -> float:
    """The success rate that ``metaworld.evaluation.metalearning_evaluation`` reports of a class, for comparison alone.

    It ends an episode at its success and counts the first episodes that end, as many as a single goal should play,
    among all goals of a class: an agent that solves a tenth of the goals is reported as perfect.

    Args:
        successes: bool ``[goals, episodes]``, whether an episode had one.
        steps: until then, or until the end of the episode.
    """
    ends = steps.cumsum(axis=1).ravel()
    first = ends.argsort(kind="stable")[: steps.shape[1]]
    return float(successes.ravel()[first].mean())


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
