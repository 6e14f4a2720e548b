"""Several processes that train one agent: each plays its own lanes and computes its share of every gradient.

``torchrun --nproc_per_node=2 run.py ...`` starts them, or SLURM where a run has several tasks. After a trial every
process has the rollouts of all, so that what is not a gradient (advantages, running statistics, buffers, the order of
minibatches) is computed identically everywhere, and the sum over processes of a loss on local lanes is the loss on all
of them. In a single process every function returns what it was given.
"""

import contextlib
import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import pad

from metarl.errors import ConfigError
from metarl.tree import tree_map
from metarl.types import Rollout

TIMEOUT = timedelta(
    days=1
)  # the others wait while the main process evaluates; a process that dies closes its connections


def init_process_group(device: str) -> None:
    """Start the process group, where there are several processes; on GPUs each takes the one of its local rank.

    Raises:
        ConfigError: there are fewer cards than processes on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        return
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device={device}: several processes would share it; say cpu, or cuda for a card each")
    distributed.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=TIMEOUT)
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if missing := all_reduce_max(max(0, local + 1 - torch.cuda.device_count())):
            raise ConfigError(f"device=cuda: a machine has {missing} cards less than processes; start fewer there")
        torch.cuda.set_device(local)


def destroy_process_group() -> None:
    """End the process group."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def world_size() -> int:
    """Number of processes that train this agent."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Rank of this process; 0 is the main process."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the one that writes, evaluates and prints; the others only train."""
    return rank() == 0


def local_shard(mask: Tensor) -> Tensor:
    """Indices of the lanes of ``mask [T, B]`` that belong to this process; shares differ by one lane at most."""
    return torch.arange(mask.shape[1], device=mask.device).tensor_split(world_size())[rank()]


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum of ``values`` over all processes."""
    if world_size() == 1:
        return values
    values = values.detach().clone()
    work = distributed.all_reduce(values, async_op=True)
    # The others arrive within microseconds. A core that sleeps meanwhile is given away and comes back with cold caches.
    while values.device.type == "cpu" and not work.is_completed():
        os.sched_yield()
    work.wait()
    return values


def all_reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradient of every parameter by its sum over all processes."""
    if world_size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def all_reduce_max(value: int) -> int:
    """Maximum of ``value`` over all processes."""
    if world_size() == 1:
        return value
    found = torch.tensor(value)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def barrier() -> None:
    """Wait for all processes, so that none ends while another still communicates with it."""
    with contextlib.suppress(RuntimeError):  # a process may have ended before its last message arrives
        all_reduce_max(0)


def broadcast(value: Any) -> Any:
    """The main process's ``value``, in every process."""
    found = [value]
    if world_size() > 1:
        distributed.broadcast_object_list(found)
    return found[0]


def all_gather(value: Any) -> list[Any]:
    """The ``value`` of every process, in order of ranks."""
    found = [value] * world_size()
    if world_size() > 1:
        distributed.all_gather_object(found, value)
    return found


def broadcast_parameters(module: nn.Module) -> None:
    """Copy parameters and buffers from the main process: other processors round initial weights differently."""
    if world_size() > 1:
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, 0)


def gather_rollouts(trial: list[Rollout]) -> list[Rollout]:
    """Trials of the lanes of all processes, in order of ranks; shorter rollouts are padded, and masked."""
    if world_size() == 1:
        return trial
    device = trial[0].mask.device
    trials = tree_map(lambda part: part.to(device), all_gather(tree_map(Tensor.cpu, trial)))
    return [_side_by_side(row) for row in zip(*trials, strict=True)]


def _side_by_side(parts: tuple[Rollout, ...]) -> Rollout:
    """Rollouts of different lanes as one, ``[T, B, ...]``; shorter ones are padded with zeros, and masked."""
    steps = max(len(part.mask) for part in parts)

    def joined(*lanes: Tensor) -> Tensor:
        return torch.cat([pad(part, [0, 0] * (part.ndim - 1) + [0, steps - len(part)]) for part in lanes], dim=1)

    without_tasks = [part._replace(tasks=None) for part in parts]  # type: ignore[arg-type]
    tasks = tree_map(lambda *rows: torch.cat(rows), *(part.tasks for part in parts))
    rollout: Rollout = tree_map(joined, *without_tasks)
    return rollout._replace(tasks=tasks)
