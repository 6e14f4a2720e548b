"""Held-out evaluation: the adaptation curve of any agent, seeded and apart from all training randomness."""

import math
from dataclasses import asdict, dataclass
from typing import Protocol

import torch

from metarl.envs.base import MetaEnv
from metarl.rollout import Agent, collect_trial, episode_returns
from metarl.seeding import make_generator, split_seed


class MakeEnv(Protocol):
    """Makes an environment of one configured kind."""

    def __call__(self, *, num_tasks: int, seed: int) -> MetaEnv: ...


@dataclass(frozen=True)
class Evaluation:
    """Returns of one agent over held-out tasks.

    Attributes:
        return_mean, return_se: return of a trial, mean and standard error over tasks.
        adaptation_curve, adaptation_se: the same for each episode of the trial, in the order they were met.
        success_rate: share of the trial's last episodes that had a success; None where the environment has none.
        num_tasks: how many tasks.
    """

    return_mean: float
    return_se: float
    adaptation_curve: list[float]
    adaptation_se: list[float]
    success_rate: float | None
    num_tasks: int

    def as_dict(self) -> dict:
        """Plain numbers, ready for JSON; no entry for what the environment does not know."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def evaluate(
    agent: Agent,
    make_env: MakeEnv,
    *,
    num_tasks: int,
    seed: int,
    greedy: bool = False,
    tasks_at_once: int = 2000,
    task_set: str = "held_out",
) -> Evaluation:
    """Play one trial on each of ``num_tasks`` tasks.

    The same seed and ``tasks_at_once`` meet the same tasks, whoever plays. Lanes that share a task are averaged first,
    so that the standard error is over independent tasks.
    """
    # One seed for both would let the agent's dice show it the environment's.
    env_seed, acting_seed = split_seed(seed, 2)
    env = make_env(num_tasks=min(tasks_at_once, num_tasks), seed=env_seed)
    generator = make_generator(acting_seed, env.device)
    returns, successes = [], []
    for _ in range(math.ceil(num_tasks / env.num_tasks)):
        env.sample_tasks(task_set)
        trial = collect_trial(env, agent, generator, greedy)
        per_episode = [episode_returns(r, n) for r, n in zip(trial, agent.rollouts, strict=True)]
        returns.append(_mean_over_lanes(torch.cat(per_episode), env.lanes_per_task))
        if trial[-1].success is not None:
            flags = (trial[-1].success & trial[-1].mask).any(0, keepdim=True).float()
            successes.append(_mean_over_lanes(flags, env.lanes_per_task))
    episodes = torch.cat(returns, 1)[:, :num_tasks].double().cpu()
    total = episodes.sum(0)
    return Evaluation(
        return_mean=total.mean().item(),
        return_se=_standard_error(total).item(),
        adaptation_curve=episodes.mean(1).tolist(),
        adaptation_se=_standard_error(episodes).tolist(),
        success_rate=torch.cat(successes, 1)[:, :num_tasks].mean().item() if successes else None,
        num_tasks=num_tasks,
    )


def _mean_over_lanes(values: torch.Tensor, lanes_per_task: int) -> torch.Tensor:
    """``[E, tasks * lanes_per_task]`` to ``[E, tasks]``."""
    return values.unflatten(1, (-1, lanes_per_task)).mean(2)


def _standard_error(values: torch.Tensor) -> torch.Tensor:
    """Of the mean over the last axis; 0 where a single value tells nothing."""
    count = values.shape[-1]
    return values.std(-1, correction=1 if count > 1 else 0) / math.sqrt(count)
