"""Playing a trained agent in an environment of Gymnasium's kind."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.api.agents import TrainedAgent
from metarl.api.spaces import check_same
from metarl.envs.actions import actions_of
from metarl.envs.gymnasium_contract import flat_space, name_of
from metarl.envs.vector import limited
from metarl.errors import ConfigError
from metarl.gymnasium_envs import SingleLane


def play(
    agent: TrainedAgent, env: gymnasium.Env, episodes: int | None = None, *, greedy: bool = False, seed: int = 0
) -> list[float]:
    """Play one trial in an environment that has one task; returns the return of each episode, in order.

    The agent starts without experience and improves from episode to episode. Observations that are dictionaries or
    tuples are flattened, actions are scaled to the bounds of the environment, and an episode is truncated at the
    horizon of training.

    Args:
        agent: from ``metarl.load``.
        env: environment of Gymnasium's kind, whose task stays the same over its resets.
        episodes: how many of the episodes of the trial to play; None plays all, support episodes included.
        greedy: most likely actions instead of samples.
        seed: seed of sampled actions, and of the first reset.

    Raises:
        ConfigError: the spaces do not fit the agent, or there are more episodes than a trial has.
    """
    session = agent.start(greedy=greedy, seed=seed)
    if episodes is not None and not 0 < episodes <= session.episodes:
        raise ConfigError(
            f"episodes={episodes}: a trial of this agent has {session.episodes}; give 1 to {session.episodes}, or "
            "metarl.load(..., overrides=['env.num_episodes=N'])"
        )
    to_native = _conversion(agent, env)
    inner, returns = limited(lambda: env, agent.horizon), list[float]()
    for episode in range(session.episodes if episodes is None else episodes):
        observation, _ = inner.reset(seed=seed if episode == 0 else None)
        returns.append(0.0)
        done = False
        while not done:
            step = inner.step(to_native(session.act(observation)))
            session.observe(*step)
            observation, done = step[0], step[2] or step[3]
            returns[-1] += float(step[1])
    return returns


def _conversion(agent: TrainedAgent, env: gymnasium.Env) -> Callable[[Any], Any]:
    """Map from actions of the agent to those that the environment executes; refuses spaces that do not fit."""
    if not isinstance(env, gymnasium.Env):
        raise ConfigError(
            f"{type(env).__name__} is no gymnasium.Env; for lanes of metarl.make write a loop, see agent.start"
        )
    try:
        seen = flat_space(env.observation_space, name_of(env))
        actions = actions_of(env.action_space, scale=not agent.native_actions)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    check_same("observation_space", agent.observation_space, seen)
    check_same("action_space", agent.action_space, actions.space)
    if isinstance(env.unwrapped, SingleLane) or isinstance(env.action_space, spaces.Discrete):
        return lambda action: action  # environments of metarl clip by themselves, where their formula does
    return lambda action: actions.native(np.asarray(action)[None])[0]
