"""Commands that play held-out tasks: ``metarl evaluate`` and ``metarl baselines``."""

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from metarl.cli.options import add_command, add_evaluation, add_run, positive, print_rows
from metarl.errors import ConfigError
from metarl.runs.files import to_json

if TYPE_CHECKING:
    from metarl.evaluation import TaskSelection


def add_commands(commands: Any) -> None:
    """Add both commands."""
    evaluating = add_command(commands, "evaluate", evaluate, "evaluate a trained agent on held-out tasks")
    add_run(evaluating)
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
    """Print returns of sampled and greedy actions of a checkpoint on held-out tasks."""
    from metarl.analysis import evaluation_tables as tables
    from metarl.configuration.trained import load_agent
    from metarl.runs.directory import RunDirectory

    directory = RunDirectory(options.run)
    config = directory.config()
    agent, parts = load_agent(directory, options.checkpoint, options.trust, options.device)
    env = parts.make_env(num_tasks=1, seed=0)
    sets = tables.chosen_tasks(options, env)
    if options.format == "json" and not options.test_episodes and not options.by_task:
        head = {"env": config["choices"]["env"], "seed": options.seed, "checkpoint": options.checkpoint}
        results = {name: tables.by_actions(agent, parts.make_env, which) for name, which in sets.items()}
        print(to_json(head | (results if len(sets) > 1 else next(iter(results.values()))), indent=2))
        return
    if options.checkpoint == "best":
        tables.warn_of_selection(env, sets, (config.get("eval") or {}).get("task_set", "held_out"))
    rows = partial(tables.action_rows, agent, parts.make_env)
    if options.test_episodes:
        rows = partial(tables.adapted_rows, agent, parts.make_env, env, options.test_episodes)
    elif options.by_task:
        rows = partial(tables.task_rows, agent, parts.make_env)
    print_rows(tables.labelled(sets, rows), options.format)


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
