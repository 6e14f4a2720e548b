"""Action distributions as plain functions of a head's outputs.

``torch.distributions`` costs more per acting step than the policy's own arithmetic; these agree with it.
"""

import math
from abc import ABC, abstractmethod

import torch
from gymnasium import spaces
from torch import Generator, Tensor


class ActionDistribution(ABC):
    """A family of distributions over actions ``[..., *action_shape]``, by parameters ``[..., num_parameters]``."""

    num_parameters: int

    @abstractmethod
    def sample(self, params: Tensor, generator: Generator) -> Tensor:
        """One action per row."""

    @abstractmethod
    def mode(self, params: Tensor) -> Tensor:
        """The most likely action of each row."""

    @abstractmethod
    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """Log-probability (density) of the actions, ``[...]``."""

    @abstractmethod
    def entropy(self, params: Tensor) -> Tensor:
        """Entropy in nats, ``[...]``."""

    @abstractmethod
    def kl(self, params: Tensor, other: Tensor) -> Tensor:
        """KL divergence of the distribution with ``params`` to ``other`` in nats, ``[...]``."""


class Categorical(ActionDistribution):
    """One of n actions, given logits; actions are numbered from ``first`` on."""

    def __init__(self, num_actions: int, first: int = 0):
        self.num_parameters, self.first = num_actions, first

    def sample(self, params: Tensor, generator: Generator) -> Tensor:
        # Exponential race: the first of n independent clocks with rates exp(logit) is a categorical draw.
        clocks = torch.empty_like(params).exponential_(generator=generator)
        return self._action((params - clocks.log_()).argmax(-1))

    def mode(self, params: Tensor) -> Tensor:
        return self._action(params.argmax(-1))

    def _action(self, index: Tensor) -> Tensor:
        return index + self.first if self.first else index

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        index = action - self.first if self.first else action
        return params.log_softmax(-1).gather(-1, index.unsqueeze(-1)).squeeze(-1)

    def entropy(self, params: Tensor) -> Tensor:
        log_probs = params.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def kl(self, params: Tensor, other: Tensor) -> Tensor:
        log_probs = params.log_softmax(-1)
        return (log_probs.exp() * (log_probs - other.log_softmax(-1))).sum(-1)


class DiagonalGaussian(ActionDistribution):
    """Independent normals, given means, then log standard deviations."""

    def __init__(self, action_dim: int):
        self.num_parameters = 2 * action_dim

    def sample(self, params: Tensor, generator: Generator) -> Tensor:
        mean, log_std = params.chunk(2, -1)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return torch.addcmul(mean, log_std.exp(), noise)

    def mode(self, params: Tensor) -> Tensor:
        return params.chunk(2, -1)[0]

    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        mean, log_std = params.chunk(2, -1)
        standardized = (action - mean) * torch.exp(-log_std)
        return (-0.5 * standardized.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, params: Tensor) -> Tensor:
        log_std = params.chunk(2, -1)[1]
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl(self, params: Tensor, other: Tensor) -> Tensor:
        (mean, log_std), (other_mean, other_log_std) = params.chunk(2, -1), other.chunk(2, -1)
        apart = (mean - other_mean).square() + (2 * log_std).exp()
        return (other_log_std - log_std + 0.5 * apart * (-2 * other_log_std).exp() - 0.5).sum(-1)


def action_distribution(space: spaces.Space) -> ActionDistribution:
    """The family that fits an action space.

    Raises:
        TypeError: the space is neither Discrete nor a flat Box.
    """
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n), int(space.start))
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return DiagonalGaussian(space.shape[0])
    raise TypeError(f"no action distribution for {space}; use Discrete or a one-dimensional Box")
