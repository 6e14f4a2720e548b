"""Environments of metarl by name, as batches of lanes."""

from typing import Any

from metarl.configuration.build import build_env_factory
from metarl.configuration.compose import compose, resolved
from metarl.envs.base import MetaEnv
from metarl.errors import ConfigError
from metarl.seeding import split_seed, stream_seed
from metarl.trust import TYPED


def make(
    name: str,
    num_tasks: int = 1,
    seed: int = 0,
    *,
    lanes_per_task: int = 1,
    task_set: str = "train",
    device: str = "cpu",
    **settings: Any,
) -> MetaEnv:
    """An environment that steps many lanes together, with tasks: ``metarl.make("cheetah_vel", num_tasks=64)``.

    Its tensors have one row per lane. ``reset()`` gives the first observations, ``step(action)`` a ``Step``, and
    ``sample_tasks(task_set)`` new tasks. With ``task_set="held_out"`` its tasks and its noise are those that
    ``metarl evaluate --seed SEED --num-tasks NUM_TASKS`` plays first.

    Args:
        name: an option of ``conf/env``, see ``metarl list``.
        num_tasks: tasks side by side.
        seed: seed of tasks and noise.
        lanes_per_task: lanes that share a task.
        task_set: set of the first tasks.
        device: torch device of its tensors.
        settings: keys of the environment's YAML, such as ``horizon=100``.

    Raises:
        ConfigError: there is no such environment, or it has no such setting or set of tasks.
    """
    config = resolved(compose([f"env={name}"]), {})
    config["env"] |= settings
    config |= {"lanes_per_task": lanes_per_task, "device": device}
    env = build_env_factory(config, trust=TYPED)(num_tasks=num_tasks, seed=environment_seed(seed))
    try:
        env.sample_tasks(task_set)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return env


def environment_seed(seed: int) -> int:
    """Seed of the environment in an evaluation by ``metarl evaluate --seed``."""
    return split_seed(stream_seed(seed, "command_line"), 2)[0]


def acting_seed(seed: int) -> int:
    """Seed of the sampled actions in an evaluation by ``metarl evaluate --seed``."""
    return split_seed(stream_seed(seed, "command_line"), 2)[1]
