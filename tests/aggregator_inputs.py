"""Sequences that aggregators take, and whole passes over them."""

import pytest
import torch

from metarl.models.aggregators import AGGREGATORS
from metarl.seeding import make_generator

STEPS, LANES, WIDTH = 23, 3, 6

every_aggregator = pytest.mark.parametrize("name", AGGREGATORS)


def inputs(steps: int = STEPS, dtype=torch.float64, width: int = WIDTH) -> torch.Tensor:
    """Within ±1, as every encoder's outputs are."""
    return 2 * torch.rand(steps, LANES, width, generator=make_generator(3), dtype=dtype) - 1


def whole(aggregator, x):
    return aggregator(x, aggregator.empty(x[0]))
