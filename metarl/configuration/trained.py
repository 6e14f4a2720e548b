"""The trained agent of a run directory."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from metarl.algorithms.base import Algorithm
from metarl.configuration.build import Parts, build_algorithm
from metarl.configuration.compose import unknown_key
from metarl.errors import CheckpointError, ConfigError
from metarl.runs.checkpoint import load_weights
from metarl.runs.directory import RunDirectory
from metarl.trust import trusted


def load_agent(
    directory: RunDirectory,
    which: str,
    trust: Iterable[str] = (),
    device: str | None = None,
    overrides: Sequence[str] = (),
    **changes: object,
) -> tuple[Algorithm, Parts]:
    """The agent of a run with the weights of a checkpoint, and the parts to evaluate it with.

    Args:
        directory: of the run.
        which: ``latest``, ``best`` or the number of an iteration.
        trust: packages outside metarl whose code the configuration of the run may name.
        device: in place of the one of the run.
        overrides: settings of the environment that keep the shapes of all networks, as ``env.num_episodes=20``.
        changes: other top-level keys in place of those of the run.

    Raises:
        RunDirectoryError: there is no run.
        ConfigError: its configuration cannot be built here, the message names the file; or an override does not fit.
        CheckpointError: it has no such checkpoint, or one that is damaged or does not fit.
    """
    config = directory.config() | changes | ({"device": device} if device else {})
    config = with_env_settings(config, overrides)
    path = directory.checkpoints.path(which)
    try:
        agent, parts = build_algorithm(config, trusted(trust))
    except ConfigError as error:
        raise ConfigError(f"{directory.config_path}: {error}") from None
    try:
        load_weights(agent, path, parts.settings.device)
    except CheckpointError as error:
        if not overrides or "does not fit" not in str(error):
            raise
        raise ConfigError(
            f"{' '.join(overrides)}: changes the shape of a network of the trained agent; choose settings that keep it"
        ) from None
    return agent, parts


def load_source(
    source: Path,
    which: str,
    trust: Iterable[str] = (),
    device: str | None = None,
    overrides: Sequence[str] = (),
    **changes: object,
) -> tuple[Algorithm, Parts, dict[str, Any]]:
    """The agent of a source of agents, with its configuration; the one place that tells their kinds apart.

    For the arguments see ``load_agent``.
    """
    directory = RunDirectory(source)
    agent, parts = load_agent(directory, which, trust, device, overrides, **changes)
    return agent, parts, directory.config()


def names_of_checkpoints(source: Path, which: str) -> list[str]:
    """The checkpoints that a name stands for: itself, or with ``all`` the iterations that were kept, and ``best``.

    Raises:
        CheckpointError: ``all`` was asked for, and there are none.
    """
    if which != "all":
        return [which]
    checkpoints = RunDirectory(source).checkpoints
    names = [str(int(path.stem)) for path in checkpoints.numbered()]
    names += ["best"] if (checkpoints.directory / "best.pt").exists() else []
    if not names:
        checkpoints.path("latest")  # says that there are none
    return names


def with_env_settings(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a run with other settings of its environment, each ``env.KEY=VALUE``.

    Raises:
        ConfigError: an override is of another kind, or there is no such setting.
    """
    env = dict(config["env"])
    for override in overrides:
        key, equals, text = override.lstrip("+").partition("=")
        group, _, name = key.partition(".")
        if group != "env" or not equals or not name:
            raise ConfigError(f"{override}: a trained agent takes settings of its environment alone: env.KEY=VALUE")
        if name not in env:
            raise ConfigError(unknown_key(key, text, [name for name in env if not name.startswith("_")]))
        if isinstance(env[name], dict) or name.startswith("_"):
            raise ConfigError(f"{override}: holds several settings or names code, and stays as in training")
        try:
            env[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{override}: the value is not readable; write it as in a YAML file") from None
    return config | {"env": env}
