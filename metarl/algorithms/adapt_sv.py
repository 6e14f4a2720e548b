"""Adapt-SV: only a latent vector adapts, and all tasks share the policy (Lan et al. 2019, arXiv 1905.06527)."""

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import nn

from metarl.algorithms.latents import latent_conditioned_output, latent_policy
from metarl.algorithms.meta_sgd import MetaSGD

INITIAL_NORM = 0.01  # of the latent


class AdaptSV(MetaSGD):
    """One deterministic latent per task adapts, with learned step sizes; outer steps alone train the policy.

    Args:
        latent_dim: size of the latent.
        latent_coefficient: weight of the mean square of the adapted latent, in the outer loss.
        inherited: see ``MetaSGD``.
    """

    def __init__(self, *, latent_dim: PositiveInt = 8, latent_coefficient: NonNegativeFloat = 0.01, **inherited):
        super().__init__(**inherited)
        self.latent_dim, self.latent_coefficient = latent_dim, latent_coefficient

    def build_policy(self, env, model):
        return latent_policy(env, model, self.latent_dim)

    def build_auxiliary_modules(self, env):
        direction = torch.randn(self.latent_dim)
        self.latent = nn.Parameter(INITIAL_NORM * direction / direction.norm())
        super().build_auxiliary_modules(env)

    def inner_parameters(self):
        return {"latent": self.latent}

    def output(self, parameters, timestep, context):
        return latent_conditioned_output(self.policy, timestep, parameters["latent"])

    def auxiliary_losses(self, path, stages):
        return {"latent_square": (self.latent_coefficient, path[-1]["latent"].square().mean(1))}
