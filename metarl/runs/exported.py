"""A trained agent in one file that can be passed on: weights, and a card of plain data that says what they are.

The file is one of safetensors, the card is JSON in its metadata and, to be read without a program, beside it. Reading
it runs no code of the file; its configuration may name code of trusted packages alone, as that of a run directory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from metarl.errors import CheckpointError, ConfigError, RunDirectoryError
from metarl.runs.checkpoint import load
from metarl.runs.directory import RunDirectory
from metarl.runs.files import EXPORTED as SUFFIX
from metarl.runs.files import replace_file, to_json
from metarl.runs.reader import checked_config
from metarl.runs.tensors import read_tensors, write_tensors
from metarl.runs.values import bounded, read_json
from metarl.version import __version__

KEY = "metarl"  # of the card in the metadata
FORMAT = 1
SCORES = ("evaluation", "evaluation_seed", "baselines", "bounds")
FROM_SUMMARY = (*SCORES, "parameters", "hardware", "versions", "commit", "command")


class Exported(NamedTuple):
    """Content of an exported file: its card, the configuration there, and weights and buffers by name."""

    card: dict[str, Any]
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def export(run: Path, which: str, path: Path, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the agent of a run to ``path``, and its card beside it; returns the card.

    Args:
        run: run directory.
        which: checkpoint, see ``Checkpoints.path``.
        path: file to write, whose name ends in ``.safetensors``.
        more: entries of the card besides the usual ones, or in their place.

    Raises:
        ConfigError: the file has another ending.
        RunDirectoryError: there is no run.
        CheckpointError: it has no such checkpoint.
    """
    if path.suffix != SUFFIX:
        raise ConfigError(f"{path}: give a name that ends in {SUFFIX}")
    directory = RunDirectory(run)
    config = directory.config()
    state = load(directory.checkpoints.path(which))
    tensors = state.get("algorithm")
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{run}: its checkpoint holds no weights of an agent; delete it")
    card = _card(directory, config, state, which) | dict(more or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, {"format": "pt", KEY: to_json(card)})
    replace_file(path.with_suffix(".json"), to_json(card, indent=2) + "\n")
    return card


def _card(directory: RunDirectory, config: dict[str, Any], state: dict, which: str) -> dict[str, Any]:
    """The card: all that is needed to use the weights; scores only where they are those of these weights."""
    progress, summary = state.get("progress") or {}, directory.summary() or {}
    scored = which != "best" and summary.get("iteration") == progress.get("iteration")
    choices = config["choices"]
    return {
        "format": FORMAT,
        "metarl": __version__,
        **{name: choices[name] for name in ("env", "model", "algorithm")},
        "seed": config["seed"],
        **{name: progress.get(name) for name in ("iteration", "env_steps", "wall_time")},
        **({name: summary[name] for name in FROM_SUMMARY if name in summary} if scored else {}),
        "config": config,
    }


def read_exported(path: Path) -> Exported:
    """Content of a file that ``export`` wrote; the card beside it is not read.

    Raises:
        CheckpointError: the file is missing, damaged, of another program or of a later format.
    """
    tensors, metadata = read_tensors(path)
    try:
        card = bounded(read_json(metadata[KEY]))
        number, config = card["format"], card["config"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise CheckpointError(f"{path} has no card of metarl; metarl export writes files that have one") from None
    if number != FORMAT:
        raise CheckpointError(
            f"{path} has format {str(number)[:40]}, this metarl reads format {FORMAT}; use a later version"
        )
    try:
        return Exported(card, checked_config(path, config), tensors)
    except RunDirectoryError as error:
        raise CheckpointError(str(error)) from None
