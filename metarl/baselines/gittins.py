"""The finite-horizon, undiscounted Gittins index of a Bernoulli arm with a uniform prior.

With r pulls left, the index of an arm that had s successes and f failures is the charge per pull at which an
optimal player is just indifferent between trying it and leaving (Gittins, Glazebrook & Weber 2011, chapter 2; for
a finite horizon Niño-Mora 2011). Charges are calibrated by dynamic programming: with charge c,

    V_0 = 0,    V_r(s, f) = max(0, p - c + p V_{r-1}(s+1, f) + (1-p) V_{r-1}(s, f+1)),    p = (s+1) / (s+f+2).

States are packed: an arm pulled m = s + f times stands at m (m+1) / 2 + s. A table packs, for every t pulls of a
trial so far (r = n - t), the states with m <= t.
"""

import torch
from torch import Tensor

from metarl.baselines.arm_beliefs import ArmStatistics

CHARGES_AT_ONCE = 64  # a block of charges: memory stays small and the values near the processor


def gittins_table(num_pulls: int, num_charges: int) -> Tensor:
    """All indices of trials of n pulls, ``[n (n+1) (n+2) / 6]``, float32.

    The charge where the value of trying crosses zero is found on a grid over [0, 1], then by linear interpolation:
    the error is of the order of ``num_charges ** -2``.

    Args:
        num_pulls: n.
        num_charges: intervals of the grid.
    """
    pulls = torch.repeat_interleave(torch.arange(num_pulls), torch.arange(1, num_pulls + 1))
    successes = torch.arange(len(pulls)) - _triangle(pulls)
    mean = ((successes + 1) / (pulls + 2)).unsqueeze(1)
    table = torch.empty(_tetrahedron(num_pulls))
    charges = torch.linspace(0, 1, num_charges + 1)
    for start in range(0, num_charges, CHARGES_AT_ONCE):
        # Neighbouring blocks share a charge, so that no crossing falls between them.
        _calibrate(table, charges[start : start + CHARGES_AT_ONCE + 1], pulls, mean, num_pulls)
    return table


def _calibrate(table: Tensor, charges: Tensor, pulls: Tensor, mean: Tensor, num_pulls: int) -> None:
    """Write the indices that lie within ``charges`` into ``table``."""
    failure = torch.arange(len(pulls)) + pulls + 1
    value = torch.zeros(len(pulls) + num_pulls + 1, len(charges))
    for past in range(num_pulls - 1, -1, -1):
        size = _triangle(past + 1)
        after = failure[:size]
        trying = torch.lerp(value[after], value[after + 1], mean[:size]).add_(mean[:size]).sub_(charges)
        crossing = ((trying[:, 0] > 0) & (trying[:, -1] <= 0)).nonzero().squeeze(1)
        table[_tetrahedron(past) + crossing] = _root(trying[crossing], charges)
        value = trying.clamp_(min=0)


def _root(values: Tensor, charges: Tensor) -> Tensor:
    """Charge where each falling row of ``values [N, c]`` crosses zero, by linear interpolation."""
    above = (values > 0).sum(1, keepdim=True) - 1
    left, right = values.gather(1, above).squeeze(1), values.gather(1, above + 1).squeeze(1)
    low, high = charges[above.squeeze(1)], charges[above.squeeze(1) + 1]
    return low + (high - low) * left / (left - right)


def gittins_index(table: Tensor, statistics: ArmStatistics) -> Tensor:
    """Index of every arm ``[B, k]``; pulls left are those of the trial less those made on all arms."""
    pulls, successes = statistics.pulls.long(), statistics.reward_sum.long()
    past = pulls.sum(1, keepdim=True)
    return table[_tetrahedron(past) + _triangle(pulls) + successes]


def _triangle(rows):
    """Entries of a triangle of so many rows."""
    return rows * (rows + 1) // 2


def _tetrahedron(layers):
    """Entries of so many triangles of 1, 2, ... rows."""
    return layers * (layers + 1) * (layers + 2) // 6
