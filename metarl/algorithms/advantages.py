"""Generalised advantage estimation (Schulman et al. 2016, equation 16)."""

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    discount: float,
    gae_lambda: float,
    last_value: Tensor | None = None,
    continues: Tensor | None = None,
) -> Tensor:
    """Advantages ``[T, B]``.

    Args:
        rewards: ``[T, B]``.
        values: ``[T, B]``, of the state each reward was earned in.
        discount: per step.
        gae_lambda: weight of long estimates.
        last_value: ``[B]``, value after the last step; None where nothing follows (the end of a trial).
        continues: ``[T, B]``, 0 where credit must stop after the step (the end of an episode, for methods
            that carry nothing over it). None lets it flow through the whole trial, which is RL²'s objective.
    """
    following = torch.zeros_like(values[:1]) if last_value is None else last_value.unsqueeze(0)
    following = torch.cat([values[1:], following])
    if continues is None:
        deltas = rewards + discount * following - values
        for t in range(len(deltas) - 2, -1, -1):
            deltas[t].add_(deltas[t + 1], alpha=discount * gae_lambda)
        return deltas
    deltas = torch.addcmul(rewards - values, following, continues, value=discount)
    decay = discount * gae_lambda * continues
    for t in range(len(deltas) - 2, -1, -1):
        deltas[t].addcmul_(decay[t], deltas[t + 1])
    return deltas
