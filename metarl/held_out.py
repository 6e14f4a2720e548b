"""Where the tasks of an evaluation come from, and what the standard error of its means is over."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from torch import Tensor

from metarl.envs.base import MetaEnv, Tasks

# Drawn from a distribution without end; those of one set of several; every task there is, which training plays too;
# drawn by an environment that cannot list its tasks, and some came more than once.
TaskSource = Literal["fresh", "fixed", "all", "repeating"]
ErrorOver = Literal["tasks", "trials"]


def task_source(env: MetaEnv, task_set: str, played: Tasks) -> TaskSource:
    """Where the tasks ``played``, drawn from ``task_set``, come from."""
    known = env.every_task(task_set)
    if known is not None:
        return "all" if len(known) == env.num_distinct_tasks else "fixed"
    return "repeating" if _repeats(played) else "fresh"


def error_over(source: TaskSource, trials_per_task: int) -> ErrorOver:
    """What the error of a mean has to be over.

    Tasks that are a sample of more differ from those of another sample, so the error is over tasks. Where every task
    there is was played, all that another evaluation would change is the trials: the error is over those of each task.
    """
    return "trials" if source == "all" and trials_per_task > 1 else "tasks"


def standard_error(trials: Tensor, over: ErrorOver) -> Tensor:
    """Standard error of the mean over all values ``[..., R, N]``, R trials on each of N tasks; 0 for a single value.

    ``tasks``: deviation of the means of tasks over the square root of N. ``trials``: that of a mean over strata of
    equal size (Cochran 1977, section 5.4), the root of the mean variance within tasks over R N.
    """
    repeats, count = trials.shape[-2:]
    if over == "trials":
        return (trials.var(-2).mean(-1) / (repeats * count)).sqrt()
    return trials.mean(-2).std(-1, correction=1 if count > 1 else 0) / math.sqrt(count)


def sentence(evaluation: Mapping[str, Any], selected_on: str = "held_out", task_set: str = "held_out") -> str:
    """What tasks an evaluation played, and whether ``best.pt`` and ``--best`` were selected on the same ones.

    Args:
        evaluation: ``Evaluation.as_dict()``; one by an earlier version does not say where its tasks come from.
        selected_on: the task set of the evaluations during training.
        task_set: the set that was played.
    """
    tasks, trials = evaluation.get("num_tasks", 0), evaluation.get("trials_per_task", 1)
    kind = task_set.replace("_", "-")
    of_each = f", {trials:,} trials of each" if trials > 1 else ""
    match evaluation.get("task_source"):
        case "fresh":
            return f"{tasks:,} {kind} tasks, drawn afresh: no earlier evaluation played them"
        case "fixed" if task_set == selected_on:
            same = "evaluations during training play the same set, so best.pt is selected on it"
            return f"{tasks:,} {kind} tasks of a fixed set{of_each}; {same}"
        case "fixed":
            return f"{tasks:,} {kind} tasks of a fixed set{of_each}, which evaluations during training do not play"
        case "all":
            same = "training and its evaluations play them too, so best.pt is selected on them"
            return f"all {tasks:,} tasks there are{of_each}; {same}"
        case "repeating":
            same = "training and its evaluations may play the same, and best.pt be selected on them"
            return f"{tasks:,} draws of {kind} tasks, some of them more than once; {same}"
    return f"{tasks:,} {kind} tasks"


def selected_on_the_same(evaluation: Mapping[str, Any], selected_on: str = "held_out") -> bool | None:
    """Whether evaluations during training, which select, play the held-out tasks too; None where it is not recorded."""
    source = evaluation.get("task_source")
    if source is None:
        return None
    return source in ("all", "repeating") or (source == "fixed" and selected_on == "held_out")


def _repeats(tasks: Tasks) -> bool:
    rows = np.ascontiguousarray(tasks.description.numpy())
    return len(np.unique(rows.view(f"V{rows.itemsize * rows.shape[1]}"))) < len(rows)
