"""Evaluations during training: a row of metrics on every task set of the plan."""

import math
from typing import Any

from metarl.evaluation import Evaluation, MakeEnv, evaluate
from metarl.plans import EvaluationPlan
from metarl.runs.reader import ACTIONS
from metarl.types import Agent


def evaluation_row(agent: Agent, make_env: MakeEnv, plan: EvaluationPlan, seed: int) -> dict[str, Any]:
    """Metrics of sampled and greedy actions.

    Those of the first set are ``eval/sampled/return_mean`` and so on, those of another one
    ``eval/SET/sampled/return_mean``. See ``generalization_gaps`` for ``eval/generalization_gap/SET``.
    """
    row: dict[str, Any] = {}
    sampled = {}
    for index, task_set in enumerate(plan.sets):
        prefix = f"eval/{task_set}/" if index else "eval/"
        for actions in ACTIONS:
            result = evaluate(
                agent,
                make_env,
                num_tasks=plan.num_tasks,
                seed=seed,
                greedy=actions == "greedy",
                batch_size=plan.batch_size,
                task_set=task_set,
            )
            row |= {f"{prefix}{actions}/{name}": value for name, value in result.as_dict().items()}
            if actions == "sampled":
                sampled[task_set] = result
    gaps = generalization_gaps(sampled)
    return row | {f"eval/generalization_gap/{name}": gap for name, (gap, _) in gaps.items()}


def generalization_gaps(results: dict[str, Evaluation]) -> dict[str, tuple[float, float]]:
    """Return on training tasks minus the return on each other set, and its standard error; empty without both.

    The two sets are played independently, so the error is the root of the sum of both squared ones.
    """
    if (train := results.get("train")) is None:
        return {}
    others = {name: result for name, result in results.items() if name != "train"}
    return {
        name: (train.return_mean - result.return_mean, math.hypot(train.return_se, result.return_se))
        for name, result in others.items()
    }
