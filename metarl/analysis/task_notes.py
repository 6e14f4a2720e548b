"""Notes on the tasks of an evaluation: which they are, and whether training used them."""

from collections.abc import Mapping
from typing import Any

from metarl.runs.values import is_number


def sentence(evaluation: Mapping[str, Any], selected_on: str = "held_out", task_set: str = "held_out") -> str:
    """Description of the tasks of an evaluation, and whether ``best.pt`` and ``--best`` were selected on them.

    Args:
        evaluation: ``Evaluation.as_dict()``; one by an earlier version does not say where its tasks come from.
        selected_on: the task set of the evaluations during training that select.
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
            return f"{tasks:,} {kind} tasks of a fixed set{of_each}, on which best.pt is not selected"
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


def gaps(found: Any) -> dict[str, str]:
    """Return on training tasks minus that on each other set of the final evaluation, with its standard error.

    Args:
        found: ``generalization_gap`` of a summary; one by an earlier version has none.
    """
    if not isinstance(found, dict):
        return {}
    return {
        f"generalisation gap, {name.replace('_', '-')} tasks": f"{gap['mean']:.4g} ± {gap['standard_error']:.2g}"
        for name, gap in found.items()
        if isinstance(gap, dict) and is_number(gap.get("mean")) and is_number(gap.get("standard_error"))
    }
