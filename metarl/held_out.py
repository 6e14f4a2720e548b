"""Sources of the tasks of an evaluation, and the kind of standard error of its means."""

import math
from typing import Literal

import numpy as np
from torch import Tensor

from metarl.envs.base import MetaEnv
from metarl.types import Tasks

# Drawn from a distribution without end; those of one set of several; every task there is, which training plays too;
# drawn by an environment that cannot list its tasks, and some came more than once.
TaskSource = Literal["fresh", "fixed", "all", "repeating"]
ErrorOver = Literal["tasks", "trials"]


def task_source(env: MetaEnv, task_set: str, played: Tasks) -> TaskSource:
    """Source of the tasks ``played``, which were drawn from ``task_set``."""
    known = env.all_tasks(task_set)
    if known is not None:
        return "all" if len(known) == env.num_tasks_total else "fixed"
    return "repeating" if _repeats(played) else "fresh"


def error_over(source: TaskSource, trials_per_task: int) -> ErrorOver:
    """Unit over which the error of a mean has to be taken.

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


def _repeats(tasks: Tasks) -> bool:
    rows = np.ascontiguousarray(tasks.description.numpy())
    return len(np.unique(rows.view(f"V{rows.itemsize * rows.shape[1]}"))) < len(rows)
