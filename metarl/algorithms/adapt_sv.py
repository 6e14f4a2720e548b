"""A latent vector that adapts alone, under a policy that all tasks share (Lan et al. 2019, arXiv 1905.06527)."""

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import nn

from metarl.algorithms.latents import latent_conditioned_output, latent_policy
from metarl.algorithms.meta_sgd import MetaSGD

START = 0.01  # norm of the latent at first


class AdaptSV(MetaSGD):
    """One deterministic latent per task, with learned step sizes; the policy is trained outside alone.

    Args:
        latent_dim: of the latent.
        latent_coefficient: weight of the mean square of the adapted latent, in the outer loss.
        inherited: see ``MetaSGD``.
    """

    def __init__(self, *world, latent_dim: PositiveInt = 8, latent_coefficient: NonNegativeFloat = 0.01, **inherited):
        self.latent_dim, self.latent_coefficient = latent_dim, latent_coefficient
        super().__init__(*world, **inherited)

    def build_policy(self, env, model):
        return latent_policy(env, model, self.latent_dim)

    def build_auxiliary_modules(self, env):
        direction = torch.randn(self.latent_dim)
        self.latent = nn.Parameter(START * direction / direction.norm())
        super().build_auxiliary_modules(env)

    def inner_parameters(self):
        return {"latent": self.latent}

    def output(self, parameters, timestep, context):
        return latent_conditioned_output(self.policy, timestep, parameters["latent"])

    def auxiliary_losses(self, path, stages):
        return {"latent_square": (self.latent_coefficient, path[-1]["latent"].square().mean(1))}
