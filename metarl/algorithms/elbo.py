"""The evidence lower bound of VariBAD (Zintgraf et al. 2020, equations 6 to 8), on whole trials of any length."""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from metarl import parallel
from metarl.algorithms.trial_buffer import Trials

Prior = Literal["previous", "standard"]


class Decoder(Protocol):
    """Errors of what it predicts, see ``metarl.models.decoders``."""

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


def as_belief(known: Tensor) -> Belief:
    """The two halves of ``[..., 2 latent_dim]``."""
    return Belief(*known.chunk(2, dim=-1))


def kl_to_prior(belief: Belief, prior: Prior) -> Tensor:
    """``[T, B]``: of every belief to the one before it, the first to a standard normal; or of all to that."""
    nothing = Belief(torch.zeros_like(belief.mean[:1]), torch.zeros_like(belief.mean[:1]))
    if prior == "standard":
        return belief.kl(nothing)
    return belief.kl(Belief(*(torch.cat([first, later[:-1]]) for first, later in zip(nothing, belief, strict=True))))


class ElboTerms(NamedTuple):
    """Which beliefs are decoded, and which transitions under them, of every trial.

    Attributes:
        beliefs: steps ``[E, B]``.
        belief_weight: ``[E, B]``, sums to 1 over each trial: the mean over all its steps, or an estimate of it.
        transitions: steps ``[D, B]``.
        transition_weight: ``[D, B]``, sums to the length of each trial: the sum over its steps, or an estimate.
    """

    beliefs: Tensor
    belief_weight: Tensor
    transitions: Tensor
    transition_weight: Tensor


def sample_terms(mask: Tensor, beliefs: int | None, transitions: int | None, generator: Generator) -> ElboTerms:
    """All steps of ``mask [T, B]``, or so many drawn with replacement from each trial."""
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
    """Trials, terms and ``noise [E, B, latent_dim]`` of this process; sums over processes are means."""
    if parallel.world_size() == 1:
        return trials, terms, noise
    lanes = parallel.local_shard(trials.mask)
    mine = ElboTerms(*(part[:, lanes] for part in terms))
    share = len(lanes) / trials.mask.shape[1]
    return trials.select(lanes), mine._replace(belief_weight=share * mine.belief_weight), noise[:, lanes]


def gather_time(values: Tensor, steps: Tensor) -> Tensor:
    """``values [T, B, ...]`` at ``steps [N, B]``."""
    index = steps.reshape(*steps.shape, *[1] * (values.ndim - 2)).expand(*steps.shape, *values.shape[2:])
    return values.gather(0, index)


def reconstruction(
    latent: Tensor, trials: Trials, terms: ElboTerms, decoder: Decoder, decode_only_past: bool = False
) -> Tensor:
    """Error of the whole trial, past and future, expected over the beliefs: summed over transitions, mean over trials.

    Args:
        latent: of the beliefs ``terms.beliefs``, ``[E, B, latent_dim]``.
        trials: what is decoded.
        terms: which of it.
        decoder: gives errors ``[E, D, B]``.
        decode_only_past: decode only what a belief has seen.
    """
    observation, action, next_observation, reward = (
        gather_time(part, terms.transitions)
        for part in (trials.timestep.observation, trials.action, trials.next_observation, trials.reward)
    )
    errors = decoder.errors(latent, observation, action, next_observation, reward)
    if decode_only_past:
        errors = errors * (terms.transitions.unsqueeze(0) < terms.beliefs.unsqueeze(1))
    per_belief = (errors * terms.transition_weight).sum(1)
    return (per_belief * terms.belief_weight).sum(0).mean()


def mean_over_beliefs(values: Tensor, terms: ElboTerms) -> Tensor:
    """Mean over steps and trials of ``values [T, B]`` at the sampled beliefs."""
    return (gather_time(values, terms.beliefs) * terms.belief_weight).sum(0).mean()


def task_error(latent: Tensor, target: Tensor, terms: ElboTerms, decode: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean squared error of a task ``[B, size]`` as decoded from the latents of the chosen beliefs."""
    errors = (decode(latent) - target).square().mean(-1)
    return (errors * terms.belief_weight).sum(0).mean()
