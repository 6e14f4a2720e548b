"""Named tensors in one file of safetensors, which is data and no code."""

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from metarl.errors import CheckpointError, RunDirectoryError
from metarl.runs.checkpoint import MOST_BYTES
from metarl.runs.files import replace_file
from metarl.runs.reader import read_bytes


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file, whole or not at all."""
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}  # shared by none
    replace_file(path, safetensors.torch.save(own, dict(metadata)))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    Raises:
        CheckpointError: it is missing, damaged or of another format.
    """
    try:
        data = read_bytes(path, most=MOST_BYTES)
    except RunDirectoryError as error:
        raise CheckpointError(str(error)) from None
    if data is None:
        raise CheckpointError(f"{path}: there is no such file; metarl export RUN {path} writes one")
    try:
        return safetensors.torch.load(data), _metadata(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{path} is damaged, or no file of safetensors ({what[:200]}); export it again") from None


def _metadata(data: bytes) -> dict[str, str]:
    """Text by name in the header of a valid file, which the library reads from files alone."""
    end = 8 + int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8:end]).get("__metadata__") or {}
    return found
