"""MAESN: exploration by a latent that is drawn once per episode (Gupta et al. 2018, arXiv 1802.07245).

As published, every training task has its own initial Gaussian, and new tasks start from the prior. Here tasks are drawn
from a distribution and rarely repeat, so all start from one learned Gaussian that a KL term keeps near the prior.
"""

from typing import NamedTuple

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from metarl.algorithms.elbo import Belief
from metarl.algorithms.gradient_adaptation import AdaptedState
from metarl.algorithms.latents import latent_conditioned_output, latent_policy
from metarl.algorithms.meta_sgd import MetaSGD
from metarl.types import Timestep

LATENT = ("latent_mean", "latent_log_std")


class NoisyState(NamedTuple):
    """Adapted parameters of every task, and noise of the latent of each lane's episode, ``[B, latent_dim]``."""

    adapted: AdaptedState
    noise: Tensor


class MAESN(MetaSGD):
    """The policy and a Gaussian over latents adapt to every task, with learned step sizes.

    Args:
        latent_dim: size of the latent.
        kl_coefficient: weight of the KL divergence from the Gaussian before adaptation to a standard normal.
        adapt_policy: whether the weights of the policy adapt, too.
        inherited: see ``MetaSGD``.
    """

    def __init__(
        self,
        *,
        latent_dim: PositiveInt = 2,
        kl_coefficient: NonNegativeFloat = 0.1,
        adapt_policy: bool = True,
        **inherited,
    ):
        super().__init__(**inherited)
        self.latent_dim, self.kl_coefficient, self.adapt_policy = latent_dim, kl_coefficient, adapt_policy

    def build_policy(self, env, model):
        return latent_policy(env, model, self.latent_dim)

    def build_auxiliary_modules(self, env):
        self.latent_mean, self.latent_log_std = (nn.Parameter(torch.zeros(self.latent_dim)) for _ in range(2))
        super().build_auxiliary_modules(env)

    def inner_parameters(self):
        latent = {name: getattr(self, name) for name in LATENT}
        return latent | (super().inner_parameters() if self.adapt_policy else {})

    def initial_state(self, tasks):
        noise = torch.zeros(len(tasks), self.latent_dim, device=tasks.description.device)
        return NoisyState(super().initial_state(tasks), noise)

    def act(self, timestep, state, generator, greedy=False):
        drawn = torch.empty_like(state.noise).normal_(generator=generator)
        noise = torch.where(timestep.first.unsqueeze(1), drawn * (not greedy), state.noise)
        per_task = noise.unflatten(0, (-1, self.lanes_per_task))  # [N, lanes, latent_dim]
        adapted = state.adapted._replace(context={"noise": per_task})
        decision, _ = super().act(timestep, adapted, generator, greedy)
        return decision._replace(noise=noise), NoisyState(state.adapted, noise)

    def adapt(self, state, rollout):
        return NoisyState(super().adapt(state.adapted, rollout), state.noise)

    def output(self, parameters, timestep: Timestep, context):
        mean, log_std = (parameters[name].unsqueeze(1) for name in LATENT)
        latent = torch.addcmul(mean, log_std.exp(), context["noise"])
        own = {name: value for name, value in parameters.items() if name not in LATENT}
        return latent_conditioned_output(self.policy, timestep, latent, own)

    def auxiliary_losses(self, path, stages):
        before = Belief(path[0]["latent_mean"], 2 * path[0]["latent_log_std"])
        zeros = torch.zeros_like(before.mean)  # mean and log-variance of a standard normal
        return {"latent_kl": (self.kl_coefficient, before.kl(Belief(zeros, zeros)))}
