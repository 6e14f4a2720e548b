"""The edge between YAML and code: checks a configuration against the constructors it names, then builds.

Nothing below this file depends on Hydra. A configuration is trusted to name code of metarl alone, unless the caller
trusts more: see ``metarl.trust``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt

from metarl import parallel
from metarl.algorithms.base import Algorithm
from metarl.configuration.capacity import (
    check_bytes,
    check_lanes,
    check_state,
    check_trial,
    fitting,
    free_memory,
    large_settings,
    rehearse,
    sizes,
)
from metarl.configuration.schema import Kind, Schema
from metarl.envs.actions import check_bounds
from metarl.envs.base import MetaEnv
from metarl.errors import ConfigError
from metarl.evaluation import MakeEnv
from metarl.models.policy import Policy
from metarl.plans import EvaluationPlan, TrainingPlan
from metarl.runs.directory import RunDirectory
from metarl.runs.loggers import Loggers
from metarl.seeding import make_generator, stream_seed
from metarl.trainer import Trainer
from metarl.trust import Trust, check_names, trusted

# Arguments that the program supplies, and a configuration may not.
LANES = frozenset({"num_tasks", "lanes_per_task", "seed", "device"})
POLICY = frozenset({"spec", "context_dim", "input_dim", "trunk"})
NODES = ("env", "model", "algorithm", "training", "eval")
GROUPS = (*NODES, "logger", "wandb", "choices")
UNCHOSEN = {"_target_": "???"}  # a node of conf/config.yaml that no option has filled
LOGGER = Kind(partial=False, methods=("start", "log", "finish"))
MOST_THREADS = 1024


@dataclass(frozen=True)
class RunSettings:
    """The keys at the top of a configuration.

    Args:
        seed: seed of all random streams.
        device: a torch device such as ``cpu``, ``cuda`` or ``cuda:1``.
        meta_batch_size: tasks sampled in parallel in one iteration.
        lanes_per_task: parallel trials on each task.
        num_threads: CPU threads of torch; null: all cores.
    """

    seed: NonNegativeInt
    device: str
    meta_batch_size: PositiveInt
    lanes_per_task: PositiveInt
    num_threads: Annotated[int, Field(gt=0, le=MOST_THREADS)] | None


@dataclass(frozen=True)
class Parts:
    """Components that a configuration describes, before anything runs."""

    settings: RunSettings
    make_env: MakeEnv
    make_algorithm: Callable[..., Algorithm]
    training: TrainingPlan
    evaluation: EvaluationPlan
    loggers: Loggers
    sizes: dict[str, int]  # numbers that decide how much memory is needed, by key
    whole: dict[str, int]  # see ``Schema``


def parts(config: Mapping, trust: Trust | None = None) -> Parts:
    """Check a whole configuration.

    Args:
        config: resolved.
        trust: in what it names; None trusts metarl and what ``METARL_TRUST`` lists.

    Raises:
        ConfigError: naming the first key that is wrong.
    """
    schema = _schema(config, trust)
    for name in NODES:
        if config.get(name, UNCHOSEN) == UNCHOSEN:
            raise ConfigError(f"{name} is missing")
    settings = _settings(config, schema)
    model = schema.target(config["model"], "model", Kind(Policy), POLICY).build()
    algorithm = _algorithm(config, schema).build()

    def make_algorithm(env):
        made = algorithm()
        made.setup(env, model)
        return made

    return Parts(
        settings,
        _env_factory(config["env"], settings, schema),
        make_algorithm,
        TrainingPlan(**schema.check(config["training"], TrainingPlan, "training")),
        EvaluationPlan(**schema.check(config["eval"], EvaluationPlan, "eval")),
        _loggers(config.get("logger"), schema),
        sizes(config),
        schema.whole,
    )


def _algorithm(config: Mapping, schema: Schema) -> Any:
    try:
        return schema.target(config["algorithm"], "algorithm", Kind(Algorithm))
    except ConfigError as error:
        if not str(error).startswith("algorithm.meta_optimizer={"):
            raise
        choices = config.get("choices") or {}
        raise ConfigError(
            f"meta_optimizer={choices.get('meta_optimizer')}: algorithm={choices.get('algorithm')} takes none; "
            "use meta_optimizer=none, or a method that adapts by gradient steps, such as algorithm=maml"
        ) from None


def _schema(config: Mapping, trust: Trust | None) -> Schema:
    """The schema of a configuration that names nothing but trusted code."""
    trust = trusted() if trust is None else trust
    if not trust.everything:
        check_names(config, trust)
    return Schema(trust)


def _loggers(nodes: Any, schema: Schema) -> Loggers:
    if nodes is not None and not isinstance(nodes, Mapping):
        raise ConfigError(f"logger={nodes}: must hold loggers by name; choose logger=jsonl, tensorboard or wandb")
    checked = {name: schema.target(node, f"logger.{name}", LOGGER) for name, node in (nodes or {}).items()}
    return Loggers({name: node.build() for name, node in checked.items()})


def build(config: dict, run_dir: Path, trust: Trust | None = None) -> Trainer:
    """A trainer, ready to run or to resume; nothing is read from ``run_dir`` yet, and nothing written.

    Args:
        config: resolved. Whole numbers in it that are written as floats become integers, as they are recorded.
        trust: see ``parts``.
        run_dir: where the run is, or will be.

    Raises:
        ConfigError: the configuration is wrong.
    """
    built = parts(config, trust)
    for key, value in built.whole.items():
        _set(config, key, value)
    directory = RunDirectory(run_dir, built.training.keep_checkpoints)
    seed, device = built.settings.seed, built.settings.device
    if built.settings.num_threads is not None:
        torch.set_num_threads(built.settings.num_threads)
    env, algorithm = _construct(built)
    _check_tasks(env, built)
    _check_evaluation(env, built)
    return Trainer(
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
        stream_seed(seed, "final_evaluation"),
        large_settings(built.sizes),
    )


def _set(config: dict, key: str, value: Any) -> None:
    node: Any = config
    *groups, leaf = key.split(".")
    for name in groups:
        node = node[int(name)] if isinstance(node, list) else node[name]
    node[leaf] = value


def build_env_factory(config: Mapping, device: str | None = None, trust: Trust | None = None) -> MakeEnv:
    """Makes the environment of a configuration; ``device`` replaces the configured one. For ``trust`` see ``parts``.

    Raises:
        ConfigError: the configuration is wrong.
    """
    schema = _schema(config, trust)
    settings = _settings(dict(config) | ({"device": device} if device else {}), schema)
    return _env_factory(config.get("env"), settings, schema)


def build_policy_factory(config: Mapping, trust: Trust | None = None) -> Callable[..., Policy]:
    """A function that makes the policy of a configuration for an ``EnvSpec``. For ``trust`` see ``parts``."""
    made: Callable[..., Policy] = _schema(config, trust).target(config["model"], "model", Kind(Policy), POLICY).build()
    return made


def _settings(config: Mapping, schema: Schema) -> RunSettings:
    given = schema.check({k: v for k, v in config.items() if k not in GROUPS}, RunSettings, "")
    settings = RunSettings(**given)
    _check_device(settings.device)
    return settings


def _env_factory(node: Any, settings: RunSettings, schema: Schema) -> MakeEnv:
    make = schema.target(node, "env", Kind(MetaEnv), LANES).build()
    return partial(make, lanes_per_task=settings.lanes_per_task, device=settings.device)


def build_algorithm(config: dict, trust: Trust | None = None) -> tuple[Algorithm, Parts]:
    """The untrained agent of a configuration, and the parts to evaluate it with. For ``trust`` see ``parts``."""
    built = parts(config, trust)
    return _construct(built)[1], built


def _construct(built: Parts):
    settings, num_tasks = built.settings, _tasks_of_one_process(built.settings.meta_batch_size)
    lanes = num_tasks * settings.lanes_per_task
    torch.manual_seed(stream_seed(settings.seed, "weights"))
    with fitting(built.sizes, settings.device):
        free = free_memory()
        check_lanes(built.sizes, lanes, free)
        env = built.make_env(num_tasks=num_tasks, seed=stream_seed(settings.seed, "environment", parallel.rank()))
        check_trial(env, lanes, free)
        if not env.native_actions:
            check_bounds(env.action_space, type(env).__name__)
        rehearse(lambda: built.make_algorithm(env), built.sizes, free_memory(settings.device))
        algorithm = built.make_algorithm(env).to(settings.device)
        check_state(algorithm, lanes, free)
        check_trial(env, built.sizes.get("algorithm.buffer_size", 0), free)
        return env, algorithm


def _check_evaluation(env: MetaEnv, built: Parts) -> None:
    """Refuse evaluations to come that do not fit into memory."""
    plan, free = built.evaluation, free_memory()
    tasks = max(plan.num_tasks, plan.final_num_tasks)
    known = {f"eval.{name}": getattr(plan, name) for name in ("num_tasks", "final_num_tasks")}
    with fitting(known, "cpu"):
        check_bytes(tasks * env.num_episodes * 8, free)  # their returns
    with fitting(built.sizes | {"eval.batch_size": plan.batch_size}, "cpu"):
        check_trial(env, min(plan.batch_size, tasks) * built.settings.lanes_per_task, free)


def _tasks_of_one_process(meta_batch_size: int) -> int:
    if meta_batch_size % parallel.world_size():
        raise ConfigError(
            f"meta_batch_size={meta_batch_size}: must be a multiple of {parallel.world_size()}, the number of processes"
        )
    return meta_batch_size // parallel.world_size()


def _check_tasks(env: MetaEnv, built: Parts) -> None:
    """Refuse more parallel tasks than the environment has, in training and in evaluations."""
    plan = built.evaluation
    for name in plan.sets:
        if name not in env.task_sets:
            raise ConfigError(f"eval.task_sets={name}: {type(env).__name__} has {', '.join(env.task_sets)}")
    evaluated = min(plan.batch_size, max(plan.num_tasks, plan.final_num_tasks))
    wanted = {
        ("meta_batch_size", "train"): built.settings.meta_batch_size,
        ("eval.batch_size", "held_out"): evaluated,
        **{("eval.batch_size", name): evaluated for name in plan.sets},
    }
    for (key, task_set), count in wanted.items():
        most = env.max_num_tasks(task_set)
        if most is not None and count > most:
            name = type(env).__name__
            raise ConfigError(f"{key}={count}: {name} has only {most} {task_set} tasks; lower {key}{env.more_tasks}")


def _check_device(device: str) -> None:
    """Refuse devices that are not available, or do not compute, such as ``meta``."""
    try:
        torch.zeros(1, device=device).item()
    except Exception:  # each kind of device has its own
        found = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise ConfigError(
            f"device={device!r}: not available here; available are {', '.join(found)}; use device=cpu, or --device cpu "
            "to evaluate a run"
        ) from None
