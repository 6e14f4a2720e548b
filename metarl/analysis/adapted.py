"""What episodes after adaptation say: success over tasks and classes of tasks, and how Meta-World counts it."""

from collections.abc import Sequence

import numpy as np

from metarl.analysis.tables import Row


def adapted_table(
    returns: np.ndarray, successes: np.ndarray | None, steps: np.ndarray, classes: Sequence[str]
) -> list[Row]:
    """A row for each class of tasks and, where there are several, their mean.

    Every task counts the same in its class, and every class in the mean.

    Args:
        returns: ``[N, episodes]``.
        successes: bool ``[N, episodes]``; None leaves out all that is about success.
        steps: until the first success or the end of the episode, ``[N, episodes]``.
        classes: of each task.

    Returns:
        Rows of class, tasks, return and success_rate with their standard_error over tasks, and ``library_count``, see
        ``counted_by_the_library``.
    """
    labels = np.array(classes)
    rows = []
    for name in dict.fromkeys(classes):
        mine = labels == name
        rows.append({"class": name, "tasks": int(mine.sum())} | _scores(returns[mine], "return", "standard_error"))
        if successes is not None:
            rows[-1] |= _scores(successes[mine], "success_rate", "success_error")
            rows[-1]["library_count"] = counted_by_the_library(successes[mine], steps[mine])
    if len(rows) > 1:
        rows.append({"class": "mean", "tasks": len(labels)} | _mean(rows))
    return rows


def _scores(values: np.ndarray, name: str, error: str) -> Row:
    """Mean over tasks ``[N, episodes]``, and its standard error."""
    per_task = values.mean(1)
    count = len(per_task)
    return {name: float(per_task.mean()), error: float(per_task.std(ddof=1) / count**0.5) if count > 1 else 0.0}


def _mean(rows: Sequence[Row]) -> Row:
    """Of the numbers of classes; errors add up as those of independent means."""
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0] if key not in ("class", "tasks")}
    return {
        key: float(np.sqrt(np.square(column).sum()) / len(rows) if key.endswith("error") else column.mean())
        for key, column in columns.items()
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
