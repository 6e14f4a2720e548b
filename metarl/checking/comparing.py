"""Comparisons and perturbations for checks: equality of structures, tolerances, random actions and weights."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.checking.outcomes import Fault
from metarl.envs.base import MetaEnv
from metarl.seeding import make_generator
from metarl.types import Tasks


def same(left: Any, right: Any) -> bool:
    """Bitwise equality of nested containers of tensors and plain values."""
    if isinstance(left, Tensor):
        if not isinstance(right, Tensor) or left.dtype != right.dtype or left.shape != right.shape:
            return False
        return torch.equal(left.isnan(), right.isnan()) and torch.equal(left.nan_to_num(), right.nan_to_num())
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Tasks):
        return same(left.parameters, right.parameters)
    return bool(left == right)


def demand(holds: bool | Tensor, found: str) -> None:
    """Raise a ``Fault`` with what was found, unless it holds."""
    if not holds:
        raise Fault(found)


def demand_close(found: Tensor, expected: Tensor, what: str, atol: float, rtol: float) -> None:
    """Raise a ``Fault`` unless two tensors agree within tolerances."""
    try:
        torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)
    except AssertionError as error:
        raise Fault(f"{what}: {error}") from None


def random_actions(env: MetaEnv, generator: torch.Generator) -> Tensor:
    """Uniform (discrete) or normal (continuous) actions for all lanes."""
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        return (torch.randint(int(space.n), (env.num_lanes,), generator=generator) + int(space.start)).to(env.device)
    return torch.randn(env.num_lanes, *(space.shape or ()), generator=generator).to(env.device)


def legal_actions(env: MetaEnv, generator: torch.Generator) -> Tensor:
    """Random actions within the bounds of the space."""
    action, space = random_actions(env, generator), env.action_space
    if not isinstance(space, spaces.Box):
        return action
    return action.clamp(*(torch.as_tensor(bound, device=env.device) for bound in (space.low, space.high)))


def perturb(module: torch.nn.Module, scale: float = 0.1, seed: int = 0) -> None:
    """Move every parameter, so that nothing hides behind zeros and ones of an initialisation."""
    generator = make_generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_((scale * torch.randn(parameter.shape, generator=generator)).to(parameter.device))


def global_randomness() -> tuple:
    """State of every global random generator a library could disturb."""
    numpy_state: Any = np.random.get_state()
    return torch.get_rng_state(), random.getstate(), numpy_state[1].tolist(), numpy_state[2]


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Every global random generator starts from ``seed``, and afterwards is where it was."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])
