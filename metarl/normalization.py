"""Running statistics that keep targets of a learner in range."""

import torch
from torch import Tensor, nn


class ValueHead(nn.Linear):
    """A linear value in units of reward, learned on standardised targets (PopArt, van Hasselt et al. 2016).

    ``update`` moves the running mean and standard deviation of the targets, and rewrites weight and bias so
    that no output changes. Without an ``update`` it is a plain linear layer.

    Args:
        input_dim: size of the features.
        decay: weight of the old statistics against one new batch.
    """

    def __init__(self, input_dim: int, decay: float = 0.9):
        super().__init__(input_dim, 1)
        nn.init.orthogonal_(self.weight)
        nn.init.zeros_(self.bias)
        self.decay = decay
        self.mean: Tensor
        self.variance: Tensor
        self.batches: Tensor
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("batches", torch.zeros(()))

    @property
    def std(self) -> Tensor:
        """Standard deviation of the targets seen, at least 1e-3."""
        return self.variance.clamp(min=1e-6).sqrt()

    def normalize(self, values: Tensor) -> Tensor:
        """Values in units of reward, standardised."""
        return (values - self.mean) / self.std

    def forward(self, features: Tensor) -> Tensor:
        """``[..., input_dim]`` to values ``[...]`` in units of reward."""
        return super().forward(features).squeeze(-1) * self.std + self.mean

    @torch.no_grad()
    def update(self, targets: Tensor) -> None:
        """Include a batch of targets, 1-D, in the statistics."""
        old_mean, old_std = self.mean.clone(), self.std
        self.batches += 1
        # Bias-corrected, so that the first batch counts whole.
        rate = (1 - self.decay) / (1 - self.decay**self.batches)
        self.mean.lerp_(targets.mean(), rate)
        # Second moments about the new mean: nothing large is subtracted from anything large.
        self.variance.add_((old_mean - self.mean).square()).lerp_((targets - self.mean).square().mean(), rate)
        self.weight.mul_(old_std / self.std)
        self.bias.copy_((old_std * self.bias + old_mean - self.mean) / self.std)
