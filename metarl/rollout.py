"""The contract between agents and environments, and the one function that brings them together.

Shapes are time-major: T steps, B lanes. A trial is all an agent experiences of one task: one or more
rollouts, with ``Agent.adapt`` between them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from gymnasium import spaces
from torch import Generator, Tensor

from metarl.envs.base import MetaEnv, Tasks

State = Any  # what an agent carries through a trial: a pytree of tensors, lanes on axis 0


class Timestep(NamedTuple):
    """What an agent sees before it acts, ``[B, ...]`` or ``[T, B, ...]``."""

    observation: Tensor
    previous_observation: Tensor  # the one the previous action answered; as for it at the start of a trial
    previous_action: Tensor  # -1 (discrete) or 0 (continuous) at the start of a trial
    previous_reward: Tensor  # float32, 0 at the start of a trial
    first: Tensor  # bool, this step starts an episode


class Decision(NamedTuple):
    """What an agent answers, ``[B, ...]`` or ``[T, B, ...]``."""

    action: Tensor
    log_prob: Tensor  # of the action under the policy that acted
    value: Tensor  # expected return, in units of reward
    noise: Tensor | None = None  # what else was drawn, by agents that sample a latent


class Rollout(NamedTuple):
    """Consecutive steps of all lanes, every tensor ``[T, B, ...]``."""

    timestep: Timestep
    decision: Decision
    next_observation: Tensor  # the one a step led to, of the same episode
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    success: Tensor | None
    mask: Tensor  # bool, False after a lane has finished its episodes
    tasks: Tasks  # one row per lane

    def select(self, lanes: Tensor) -> "Rollout":
        """Some lanes."""

        def of(part: Any) -> Any:
            match part:
                case Tensor():
                    return part[:, lanes]
                case Tasks():
                    return part.select(lanes)
                case tuple():
                    return type(part)(*map(of, part))
            return part

        return of(self)


class Agent(Protocol):
    """Anything that can live through a trial: a learner, or a classical solver."""

    @property
    def rollouts(self) -> tuple[int, ...]:
        """Episodes of each rollout of a trial; ``adapt`` runs between rollouts."""

    def initial_state(self, tasks: Tasks) -> State:
        """Knowing nothing: the state at the start of a trial. Only oracles may look at ``tasks``."""

    def act(
        self, timestep: Timestep, state: State, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, State]:
        """Choose actions for all lanes; ``greedy`` takes the most likely action instead of a sample."""

    def adapt(self, state: State, rollout: Rollout) -> State:
        """The state after learning from a support rollout."""


def next_timestep(env: MetaEnv, before: Rollout) -> Timestep:
    """Reset every lane; the timestep of an episode that follows others of its trial."""
    first = torch.ones(env.num_lanes, dtype=torch.bool, device=env.device)
    timestep, decision = before.timestep, before.decision
    return Timestep(env.reset(), timestep.observation[-1], decision.action[-1], before.reward[-1], first)


def first_timestep(env: MetaEnv) -> Timestep:
    """Reset every lane; the timestep at the start of a trial."""
    return Timestep(
        env.reset(),
        _nothing(env.observation_space, env),
        _nothing(env.action_space, env),
        previous_reward=torch.zeros(env.num_lanes, device=env.device),
        first=torch.ones(env.num_lanes, dtype=torch.bool, device=env.device),
    )


def _nothing(space: spaces.Space, env: MetaEnv) -> Tensor:
    """Stands for an element of the space where there was none yet, ``[B, ...]``."""
    if isinstance(space, spaces.Discrete):
        return torch.full((env.num_lanes,), -1, dtype=torch.long, device=env.device)
    return torch.zeros(env.num_lanes, *(space.shape or ()), device=env.device)


@torch.no_grad()
def collect(
    env: MetaEnv,
    agent: Agent,
    state: State,
    episodes: int,
    generator: Generator,
    greedy: bool = False,
    after: Rollout | None = None,
) -> tuple[Rollout, State]:
    """Play ``episodes`` episodes in every lane on its present task, ``after`` others of the trial or as its first.

    A lane that is done waits, masked, until all are. Returns the rollout and the agent's state after it.
    """
    timestep = first_timestep(env) if after is None else next_timestep(env, after)
    remaining = torch.full((env.num_lanes,), episodes, device=env.device)
    rows = []
    for _ in range(episodes * env.horizon):
        mask = remaining > 0
        decision, state = agent.act(timestep, state, generator, greedy)
        step = env.step(decision.action)
        rows.append(
            (
                timestep,
                decision,
                step.final_observation,
                step.reward,
                step.terminated,
                step.truncated,
                step.success,
                mask,
            )
        )
        done = step.terminated | step.truncated
        remaining = remaining - done.long()
        timestep = Timestep(step.observation, timestep.observation, decision.action, step.reward, done)
        if not env.fixed_length and not (remaining > 0).any():
            break
    timestep, decision, *columns = _stack(rows)
    next_observation, reward, terminated, truncated, success, mask = columns
    rollout = Rollout(timestep, decision, next_observation, reward, terminated, truncated, success, mask, env.tasks)
    return rollout, state


def _stack(rows: Sequence[tuple]) -> list[Any]:
    """Rows of equal structure, stacked over time leaf by leaf."""
    columns: list[Any] = []
    for column in zip(*rows, strict=True):
        if column[0] is None:
            columns.append(None)
        elif isinstance(column[0], tuple):
            columns.append(type(column[0])(*_stack(column)))
        else:
            columns.append(torch.stack(column))
    return columns


def collect_trial(env: MetaEnv, agent: Agent, generator: Generator, greedy: bool = False) -> list[Rollout]:
    """One whole trial in every lane, on the tasks the environment now holds.

    Returns one rollout per entry of ``agent.rollouts``: the last is the query, those before are support. ``greedy`` is
    for the query alone: a gradient learns from what chance makes differ, so support is always sampled.
    """
    return live_trial(env, agent, generator, greedy)[0]


def live_trial(env: MetaEnv, agent: Agent, generator: Generator, greedy: bool = False) -> tuple[list[Rollout], State]:
    """``collect_trial``, and the state the agent is left in."""
    with torch.no_grad():
        state = agent.initial_state(env.tasks)
    trial: list[Rollout] = []
    for episodes in agent.rollouts:
        if trial:
            with torch.no_grad():
                state = agent.adapt(state, trial[-1])
        query = len(trial) == len(agent.rollouts) - 1
        rollout, state = collect(env, agent, state, episodes, generator, greedy and query)
        trial.append(rollout)
    return trial, state


def episode_returns(rollout: Rollout, episodes: int) -> Tensor:
    """Undiscounted return of each episode, ``[episodes, B]``."""
    index = (rollout.timestep.first.long().cumsum(0) - 1).clamp(max=episodes - 1)
    returns = torch.zeros(episodes, rollout.reward.shape[1], device=rollout.reward.device)
    return returns.scatter_add_(0, index, rollout.reward * rollout.mask)
