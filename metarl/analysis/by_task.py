"""Returns by kind of task: whether an agent adapts to all of them, or to the easy half."""

from collections.abc import Iterator

import torch

from metarl.analysis.tables import Row
from metarl.errors import ConfigError
from metarl.evaluation import PlayedTasks
from metarl.held_out import standard_error

FEW = 4  # different values of a parameter that each get a row; more are split into halves
MOST = 8  # numbers that describe a task


def task_table(played: PlayedTasks) -> list[Row]:
    """A row for every value of each parameter of the tasks, or for its lower and upper half.

    Returns:
        Rows of tasks (which), count, return of the first_episode and the last_episode of the trial, standard_error of
        the latter, what it is over (error_over), the trials_of_each task where there were several and, where the
        environment reports it, success_rate.

    Raises:
        ConfigError: tasks have too many parameters for a table.
    """
    parameters = dict(_columns(played))
    if len(parameters) > MOST:
        raise ConfigError(f"--by-task: a task is described by {len(parameters)} numbers; it takes at most {MOST}")
    return [
        _row(played, label, chosen) for name, column in parameters.items() for label, chosen in _groups(name, column)
    ]


def _columns(played: PlayedTasks) -> Iterator[tuple[str, torch.Tensor]]:
    """Each number that describes tasks, ``[N]``, by name."""
    for name, values in played.tasks.parameters.items():
        flat = values.reshape(len(values), -1).double()
        for index, column in enumerate(flat.unbind(1)):
            yield name if flat.shape[1] == 1 else f"{name}[{index}]", column


def _groups(name: str, column: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Masks of tasks that belong together."""
    values = column.unique()
    if len(values) <= FEW:
        for value in values:
            yield f"{name} = {value:g}", column == value
    else:
        middle = column.median()
        yield f"{name} <= {middle:.3g}", column <= middle
        yield f"{name} > {middle:.3g}", column > middle


def _row(played: PlayedTasks, label: str, chosen: torch.Tensor) -> Row:
    trials = played.trials[..., chosen]
    _, repeats, count = trials.shape
    row: Row = {
        "tasks": label,
        "count": count,
        "first_episode": float(trials[0].mean()),
        "last_episode": float(trials[-1].mean()),
        "standard_error": float(standard_error(trials[-1], played.error_over)),
        "error_over": played.error_over,
    }
    if repeats > 1:
        row["trials_of_each"] = repeats
    if played.successes is not None:
        row["success_rate"] = float(played.successes[chosen].mean())
    return row
