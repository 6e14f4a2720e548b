"""Held-out evaluation: the adaptation curve of any agent, seeded and apart from all training randomness."""

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NotRequired, Protocol, TypedDict, Unpack

import torch

from metarl.envs.base import MetaEnv
from metarl.held_out import ErrorOver, TaskSource, error_over, standard_error, task_source
from metarl.rollout import collect, collect_to_branch, collect_trial, episode_returns
from metarl.seeding import make_generator, split_seed
from metarl.types import Agent, Rollout, Tasks


class MakeEnv(Protocol):
    """Makes an environment of one configured kind, with ``num_episodes`` instead of the configured where given."""

    def __call__(self, *, num_tasks: int, seed: int, num_episodes: int = ...) -> MetaEnv: ...


class TaskSelection(TypedDict):
    """Selection of tasks to play; equal values give equal tasks to every agent.

    ``num_tasks`` of them, ``batch_size`` side by side (2000), drawn from ``task_set`` (``held_out``) by ``seed``.
    """

    num_tasks: int
    seed: int
    batch_size: NotRequired[int]
    task_set: NotRequired[str]


@dataclass(frozen=True)
class Evaluation:
    """Returns of one agent over held-out tasks.

    Attributes:
        return_mean, return_se: return of a trial, mean and standard error.
        adaptation_curve, adaptation_se: the same for each episode of the trial, in order.
        episodes_met: what each of these could know: how many episodes on the same task came before. Lanes of a task
            learn together where an agent adapts between rollouts, so all that they played there counts.
        success_rate: share of the trial's last episodes that had a success; None where the environment has none.
        fall_rate: share of them that ended without one before the horizon.
        pooled_return: return of an episode of the last rollout if each task were played for the same number of steps
            instead of episodes, so that short episodes count more often. It is how TESP (Lan et al. 2019) was scored;
            not for anything else. Both are None where the environment reports no success or no episode ends early, and
            the fall rate where only success ends one.
        num_tasks: how many different tasks, where a finite set was played as a whole, or how many were drawn.
        trials_per_task: how often each was played.
        task_source: where they come from, see ``metarl.held_out``.
        error_over: what the standard errors are over: ``tasks``, or the ``trials`` of each task where all tasks there
            are were played.
    """

    return_mean: float
    return_se: float
    adaptation_curve: list[float]
    adaptation_se: list[float]
    episodes_met: list[int]
    success_rate: float | None
    fall_rate: float | None
    pooled_return: float | None
    num_tasks: int
    trials_per_task: int
    task_source: TaskSource
    error_over: ErrorOver

    def as_dict(self) -> dict:
        """Plain numbers, ready for JSON; no entry for what the environment does not know."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def evaluate(agent: Agent, make_env: MakeEnv, *, greedy: bool = False, **which: Unpack[TaskSelection]) -> Evaluation:
    """Play one trial on each of ``num_tasks`` tasks.

    ``greedy`` takes the most likely actions: those of an agent that adapts between rollouts in its last one alone.
    Trials on the same task are averaged first: those of lanes that share one, and those of a task set that has no more
    than ``num_tasks``, which is played as a whole as often as that many trials allow. The standard error is over tasks;
    where all tasks there are were played several times, over the trials of each.
    """
    return summarise(evaluate_per_task(agent, make_env, greedy=greedy, **which))


@dataclass(frozen=True)
class PlayedTasks:
    """Returns of one agent on each of N tasks, in R trials per task.

    Attributes:
        trials: return of each episode of each trial, float64 ``[E, R, N]``.
        episodes_met: see ``Evaluation``.
        successes: share of trials whose last episode had a success, ``[N]``; None where the environment reports none.
        falls: share of trials whose last episode ended early without one.
        last_returns, last_lengths: of an episode of the last rollout, and its steps, ``[N]``.
        tasks: N rows.
        fixed_length: no episode ends early.
        can_fall: episodes may end early without success.
        source: where the tasks come from, see ``metarl.held_out``.
    """

    trials: torch.Tensor
    episodes_met: list[int]
    successes: torch.Tensor | None
    falls: torch.Tensor
    last_returns: torch.Tensor
    last_lengths: torch.Tensor
    tasks: Tasks
    fixed_length: bool
    source: TaskSource
    can_fall: bool = True

    @property
    def returns(self) -> torch.Tensor:
        """Return of each episode of a trial, averaged over the trials on a task, ``[E, N]``."""
        return self.trials.mean(1)

    @property
    def error_over(self) -> ErrorOver:
        """Unit over which the error of the mean is taken."""
        return error_over(self.source, self.trials.shape[1])


def evaluate_per_task(
    agent: Agent,
    make_env: MakeEnv,
    *,
    num_tasks: int,
    seed: int,
    greedy: bool = False,
    batch_size: int = 2000,
    task_set: str = "held_out",
) -> PlayedTasks:
    """Results of one trial on each of ``num_tasks`` tasks, task by task; ``evaluate`` summarises them."""
    # One seed for both would let the agent's dice show it the environment's.
    env_seed, acting_seed = split_seed(seed, 2)
    env = make_env(num_tasks=min(batch_size, num_tasks), seed=env_seed)
    generator = make_generator(acting_seed, env.device)
    finite = _whole_set(env, num_tasks, task_set)
    rounds = 1 if finite is None else num_tasks // len(finite)
    count = num_tasks if finite is None else len(finite)
    batches: list[list[torch.Tensor]] = []
    played: list[Tasks] = []
    for tasks in _batches(env, finite, rounds * count, task_set):
        played.append(tasks)
        trial = collect_trial(env, agent, generator, greedy)
        per_episode = [episode_returns(r, n) for r, n in zip(trial, agent.rollouts, strict=True)]
        parts = [torch.cat(per_episode), *_last_episodes(trial[-1], agent.rollouts[-1])]
        batches.append([_mean_over_lanes(part, env.lanes_per_task) for part in parts])
    columns = (_by_round(part, rounds, count).double().cpu() for part in zip(*batches, strict=True))
    trials, *others = columns
    lengths, successes, falls = (part.mean(1) for part in others)
    tasks = _one_row_per_task(played, env.lanes_per_task, count)
    return PlayedTasks(
        trials=trials,
        episodes_met=_episodes_before(agent.rollouts, env.lanes_per_task),
        successes=successes[0] if trial[-1].success is not None else None,
        falls=falls[0],
        last_returns=trials.mean(1)[-agent.rollouts[-1] :].mean(0),
        last_lengths=lengths[0],
        tasks=tasks,
        fixed_length=env.fixed_length,
        can_fall=env.can_fall,
        source=task_source(env, task_set, tasks),
    )


def summarise(played: PlayedTasks) -> Evaluation:
    """Means and standard errors."""
    returns, over = played.returns, played.error_over
    total = returns.sum(0)
    weights = 1 / played.last_lengths
    reaches = played.successes is not None and not played.fixed_length
    return Evaluation(
        return_mean=total.mean().item(),
        return_se=standard_error(played.trials.sum(0), over).item(),
        adaptation_curve=returns.mean(1).tolist(),
        adaptation_se=standard_error(played.trials, over).tolist(),
        episodes_met=played.episodes_met,
        success_rate=None if played.successes is None else played.successes.mean().item(),
        fall_rate=played.falls.mean().item() if reaches and played.can_fall else None,
        pooled_return=((weights * played.last_returns).sum() / weights.sum()).item() if reaches else None,
        num_tasks=total.shape[0],
        trials_per_task=played.trials.shape[1],
        task_source=played.source,
        error_over=over,
    )


@dataclass(frozen=True)
class AdaptedTest:
    """Episodes played after a trial, each by the agent as the trial had left it.

    Attributes:
        returns: ``[N, episodes]``, those of all lanes of a task side by side.
        successes: bool, whether an episode had one; None where the environment reports none.
        steps: until the first success, or the end of the episode.
        tasks: N rows.
    """

    returns: torch.Tensor
    successes: torch.Tensor | None
    steps: torch.Tensor
    tasks: Tasks


def evaluate_after_adaptation(
    agent: Agent,
    make_env: MakeEnv,
    *,
    num_tasks: int,
    seed: int,
    episodes: int,
    batch_size: int = 2000,
    task_set: str = "held_out",
) -> AdaptedTest:
    """Meta-World's protocol: a trial with sampled actions, then ``episodes`` episodes of the most likely actions.

    Each of these starts from the state after the trial, memory included, and every task counts the same. Where a task
    set has no more than ``num_tasks`` each is played once, or, where these are all the tasks there are, as often as
    that many trials allow; lanes that share a task play more episodes of it.
    """
    env_seed, acting_seed = split_seed(seed, 2)
    env = make_env(num_tasks=min(batch_size, num_tasks), seed=env_seed)
    finite = _finite_tasks(env, num_tasks, task_set)
    count = num_tasks if finite is None else len(finite)
    generator = make_generator(acting_seed, env.device)
    columns: list[list[torch.Tensor]] = []
    played: list[Tasks] = []
    for tasks in _batches(env, finite, count, task_set):
        played.append(tasks)
        trial, end = collect_to_branch(env, agent, generator)
        tests = []
        for _ in range(episodes):
            env.load_trial_state(end.env_state)
            state = copy.deepcopy(end.state)  # which a step may write into
            tests.append(collect(env, end.agent, state, 1, generator, greedy=True, after=trial[-1])[0])
        columns.append([torch.stack(part, 1) for part in zip(*map(_outcome, tests), strict=True)])
    outcomes = (torch.cat(part).unflatten(0, (-1, env.lanes_per_task)) for part in zip(*columns, strict=True))
    returns, successes, steps = (part.flatten(1)[:count].cpu() for part in outcomes)
    tasks = _one_row_per_task(played, env.lanes_per_task, count)
    return AdaptedTest(returns, None if tests[0].success is None else successes, steps, tasks)


def _whole_set(env: MetaEnv, num_tasks: int, task_set: str) -> Tasks | None:
    """All tasks of a set, where ``num_tasks`` are enough to play them all."""
    finite = env.all_tasks(task_set)
    return None if finite is None or len(finite) > num_tasks else finite


def _finite_tasks(env: MetaEnv, num_tasks: int, task_set: str) -> Tasks | None:
    """Tasks of ``_whole_set``; if they are all tasks there are, in as many rounds as ``num_tasks`` trials allow."""
    finite = _whole_set(env, num_tasks, task_set)
    if finite is None or len(finite) < (env.num_tasks_total or 0):
        return finite
    return finite.select(torch.arange(num_tasks // len(finite) * len(finite)) % len(finite))


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


def _last_episodes(rollout: Rollout, episodes: int) -> list[torch.Tensor]:
    """Mean steps of an episode; 1 where the last one had a success, and where it ended early without: ``[1, B]``."""
    flags = torch.zeros_like(rollout.mask) if rollout.success is None else rollout.success
    last = (rollout.timestep.first.long().cumsum(0) == episodes) & rollout.mask
    succeeded = (flags & last).any(0, keepdim=True)
    fell = (rollout.terminated & last).any(0, keepdim=True) & ~succeeded
    return [rollout.mask.float().sum(0, keepdim=True) / episodes, succeeded.float(), fell.float()]


def _episodes_before(rollouts: tuple[int, ...], lanes_per_task: int) -> list[int]:
    """Episodes of the task before each episode of a trial, those of all its lanes."""
    counts: list[int] = []
    for index, episodes in enumerate(rollouts):
        before = sum(rollouts[:index]) * lanes_per_task
        counts += range(before, before + episodes)
    return counts


def _one_row_per_task(played: list[Tasks], lanes_per_task: int, count: int) -> Tasks:
    """The first ``count`` tasks that were played; a finite set has the same order in every round."""
    of_tasks = slice(None, count * lanes_per_task, lanes_per_task)
    names = played[0].parameters
    return Tasks({name: torch.cat([tasks.parameters[name] for tasks in played])[of_tasks].cpu() for name in names})


def _mean_over_lanes(values: torch.Tensor, lanes_per_task: int) -> torch.Tensor:
    """``[E, tasks * lanes_per_task]`` to ``[E, tasks]``."""
    return values.unflatten(1, (-1, lanes_per_task)).mean(2)


def _by_round(columns: tuple[torch.Tensor, ...], rounds: int, count: int) -> torch.Tensor:
    """``[E, rounds, tasks]`` from batches of trials that went ``rounds`` times over ``count`` tasks."""
    return torch.cat(columns, 1)[:, : rounds * count].unflatten(1, (rounds, count))
