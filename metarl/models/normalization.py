"""Normalisation of inputs and value targets by running statistics."""

import torch
from torch import Tensor, nn

from metarl.models.batched_linear import BatchedLinear
from metarl.models.conditional_layers import ConditionalLayer


class ValueLayer(BatchedLinear):
    """A linear map to one number, with orthogonal initial weights, whose outputs can be rescaled."""

    def __init__(self, input_dim: int):
        super().__init__(input_dim, 1)
        nn.init.orthogonal_(self.weight)
        nn.init.zeros_(self.bias)

    @torch.no_grad()
    def rescale_(self, factor: Tensor, shift: Tensor) -> None:
        """Change the parameters so that the outputs y become ``factor * y + shift``."""
        self.weight.mul_(factor)
        self.bias.mul_(factor).add_(shift)


class ValueHead(nn.Module):
    """A value in units of reward, learned on standardised targets (PopArt, van Hasselt et al. 2016).

    ``update`` moves the running mean and standard deviation of the targets, and rescales the layer so that no output
    changes. Without any ``update`` the value is the output of the layer.

    Args:
        layer: maps its inputs to ``[..., 1]``.
        decay: weight of the old statistics against one new batch.
    """

    def __init__(self, layer: ValueLayer | ConditionalLayer, decay: float = 0.9):
        super().__init__()
        self.layer = layer
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
        """Standardised values ``[...]``, from values in units of reward."""
        return (values - self.mean) / self.std

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs of the layer to values ``[...]`` in units of reward."""
        return self.layer(*inputs).squeeze(-1) * self.std + self.mean

    @torch.no_grad()
    def update(self, targets: Tensor) -> None:
        """Include a batch of targets, 1-D, in the statistics."""
        old_mean, old_std = self.mean.clone(), self.std
        self.batches += 1
        # Bias-corrected: the first batch has weight 1.
        rate = (1 - self.decay) / (1 - self.decay**self.batches)
        self.mean.lerp_(targets.mean(), rate)
        # Second moments about the new mean avoid catastrophic cancellation.
        self.variance.add_((old_mean - self.mean).square()).lerp_((targets - self.mean).square().mean(), rate)
        self.layer.rescale_(old_std / self.std, (old_mean - self.mean) / self.std)


class RunningMeanStd(nn.Module):
    """Standardisation of each channel by the values given to ``update`` so far; the identity without any ``update``.

    Args:
        size: channels.
        center: subtract the mean; else values are only divided, by their root mean square.
        limit: largest absolute value of the output.
    """

    def __init__(self, size: int, center: bool = True, limit: float = 10.0):
        super().__init__()
        self.center, self.limit = center, limit
        self.count: Tensor
        self.mean: Tensor
        self.variance: Tensor
        # Float64: float32 cannot count beyond 2^24 steps.
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        """``[..., size]`` to ``[..., size]``."""
        scaled = (values - self.mean.to(values.dtype)) * (self.variance + 1e-6).rsqrt().to(values.dtype)
        return scaled.clamp(-self.limit, self.limit)

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Include ``values [N, size]``, by the parallel form of Welford's sums (Chan et al. 1979)."""
        values = values.double()
        share = len(values) / (self.count + len(values))
        mean = values.mean(0) if self.center else torch.zeros_like(self.mean)
        spread = (values - mean).square().mean(0)
        apart = share * (1 - share) * (mean - self.mean).square()
        self.variance.copy_((1 - share) * self.variance + share * spread + apart)
        self.mean.lerp_(mean, share)
        self.count += len(values)
