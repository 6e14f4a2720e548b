"""Starting a run from the weights of another one: fine-tuning, transfer to another environment, curricula."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metarl.errors import CheckpointError
from metarl.runs.checkpoint import Checkpoints, load
from metarl.runs.exported import SUFFIX, read_exported
from metarl.runs.zoo import agent_path, recorded

log = logging.getLogger(__name__)


def start_from(algorithm: nn.Module, source: Path, strict: bool = True) -> dict[str, Any]:
    """Give ``algorithm`` weights and statistics of normalisers of a trained agent; returns a record of that.

    Optimisers, counters and random streams start afresh.

    Args:
        algorithm: as built.
        source: run directory (its latest checkpoint), a checkpoint, a file that ``metarl export`` wrote, or
            ``zoo:NAME``.
        strict: refuse a source whose tensors are not those of ``algorithm``, by name and shape; otherwise what fits is
            taken, and the rest is listed.

    Raises:
        ConfigError: the zoo has no such agent.
        CheckpointError: the source cannot be used, or does not fit.
    """
    place = agent_path(source)
    file = Checkpoints(place / "checkpoints").path("latest") if place.is_dir() else place
    given, progress = _tensors(file)
    own = algorithm.state_dict()
    taken = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    not_taken = [_reason(name, own.get(name), given.get(name)) for name in {**own, **given} if name not in taken]
    if strict and not_taken:
        more = f" and {len(not_taken) - 3} more" if len(not_taken) > 3 else ""
        raise CheckpointError(
            f"training.start_from={source}: does not fit this agent: {'; '.join(not_taken[:3])}{more}; "
            "training.strict=false takes what fits"
        )
    if not taken:
        raise CheckpointError(f"training.start_from={source}: nothing of it fits this agent; choose another run")
    algorithm.load_state_dict(own | taken)
    log.info("starting from %s: %d of %d tensors", file, len(taken), len(own))
    for line in not_taken:
        log.info("not taken: %s", line)
    return {
        "source": recorded(source),
        "file": str(file.absolute()),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        **{name: progress.get(name) for name in ("iteration", "env_steps")},
        "taken": sorted(taken),
        "not_taken": not_taken,
    }


def _tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and buffers of a file by name, and the counters of its run."""
    if file.suffix == SUFFIX:
        exported = read_exported(file)
        return exported.tensors, exported.card
    state = load(file)
    found = state.get("algorithm")
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} holds no weights of an agent; give the directory of a run")
    progress = state.get("progress")
    tensors = {name: value for name, value in found.items() if torch.is_tensor(value)}
    return tensors, progress if isinstance(progress, dict) else {}


def _reason(name: str, own: Tensor | None, given: Tensor | None) -> str:
    """Why a tensor is not taken."""
    if given is None:
        return f"{name} is missing there"
    if own is None:
        return f"{name} is not part of this agent"
    return f"{name} has shape {tuple(given.shape)} there and {tuple(own.shape)} here"
