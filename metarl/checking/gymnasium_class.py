"""Checks of a Gymnasium class before it becomes the lanes of an environment."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from metarl.checking.comparing import demand, same
from metarl.checking.outcomes import Check, NotApplicable
from metarl.checking.world import World, stream


def _raw(world: World, task: bool = True) -> gymnasium.Env:
    """One object of the class, on a task."""
    if world.raw is None:
        raise NotApplicable("no Gymnasium class")
    env: Any = world.raw()
    if task:
        env.unwrapped.np_random = np.random.default_rng(0)
        env.unwrapped.set_task(env.unwrapped.sample_tasks(1)[0])
    return env


def answers_as_gymnasium_asks(world: World) -> None:
    """``reset`` takes a seed and gives two things, ``step`` gives five, rewards are plain numbers."""
    env = _raw(world)
    answer: Any = env.reset(seed=0)
    demand(
        isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict),
        f"reset(seed=0) returns {_told(answer)}, not an observation and a dict",
    )
    answer = env.step(env.action_space.sample())
    demand(
        isinstance(answer, tuple) and len(answer) == 5,
        f"step() returns {_told(answer)}, not observation, reward, terminated, truncated and info",
    )
    _, reward, terminated, truncated, info = answer
    demand(np.ndim(reward) == 0, f"step() returns a reward of shape {np.shape(reward)}, not a number")
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        demand(isinstance(flag, bool | np.bool_), f"step() returns {name}={flag!r}, which is no bool")
    demand(isinstance(info, dict), f"step() returns info={info!r}, which is no dict")


def _told(answer: Any) -> str:
    return f"a tuple of {len(answer)}" if isinstance(answer, tuple) else type(answer).__name__


def shows_what_its_space_says(world: World) -> None:
    """Observations have the shape and type of the declared space, and survive single precision."""
    env = _raw(world)
    env.action_space.seed(0)
    space: Any = env.observation_space
    seen = [env.reset(seed=0)[0]] + [env.step(env.action_space.sample())[0] for _ in range(3)]
    for value in map(np.asarray, seen):
        demand(value.shape == (space.shape or ()), f"observations of shape {value.shape}; the space has {space.shape}")
        demand(
            bool(np.can_cast(value.dtype, space.dtype)),
            f"observations are {value.dtype}, and the space is declared {space.dtype}",
        )
        with np.errstate(over="ignore"):
            rounded = value.astype(np.float32).astype(np.float64)
        demand(
            bool(np.allclose(rounded, value, rtol=1e-6, equal_nan=True)) and not _loses_whole_numbers(value, rounded),
            f"observations such as {value.max()} differ in single precision, which agents see",
        )


def _loses_whole_numbers(value: np.ndarray, rounded: np.ndarray) -> bool:
    """Numbers so large that neighbours become the same."""
    whole = np.isfinite(value) & (np.asarray(value, np.float64) == np.round(np.asarray(value, np.float64)))
    return bool((whole & (rounded != value)).any())


def keeps_tasks_through_tensors(world: World) -> None:
    """``set_task`` is called with what ``sample_tasks`` gave."""
    kind = type(_raw(world, task=False).unwrapped)
    given: list = []
    received: list = []
    with _recorded(kind, "sample_tasks", given), _recorded(kind, "set_task", received):
        world.env(num_tasks=3).sample_tasks()
    (count,), drawn = given[-1]
    demand(len(drawn) == count, f"sample_tasks({count}) returned {len(drawn)} tasks")
    for one, ((other,), _) in zip(drawn, received[-3:], strict=True):
        demand(_equal(one, other), f"sample_tasks() gave {one!r}, and set_task() received {other!r}")


@contextmanager
def _recorded(kind: type, name: str, calls: list) -> Iterator[None]:
    """Notes the arguments and the answer of every call of a method."""
    method = getattr(kind, name)

    def noting(env: Any, *arguments: Any) -> Any:
        answer = method(env, *arguments)
        calls.append((arguments, answer))
        return answer

    with mock.patch.object(kind, name, noting):
        yield


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    return np.shape(one) == np.shape(other) and bool(np.all(np.asarray(one) == np.asarray(other)))


def passes_gymnasiums_own_checker(world: World) -> str | None:
    """``gymnasium.utils.env_checker.check_env``; its warnings are remarks."""
    env = _raw(world).unwrapped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    remarks = [str(warning.message).removeprefix("\x1b[33mWARN: ").removesuffix("\x1b[0m") for warning in caught]
    return "; ".join(dict.fromkeys(remarks)) or None


def does_the_same_in_workers(world: World) -> None:
    """Lanes in worker processes have the outputs of lanes in this process."""
    if world.with_workers is None:
        raise NotApplicable("no worker processes are configured")
    steps = min(2 * world.sample.horizon, 50)
    made = (world.env(seed=1), world.with_workers(num_tasks=4, lanes_per_task=1, seed=1))
    demand(same(*(stream(env, steps) for env in made)), "lanes in worker processes differ from lanes in this one")


CLASS_CHECKS = (
    Check(
        "the class answers as Gymnasium asks",
        answers_as_gymnasium_asks,
        "return (observation, info) from reset(*, seed=None, options=None), five values from step(), rewards as float",
    ),
    Check(
        "observations agree with the declared space",
        shows_what_its_space_says,
        "declare the dtype in the space, or convert: observation.astype(np.float32)",
    ),
    Check(
        "tasks survive the way through tensors",
        keeps_tasks_through_tensors,
        "give tasks as numbers, arrays of one shape, or dictionaries of them",
    ),
    Check("Gymnasium's own checker passes", passes_gymnasiums_own_checker, "see gymnasium.utils.env_checker.check_env"),
    Check("worker processes change nothing", does_the_same_in_workers, "keep no state outside the object"),
)
