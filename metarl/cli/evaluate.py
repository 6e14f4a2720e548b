"""Commands that play held-out tasks: ``metarl evaluate`` and ``metarl baselines``."""

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from metarl.cli.options import add_command, add_evaluation, add_run, add_task, positive, print_rows
from metarl.errors import ConfigError
from metarl.runs.files import to_json
from metarl.runs.reader import task_sets

if TYPE_CHECKING:
    from metarl.evaluation import TaskSelection


def add_commands(commands: Any) -> None:
    """Add both commands."""
    evaluating = add_command(commands, "evaluate", evaluate, "evaluate a trained agent on held-out tasks")
    add_run(evaluating, every=True)
    evaluating.add_argument(
        "overrides", nargs="*", metavar="env.KEY=VALUE", help="other settings of the environment, of the same shapes"
    )
    add_task(evaluating)
    add_evaluation(evaluating)
    evaluating.add_argument(
        "--test-episodes",
        type=positive,
        help="play this many episodes after each trial, each from the state it ended in, and score these instead",
    )
    evaluating.add_argument("--by-task", action="store_true", help="returns by value or half of each task parameter")

    playing = add_command(commands, "baselines", baselines, "classical solvers and bounds of an environment")
    playing.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for run.py: env=bandit ...")
    add_evaluation(playing)
    playing.add_argument("--tune", action="store_true", help="grid search over the tunable solvers instead")


def evaluate(options: argparse.Namespace) -> None:
    """Print returns of sampled and greedy actions of one or all checkpoints on held-out tasks."""
    from metarl.analysis import evaluation_tables as tables
    from metarl.analysis.chosen_tasks import with_chosen_tasks
    from metarl.configuration.trained import load_source, names_of_checkpoints

    names = names_of_checkpoints(options.run, options.checkpoint)
    rows: list[dict[str, Any]] = []
    for name in names:
        agent, parts, config = load_source(options.run, name, options.trust, options.device, options.overrides)
        make_env = with_chosen_tasks(parts.make_env, options.task)
        env = make_env(num_tasks=1, seed=0)
        sets = _checked(lambda env=env: tables.chosen_tasks(options, env), env)
        if options.format == "json" and not options.test_episodes and not options.by_task:
            rows.append(_report(options, config, name, agent, make_env, sets))
            continue
        if name == "best":
            tables.warn_of_selection(env, sets, task_sets(config)[0])
        rows_of = _kind_of_rows(options, agent, make_env, env)
        label = {"checkpoint": name} if len(names) > 1 else {}
        rows += [label | row for row in tables.labelled(sets, rows_of)]
    if options.format == "json" and not options.test_episodes and not options.by_task:
        print(to_json(rows if len(names) > 1 else rows[0], indent=2))
    else:
        print_rows(rows, options.format)


def _kind_of_rows(options: argparse.Namespace, agent: Any, make_env: Any, env: Any) -> Any:
    """The function from a selection of tasks to the rows that the options ask for."""
    from metarl.analysis import evaluation_tables as tables

    if options.test_episodes:
        return partial(tables.adapted_rows, agent, make_env, env, options.test_episodes)
    return partial(tables.task_rows if options.by_task else tables.action_rows, agent, make_env)


def _report(
    options: argparse.Namespace, config: dict, name: str, agent: Any, make_env: Any, sets: dict[str, Any]
) -> dict[str, Any]:
    """The evaluations of a checkpoint, with what they are about, for JSON."""
    from metarl.analysis.evaluation_tables import by_actions

    head = {"env": config["choices"]["env"], "seed": options.seed, "checkpoint": name}
    head |= {key: value for key, value in (("overrides", options.overrides), ("task", options.task)) if value}
    results = {which: by_actions(agent, make_env, tasks) for which, tasks in sets.items()}
    return head | (results if len(sets) > 1 else next(iter(results.values())))


def _checked(choose: Any, env: Any) -> Any:
    """The tasks to play, once ``--task`` is known to fit the environment."""
    try:
        env.sample_tasks(env.task_sets[0])
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return choose()


def baselines(options: argparse.Namespace) -> None:
    """Print returns of the classical solvers of an environment, and its bounds."""
    from metarl.analysis import evaluation_tables as tables
    from metarl.baselines import registry
    from metarl.configuration.build import build_env_factory
    from metarl.configuration.compose import compose, resolved
    from metarl.trust import TYPED

    if any(
        not override.lstrip("+~").startswith(("env=", "env.", "lanes_per_task", "device"))
        for override in options.overrides
    ):
        raise ConfigError(
            f"{' '.join(options.overrides)}: baselines take the keys env, env.*, lanes_per_task and device"
        )
    config = resolved(compose(options.overrides), {})
    make_env = build_env_factory(config, options.device, TYPED)
    env = make_env(num_tasks=1, seed=0)
    sets = tables.chosen_tasks(options, env)
    if options.tune:
        rows = tables.labelled(sets, lambda which: _tuned_rows(env, make_env, which))
    else:
        rows = tables.labelled(sets, partial(tables.solver_rows, registry.baselines(env), make_env))
        rows += [
            {"solver": name, "return": value, "standard error": 0.0} for name, value in registry.bounds(env).items()
        ]
    print_rows(rows, options.format)


def _tuned_rows(env: Any, make_env: Any, which: "TaskSelection") -> list[dict[str, Any]]:
    from metarl.analysis.evaluation_tables import solver_rows
    from metarl.baselines.registry import baseline_grid

    return [
        {"solver": name, "value": value} | row
        for name, agents in baseline_grid(env).items()
        for value, agent in agents
        for row in solver_rows({name: agent}, make_env, which)
    ]
