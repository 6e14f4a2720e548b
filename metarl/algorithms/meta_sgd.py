"""Meta-SGD: a learned step size for every parameter (Li et al. 2017, arXiv 1707.09835)."""

from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from metarl.algorithms.gradient_adaptation import GradientAdaptation


class MetaSGD(GradientAdaptation):
    """All parameters of the policy adapt, each with a learned, signed step size.

    Li et al. do not bound step sizes. The code of Lan et al. 2019 clips them to ±0.1, where their gradient is zero and
    they stay.

    Args:
        step_bound: step sizes lie within ± this bound; null leaves them free.
        step_bounding: ``smooth``: a learned x gives the step size ``x / sqrt(1 + (x / step_bound)²)``, which has a
            gradient everywhere; ``clip``: x is clipped, as published. Without a bound x is the step size.
        inherited: see ``GradientAdaptation``; ``inner_learning_rate`` is the initial value of all step sizes.

    Raises:
        ValueError: the initial value is not below the bound.
    """

    def __init__(
        self,
        *,
        step_bound: PositiveFloat | None = 0.5,
        step_bounding: Literal["smooth", "clip"] = "smooth",
        inner_learning_rate: PositiveFloat,
        **inherited,
    ):
        if step_bound is not None and inner_learning_rate >= step_bound:
            raise ValueError(
                f"algorithm.inner_learning_rate={inner_learning_rate}: step sizes at their bound "
                f"algorithm.step_bound={step_bound} cannot be learned; start below it"
            )
        super().__init__(inner_learning_rate=inner_learning_rate, **inherited)
        self.step_bound, self.step_bounding = step_bound, step_bounding

    def build_auxiliary_modules(self, env):
        named = self.inner_parameters()
        self._places = {name: place for place, name in enumerate(named)}
        start = self.inner_learning_rate
        if self.step_bound is not None and self.step_bounding == "smooth":
            start /= (1 - (start / self.step_bound) ** 2) ** 0.5
        self.step_sizes = nn.ParameterList([torch.full_like(value, start) for value in named.values()])

    def step_size(self, name):
        return self.bounded(self.step_sizes[self._places[name]])

    def bounded(self, learned: Tensor) -> Tensor:
        """Step sizes given by the learned parameters, within the bound."""
        if self.step_bound is None:
            return learned
        if self.step_bounding == "clip":
            return learned.clamp(-self.step_bound, self.step_bound)
        return learned * (1 + (learned / self.step_bound).square()).rsqrt()
