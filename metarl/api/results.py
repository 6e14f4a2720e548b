"""Evaluations as plain numbers."""

from argparse import Namespace
from typing import Any

from metarl.envs.base import MetaEnv
from metarl.evaluation import MakeEnv
from metarl.types import Agent

Evaluations = dict[str, dict[str, Any]]  # by kind of actions: ``sampled`` and ``greedy``


def evaluations(
    agent: Agent, make_env: MakeEnv, env: MetaEnv, num_tasks: int, seed: int, task_set: str, batch_size: int
) -> Evaluations:
    """Evaluations of sampled and of greedy actions, as ``metarl evaluate`` has them."""
    from metarl.analysis.evaluation_tables import by_actions, chosen_tasks

    asked = Namespace(num_tasks=num_tasks, seed=seed, task_set=[task_set], batch_size=batch_size)
    return by_actions(agent, make_env, chosen_tasks(asked, env)[task_set])
