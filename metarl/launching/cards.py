"""Slots for runs on this machine: cores, and the GPUs available to this process."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from metarl.errors import ConfigError
from metarl.system import available_cores

VISIBLE = "CUDA_VISIBLE_DEVICES"
NONE = ("", "-1", "NoDevFiles")  # values of it that hide all cards


@dataclass(frozen=True)
class Slot:
    """Slot for one run: on a GPU, or on the CPU if ``gpu`` is None.

    The card is named as ``CUDA_VISIBLE_DEVICES`` names it: by its number in the order of their places on the bus, or
    by a UUID, which may be shortened, and may be that of a part of a card (MIG).
    """

    gpu: str | None = None


@dataclass(frozen=True)
class Card:
    """A GPU, with memory in GiB."""

    index: str
    uuid: str
    free: float
    total: float


def cpu_slots(count: int | None) -> list[Slot]:
    """Slots for ``count`` runs; None: one per core."""
    return [Slot()] * (count or available_cores())


def gpu_slots(gpus: Sequence[int | str] | None, jobs_per_gpu: int) -> list[Slot]:
    """Slots for ``jobs_per_gpu`` runs on each GPU, the first of every GPU before the second.

    Args:
        gpus: numbers or UUIDs of GPUs; None: all in ``CUDA_VISIBLE_DEVICES`` or, without it, of the machine.
        jobs_per_gpu: parallel runs on each GPU.

    Raises:
        ConfigError: there is no GPU, or one does not exist or is hidden from this process.
    """
    given = visible()
    wanted = None if gpus is None else [str(gpu) for gpu in gpus]
    if wanted and given is not None and (foreign := [gpu for gpu in wanted if gpu not in given]):
        raise ConfigError(
            f"hydra.launcher.gpus: {', '.join(foreign)} is not in {VISIBLE}={','.join(given)}, "
            "which this process was given"
        )
    found = wanted if wanted is not None else given if given is not None else [card.index for card in cards()]
    if not found:
        why = f"{VISIBLE}={os.environ[VISIBLE]} hides all cards" if given == [] else "no GPU found"
        raise ConfigError(f"cluster=gpus: {why}; use cluster=local_pool")
    slots = [Slot(gpu) for _ in range(jobs_per_gpu) for gpu in found]
    if shutil.which("nvidia-smi") is not None:
        _check_there(slots)
    return slots


def visible() -> list[str] | None:
    """GPUs in ``CUDA_VISIBLE_DEVICES``; None if it is not set."""
    if VISIBLE not in os.environ:
        return None
    text = os.environ[VISIBLE].strip()
    return [] if text in NONE else [name.strip() for name in text.split(",") if name.strip()]


def check_memory(wanted: float | None, slots: Sequence[Slot]) -> None:
    """Refuse a ``min_free_memory`` that no GPU has.

    Raises:
        ConfigError: the value is not allowed, no GPU has as much memory, or none reports its memory.
    """
    if wanted is None:
        return
    where = f"hydra.launcher.min_free_memory={wanted}"
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not 0 <= wanted < float("inf"):
        raise ConfigError(f"{where}: must be GiB, a number from 0; null does not ask for any")
    if slots[0].gpu is None:
        raise ConfigError(f"{where}: is memory of graphics cards; use cluster=gpus, or null")
    there = cards()
    found = [card for slot in slots if (card := card_of(slot, there)) is not None]
    if not found:
        raise ConfigError(f"{where}: nvidia-smi does not report the memory of {slots[0].gpu}; set it to null")
    if (most := max(card.total for card in found)) < wanted:
        raise ConfigError(f"{where}: no card can have that; the largest of these has {most:.1f} GiB in all")


def card_of(slot: Slot, found: Sequence[Card]) -> Card | None:
    """The GPU of a slot; None if it is not listed, such as a part of a GPU (MIG)."""
    name = slot.gpu or ""
    return next((card for card in found if name == card.index or (len(name) > 4 and card.uuid.startswith(name))), None)


def cards() -> list[Card]:
    """All GPUs of this machine.

    Raises:
        ConfigError: nvidia-smi is not found, or its output cannot be read.
    """
    found = []
    for row in _nvidia("index,uuid,memory.free,memory.total"):
        index, uuid, *memory = (part.strip() for part in row.split(","))
        found.append(Card(index, uuid, *(_gib(text) for text in memory)))
    return found


def _gib(mebibytes: str) -> float:
    """A number reported by nvidia-smi; 0 if it reports none, as in ``[N/A]``."""
    try:
        return float(mebibytes) / 1024
    except ValueError:
        return 0.0


def _check_there(slots: Sequence[Slot]) -> None:
    """Refuse numbers and UUIDs of GPUs that do not exist; parts of GPUs (MIG) are not listed and not checked."""
    there = cards()
    for slot in slots:
        if card_of(slot, there) is None and not str(slot.gpu).startswith("MIG"):
            listed = ", ".join(card.index for card in there)
            raise ConfigError(f"hydra.launcher.gpus: {slot.gpu} not found; nvidia-smi lists {listed}")


def _nvidia(query: str) -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        raise ConfigError(
            "cluster=gpus: nvidia-smi not found (needed to list GPUs); use cluster=local_pool, or name the cards "
            "with hydra.launcher.gpus=[0,1]"
        )
    asked = [tool, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"cluster=gpus: nvidia-smi does not answer ({error})") from None
    if answer.returncode:
        raise ConfigError(f"cluster=gpus: nvidia-smi: {answer.stderr.strip() or answer.stdout.strip()}")
    return [row for row in answer.stdout.split("\n") if row.strip()]
