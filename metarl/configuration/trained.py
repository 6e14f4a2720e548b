"""The trained agent of a run directory."""

from collections.abc import Iterable

from metarl.algorithms.base import Algorithm
from metarl.configuration.build import Parts, build_algorithm
from metarl.errors import ConfigError
from metarl.runs.checkpoint import load_weights
from metarl.runs.directory import RunDirectory
from metarl.trust import trusted


def load_agent(
    directory: RunDirectory, which: str, trust: Iterable[str] = (), device: str | None = None, **changes: object
) -> tuple[Algorithm, Parts]:
    """The agent of a run with the weights of a checkpoint, and the parts to evaluate it with.

    Args:
        directory: of the run.
        which: ``latest`` or ``best``.
        trust: packages outside metarl whose code the configuration of the run may name.
        device: in place of the one of the run.
        changes: other top-level keys in place of those of the run.

    Raises:
        RunDirectoryError: there is no run.
        ConfigError: its configuration cannot be built here; the message names the file.
        CheckpointError: it has no such checkpoint, or one that is damaged or does not fit.
    """
    config = directory.config() | changes | ({"device": device} if device else {})
    path = directory.checkpoints.path(which)
    try:
        agent, parts = build_algorithm(config, trusted(trust))
    except ConfigError as error:
        raise ConfigError(f"{directory.config_path}: {error}") from None
    load_weights(agent, path, parts.settings.device)
    return agent, parts
