"""Trained agents: of a run directory, of an exported file, or of the zoo."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from metarl.algorithms.base import Algorithm
from metarl.configuration.build import Parts, build_algorithm
from metarl.configuration.compose import unknown_key
from metarl.errors import CheckpointError, ConfigError
from metarl.runs.checkpoint import load_weights, set_weights
from metarl.runs.directory import RunDirectory
from metarl.runs.exported import SUFFIX, read_exported
from metarl.runs.zoo import agent_path
from metarl.trust import trusted

log = logging.getLogger(__name__)


def load_source(
    source: Path,
    which: str,
    trust: Iterable[str] = (),
    device: str | None = None,
    overrides: Sequence[str] = (),
    **changes: object,
) -> tuple[Algorithm, Parts, dict[str, Any]]:
    """A trained agent, the parts to evaluate it with, and the configuration of its training.

    Args:
        source: run directory, a file that ``metarl export`` wrote, or ``zoo:NAME``.
        which: ``latest``, ``best`` or the number of an iteration, of a run directory.
        trust: packages outside metarl whose code the configuration may name.
        device: in place of the one of the run.
        overrides: settings of the environment that keep the shapes of all networks, as ``env.num_episodes=20``.
        changes: other top-level keys in place of those of the run.

    Raises:
        RunDirectoryError: there is no run.
        ConfigError: its configuration cannot be built here, the message names the file; or an override does not fit.
        CheckpointError: it has no such checkpoint, or one that is damaged or does not fit.
    """
    source = agent_path(source)
    if source.suffix == SUFFIX:
        config, place, read = _exported(source, which)
    else:
        config, place, read = _of_run(source, which)
    changed = with_env_settings(config | changes | ({"device": device} if device else {}), overrides)
    try:
        agent, parts = build_algorithm(changed, trusted(trust))
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    try:
        read(agent, device=parts.settings.device)
    except CheckpointError as error:
        if not overrides or "does not fit" not in str(error):
            raise
        raise ConfigError(
            f"{' '.join(overrides)}: changes the shape of a network of the trained agent; choose settings that keep it"
        ) from None
    return agent, parts, config


def _of_run(source: Path, which: str) -> tuple[dict[str, Any], Path, Callable[..., Any]]:
    """Configuration of a run, its file, and a function that gives the weights of a checkpoint to an agent."""
    directory = RunDirectory(source)
    config, path = directory.config(), directory.checkpoints.path(which)

    def read(agent: Algorithm, device: str) -> None:
        progress = load_weights(agent, path, device).get("progress")
        if which == "best" and isinstance(progress, dict) and progress.get("iteration") == 0:
            log.warning(
                "%s holds the untrained agent: no evaluation during training had a higher return; with more of them "
                "(training.eval_every), or with --checkpoint latest, it may be another one",
                path,
            )

    return config, directory.config_path, read


def _exported(source: Path, which: str) -> tuple[dict[str, Any], Path, Callable[..., Any]]:
    """Configuration of an exported file, the file, and a function that gives its weights to an agent."""
    if which != "latest":
        raise ConfigError(f"--checkpoint {which}: {source} holds one agent; leave the option out")
    exported = read_exported(source)

    def read(agent: Algorithm, device: str) -> None:
        set_weights(agent, {"algorithm": exported.tensors}, source)

    return exported.config, source, read


def names_of_checkpoints(source: Path, which: str) -> list[str]:
    """The checkpoints that a name stands for: itself, or with ``all`` the iterations that were kept, and ``best``.

    Raises:
        CheckpointError: ``all`` was asked for, and there are none.
    """
    if which != "all":
        return [which]
    source = agent_path(source)
    if source.suffix == SUFFIX:
        return ["latest"]
    checkpoints = RunDirectory(source).checkpoints
    names = [str(int(path.stem)) for path in checkpoints.numbered()]
    names += ["best"] if (checkpoints.directory / "best.pt").exists() else []
    if not names:
        checkpoints.path("latest")  # says that there are none
    return names


def with_env_settings(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a run with other settings of its environment, see ``with_settings``."""
    for override in overrides:
        if not override.lstrip("+").startswith("env."):
            raise ConfigError(f"{override}: a trained agent takes settings of its environment alone: env.KEY=VALUE")
    return with_settings(config, overrides, "env")


def with_settings(config: dict[str, Any], overrides: Sequence[str], group: str) -> dict[str, Any]:
    """A configuration with other settings of one group, each ``GROUP.KEY=VALUE``.

    Raises:
        ConfigError: an override is of another kind, or there is no such setting.
    """
    node = dict(config.get(group) or {})
    for override in overrides:
        key, equals, text = override.lstrip("+").partition("=")
        name = key.removeprefix(f"{group}.")
        if not equals:
            raise ConfigError(f"{override}: has no value; write {group}.KEY=VALUE")
        if name not in node:
            raise ConfigError(unknown_key(key, text, [name for name in node if not name.startswith("_")]))
        if isinstance(node[name], dict) or name.startswith("_"):
            raise ConfigError(f"{override}: holds several settings or names code, and stays as in training")
        try:
            node[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{override}: the value is not readable; write it as in a YAML file") from None
    return config | {group: node}
