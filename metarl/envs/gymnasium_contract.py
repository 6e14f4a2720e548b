"""Requirements on Gymnasium environments, with an error message for each violation.

Imports no torch, see ``metarl.envs.vector``.
"""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from metarl.envs.actions import Actions, actions_of
from metarl.errors import ContractError

LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
RESET = "reset(self, *, seed=None, options=None) must return (observation, info)"
STEP = "step(self, action) must return (observation, reward, terminated, truncated, info)"


# ---------------------------------------------------------------- at every step


def fitting(observation: Any, env: gymnasium.Env, place: NDArray | np.generic) -> NDArray:
    """An observation as an array, if it has the shape of its place."""
    found = np.asarray(observation)
    if found.shape != place.shape or found.dtype == object:
        raise ContractError(
            f"{name_of(env)} gave an observation of shape {found.shape} and type {found.dtype}; its observation_space "
            f"promises {place.shape}: change one of them"
        )
    return found


def observation_in(answer: Any, env: gymnasium.Env, place: NDArray | np.generic) -> NDArray:
    """The observation that ``reset`` gave."""
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise ContractError(f"{name_of(env)}.reset returned no pair; {RESET}")
    return fitting(answer[0], env, place)


def number(reward: Any, env: gymnasium.Env) -> float:
    """A reward that is a single number of any type."""
    found = np.asarray(reward)
    if found.size != 1 or found.dtype.kind not in "biuf":
        raise ContractError(f"{name_of(env)}.step gave the reward {reward!r}; return one number")
    return float(found.item())


def success_in(info: Mapping[str, Any], env: gymnasium.Env) -> int:
    """1 or 0 from ``info["success"]`` or ``info["is_success"]``; -1 if it has neither."""
    success = info.get("success")
    if success is None:
        success = info.get("is_success")
    if success is None:
        return -1
    found = np.asarray(success)
    if found.size != 1 or found.dtype.kind not in "biuf" or found.item() not in (0, 1):
        raise ContractError(
            f'{name_of(env)}.step gave info["success"]={success!r}; a step succeeds or does not: return True or False, '
            "and a share of success under another name"
        )
    return int(found.item())


def with_own_spaces(env: gymnasium.Env) -> gymnasium.Env:
    """The environment with spaces that no other lane draws from."""
    for name in ("action_space", "observation_space"):
        with suppress(AttributeError):  # a property, which makes them itself
            setattr(env.unwrapped, name, deepcopy(getattr(env.unwrapped, name)))
    return env


def name_of(env: gymnasium.Env) -> str:
    """The class under all wrappers."""
    return type(env.unwrapped).__name__


# ---------------------------------------------------------------- before the first step


def is_plain(space: spaces.Space) -> bool:
    """Whether observations are one array, or one number of a finite set; others are flattened."""
    return isinstance(space, spaces.Discrete) or (isinstance(space, spaces.Box) and bool(space.shape))


def flat_space(space: spaces.Space, key: str) -> spaces.Box | spaces.Discrete:
    """Space of the observations that agents see: dictionaries, tuples and several choices flattened into one vector.

    Raises:
        ValueError: observations of another kind.
    """
    if wrong := _unknown(space):
        raise ValueError(
            f"{key}: observations of {wrong} cannot be learned from; use Box, Discrete, MultiDiscrete, MultiBinary, or "
            "Dict or Tuple of these"
        )
    flat: Any = space if is_plain(space) else spaces.utils.flatten_space(space)
    return flat


def checked_actions(space: spaces.Space, scale: bool, key: str) -> Actions:
    """Conversion from the actions that agents choose to those of a space.

    Raises:
        ValueError: there is nothing that can be learned.
    """
    try:
        return actions_of(space, scale)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _unknown(space: spaces.Space) -> spaces.Space | None:
    """The first part of a space that has no numbers of its own."""
    if isinstance(space, LEAVES):
        return None
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return next((wrong for part in parts if (wrong := _unknown(part))), None)
    return space


def check_methods(env: gymnasium.Env, key: str) -> None:
    """Check that an environment has tasks and can be reset.

    Raises:
        ValueError: a method is missing, or takes other arguments.
    """
    inner, found = env.unwrapped, name_of(env)
    for name in ("sample_tasks", "set_task"):
        if not callable(getattr(inner, name, None)):
            raise ValueError(f"{key}: {found} has no method {name}; add sample_tasks(num_tasks) and set_task(task)")
    parameters = inspect.signature(inner.reset).parameters
    if "seed" not in parameters and not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        raise ValueError(f"{key}: {found}.reset takes no seed; {RESET}")


def check_time_limit(env: gymnasium.Env, horizon: int, key: str) -> None:
    """Check that an environment does not end its episodes before the horizon by a time limit of its own.

    Raises:
        ValueError: it does.
    """
    while isinstance(env, gymnasium.Wrapper):
        limit = env._max_episode_steps if isinstance(env, TimeLimit) else horizon
        if limit < horizon:
            raise ValueError(
                f"env.horizon={horizon}: {key} has a time limit of {limit} steps; use env.horizon={limit}, or another "
                f"limit by +env.options.max_episode_steps={horizon}"
            )
        env = env.env


def try_out(env: gymnasium.Env, task: Any, actions: Actions, observation_space: spaces.Space) -> None:
    """Play one step of a task.

    Raises:
        ContractError: what the environment returns does not fit.
    """
    inner: Any = env.unwrapped
    step = inner.step

    def counted(action: Any) -> Any:
        answer = step(action)
        if not (isinstance(answer, tuple) and len(answer) == 5):
            raise ContractError(f"{name_of(env)}.step returned no five values; {STEP}")
        return answer

    first = actions.space.start if isinstance(actions.space, spaces.Discrete) else 0
    action = actions.native(np.full((1, *(actions.space.shape or ())), first))[0]
    place = np.empty(observation_space.shape or ())
    try:
        inner.set_task(task)
        observation_in(env.reset(seed=0), env, place)
        inner.step = counted  # below the wrappers, which would stumble over its answer
        observation, reward, _, _, info = env.step(action)
    finally:
        inner.step = step
    fitting(observation, env, place)
    number(reward, env)
    success_in(info, env)
