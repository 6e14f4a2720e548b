"""Meta-SGD: a learned step size for every parameter (Li et al. 2017, arXiv 1707.09835)."""

import torch
from pydantic import PositiveFloat
from torch import nn

from metarl.algorithms.gradient_adaptation import GradientAdaptation


class MetaSGD(GradientAdaptation):
    """All parameters of the policy adapt; size and sign of each one's steps are learned along with it.

    Args:
        step_bound: the sizes that count lie between plus and minus this; null leaves them free.
        inherited: see ``GradientAdaptation``; ``inner_learning_rate`` is what all sizes start as.

    Raises:
        ValueError: sizes start beyond their bound.
    """

    def __init__(self, *world, step_bound: PositiveFloat | None = 0.1, inner_learning_rate: PositiveFloat, **inherited):
        if step_bound is not None and inner_learning_rate >= step_bound:
            raise ValueError(
                f"algorithm.inner_learning_rate={inner_learning_rate}: step sizes at their bound "
                f"algorithm.step_bound={step_bound} cannot be learned; start below it"
            )
        self.step_bound = step_bound
        super().__init__(*world, inner_learning_rate=inner_learning_rate, **inherited)

    def build_others(self, env):
        named = self.inner_parameters()
        self._places = {name: place for place, name in enumerate(named)}
        sizes = [torch.full_like(value, self.inner_learning_rate) for value in named.values()]
        self.step_sizes = nn.ParameterList(sizes)

    def step_size(self, name):
        size = self.step_sizes[self._places[name]]
        return size if self.step_bound is None else size.clamp(-self.step_bound, self.step_bound)
