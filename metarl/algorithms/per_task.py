"""Tensors per task for gradient-based adaptation: stacked parameters, clipped gradients, DiCE."""

import torch
from torch import Tensor

from metarl.algorithms.samples import Samples
from metarl.models.features import ImageEncoder
from metarl.models.heads import PlainHeads
from metarl.models.mlp import MLP
from metarl.models.policy import Policy

Parameters = dict[str, Tensor]  # of N tasks, [N, ...] each


def magic_box(log_prob: Tensor, samples: Samples) -> Tensor:
    """DiCE operator ``[N, M]``: 1, with the gradient of the episode's log-probability so far (Foerster et al. 2018)."""
    own = ((log_prob - log_prob.detach()) * samples.mask).unflatten(1, (-1, samples.lane_steps))  # [N, lanes, T]
    first = samples.timestep.first.unflatten(1, (-1, samples.lane_steps))
    total = own.cumsum(2)
    start = torch.where(first, torch.arange(samples.lane_steps, device=first.device), 0).cummax(2).values
    before = (total - own).gather(2, start)  # the sum at the start of the episode
    return (total - before).flatten(1).exp()


def clipped(gradients: list[Tensor], most: float) -> list[Tensor]:
    """Gradients ``[N, ...]``, scaled down so that the norm of each task's, over all parameters, is at most ``most``."""
    square = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
    # Clamped inside the root, whose derivative at the zero gradient of a task without rewards is infinite.
    factor = (most / square.clamp(min=1e-24).sqrt()).clamp(max=1.0)
    return [gradient * factor.view(-1, *[1] * (gradient.ndim - 1)) for gradient in gradients]


def joined(parts: list[Parameters]) -> Parameters:
    """Parameters of all tasks, concatenated from chunks of tasks."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def expand_per_task(parameters: Parameters, count: int) -> Parameters:
    """Parameters repeated for ``count`` tasks, as views ``[count, ...]``."""
    return {name: value.expand(count, *value.shape) for name, value in parameters.items()}


def check_policy(policy: Policy, method: str) -> None:
    """Refuse a policy that cannot adapt by gradient steps.

    Raises:
        ValueError: the policy has a memory, is conditioned, or has other inputs than observation vectors.
    """
    if not isinstance(policy.memory, MLP) or policy.critic_memory is not None:
        raise ValueError(f"{method} adapts a policy without memory; use model=mlp model.critic=shared")
    if not isinstance(policy.heads, PlainHeads) or policy.belief is not None or policy.heads.task_encoder is not None:
        raise ValueError(
            f"{method} adapts plain networks; use conditioning=none model.latent_dim=null model.critic=shared"
        )
    if policy.features.inputs != "observation":
        raise ValueError(
            f"model.inputs={policy.features.inputs}: {method} adapts a policy without memory; use observation"
        )
    if isinstance(policy.features.observation, ImageEncoder):
        raise ValueError(
            f"model.image_embedding_size: {method} adapts layers over vectors, not over images; use another "
            "environment, or a method with a memory, such as algorithm=rl2"
        )
