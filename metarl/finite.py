"""Checks that every number of a run is finite, and messages that name the first one that is not.

A check sums the squares of whole tensors and waits for the device once: for a rollout when it is stacked, for the
parameters after an update. The sum is finite only if every number is, and none is so large that learning would
overflow.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metarl.errors import NonFiniteError
from metarl.types import Rollout

LARGEST = 1e15  # a sum of squares of larger numbers can overflow float32, which ends at 3e38

FROM_ENVIRONMENT = "mend the environment, or scale its values down"
FROM_AGENT = "lower algorithm.learning_rate or algorithm.max_gradient_norm"


class _Part(NamedTuple):
    """One quantity of a rollout, ``[T, B, ...]``, and what to do where it is not finite."""

    name: str
    values: Tensor
    remedy: str


def check_rollout(rollout: Rollout, agent: object) -> None:
    """Check all that the environment and the agent put into a rollout.

    Raises:
        NonFiniteError: naming the first quantity, in order of steps and within a step in order of cause.
    """
    parts = [part for part in _parts(rollout) if part.values.is_floating_point()]
    if not _all_finite(part.values for part in parts):
        _raise_first(parts, agent)


def _parts(rollout: Rollout) -> list[_Part]:
    """Quantities that a step makes, in order."""
    decision = rollout.decision
    return [
        _Part("observation", rollout.timestep.observation, FROM_ENVIRONMENT),
        _Part("value", decision.value, FROM_AGENT),
        _Part("log-probability of the action", decision.log_prob, FROM_AGENT),
        _Part("action", decision.action, FROM_AGENT),
        _Part("reward", rollout.reward, FROM_ENVIRONMENT),
        _Part("observation after the step", rollout.next_observation, FROM_ENVIRONMENT),
    ]


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    flat = [tensor.flatten() for tensor in tensors]
    return not flat or bool(torch.stack([values.dot(values).double() for values in flat]).isfinite().all())


def _is_bad(values: Tensor) -> Tensor:
    return ~(values.abs() <= LARGEST)  # NaN compares false


def _raise_first(parts: list[_Part], agent: object) -> None:
    bad = [_is_bad(part.values).reshape(*part.values.shape[:2], -1).any(-1) for part in parts]  # [T, B] each
    step = min(int(flags.any(1).long().argmax()) for flags in bad if flags.any())
    part, flags = next((part, flags) for part, flags in zip(parts, bad, strict=True) if flags[step].any())
    if part.remedy == FROM_AGENT and isinstance(agent, nn.Module):
        check_parameters(agent)
    lane = int(flags[step].long().argmax())
    values = part.values[step, lane].flatten()
    found = _told(values[_is_bad(values)][0].item())
    raise NonFiniteError(f"the {part.name} at step {step} of lane {lane} is {found}; {part.remedy}")


def _told(value: float) -> str:
    return f"{value:g}, beyond {LARGEST:g}" if math.isfinite(value) else f"{value:g}"


def check_diagnostics(diagnostics: Mapping[str, float]) -> None:
    """Check the numbers that an update reports: losses first, then gradients, then all others.

    Raises:
        NonFiniteError: naming the first.
    """
    for name in sorted(diagnostics, key=_place):
        if not math.isfinite(diagnostics[name]):
            kind = ("loss", "gradient", "diagnostic")[_place(name)]
            raise NonFiniteError(f"the {kind} {name} is {diagnostics[name]:g}; {FROM_AGENT}")


def _place(name: str) -> int:
    return 0 if "loss" in name else 1 if "gradient" in name else 2


def check_parameters(module: nn.Module) -> None:
    """Check all parameters and buffers.

    Raises:
        NonFiniteError: naming the first.
    """
    tensors = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    if _all_finite(tensors.values()):
        return
    name, value = next((name, value) for name, value in tensors.items() if _is_bad(value).any())
    found = _told(value[_is_bad(value)][0].item())
    raise NonFiniteError(f"the parameter {name} is {found}; {FROM_AGENT}")
