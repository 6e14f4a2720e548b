"""Collecting rollouts and trials: the one place where an agent acts in an environment. Shapes are time-major."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple

import torch
from gymnasium import spaces
from torch import Generator, Tensor

from metarl.envs.base import MetaEnv
from metarl.finite import check_rollout
from metarl.tree import tree_leaves, tree_map
from metarl.types import Agent, Decision, Rollout, State, Step, Tasks, Timestep


def next_timestep(env: MetaEnv, before: Rollout) -> Timestep:
    """Reset every lane; the timestep of an episode that follows those of an earlier rollout of the trial."""
    first = torch.ones(env.num_lanes, dtype=torch.bool, device=env.device)
    last, lanes = before.mask.sum(0) - 1, torch.arange(env.num_lanes, device=env.device)
    observation = before.timestep.observation[last, lanes]
    return Timestep(env.reset(), observation, before.decision.action[last, lanes], before.reward[last, lanes], first)


def first_timestep(env: MetaEnv) -> Timestep:
    """Reset every lane; the timestep at the start of a trial."""
    return start_of_trial(env.reset(), env.observation_space, env.action_space)


def start_of_trial(observation: Tensor, observation_space: spaces.Space, action_space: spaces.Space) -> Timestep:
    """The timestep at the start of a trial whose first observations are ``[B, ...]``."""
    count, device = len(observation), observation.device
    return Timestep(
        observation,
        _null_element(observation_space, count, device),
        _null_element(action_space, count, device),
        previous_reward=torch.zeros(count, device=device),
        first=torch.ones(count, dtype=torch.bool, device=device),
    )


def _null_element(space: spaces.Space, count: int, device: torch.device) -> Tensor:
    """Placeholder for an element of the space before the first one, ``[B, ...]``."""
    if isinstance(space, spaces.Discrete):
        return torch.full((count,), int(space.start) - 1, dtype=torch.long, device=device)
    return torch.zeros(count, *(space.shape or ()), device=device)


@torch.no_grad()
def collect(
    env: MetaEnv,
    agent: Agent,
    state: State,
    episodes: int,
    generator: Generator,
    greedy: bool = False,
    after: Rollout | None = None,
    on_end: Callable[[Tensor, State], None] | None = None,
) -> tuple[Rollout, State]:
    """Play ``episodes`` episodes in every lane on its current task, ``after`` an earlier rollout of the trial.

    A finished lane idles until all are finished: its steps are masked, its timestep stays that of its last step, and
    its rewards are zero. If episodes can end early, its state is still updated with the others; ``on_end`` is called
    with the indices of the lanes that finish at a step and the state of all lanes at that step.

    Returns:
        The rollout, and the agent's state after the last step.

    Raises:
        NonFiniteError: a reward, an observation or an output of the agent is NaN or infinite.
    """
    timestep = first_timestep(env) if after is None else next_timestep(env, after)
    rows, remaining = [], torch.full((env.num_lanes,), episodes, device=env.device)
    for _ in range(episodes * env.horizon):
        mask = remaining > 0
        decision, state = agent.act(timestep, state, generator, greedy)
        step = env.step(decision.action)
        rows.append(row_of(timestep, decision, step, mask))
        done = step.terminated | step.truncated
        remaining = remaining - done.long()
        following = Timestep(step.observation, timestep.observation, decision.action, step.reward, done)
        if env.fixed_length:
            timestep = following
            continue
        plays = remaining > 0
        if on_end is not None:
            on_end((mask & ~plays).nonzero().squeeze(1), state)
        playing = int(plays.sum())  # the only synchronisation per step, and only if episodes can end early
        if playing == 0:
            break
        timestep = following if playing == env.num_lanes else held(timestep, following, plays)
    rollout = stacked(rows, env.tasks, env.fixed_length)
    check_rollout(rollout, agent)
    return rollout, state


def held(timestep: Timestep, following: Timestep, plays: Tensor) -> Timestep:
    """The following timestep in lanes that continue; the current one, which starts no episode, in idle lanes."""
    held: Timestep = tree_map(lambda new, old: torch.where(_beside(plays, new), new, old), following, timestep)
    return held._replace(first=following.first & plays)


def row_of(timestep: Timestep, decision: Decision, step: Step, mask: Tensor) -> tuple:
    """Entries of a rollout from one step; the observation that follows is in the next row."""
    ended = (step.terminated, step.truncated)
    return timestep, decision, step.reward, *ended, step.success, step.final_observation, mask


def stacked(rows: Sequence[tuple], tasks: Tasks, fixed_length: bool) -> Rollout:
    """Steps stacked over time, with the transitions of idle lanes removed."""
    timestep, decision, reward, terminated, truncated, success, next_observation, mask = tree_map(
        lambda *steps: torch.stack(steps), *rows
    )
    if not fixed_length:
        reward = reward.masked_fill(~mask, 0.0)
        next_observation = torch.where(_beside(mask, next_observation), next_observation, timestep.observation)
        terminated, truncated = terminated & mask, truncated & mask
        success = None if success is None else success & mask
    return Rollout(timestep, decision, next_observation, reward, terminated, truncated, success, mask, tasks)


def _beside(flags: Tensor, values: Tensor) -> Tensor:
    """Flags ``[...]`` with further axes of size one, to broadcast over ``values [..., *shape]``."""
    return flags.view(*flags.shape, *[1] * (values.ndim - flags.ndim))


def collect_trial(env: MetaEnv, agent: Agent, generator: Generator, greedy: bool = False) -> list[Rollout]:
    """One whole trial in every lane, on the current tasks of the environment.

    Returns one rollout per entry of ``agent.rollouts``: the last is the query, the others are support. ``greedy``
    applies only to the query: adaptation by policy gradients needs sampled actions.
    """
    return _trial(env, agent, generator, greedy)[0]


class TrialEnd(NamedTuple):
    """Agent, its state, and ``MetaEnv.trial_state`` at the end of each lane's trial, to continue it."""

    agent: Agent
    state: State
    env_state: dict[str, Tensor]


def collect_to_branch(env: MetaEnv, agent: Agent, generator: Generator) -> tuple[list[Rollout], TrialEnd]:
    """``collect_trial`` with sampled actions, and the state in which further episodes start."""
    if env.fixed_length or not _has_lanes(agent.initial_state(env.tasks), env.num_lanes):
        trial, state = _trial(env, agent, generator)  # all lanes end together, or no step changes their state
        return trial, TrialEnd(agent, state, env.trial_state())
    branches = _Branches(env, agent)
    trial, _ = _trial(env, agent, generator, on_end=branches.note)
    return trial, TrialEnd(branches, branches.states, branches.env_state)


def _trial(
    env: MetaEnv,
    agent: Agent,
    generator: Generator,
    greedy: bool = False,
    on_end: Callable[[Tensor, State], None] | None = None,
) -> tuple[list[Rollout], State]:
    """The rollouts of a trial, and the agent's state after its last step; ``on_end`` is for the query."""
    with torch.no_grad():
        state = agent.initial_state(env.tasks)
    trial: list[Rollout] = []
    for episodes in agent.rollouts:
        if trial:
            with torch.no_grad():
                state = agent.adapt(state, trial[-1])
        query = len(trial) == len(agent.rollouts) - 1
        rollout, state = collect(
            env, agent, state, episodes, generator, greedy and query, on_end=on_end if query else None
        )
        trial.append(rollout)
    return trial, state


def _has_lanes(state: State, num_lanes: int) -> bool:
    """Whether a state has one row per lane; the state of gradient methods has one per task."""
    leaves = tree_leaves(state)
    return bool(leaves) and all(isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == num_lanes for leaf in leaves)


class _Branches:
    """An agent that continues from the end of every lane's trial, for lanes that finish at different steps.

    Lanes that finished at the same step act as one group. Groups cannot be merged, because a carry may hold one step
    counter for all of its lanes.
    """

    def __init__(self, env: MetaEnv, agent: Agent):
        self.env, self.agent = env, agent
        self.rollouts = (1,)
        self.lanes: list[Tensor] = []  # indices of the lanes of each group
        self.states: list[State] = []
        self.env_state = env.trial_state()

    def note(self, lanes: Tensor, state: State) -> None:
        """Save the state of the lanes that finish at this step."""
        if len(lanes):
            self.lanes.append(lanes)
            self.states.append(tree_map(lambda leaf: leaf[lanes.to(leaf.device)], state))
            for name, value in self.env.trial_state().items():
                self.env_state[name][lanes] = value[lanes]

    def initial_state(self, tasks: Tasks) -> State:
        return self.states

    def act(
        self, timestep: Timestep, state: State, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, State]:
        answers = [
            self.agent.act(tree_map(itemgetter(lanes), timestep), own, generator, greedy)
            for lanes, own in zip(self.lanes, state, strict=True)
        ]
        order = torch.cat(self.lanes).argsort()
        joined = tree_map(lambda *parts: torch.cat(parts)[order], *(decision for decision, _ in answers))
        return joined, [own for _, own in answers]

    def adapt(self, state: State, rollout: Rollout) -> State:
        return state


def episode_returns(rollout: Rollout, episodes: int) -> Tensor:
    """Undiscounted return of each episode, ``[episodes, B]``."""
    index = (rollout.timestep.first.long().cumsum(0) - 1).clamp(max=episodes - 1)
    returns = torch.zeros(episodes, rollout.reward.shape[1], device=rollout.reward.device)
    return returns.scatter_add_(0, index, rollout.reward * rollout.mask)
