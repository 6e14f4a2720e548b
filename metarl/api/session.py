"""Acting step by step in a loop of one's own: one trial of a trained agent."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.algorithms.base import Algorithm
from metarl.api.environments import acting_seed
from metarl.api.spaces import lanes_of
from metarl.envs.base import MetaEnv
from metarl.errors import ConfigError
from metarl.finite import check_rollout
from metarl.rollout import held, row_of, stacked, start_of_trial
from metarl.seeding import make_generator
from metarl.tree import tree_map
from metarl.types import Decision, Rollout, State, Step, Tasks, Timestep


class Session:
    """One trial: the agent starts without any experience of its task, and learns about it from what it observes.

    Call ``act`` with every observation, and ``observe`` with the result of every action. A lane has one task; it plays
    ``episodes`` episodes, and the agent remembers across their borders. An agent that adapts by gradient steps collects
    its support episodes first, adapts as soon as they are complete, and plays its query episodes last.

    Args:
        algorithm: trained agent.
        env: environment that it was trained in, for its spaces and sizes.
        batch_size: lanes side by side.
        greedy: most likely actions instead of samples; support episodes are always sampled.
        seed: seed of sampled actions.
        lanes_per_task: consecutive lanes that share a task. Where they are fewer than in training, each plays so many
            support episodes one after the other that an adaptation has as many as in training.
        tasks: tasks of the lanes, one row each; only oracles read them.

    Raises:
        ConfigError: the numbers of lanes do not fit each other, or an oracle has no tasks.
    """

    _before: tuple[Timestep, Decision, Tensor, Tensor] | None
    _rows: list[tuple]  # steps of a support rollout
    _remaining: Tensor  # episodes of the rollout that each lane has still to end, [B]

    def __init__(
        self,
        algorithm: Algorithm,
        env: MetaEnv,
        *,
        batch_size: int = 1,
        greedy: bool = False,
        seed: int = 0,
        lanes_per_task: int = 1,
        tasks: Tasks | None = None,
    ):
        trained = env.lanes_per_task if len(algorithm.rollouts) > 1 else lanes_per_task
        _check_lanes(batch_size, lanes_per_task, trained)
        if tasks is None and getattr(algorithm, "oracle", "none") != "none":
            raise ConfigError(f"this agent is an oracle ({algorithm.oracle}): give start(tasks=...), one row per lane")
        self.batch_size, self.greedy, self.device = batch_size, greedy, env.device
        self._learner, self._env = algorithm, env
        self._actor: Algorithm = algorithm if trained == lanes_per_task else copy.copy(algorithm)
        self._actor.lanes_per_task = lanes_per_task  # type: ignore[assignment]
        self._share = trained // lanes_per_task  # support episodes of a lane, in units of those of training
        self._generator = make_generator(acting_seed(seed), env.device)
        self._tasks = tasks or Tasks({"unknown": torch.zeros(batch_size, env.task_dim, device=env.device)})
        with torch.no_grad():
            self._state: State = self._actor.initial_state(self._tasks)
        self._row: tuple[Timestep, Decision, Tensor] | None = None  # of an action whose result is still to come
        self._start_rollout(0)

    # ------------------------------------------------------------ where the trial is

    @property
    def episodes(self) -> int:
        """Number of episodes of each lane in the whole trial."""
        return sum(self._episodes(number) for number in range(len(self._learner.rollouts)))

    @property
    def finished(self) -> bool:
        """Whether all episodes of the trial have ended."""
        return self._rollout == len(self._learner.rollouts)

    @property
    def starts_rollout(self) -> bool:
        """Whether the next observation has to be the first of an episode in every lane.

        So it is at the start of a trial, and after an adaptation. Lanes of a batch whose episodes differ in length
        idle until then, and have to be reset.
        """
        return self._before is None and self._row is None and not self.finished

    def _episodes(self, rollout: int) -> int:
        """Episodes of each lane in a rollout: the support of training, divided among the lanes of a task."""
        support = rollout < len(self._learner.rollouts) - 1
        return self._learner.rollouts[rollout] * (self._share if support else 1)

    @property
    def _is_support(self) -> bool:
        return self._rollout < len(self._learner.rollouts) - 1

    # ------------------------------------------------------------ acting and observing

    @torch.no_grad()
    def act(self, observation: Any) -> Any:
        """Actions for the present observations ``[batch_size, ...]``, or for a single one where there is one lane.

        Tensors give tensors, anything else NumPy arrays. Actions are in the agent's own ``action_space``, where finite
        bounds are -1 and 1, and samples may lie beyond them.

        Raises:
            ConfigError: observations do not fit, the trial is over, or a result is missing.
        """
        if self.finished:
            raise ConfigError(
                f"the trial of {self.episodes} episodes is over; agent.start() begins another, and "
                "metarl.load(..., overrides=['env.num_episodes=N']) allows longer ones"
            )
        if self._row is not None:
            raise ConfigError("act() was called twice: call observe() with the result of the first action")
        seen, single = lanes_of(observation, self._env.observation_space, self.batch_size, self.device)
        timestep, playing = self._timestep(seen), self._remaining > 0
        greedy = self.greedy and not self._is_support
        decision, self._state = self._actor.act(timestep, self._state, self._generator, greedy)
        self._row = timestep, decision, playing
        action = decision.action[0] if single else decision.action
        return action if isinstance(observation, Tensor) else action.cpu().numpy()[()]

    def observe(self, *result: Any, final_observation: Any = None) -> None:
        """Take the result of the last action.

        Args:
            result: ``reward, terminated, truncated``; or the five values of Gymnasium's ``step``, unpacked or as one
                tuple; or the ``Step`` of an environment of metarl.
            final_observation: observation at the end of an episode, where it is not part of the result. Agents that
                adapt with ``algorithm.bootstrap=true`` need it.

        Raises:
            ConfigError: a result does not fit, or no action came before.
            NonFiniteError: support episodes hold numbers that are not finite.
        """
        if self._row is None:
            raise ConfigError("observe() was called before act(): call act() with the present observation first")
        timestep, decision, mask = self._row
        reward, terminated, truncated, final = self._unpacked(result, final_observation)
        if final is None:
            if self._needs_final_observation and bool((truncated & mask).any()):
                raise ConfigError("this agent bootstraps at time limits: give observe(..., final_observation=...)")
            final = timestep.observation
        done = terminated | truncated
        if self._is_support:
            step = Step(final, reward, terminated, truncated, None, final)
            self._rows.append(row_of(timestep, decision, step, mask))
        self._before = timestep, decision, reward, done
        self._row, self._remaining = None, self._remaining - (done & mask).long()
        if not bool((self._remaining > 0).any()):
            self._end_rollout()

    @property
    def _needs_final_observation(self) -> bool:
        config = getattr(self._learner, "advantage_config", None)
        return self._is_support and config is not None and config.bootstrap

    def _timestep(self, observation: Tensor) -> Timestep:
        start = start_of_trial(observation, self._env.observation_space, self._env.action_space)
        if self._before is None:
            return start
        timestep, decision, reward, done = self._before
        following = Timestep(observation, timestep.observation, decision.action, reward, done)
        plays = self._remaining > 0
        if self._share > 1 and self._is_support:  # the lanes of training one after the other: each starts anew
            ended = self._episodes(self._rollout) - self._remaining
            anew = done & (ended % self._learner.rollouts[self._rollout] == 0)
            following = held(following, start, anew)._replace(first=done)
        return following if bool(plays.all()) else held(timestep, following, plays)

    def _start_rollout(self, number: int) -> None:
        self._rollout = number
        self._before = None  # last timestep of the rollout, with its decision, reward and end
        self._rows = []
        episodes = 0 if self.finished else self._episodes(self._rollout)
        self._remaining = torch.full((self.batch_size,), episodes, device=self.device)

    @torch.no_grad()
    def _end_rollout(self) -> None:
        if self._is_support:
            rollout = stacked(self._rows, self._tasks, fixed_length=False)
            if self._share > 1:
                rollout = side_by_side(rollout, self._learner.rollouts[self._rollout], self._share)
            check_rollout(rollout, self._learner)
            _check_length(rollout, self._env.horizon)
            self._state = self._learner.adapt(self._state, rollout)
        self._start_rollout(self._rollout + 1)

    def _unpacked(self, result: tuple, final: Any) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Reward, terminated, truncated, each ``[B]``, and the last observation of episodes that ended."""
        if len(result) == 1 and isinstance(result[0], tuple):
            result = result[0]
        if isinstance(result, Step):
            flags, final = result[1:4], result.final_observation
        elif len(result) == 5:
            flags, final = result[1:4], _final(result[0], result[4]) if final is None else final
        elif len(result) == 3:
            flags = result
        else:
            raise ConfigError(
                f"observe() was given {len(result)} values: give reward, terminated and truncated, or the five values "
                "that step() returns"
            )
        reward, terminated, truncated = (self._per_lane(part) for part in flags)
        if final is not None:
            final, _ = lanes_of(final, self._env.observation_space, self.batch_size, self.device)
        terminated = terminated.bool()
        return reward.float(), terminated, truncated.bool() & ~terminated, final

    def _per_lane(self, value: Any) -> Tensor:
        part = torch.as_tensor(value if isinstance(value, Tensor) else np.asarray(value), device=self.device)
        if part.numel() != self.batch_size:
            raise ConfigError(
                f"observe() was given {part.numel()} numbers in a session of batch_size={self.batch_size}; give one "
                "reward, one terminated and one truncated per lane"
            )
        return part.reshape(self.batch_size)


def _check_lanes(batch_size: int, lanes_per_task: int, trained: int) -> None:
    if min(batch_size, lanes_per_task) < 1 or batch_size % lanes_per_task:
        raise ConfigError(f"batch_size={batch_size}: must be a multiple of lanes_per_task={lanes_per_task}, from 1")
    if trained % lanes_per_task:
        raise ConfigError(f"lanes_per_task={lanes_per_task}: must divide {trained}, the lanes per task of training")


def _check_length(rollout: Rollout, horizon: int) -> None:
    """Refuse support episodes that are longer than in training."""
    starts = rollout.timestep.first.long().cumsum(0).masked_fill(~rollout.mask, 0)
    longest = max(int((starts == number).sum(0).max()) for number in range(1, int(starts.max()) + 1))
    if longest > horizon:
        raise ConfigError(
            f"a support episode had {longest} steps, and the agent was trained with env.horizon={horizon}; truncate "
            f"episodes after {horizon} steps, or metarl.load(..., overrides=['env.horizon={longest}'])"
        )


def _final(observation: Any, info: Any) -> Any:
    """Observations that the steps led to, before a reset by a vector environment in the same step."""
    if not isinstance(info, dict) or "final_obs" not in info:
        return observation
    final = np.array(observation)
    for lane in np.flatnonzero(info["_final_obs"]):
        final[lane] = info["final_obs"][lane]
    return final


def side_by_side(rollout: Rollout, episodes: int, share: int) -> Rollout:
    """Episodes that each lane played one after the other, as ``share`` lanes of ``episodes`` episodes each.

    ``[T, B, ...]`` becomes ``[T', B * share, ...]``, those of a lane next to each other.
    """
    number = rollout.timestep.first.long().cumsum(0) - 1  # of the episode, [T, B]
    part = (number // episodes).masked_fill(~rollout.mask, -1)
    counts = torch.stack([(part == index).sum(0) for index in range(share)])  # steps, [share, B]
    begin, count = (counts.cumsum(0) - counts).T.flatten(), counts.T.flatten()  # [B * share]
    within = torch.arange(int(count.max()), device=count.device).unsqueeze(1)  # [T', 1]
    time = begin + torch.minimum(within, count - 1)
    lane = torch.arange(counts.shape[1], device=count.device).repeat_interleave(share).expand_as(time)
    mask = within < count
    tasks = rollout.tasks.select(lane[0])
    steps: Rollout = tree_map(lambda values: values[time, lane], rollout._replace(tasks=None))  # type: ignore[arg-type]
    timestep = steps.timestep._replace(first=steps.timestep.first & mask)
    beside = mask.view(*mask.shape, *[1] * (steps.next_observation.ndim - 2))
    return steps._replace(
        timestep=timestep,
        next_observation=torch.where(beside, steps.next_observation, timestep.observation),
        reward=steps.reward.masked_fill(~mask, 0.0),
        terminated=steps.terminated & mask,
        truncated=steps.truncated & mask,
        mask=mask,
        tasks=tasks,
    )
