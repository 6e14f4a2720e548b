"""Tasks of Gymnasium's environments as tensors, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from metarl.errors import ContractError
from metarl.types import Tasks

ONLY = "task"  # name of the parameter where a task is no dictionary
KINDS = "a task is a number, an array of numbers that are as many in every task, or a dictionary of these"


def as_tasks(given: Sequence[Any], count: int, source: str, device: torch.device) -> Tasks:
    """The ``count`` tasks that a method of an environment gave.

    Raises:
        ContractError: they are fewer or more, or not numbers; ``source`` is the method in the message.
    """
    if len(given) != count:
        raise ContractError(f"{source}({count}) gave {len(given)} tasks; return as many as are asked for")
    rows = [task if isinstance(task, Mapping) else {ONLY: task} for task in given]
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ContractError(f"{source} gave tasks with different keys; {KINDS}")
    return Tasks({key: _column([row[key] for row in rows], key, source).to(device) for key in rows[0]})


def _column(values: list, key: str, source: str) -> torch.Tensor:
    """One parameter of all tasks."""
    try:
        found = np.array(values)
    except ValueError:  # as long as it pleases
        found = np.array(values, dtype=object)
    if not isinstance(key, str) or found.dtype.kind not in "biuf":
        shown = f"{values[0]!r}"
        which = "" if key == ONLY else f" under {key!r}"
        raise ContractError(f"{source} gave tasks such as {shown[:80]}{which}; {KINDS}")
    return torch.as_tensor(found)


class TaskForm:
    """Format in which an environment represents its tasks.

    Args:
        example: a task it gave.
    """

    def __init__(self, example: Any):
        self._alone = not isinstance(example, Mapping)
        row = {ONLY: example} if self._alone else example
        self._whole = {key: type(value) for key, value in row.items() if type(value) in (int, bool)}

    def rows(self, tasks: Tasks) -> list:
        """Tasks as it wrote them: arrays and numbers of NumPy, and Python's whole numbers where it gave these."""
        columns: dict[str, Any] = {}
        for key, value in tasks.parameters.items():
            column = value.cpu().numpy()
            columns[key] = [self._whole[key](each) for each in column] if key in self._whole else column
        rows = [{key: column[row] for key, column in columns.items()} for row in range(len(tasks))]
        return [row[ONLY] for row in rows] if self._alone else rows
