"""Several processes that train one agent: each plays lanes of its own and computes its share of every gradient.

``torchrun --nproc_per_node=2 run.py ...`` starts them, or SLURM where a run has several tasks. After a trial all
processes know the rollouts of all, so whatever is not a gradient (advantages, running scales, buffers, the order of
minibatches) they compute alike, and a loss on a part of the lanes is a part of the sum over all of them. A process
alone is handed back what it gave.
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

PATIENCE = timedelta(days=1)  # for the main process while it evaluates; one that dies closes its connections


def join(device: str) -> None:
    """Meet the other processes, where there are others; on graphics cards each takes the one of its local number.

    Raises:
        ConfigError: there are fewer cards than processes on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        return
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device={device}: several processes would share it; say cpu, or cuda for a card each")
    distributed.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=PATIENCE)
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if missing := highest(max(0, local + 1 - torch.cuda.device_count())):
            raise ConfigError(f"device=cuda: a machine has {missing} cards less than processes; start fewer there")
        torch.cuda.set_device(local)


def leave() -> None:
    """Part from the others."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def count() -> int:
    """Processes that train this agent."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """This process writes, evaluates and talks; the others only train."""
    return rank() == 0


def own_lanes(mask: Tensor) -> Tensor:
    """Numbers of this process's share of the lanes of ``mask [T, B]``; shares differ by one at most."""
    return torch.arange(mask.shape[1], device=mask.device).tensor_split(count())[rank()]


def summed(values: Tensor) -> Tensor:
    """Over all processes."""
    if count() == 1:
        return values
    values = values.detach().clone()
    work = distributed.all_reduce(values, async_op=True)
    # The others are here in a moment. A core that sleeps so long goes to someone else, and comes back cold.
    while values.device.type == "cpu" and not work.is_completed():
        os.sched_yield()
    work.wait()
    return values


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every parameter the sum of all processes' gradients."""
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = summed(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def highest(value: int) -> int:
    """Of all processes."""
    if count() == 1:
        return value
    found = torch.tensor(value)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return int(found)


def meet() -> None:
    """Wait for the others, so that none leaves while another still hears from it."""
    with contextlib.suppress(RuntimeError):  # one may be gone before its last word is heard
        highest(0)


def from_main(value: Any) -> Any:
    """What the main process has."""
    found = [value]
    if count() > 1:
        distributed.broadcast_object_list(found)
    return found[0]


def from_all(value: Any) -> list[Any]:
    """What each process has, in order."""
    found = [value] * count()
    if count() > 1:
        distributed.all_gather_object(found, value)
    return found


def start_alike(module: nn.Module) -> None:
    """Take parameters and buffers from the main process: processors of another kind round initial weights otherwise."""
    if count() > 1:
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, 0)


def joined(trial: list[Rollout]) -> list[Rollout]:
    """The trials of all lanes of all processes, in order of their ranks; shorter rollouts are padded, masked."""
    if count() == 1:
        return trial
    device = trial[0].mask.device
    trials = tree_map(lambda part: part.to(device), from_all(tree_map(Tensor.cpu, trial)))
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
