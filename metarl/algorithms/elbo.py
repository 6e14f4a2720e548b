"""The evidence lower bound of VariBAD (Zintgraf et al. 2020, equations 6 to 8), on whole trials of any length."""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from metarl import parallel
from metarl.algorithms.trial_buffer import Trials
from metarl.tree import tree_map

Prior = Literal["previous", "standard"]


class Decoder(Protocol):
    """Decoder of transitions from latents, see ``metarl.models.decoders``."""

    def errors(
        self, latent: Tensor, observation: Tensor, action: Tensor, next_observation: Tensor, reward: Tensor
    ) -> Tensor: ...


class Belief(NamedTuple):
    """A diagonal Gaussian over latents, ``[..., latent_dim]`` each."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Latents, from standard normal noise of the same shape."""
        return torch.addcmul(self.mean, (0.5 * self.log_variance).exp(), noise)

    def kl(self, other: "Belief") -> Tensor:
        """KL divergence to another belief in nats, ``[...]``."""
        ratio = (self.log_variance - other.log_variance).exp()
        apart = (self.mean - other.mean).square() * (-other.log_variance).exp()
        return 0.5 * (ratio + apart - 1 - self.log_variance + other.log_variance).sum(-1)


def as_belief(memory: Tensor) -> Belief:
    """Belief whose mean and log-variance are the halves of a memory output ``[..., 2 latent_dim]``."""
    mean, log_variance = memory.chunk(2, dim=-1)  # [..., latent_dim]
    return Belief(mean, log_variance)


def kl_to_prior(belief: Belief, prior: Prior) -> Tensor:
    """KL divergence ``[T, B]`` from every belief to its prior.

    The prior is the ``previous`` belief (a standard normal for the first), or a ``standard`` normal for all.
    """
    zeros = torch.zeros_like(belief.mean[:1])  # mean and log-variance of a standard normal
    if prior == "standard":
        return belief.kl(Belief(zeros, zeros))
    mean, log_variance = (torch.cat([zeros, part[:-1]]) for part in belief)
    return belief.kl(Belief(mean, log_variance))


class ElboTerms(NamedTuple):
    """Beliefs of every trial to decode from, and transitions to decode from each.

    Attributes:
        beliefs: their steps, ``[E, B]``.
        belief_weight: ``[E, B]``, sums to 1 over each trial: the mean over all its steps, or an estimate of it.
        transitions: their steps, ``[D, B]``.
        transition_weight: ``[D, B]``, sums to the length of each trial: the sum over its steps, or an estimate.
    """

    beliefs: Tensor
    belief_weight: Tensor
    transitions: Tensor
    transition_weight: Tensor


def sample_terms(mask: Tensor, beliefs: int | None, transitions: int | None, generator: Generator) -> ElboTerms:
    """Terms at all steps of ``mask [T, B]``, or at a given number of steps drawn with replacement from each trial."""
    length = mask.sum(0).float()
    rows, weights = _choose(mask, beliefs, generator)
    steps, shares = _choose(mask, transitions, generator)
    return ElboTerms(rows, weights, steps, shares * length)


def _choose(mask: Tensor, count: int | None, generator: Generator) -> tuple[Tensor, Tensor]:
    """Steps ``[N, B]`` and weights that sum to 1 over each trial."""
    steps, lanes = mask.shape
    if count is None or count >= steps:
        every = torch.arange(steps, device=mask.device).unsqueeze(1).expand(steps, lanes)
        return every, mask / mask.sum(0)
    unit = torch.rand(count, lanes, generator=generator).to(mask.device)
    return (unit * mask.sum(0)).long(), torch.full((count, lanes), 1 / count, device=mask.device)


def local_part(trials: Trials, terms: ElboTerms, noise: Tensor) -> tuple[Trials, ElboTerms, Tensor]:
    """Shard of this process of trials, terms and ``noise [E, B, latent_dim]``; losses then add up over processes."""
    if parallel.world_size() == 1:
        return trials, terms, noise
    lanes = parallel.local_shard(trials.mask)
    local = tree_map(lambda part: part[:, lanes], terms)
    share = len(lanes) / trials.mask.shape[1]
    return trials.select(lanes), local._replace(belief_weight=share * local.belief_weight), noise[:, lanes]


def gather_time(values: Tensor, steps: Tensor) -> Tensor:
    """``values [T, B, ...]`` at ``steps [N, B]``."""
    index = steps.reshape(*steps.shape, *[1] * (values.ndim - 2))  # [N, B, 1, ...]
    index = index.expand(*steps.shape, *values.shape[2:])  # [N, B, ...]
    return values.gather(0, index)


def reconstruction(
    latent: Tensor, trials: Trials, terms: ElboTerms, decoder: Decoder, decode_only_past: bool = False
) -> Tensor:
    """Reconstruction error: summed over the transitions of a trial, past and future, mean over beliefs and trials.

    Args:
        latent: latents sampled from the beliefs ``terms.beliefs``, ``[E, B, latent_dim]``.
        trials: trials to decode.
        terms: beliefs and transitions of the trials.
        decoder: gives errors ``[E, D, B]``.
        decode_only_past: decode only transitions that precede the belief.
    """
    observation, action, next_observation, reward = (
        gather_time(part, terms.transitions)
        for part in (trials.timestep.observation, trials.action, trials.next_observation, trials.reward)
    )
    errors = decoder.errors(latent, observation, action, next_observation, reward)
    if decode_only_past:
        errors = errors * (terms.transitions.unsqueeze(0) < terms.beliefs.unsqueeze(1))
    per_belief = (errors * terms.transition_weight).sum(1)  # [E, B]
    return (per_belief * terms.belief_weight).sum(0).mean()


def mean_over_beliefs(values: Tensor, terms: ElboTerms) -> Tensor:
    """Mean over steps and trials of ``values [T, B]`` at the sampled beliefs."""
    return (gather_time(values, terms.beliefs) * terms.belief_weight).sum(0).mean()


def task_error(latent: Tensor, target: Tensor, terms: ElboTerms, decode: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean squared error of ``target [B, size]`` as decoded from ``latent [E, B, latent_dim]``."""
    errors = (decode(latent) - target).square().mean(-1)
    return (errors * terms.belief_weight).sum(0).mean()
