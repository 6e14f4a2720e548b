"""Whether what a configuration asks for fits into memory, decided before anything large is allocated."""

import math
import re
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from metarl.algorithms.base import Algorithm
from metarl.envs.base import MetaEnv
from metarl.envs.streams import program_streams
from metarl.errors import ConfigError, MetarlError
from metarl.tree import tree_leaves
from metarl.trust import cause

GIB = 2**30
LEAST_STEP = 24  # bytes of one step of one lane: observation, action, log-probability, value, reward and four flags
WORKER = 30 * 2**20  # bytes of a worker process that has done no more than to import NumPy and Gymnasium
COUNTS = ("size", "end", "n", "steps")  # arguments of torch's functions that say how much they allocate
KEY = re.compile(r"[a-z]\w*=\S")  # of a message that names the key that is wrong
LARGE = 10**8  # as a size
VERY_LARGE = 10**6  # as a factor
UNWRITTEN = 2**20  # numbers of a tensor that a rehearsal does not fill
WORTH_IT = 2**18  # product of two sizes from which there are layers that take long to fill
# Functions that change a tensor in place without writing its numbers.
OF_SHAPES = ("t_", "transpose_", "squeeze_", "unsqueeze_", "resize_", "set_", "detach_", "as_strided_")
CGROUP = Path("/sys/fs/cgroup")


class TooLargeError(Exception):
    """More memory would be needed than is free."""


class Allocations(TorchDispatchMode):
    """Adds up what is allocated while it is entered, and refuses what does not fit before it is allocated.

    Args:
        free: bytes.
    """

    def __init__(self, free: int):
        super().__init__()
        self.free, self.used = free, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = function._schema
        if schema.returns and schema.returns[0].alias_info is None:
            named = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | (kwargs or {})
            counts = [named[name] for name in COUNTS if isinstance(named.get(name), int | float | list | tuple)]
            if counts:
                dtype = named.get("dtype") or torch.get_default_dtype()
                self.used += (
                    math.prod(counts[0] if isinstance(counts[0], list | tuple) else [counts[0]]) * dtype.itemsize
                )
                check_bytes(self.used, self.free)
        return function(*args, **(kwargs or {}))


class Rehearsal(Allocations):
    """Counts in the same way, and leaves large tensors as the system gives them: unwritten, they take no memory.

    Initial values of a first layer of many gigabytes take half a minute, which a second one that does not fit would
    waste.
    """

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        large = bool(args) and isinstance(args[0], torch.Tensor) and args[0].numel() >= UNWRITTEN
        if large and name.endswith("_") and name not in OF_SHAPES:
            return args[0]
        if large and name == "linalg_qr":  # of orthogonal initial values
            rows, columns = args[0].shape[-2:]
            return args[0].new_empty(rows, min(rows, columns)), args[0].new_empty(min(rows, columns), columns)
        return super().__torch_dispatch__(function, types, args, kwargs)


def rehearse(make: Callable[[], object], known: Mapping[str, int], free: int) -> None:
    """Raise ``TooLargeError`` where what ``make`` makes does not fit, before any of it is filled.

    Other errors are left to the construction itself, and random generators are as they were afterwards.

    Args:
        make: constructs networks.
        known: numbers that decide how much is needed, by key; where the largest are small, nothing is rehearsed.
        free: bytes.
    """
    if math.prod(sorted(value for key, value in known.items() if "." in key)[-2:]) < WORTH_IT:
        return
    try:
        with program_streams(), _disable_current_modes(), Rehearsal(free):  # what is counted already stays as it is
            make()
    except TooLargeError:
        raise
    except Exception:
        return


def check_bytes(needed: float, free: int) -> None:
    """Raise ``TooLargeError`` where more bytes are needed than are free."""
    if needed > free:
        raise TooLargeError(f"needs {needed / GIB:,.1f} GiB of memory or more, and {free / GIB:,.1f} GiB are free")


def free_memory(device: str = "cpu") -> int:
    """Bytes that can still be allocated: of the device, or of the machine, its control group and the process."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return min(_free_on_machine(), _free_addresses())


def _free_addresses() -> int:
    """Bytes left below the limit of the address space (``ulimit -v``)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return 2**62
    try:
        return limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return limit


def _free_on_machine() -> int:
    """Bytes left on the machine and in the control group of the process."""
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = sum(int(rows[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        return 2**62
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(statistics["inactive_file"]))
    except (OSError, KeyError, ValueError):  # no limit
        return free


def sizes(config: Mapping) -> dict[str, int]:
    """Whole numbers of a configuration that may decide how much memory is needed, by key."""
    found: dict[str, int] = {}

    def add(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            for name, part in value.items():
                add(part, f"{key}.{name}")
        elif isinstance(value, list):
            for index, part in enumerate(value):
                add(part, f"{key}.{index}")
        elif isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer():
            found[key] = int(value)

    for name in ("meta_batch_size", "lanes_per_task", "env", "model", "algorithm"):
        add(config.get(name), name)
    return {key: value for key, value in found.items() if not key.endswith("seed")}


def large_settings(known: Mapping[str, int]) -> str:
    """Remark on settings that numbers which are not finite may come from; empty where none is large."""
    found = [f"{key}={value:g}" for key, value in known.items() if abs(value) >= VERY_LARGE]
    return f" (very large: {', '.join(found)})" if found else ""


@contextmanager
def fitting(known: Mapping[str, int], device: str) -> Iterator[None]:
    """Construction in here ends with a ``ConfigError`` where something does not fit into memory, or fails.

    Args:
        known: numbers that decide how much is needed, by key; the largest is named.
        device: that is allocated on.
    """
    try:
        with Allocations(free_memory(device)):
            yield
    except TooLargeError as error:
        raise ConfigError(f"{_largest(known)}: {error}; lower it") from None
    except MetarlError:
        raise
    except Exception as error:
        if isinstance(error, TypeError | ValueError) and KEY.search(str(error)):
            raise ConfigError(str(error)) from error
        if isinstance(error, MemoryError | OverflowError) or max(known.values()) >= LARGE:
            raise ConfigError(f"{_largest(known)}: is too large ({cause(error)}); lower it") from error
        raise ConfigError(f"the configuration cannot be built: {cause(error)}; correct what is there") from error


def _largest(known: Mapping[str, int]) -> str:
    key = max(known, key=lambda name: known[name])
    return f"{key}={known[key]}"


def check_lanes(known: Mapping[str, int], lanes: int, free: int) -> None:
    """Refuse more lanes than can be stored, before there is an environment."""
    steps = known.get("env.horizon", 1) * known.get("env.num_episodes", 1)
    steps *= known.get("algorithm.num_inner_steps", 0) + 1  # each after a rollout of its own
    check_bytes(LEAST_STEP * lanes * steps, free)
    check_bytes(known.get("env.size", 0) ** 2 * lanes, free)  # of a square of cells, which were visited
    check_bytes(WORKER * min(known.get("env.num_workers", 0), lanes), free)


def check_trial(env: MetaEnv, lanes: int, free: int) -> None:
    """Refuse trials of ``lanes`` lanes that do not fit, with their tasks."""
    step = LEAST_STEP + _numbers(env.observation_space) * 4 + _numbers(env.action_space) * 4
    check_bytes(lanes * (env.trial_length * step + env.task_dim * 4), free)


def check_state(algorithm: Algorithm, lanes: int, free: int) -> None:
    """Refuse memories whose state does not fit for ``lanes`` lanes."""
    policy: Any = algorithm.policy
    with torch.no_grad():
        carry = [leaf for leaf in tree_leaves(policy.initial_carry(1)) if isinstance(leaf, torch.Tensor)]
    check_bytes(lanes * sum(leaf.numel() * leaf.itemsize for leaf in carry), free)


def _numbers(space: spaces.Space) -> int:
    return int(np.prod(space.shape or (1,), dtype=float))
