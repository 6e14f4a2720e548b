"""The edge between YAML and code: checks a configuration against the constructors it names, then builds.

Nothing below this file knows Hydra. The constructor is the schema: its type hints say what a key may hold.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from pydantic import ConfigDict, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from metarl import parallel
from metarl.algorithms.base import Algorithm
from metarl.compose import unknown_key
from metarl.envs.base import MetaEnv
from metarl.errors import ConfigError
from metarl.evaluation import MakeEnv
from metarl.logging import Loggers
from metarl.run_directory import RunDirectory
from metarl.seeding import make_generator, stream_seed
from metarl.trainer import EvaluationPlan, Trainer, TrainingPlan

# What the program gives, and a configuration may not.
LANES = frozenset({"num_tasks", "lanes_per_task", "seed", "device"})
SPACES = frozenset({"observation_space", "action_space", "task_dim", "trial_length", "input_dim", "told_dim"})
BUILT = frozenset({"parameters", "observation_dim", "known_dim", "num_outputs", "actor_gain"})
WORLD = frozenset({"env", "model"})
NODES = ("env", "model", "algorithm", "training", "eval")
GROUPS = (*NODES, "logger", "wandb", "choices")


@dataclass(frozen=True)
class RunSettings:
    """The keys at the top of a configuration.

    Args:
        seed: of everything.
        device: a torch device such as ``cpu``, ``cuda`` or ``cuda:1``.
        meta_batch_size: tasks met side by side in one iteration.
        lanes_per_task: trials played at once on each task.
        num_threads: of torch on the CPU; null takes all cores.
    """

    seed: NonNegativeInt
    device: str
    meta_batch_size: PositiveInt
    lanes_per_task: PositiveInt
    num_threads: PositiveInt | None


def check(node: Mapping, target: Callable, path: str, supplied: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The values of ``node``, which must be arguments of ``target`` and of the types it declares.

    Args:
        node: keys and values, without ``_target_`` and the like.
        target: what will be called with them.
        path: of the node in the configuration, for messages.
        supplied: arguments that the program gives and a user may not.

    Raises:
        ConfigError: an unknown or missing key, or a value that is not allowed.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"{path}={node}: must hold the keys {', '.join(_parameters(target, {}, path))}")
    parameters = _parameters(target, node, path)
    allowed = [name for name in parameters if name not in supplied]
    values = {}
    for name, value in node.items():
        key = f"{path}.{name}" if path else str(name)
        if name not in allowed:
            raise ConfigError(unknown_key(key, value, allowed))
        values[str(name)] = _checked_value(parameters[name], value, key)
    for name in allowed:
        if parameters[name].default is inspect.Parameter.empty and name not in values:
            raise ConfigError(f"{path + '.' if path else ''}{name} is missing")
    return values


def check_target(node: Mapping, path: str, supplied: frozenset[str] = frozenset()) -> dict[str, Any]:
    """``check`` of a node against its own ``_target_``; returns a node ready to instantiate."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{path}={node}: must name a class as its _target_, as the files in conf/ do")
    try:
        target = get_object(node["_target_"])
    except Exception:
        raise ConfigError(f"{path}._target_={node['_target_']} cannot be imported") from None
    special = {name: node[name] for name in ("_target_", "_partial_") if name in node}
    return special | check({k: v for k, v in node.items() if k not in special}, target, path, supplied)


def _parameters(target: Callable, node: Mapping, path: str) -> dict[str, inspect.Parameter]:
    """Named parameters of ``target``, annotations resolved.

    ``**x_options`` stands for the parameters of whatever the argument ``x`` names, ``**inherited`` for those of the
    constructor that ``super().__init__`` is; any other ``**`` is for the program alone.
    """
    constructors: list[Callable] = [target]
    if inspect.isclass(target):
        constructors = [vars(owner)["__init__"] for owner in target.__mro__[:-1] if "__init__" in vars(owner)] or [
            target
        ]
    return _parameters_of(constructors, node, path)


def _parameters_of(constructors: list[Callable], node: Mapping, path: str) -> dict[str, inspect.Parameter]:
    """Of the first, and of the others as far as each hands on what is inherited."""
    hints = typing.get_type_hints(constructors[0], include_extras=True)
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(constructors[0]).parameters.items():
        if name == "self" or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is not parameter.VAR_KEYWORD:
            found[name] = parameter.replace(annotation=hints.get(name, Any))
        elif name.endswith("_options"):
            inner = name.removesuffix("_options")
            found = _parameters(_named(node.get(inner), f"{path}.{inner}"), node, path) | found
        elif name == "inherited":
            found = _parameters_of(constructors[1:], node, path) | found
    return found


def _named(node: Any, path: str) -> Callable:
    """What a node that names a class or function stands for."""
    if not isinstance(node, Mapping):
        return lambda: None  # its type is refused where it is checked
    try:
        return instantiate(check_target(node, path))
    except ConfigError:
        raise
    except Exception:
        given = ", ".join(f"{path}.{key}={value}" for key, value in node.items() if not key.startswith("_"))
        raise ConfigError(f"{given}: cannot be imported") from None


def _checked_value(parameter: inspect.Parameter, value: Any, key: str) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        return check_target(value, key, BUILT)
    annotation = parameter.annotation
    strict = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    try:
        adapter = TypeAdapter(annotation, config=strict)
    except Exception:  # a dataclass or model carries its own configuration
        adapter = TypeAdapter(annotation)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        if isinstance(value, float) and value.is_integer():  # YAML reads 1e6 as a float
            return _checked_value(parameter, int(value), key)
        wanted = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise ConfigError(f"{key}={value!r}: must be {wanted}") from None


@dataclass(frozen=True)
class Parts:
    """What a configuration describes, before anything runs."""

    settings: RunSettings
    make_env: MakeEnv
    make_algorithm: Callable[..., Algorithm]
    training: TrainingPlan
    evaluation: EvaluationPlan
    loggers: Loggers


def parts(config: dict) -> Parts:
    """Check a whole configuration.

    Raises:
        ConfigError: naming the first key that is wrong.
    """
    for name in NODES:
        if name not in config:
            raise ConfigError(f"{name} is missing")
    settings = _settings(config)
    model = instantiate(check_target(config["model"], "model", SPACES), _convert_="all")
    algorithm = instantiate(check_target(config["algorithm"], "algorithm", WORLD), _convert_="all")
    loggers = {
        name: instantiate(check_target(node, f"logger.{name}"), _convert_="all")
        for name, node in (config.get("logger") or {}).items()
    }

    def make_algorithm(on):
        return algorithm(env=on, model=model).to(settings.device)

    return Parts(
        settings,
        _env_factory(config["env"], settings),
        make_algorithm,
        TrainingPlan(**check(config["training"], TrainingPlan, "training")),
        EvaluationPlan(**check(config["eval"], EvaluationPlan, "eval")),
        Loggers(loggers),
    )


def build(config: dict, run_dir: Path) -> Trainer:
    """A trainer, ready to run or to resume; nothing is written yet.

    Raises:
        ConfigError: the configuration is wrong.
        RunDirectoryError: ``run_dir`` cannot hold this run.
        CheckpointError: the checkpoint there cannot be used.
    """
    built = parts(config)
    directory = RunDirectory(run_dir, built.training.keep_checkpoints)
    directory.check(config)
    seed, device = built.settings.seed, built.settings.device
    if built.settings.num_threads is not None:
        torch.set_num_threads(built.settings.num_threads)
    env, algorithm = _construct(built)
    _check_tasks(env, built)
    trainer = Trainer(
        algorithm,
        env,
        built.make_env,
        built.training,
        built.evaluation,
        directory,
        built.loggers,
        {
            "acting": make_generator(stream_seed(seed, "acting", parallel.rank()), device),
            "update": make_generator(stream_seed(seed, "update")),
        },
        stream_seed(seed, "evaluation"),
    )
    trainer.resume()
    return trainer


def build_env_factory(config: Mapping, device: str | None = None) -> MakeEnv:
    """Makes the environment of a configuration; ``device`` replaces the configured one.

    Raises:
        ConfigError: the configuration is wrong.
    """
    settings = _settings(dict(config) | ({"device": device} if device else {}))
    return _env_factory(config["env"], settings)


def _settings(config: Mapping) -> RunSettings:
    settings = RunSettings(**check({k: v for k, v in config.items() if k not in GROUPS}, RunSettings, ""))
    _check_device(settings.device)
    return settings


def _env_factory(node: Mapping, settings: RunSettings) -> MakeEnv:
    make = instantiate(check_target(node, "env", LANES), _convert_="all")
    return partial(make, lanes_per_task=settings.lanes_per_task, device=settings.device)


def build_algorithm(config: dict) -> tuple[Algorithm, Parts]:
    """The untrained agent of a configuration, and the parts to evaluate it with."""
    built = parts(config)
    return _construct(built)[1], built


def _construct(built: Parts):
    seed = built.settings.seed
    torch.manual_seed(stream_seed(seed, "weights"))
    try:
        env = built.make_env(
            num_tasks=_tasks_of_one_process(built.settings.meta_batch_size),
            seed=stream_seed(seed, "environment", parallel.rank()),
        )
        return env, built.make_algorithm(env)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _tasks_of_one_process(meta_batch_size: int) -> int:
    if meta_batch_size % parallel.count():
        raise ConfigError(
            f"meta_batch_size={meta_batch_size}: {parallel.count()} processes share it; choose a multiple of that"
        )
    return meta_batch_size // parallel.count()


def _check_tasks(env: MetaEnv, built: Parts) -> None:
    """No more tasks side by side than there are, in training and in evaluations to come."""
    plan = built.evaluation
    evaluated = min(plan.tasks_at_once, max(plan.num_tasks, plan.final_num_tasks))
    wanted = {
        ("meta_batch_size", "train"): built.settings.meta_batch_size,
        ("eval.tasks_at_once", "held_out"): evaluated,
    }
    for (key, task_set), count in wanted.items():
        most = env.most_tasks(task_set)
        if most is not None and count > most:
            name = type(env).__name__
            raise ConfigError(f"{key}={count}: {name} has {most} {task_set} tasks to meet side by side; lower it")


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        found = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise ConfigError(f"device={device!r}: this machine has {', '.join(found)}") from None
