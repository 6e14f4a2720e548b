"""E-MAML: actions before adaptation get credit for the return after it (Stadie et al. 2018, arXiv 1803.01118).

To MAML's outer loss it adds -R(theta') log pi_theta(support actions), averaged over tasks (auxiliary_losses), with the
query's return R standardised over tasks (stages).
"""

import torch
from pydantic import NonNegativeFloat

from metarl import parallel
from metarl.algorithms.gradient_adaptation import GradientAdaptation


class EMAML(GradientAdaptation):
    """MAML with a term that raises the probability of support actions in tasks whose query went well.

    Args:
        exploration_coefficient: weight of minus the query's return, standardised over tasks, times the mean
            log-probability of the actions of all support rollouts.
        inherited: see ``GradientAdaptation``.
    """

    def __init__(self, *, exploration_coefficient: NonNegativeFloat = 1.0, **inherited):
        super().__init__(**inherited)
        self.exploration_coefficient = exploration_coefficient

    def stages(self, trial):
        query = trial[-1]
        returns = (query.reward * query.mask).sum(0).unflatten(0, (-1, self.lanes_per_task)).mean(1)  # [N]
        of_all = torch.cat(parallel.all_gather(returns.cpu())).to(returns)
        credit = (returns - of_all.mean()) / (of_all.std(correction=0) + 1e-8)
        return [stage._replace(context=stage.context | {"credit": credit}) for stage in super().stages(trial)]

    def auxiliary_losses(self, path, stages):
        total = 0.0
        for parameters, samples in zip(path[:-1], stages[:-1], strict=True):
            output = self.output(parameters, samples.timestep, samples.context)
            log_prob = samples.mean(self.policy.distribution.log_prob(output.distribution_params, samples.action))
            total = total - samples.context["credit"] * log_prob
        return {"exploration_loss": (self.exploration_coefficient, total)}
