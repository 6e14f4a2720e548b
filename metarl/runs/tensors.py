"""Named tensors in one file, in the format of safetensors (https://github.com/huggingface/safetensors): data, no code.

8 bytes: length n of the header, little-endian
n bytes: header, JSON: by name ``dtype``, ``shape`` and ``data_offsets``; ``__metadata__`` has text by name
then the numbers of all tensors, one after the other, little-endian
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metarl.errors import CheckpointError, RunDirectoryError
from metarl.runs.files import replacing
from metarl.runs.reader import read_bytes

MOST_BYTES = 2**40
MOST_HEADER = 2**24
METADATA = "__metadata__"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file, whole or not at all."""
    header: dict[str, Any] = {METADATA: dict(metadata)}
    parts, end = [], 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):  # keeps numbers aligned
        data = tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        entry = {"dtype": NAMES[tensors[name].dtype], "shape": list(tensors[name].shape)}
        header[name] = entry | {"data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(parts)


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
        return _parsed(data)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, struct.error, RecursionError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{path} is damaged, or no file of safetensors ({what[:200]}); export it again") from None


def _parsed(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    (length,) = struct.unpack_from("<Q", data)
    if length > min(MOST_HEADER, len(data) - 8):
        raise ValueError(f"a header of {length} bytes")
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop(METADATA, {})
    if not all(isinstance(part, str) for part in (*metadata, *metadata.values())):
        raise ValueError("metadata that are no text")
    numbers, expected = memoryview(data)[8 + length :], 0
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"{name} of shape {shape}")
        if begin != expected or end - begin != math.prod(shape) * dtype.itemsize or end > len(numbers):
            raise ValueError(f"{name} at {begin} to {end}")
        values = torch.frombuffer(bytearray(numbers[begin:end]), dtype=dtype) if end > begin else torch.empty(0)
        tensors[name] = values.to(dtype).reshape(shape)
        expected = end
    if expected != len(numbers):
        raise ValueError(f"{len(numbers) - expected} bytes too many")
    return tensors, metadata
