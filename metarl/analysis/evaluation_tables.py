"""Evaluations and tables of ``metarl evaluate`` and ``metarl baselines``."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any

import torch

from metarl.analysis.adapted import adapted_table
from metarl.analysis.by_task import task_table
from metarl.analysis.runs import ACTIONS
from metarl.analysis.tables import Row
from metarl.envs.base import MetaEnv
from metarl.errors import ConfigError
from metarl.evaluation import MakeEnv, TaskSelection, evaluate, evaluate_after_adaptation, evaluate_per_task
from metarl.seeding import stream_seed
from metarl.types import Agent, Tasks


def chosen_tasks(options: Namespace, env: MetaEnv) -> dict[str, TaskSelection]:
    """Tasks to evaluate on, for every task set given on the command line.

    The tasks of a fixed set are played once each at most. All tasks there are, as the two directions of a runner, are
    played as often as the number asked for allows: their error is over trials.

    Raises:
        ConfigError: there is no such set.
    """
    chosen: dict[str, TaskSelection] = {}
    for task_set in options.task_set:
        if task_set not in env.task_sets:
            raise ConfigError(f"--task-set {task_set}: {type(env).__name__} has {', '.join(env.task_sets)}")
        most, finite, num_tasks = env.max_num_tasks(task_set), env.all_tasks(task_set), options.num_tasks
        if finite is not None and num_tasks > len(finite):
            times = num_tasks // len(finite) if len(finite) == env.num_tasks_total else 1
            how_often = f"{times:,} times" if times > 1 else "once"
            print(f"there are {len(finite)} {task_set} tasks; each is played {how_often}", file=sys.stderr)
            num_tasks = times * len(finite)
        batch_size = options.batch_size if most is None else min(options.batch_size, most)
        seed = stream_seed(options.seed, "command_line")
        chosen[task_set] = {"num_tasks": num_tasks, "seed": seed, "batch_size": batch_size, "task_set": task_set}
    return chosen


def warn_of_selection(env: MetaEnv, sets: Iterable[str], selected_on: str) -> None:
    """Say so where ``best.pt`` was selected by its return on the very tasks it is to play."""
    for task_set in sets:
        tasks, selected = env.all_tasks(task_set), env.all_tasks(selected_on)
        if tasks is not None and selected is not None and torch.equal(tasks.description, selected.description):
            print(
                f"best.pt was selected by its return on these {len(tasks)} {task_set} tasks, so it looks better here "
                "than it is; use --checkpoint latest, or train with eval.task_sets=train if other tasks are held out",
                file=sys.stderr,
            )


def labelled(sets: dict[str, TaskSelection], rows_of: Callable[[TaskSelection], list[Row]]) -> list[Row]:
    """Rows of every task set, labelled by the set if there are several."""
    rows = []
    for name, which in sets.items():
        label = {"task_set": name} if len(sets) > 1 else {}
        rows += [label | row for row in rows_of(which)]
    return rows


def by_actions(agent: Agent, make_env: MakeEnv, which: TaskSelection) -> dict[str, dict[str, Any]]:
    """Evaluations of sampled and of greedy actions."""
    return {name: evaluate(agent, make_env, greedy=name == "greedy", **which).as_dict() for name in ACTIONS}


def action_rows(agent: Agent, make_env: MakeEnv, which: TaskSelection) -> list[Row]:
    """Evaluations of sampled and of greedy actions as rows."""
    return [{"actions": name} | flat(result) for name, result in by_actions(agent, make_env, which).items()]


def task_rows(agent: Agent, make_env: MakeEnv, which: TaskSelection) -> list[Row]:
    """Rows of ``by_task.task_table``."""
    found = {name: evaluate_per_task(agent, make_env, greedy=name == "greedy", **which) for name in ACTIONS}
    return [{"actions": name} | row for name, played in found.items() for row in task_table(played)]


def adapted_rows(agent: Agent, make_env: MakeEnv, env: MetaEnv, episodes: int, which: TaskSelection) -> list[Row]:
    """Episodes after adaptation: a row for each kind of tasks, where there are several, and one for all."""
    found = evaluate_after_adaptation(agent, make_env, episodes=episodes, **which)
    one_hot, kinds = found.tasks.parameters.get("class"), env.classes
    classes = ["all tasks"] * len(found.tasks) if one_hot is None else [kinds[kind] for kind in one_hot.argmax(1)]
    successes = None if found.successes is None else found.successes.numpy()
    tasks = Tasks({name: value.to(env.device) for name, value in found.tasks.parameters.items()})
    numbers = None if env.num_tasks_total is None else env.task_id(tasks).tolist()
    return adapted_table(found.returns.numpy(), successes, found.steps.numpy(), classes, numbers)


def solver_rows(solvers: dict[str, Agent], make_env: MakeEnv, which: TaskSelection) -> list[Row]:
    """A row for each classical solver."""
    return [{"solver": n} | flat(evaluate(solver, make_env, **which).as_dict()) for n, solver in solvers.items()]


def flat(result: dict[str, Any]) -> Row:
    """The columns of a table from an evaluation."""
    curve, errors = result["adaptation_curve"], result["adaptation_se"]
    columns = {"return": result["return_mean"], "standard error": result["return_se"]}
    columns |= {"first episode": curve[0], "last episode": curve[-1], "its standard error": errors[-1]}
    columns["error over"] = result["error_over"]
    rates = ("success_rate", "fall_rate", "pooled_return")
    columns |= {name: result[name] for name in rates if name in result} | {"tasks": result["num_tasks"]}
    return columns | ({"trials of each": result["trials_per_task"]} if result["trials_per_task"] > 1 else {})
