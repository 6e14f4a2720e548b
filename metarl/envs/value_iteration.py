"""Finite-horizon planning in many tabular MDPs at once.

S states, A actions, H steps; the leading axes of ``[..., S, A]`` are as many MDPs.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class MDP(NamedTuple):
    """Mean rewards ``[..., S, A]`` and transition probabilities ``[..., S, A, S]``."""

    reward: Tensor
    transition: Tensor


def value_iteration(mdp: MDP, horizon: int, transition_bonus: Tensor | float = 0.0) -> Tensor:
    """Optimal action values ``Q_h(s, a) = R(s, a) + sum_s' P(s' | s, a) V_{h+1}(s')`` for h < H, V_H = 0.

    Args:
        mdp: what to plan in.
        horizon: H.
        transition_bonus: ``[..., S, A]``, added once for every step that remains after this one.

    Returns:
        ``[..., H, S, A]``.
    """
    rows = mdp.transition.flatten(-3, -2)  # [..., S A, S]
    action_values = [mdp.reward]
    for remaining in range(1, horizon):
        next_value = action_values[-1].amax(-1, keepdim=True)
        expected = (rows @ next_value).view_as(mdp.reward)
        action_values.append(mdp.reward + transition_bonus * remaining + expected)
    return torch.stack(action_values[::-1], -3)
