"""Policies that share their weights over tasks and are conditioned on a latent vector per task."""

import torch
from torch import Tensor
from torch.func import functional_call

from metarl.envs.base import MetaEnv
from metarl.models.features import OneHot
from metarl.models.heads import HeadOutput
from metarl.models.policy import Policy
from metarl.types import Timestep


def latent_policy(env: MetaEnv, model, latent_dim: int) -> Policy:
    """A policy whose input is the present observation concatenated with a latent.

    Raises:
        ValueError: an input encoder cannot be combined with latent conditioning.
    """
    context_dim = OneHot(env.observation_space).output_dim + 1 + latent_dim
    policy = model(env.spec, context_dim)
    if policy.features.encoder is not None:
        raise ValueError(
            "model.input_embedding_size: an input embedding cannot be combined with latent conditioning; use null, or "
            "more layers"
        )
    return policy


def concat_latent(policy: Policy, timestep: Timestep, latent: Tensor) -> Tensor:
    """Input ``[N, M, F]``: observations of N tasks and their latents ``[N, latent_dim]`` or ``[N, M, latent_dim]``."""
    present = policy.features.current(timestep)
    if latent.ndim == 2:
        latent = latent.unsqueeze(1)  # [N, 1, latent_dim]
    return torch.cat([present, latent.expand(*present.shape[:-1], -1)], dim=-1)


def latent_conditioned_output(
    policy: Policy, timestep: Timestep, latent: Tensor, own: dict[str, Tensor] | None = None
) -> HeadOutput:
    """Output ``[N, M, ...]`` of the shared policy, or of the policy with the weights ``own`` of each task."""
    inputs = (timestep, ((),), timestep.first, concat_latent(policy, timestep, latent))
    return (functional_call(policy, own, inputs) if own else policy(*inputs))[0]
