"""Held-out evaluation: the adaptation curve of any agent, seeded and apart from all training randomness."""

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

import torch

from metarl.envs.base import MetaEnv, Tasks
from metarl.rollout import Agent, Rollout, collect, collect_trial, episode_returns, live_trial
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
        num_tasks: how many different tasks, where a finite set was played as a whole, or how many were drawn.
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

    The same seed and ``tasks_at_once`` meet the same tasks, whoever plays. Trials on the same task are averaged first,
    so that the standard error is over tasks: those of lanes that share one, and those of a task set that has no more
    than ``num_tasks``, which is played as a whole as often as that many trials allow.
    """
    # One seed for both would let the agent's dice show it the environment's.
    env_seed, acting_seed = split_seed(seed, 2)
    env = make_env(num_tasks=min(tasks_at_once, num_tasks), seed=env_seed)
    generator = make_generator(acting_seed, env.device)
    finite = _finite_tasks(env, num_tasks, task_set)
    rounds = 1 if finite is None else num_tasks // len(finite)
    count = num_tasks if finite is None else len(finite)
    returns, successes = [], []
    for _ in _batches(env, finite, rounds * count, task_set):
        trial = collect_trial(env, agent, generator, greedy)
        per_episode = [episode_returns(r, n) for r, n in zip(trial, agent.rollouts, strict=True)]
        returns.append(_mean_over_lanes(torch.cat(per_episode), env.lanes_per_task))
        if trial[-1].success is not None:
            successes.append(_mean_over_lanes(_last_succeeded(trial[-1], agent.rollouts[-1]), env.lanes_per_task))
    episodes = _mean_over_rounds(returns, rounds, count).double().cpu()
    total = episodes.sum(0)
    return Evaluation(
        return_mean=total.mean().item(),
        return_se=_standard_error(total).item(),
        adaptation_curve=episodes.mean(1).tolist(),
        adaptation_se=_standard_error(episodes).tolist(),
        success_rate=_mean_over_rounds(successes, rounds, count).mean().item() if successes else None,
        num_tasks=count,
    )


@dataclass(frozen=True)
class AdaptedTest:
    """Episodes played after a trial, each by the agent as the trial had left it.

    Attributes:
        returns: ``[N, episodes]``, those of all lanes of a task side by side.
        successes: bool, whether an episode had one; None where the environment knows none.
        steps: until the first success, or the end of the episode.
        tasks: N rows.
    """

    returns: torch.Tensor
    successes: torch.Tensor | None
    steps: torch.Tensor
    tasks: Tasks


def play_adapted(
    agent: Agent,
    make_env: MakeEnv,
    *,
    num_tasks: int,
    seed: int,
    episodes: int,
    tasks_at_once: int = 2000,
    task_set: str = "held_out",
) -> AdaptedTest:
    """Meta-World's protocol: a trial with sampled actions, then ``episodes`` episodes of the most likely actions.

    Each of these starts from the state after the trial, memory included, and every task counts the same. Where a task
    set has no more than ``num_tasks`` each is played once; lanes that share a task play more episodes of it.
    """
    env_seed, acting_seed = split_seed(seed, 2)
    env = make_env(num_tasks=min(tasks_at_once, num_tasks), seed=env_seed)
    finite = _finite_tasks(env, num_tasks, task_set)
    count = num_tasks if finite is None else len(finite)
    generator = make_generator(acting_seed, env.device)
    columns: list[list[torch.Tensor]] = []
    met: list[Tasks] = []
    for tasks in _batches(env, finite, count, task_set):
        met.append(tasks)
        trial, state = live_trial(env, agent, generator)
        left, tests = env.trial_state(), []
        for _ in range(episodes):
            env.load_trial_state(left)
            tests.append(collect(env, agent, copy.deepcopy(state), 1, generator, greedy=True, after=trial[-1])[0])
        columns.append([torch.stack(part, 1) for part in zip(*map(_outcome, tests), strict=True)])
    outcomes = (torch.cat(part).unflatten(0, (-1, env.lanes_per_task)) for part in zip(*columns, strict=True))
    returns, successes, steps = (part.flatten(1)[:count].cpu() for part in outcomes)
    of_tasks = slice(None, count * env.lanes_per_task, env.lanes_per_task)
    names = met[0].parameters
    tasks = Tasks({name: torch.cat([those.parameters[name] for those in met])[of_tasks].cpu() for name in names})
    return AdaptedTest(returns, None if tests[0].success is None else successes, steps, tasks)


def _finite_tasks(env: MetaEnv, num_tasks: int, task_set: str) -> Tasks | None:
    """All tasks of a set, where ``num_tasks`` are enough to meet them all."""
    finite = env.every_task(task_set)
    return None if finite is None or len(finite) > num_tasks else finite


def _batches(env: MetaEnv, finite: Tasks | None, count: int, task_set: str) -> Iterator[Tasks]:
    """Give the environment ``count`` tasks, those of a finite set in turn; the last batch is filled up."""
    for start in range(0, count, env.num_tasks):
        if finite is None:
            yield env.sample_tasks(task_set)
        else:
            yield env.set_tasks(finite.select(torch.arange(start, start + env.num_tasks) % len(finite)))


def _outcome(rollout: Rollout) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, success, and steps until then or until the end, of one episode in each lane."""
    mask = rollout.mask
    flags = torch.zeros_like(mask) if rollout.success is None else rollout.success & mask
    success = flags.any(0)
    steps = torch.where(success, flags.long().argmax(0) + 1, mask.sum(0))
    return (rollout.reward * mask).sum(0), success, steps


def _last_succeeded(rollout: Rollout, episodes: int) -> torch.Tensor:
    """1 where the last of the episodes had a success, else 0: ``[1, B]``."""
    flags = torch.zeros_like(rollout.mask) if rollout.success is None else rollout.success
    last = rollout.timestep.first.long().cumsum(0) == episodes
    return (flags & rollout.mask & last).any(0, keepdim=True).float()


def _mean_over_lanes(values: torch.Tensor, lanes_per_task: int) -> torch.Tensor:
    """``[E, tasks * lanes_per_task]`` to ``[E, tasks]``."""
    return values.unflatten(1, (-1, lanes_per_task)).mean(2)


def _mean_over_rounds(columns: list[torch.Tensor], rounds: int, count: int) -> torch.Tensor:
    """``[E, tasks]`` from batches of trials that went ``rounds`` times over ``count`` tasks."""
    return torch.cat(columns, 1)[:, : rounds * count].unflatten(1, (rounds, count)).mean(1)


def _standard_error(values: torch.Tensor) -> torch.Tensor:
    """Of the mean over the last axis; 0 where a single value tells nothing."""
    count = values.shape[-1]
    return values.std(-1, correction=1 if count > 1 else 0) / math.sqrt(count)
