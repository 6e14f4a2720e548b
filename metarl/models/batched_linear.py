"""Linear layers whose parameters may have a leading axis of tasks, one set for each."""

import torch
from torch import Tensor, nn


class BatchedLinear(nn.Linear):
    """``nn.Linear`` that ``torch.func.functional_call`` may also give one weight and one bias for each of N tasks.

    Written out, because a batched matrix product costs less than ``vmap`` over a layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[..., input_dim]`` to ``[..., output_dim]``.

        With weights ``[N, output_dim, input_dim]``, ``[N, M, input_dim]`` to ``[N, M, output_dim]``.
        """
        x = x.to(self.weight.dtype)
        if self.weight.ndim == 2:
            return super().forward(x)
        if len(self.weight) == 1:  # faster without the axis
            parts = (part.squeeze(0) for part in (x, self.weight, self.bias))
            return nn.functional.linear(*parts).unsqueeze(0)  # [1, M, output_dim]
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)


def per_sample(parameter: Tensor, like: Tensor) -> Tensor:
    """One vector, or one vector for each of N tasks, expanded to ``like``: ``[..., size]`` or ``[N, M, size]``."""
    return (parameter if parameter.ndim == 1 else parameter.unsqueeze(1)).expand_as(like)
