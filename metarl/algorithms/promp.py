"""ProMP: proximal meta-policy search (Rothfuss et al. 2019, arXiv 1810.06784)."""

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from metarl.algorithms.gradient_adaptation import GradientAdaptation


class ProMP(GradientAdaptation):
    """MAML with the likelihood-ratio inner loss, and a KL penalty to the behavior policies of the support stages.

    Args:
        inner_kl_coefficient: weight of the KL divergence, mean over the support stages (its initial value, where it is
            adaptive).
        inner_kl_target: the weight of a stage is halved if the divergence after an outer step is below two thirds of
            this target, and doubled if it is above one and a half times; null keeps the weight.
        inherited: see ``GradientAdaptation``.

    Raises:
        ValueError: there is a target, and the weight to adapt is zero.
    """

    def __init__(
        self,
        *,
        inner_kl_coefficient: NonNegativeFloat = 5e-4,
        inner_kl_target: PositiveFloat | None = None,
        **inherited,
    ):
        if inner_kl_target is not None and inner_kl_coefficient == 0:
            raise ValueError(
                f"algorithm.inner_kl_target={inner_kl_target}: cannot adapt algorithm.inner_kl_coefficient=0; "
                "start it above 0, or leave the target null"
            )
        super().__init__(**inherited)
        self.inner_kl_coefficient, self.inner_kl_target = inner_kl_coefficient, inner_kl_target

    def build_auxiliary_modules(self, env):
        self.coefficients: Tensor
        count = len(self.rollouts) - 1
        self.register_buffer("coefficients", torch.full((count,), self.inner_kl_coefficient))

    def auxiliary_losses(self, path, stages):
        losses = {}
        for stage, (parameters, samples) in enumerate(zip(path[:-1], stages[:-1], strict=True)):
            output = self.output(parameters, samples.timestep, samples.context)
            divergence = samples.mean(self.policy.distribution.kl(samples.behavior_params, output.distribution_params))
            losses[f"inner_kl_{stage}"] = (self.coefficients[stage].item() / len(self.coefficients), divergence)
        return losses

    @torch.no_grad()
    def after_step(self, stages):
        if self.inner_kl_target is None:
            return {}
        terms = self.meta_optimizer.terms(self, stages, None)
        names = [f"inner_kl_{stage}" for stage in range(len(self.coefficients))]
        for stage, name in enumerate(names):
            if terms[name] < self.inner_kl_target / 1.5:
                self.coefficients[stage] /= 2
            elif terms[name] > self.inner_kl_target * 1.5:
                self.coefficients[stage] *= 2
        return {name: terms[name] for name in names}
