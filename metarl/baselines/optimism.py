"""Planning in the best of all MDPs near an estimated one, for many at once: the planner of UCRL2.

S states, A actions, H steps; the leading axes of ``[..., S, A]`` are as many MDPs.
"""

import torch
from torch import Tensor

from metarl.envs.value_iteration import MDP


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
