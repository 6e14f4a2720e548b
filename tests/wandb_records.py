"""Reads what a W&B run wrote for itself: a LevelDB log of protocol buffers behind a header of seven bytes."""

import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Record]:
    """Every record, its checksum verified."""
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position, pieces = 7, b""
    while position + 7 <= len(content):
        if BLOCK - position % BLOCK < 7:  # no header fits: the rest of the block is padding
            position += BLOCK - position % BLOCK
            continue
        checksum, length, kind = struct.unpack("<IHB", content[position : position + 7])
        data = content[position + 7 : position + 7 + length]
        assert checksum == zlib.crc32(bytes([kind]) + data)
        position += 7 + length
        pieces = data if kind in (FULL, FIRST) else pieces + data
        if kind in (FULL, LAST):
            yield Record.FromString(pieces)


def by_key(items: Any) -> dict[str, Any]:
    """Items of a history, summary or configuration as a dictionary."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def wandb_files(run_dir: Path, kind: str = "*run", patience: float = 10) -> list[Path]:
    """The logs of all W&B runs of a run directory, oldest first; a resumed run has several.

    The service writes them in its own time, so this waits for the end of each.
    """
    folders = sorted(run_dir.glob(f"wandb/{kind}-*"))
    files = [folder / f"run-{folder.name.rpartition('-')[2]}.wandb" for folder in folders]
    deadline = time.monotonic() + patience
    while not all(map(is_closed, files)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return files


def is_closed(path: Path) -> bool:
    """The run was finished, and all of it written."""
    try:
        return any(record.WhichOneof("record_type") == "exit" for record in records(path))
    except (AssertionError, OSError, DecodeError):
        return False
