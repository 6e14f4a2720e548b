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


def extended_value_iteration(mdp: MDP, reward_slack: Tensor, transition_slack: Tensor, horizon: int) -> Tensor:
    """Value iteration in the best MDP near ``mdp`` (Jaksch, Ortner & Auer 2010, section 3.1.2).

    Args:
        mdp: the middle of the confidence region.
        reward_slack: ``[..., S, A]``, how much larger a reward may be.
        transition_slack: ``[..., S, A]``, how far in L1 norm a row of transition probabilities may be off.
        horizon: H.

    Returns:
        ``[..., H, S, A]``.
    """
    optimistic_reward = mdp.reward + reward_slack
    action_values = [optimistic_reward]
    for _ in range(horizon - 1):
        value = action_values[-1].amax(-1)
        action_values.append(optimistic_reward + optimistic_expectation(mdp.transition, transition_slack, value))
    return torch.stack(action_values[::-1], -3)


def optimistic_expectation(transition: Tensor, slack: Tensor, value: Tensor) -> Tensor:
    """Largest expected ``value [..., S]`` over rows within L1 distance ``slack`` of ``transition``: ``[..., S, A]``.

    Half the slack goes to the best state; the worst states lose as much.
    """
    value, order = value.sort(-1, descending=True)
    order = order[..., None, None, :].expand_as(transition)
    mass = transition.gather(-1, order).cumsum(-1) + slack.unsqueeze(-1) / 2
    mass = mass.clamp(max=1)  # the rest would be more than a probability: this takes it from the worst
    mass[..., -1] = 1  # which rounding may have missed
    probability = torch.diff(mass, dim=-1, prepend=torch.zeros_like(mass[..., :1]))
    return (probability * value[..., None, None, :]).sum(-1)
