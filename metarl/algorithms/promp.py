"""ProMP: proximal meta-policy search (Rothfuss et al. 2019, arXiv 1810.06784)."""

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from metarl.algorithms.gradient_adaptation import GradientAdaptation


class ProMP(GradientAdaptation):
    """MAML whose inner surrogate knows how sampling changes, and whose policies stay near those that acted.

    Args:
        inner_kl_coefficient: weight of the KL divergence at each stage before the last; at first, where it is adaptive.
        inner_kl_target: it is halved where the divergence of the last outer step was below two thirds of this, and
            doubled above one and a half times; null keeps it.
        inherited: see ``GradientAdaptation``.
    """

    def __init__(
        self,
        *world,
        inner_kl_coefficient: NonNegativeFloat = 5e-4,
        inner_kl_target: PositiveFloat | None = None,
        **inherited,
    ):
        self.inner_kl_coefficient, self.inner_kl_target = inner_kl_coefficient, inner_kl_target
        super().__init__(*world, **inherited)

    def build_others(self, env):
        self.coefficients: Tensor
        count = len(self.rollouts) - 1
        self.register_buffer("coefficients", torch.full((count,), self.inner_kl_coefficient))

    def other_losses(self, path, stages):
        losses = {}
        for stage, (parameters, samples) in enumerate(zip(path[:-1], stages[:-1], strict=True)):
            output = self.output(parameters, samples.timestep, samples.context)
            divergence = samples.mean(self.policy.distribution.kl(samples.acted, output.parameters))
            losses[f"inner_kl_{stage}"] = (self.coefficients[stage].item(), divergence)
        return losses

    def update(self, trial, progress, generator):
        logs = super().update(trial, progress, generator)
        if self.inner_kl_target is not None:
            for stage in range(len(self.coefficients)):
                divergence = logs[f"inner_kl_{stage}"]
                if divergence < self.inner_kl_target / 1.5:
                    self.coefficients[stage] /= 2
                elif divergence > self.inner_kl_target * 1.5:
                    self.coefficients[stage] *= 2
        return logs
