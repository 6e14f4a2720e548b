"""Running sums, averages and maxima of a sequence (Beck et al. 2020, 2024), each a prefix scan over time.

An aggregator is lossless in time and, up to rounding, permutation-invariant: it reads ``x_1 .. x_t`` as a set. None has
a loop over time: sums and maxima are scans of torch, softmax averages a linear recurrence.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.models.scan import linear_scan

AggregatorName = Literal[
    "sum",
    "average",
    "max",
    "normalized_max",
    "average_max",
    "weighted_average",
    "weighted_softmax",
    "softmax",
    "gaussian",
]
AggregatorCarry = tuple[Tensor, ...]  # [B, ...] each

SMALLEST_NORM = 0.1  # a maximum of a smaller norm is not scaled to norm 1
SMALLEST_WEIGHT = 0.1  # lower bound of a total weight, which keeps averages of small weights near 0
DEFAULT_TEMPERATURE = 0.1


class Aggregator(nn.Module, ABC):
    """A causal map ``[T, B, input_dim]`` to ``[T, B, output_dim]`` whose carry is a statistic of all inputs so far.

    Straight-through gradients (Beck et al. 2020) leave the outputs unchanged and replace the backward pass: a maximum
    passes its gradient unchanged to both arguments, hence to every earlier input; a quotient to its numerator alone.
    Each input therefore receives the sum of the gradients of all later outputs. This is the gradient of another scan,
    the running sum of the same terms, and flows through the same carry.

    Args:
        input_dim: size of the input, a multiple of ``parts``.
        straight_through: whether to use straight-through gradients.
    """

    parts: ClassVar[int] = 1  # number of equal parts that the input is split into
    has_temperature: ClassVar[bool] = False

    def __init__(self, input_dim: int, straight_through: bool = False):
        super().__init__()
        self.input_dim, self.straight_through = input_dim, straight_through

    @property
    def output_dim(self) -> int:
        return self.input_dim

    @abstractmethod
    def first(self, x: Tensor) -> AggregatorCarry:
        """The carry after one input ``[B, input_dim]``."""

    def empty(self, like: Tensor) -> AggregatorCarry:
        """The carry before any input, with the lanes, data type and device of ``like [B, input_dim]``."""
        return tuple(torch.zeros_like(part) for part in self.first(torch.zeros_like(like)))

    @abstractmethod
    def forward(self, x: Tensor, carry: AggregatorCarry) -> tuple[Tensor, AggregatorCarry]:
        """``[T, B, input_dim]`` to ``[T, B, output_dim]``, and the carry after the last step."""

    def _quotient(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        quotient = numerator / denominator
        return straight_through(quotient, numerator) if self.straight_through else quotient


class Sum(Aggregator):
    """``S_t = S_{t-1} + x_t``. Its straight-through gradient is its gradient."""

    def first(self, x: Tensor) -> AggregatorCarry:
        return (x,)

    def forward(self, x: Tensor, carry: AggregatorCarry) -> tuple[Tensor, AggregatorCarry]:
        total = running_sum(x, carry[0])
        return total, (total[-1],)


class Average(Aggregator):
    """``S_t / t``: the aggregation of conditional neural processes. Carry: sum ``[B, n]`` and count ``[B, 1]``."""

    def first(self, x: Tensor) -> AggregatorCarry:
        return x, torch.ones_like(x[:, :1])

    def forward(self, x: Tensor, carry: AggregatorCarry) -> tuple[Tensor, AggregatorCarry]:
        total, count = running_sum(x, carry[0]), running_sum(torch.ones_like(x[..., :1]), carry[1])
        return self._quotient(total, count), (total[-1], count[-1])


class Max(Aggregator):
    """``m_t = max(m_{t-1}, x_t)``, from ``m_0 = 0``."""

    def first(self, x: Tensor) -> AggregatorCarry:
        return (x,)

    def forward(self, x: Tensor, carry: AggregatorCarry) -> tuple[Tensor, AggregatorCarry]:
        # One scan over carry and input: on a tie the later one receives the gradient, wherever a sequence is cut.
        highest = torch.cat([carry[0].unsqueeze(0), x]).cummax(0).values[1:]
        if self.straight_through:
            highest = straight_through(highest, running_sum(x, carry[0]))
        return highest, (highest[-1],)


class NormalizedMax(Max):
    """``m_t / max(|m_t|, 0.1)``: the direction of the maximum, its length taken as a constant."""

    def forward(self, x: Tensor, carry: AggregatorCarry) -> tuple[Tensor, AggregatorCarry]:
        highest, carry = super().forward(x, carry)
        length = highest.detach().norm(dim=-1, keepdim=True).clamp(min=SMALLEST_NORM)
        return self._quotient(highest, length), carry


class AverageMax(Aggregator):
    """The average of the first half of the input, concatenated to the maximum of the second half."""

    parts = 2

    def __init__(self, input_dim: int, straight_through: bool = False):
        super().__init__(input_dim, straight_through)
        self.average = Average(input_dim // 2, straight_through)
        self.max = Max(input_dim // 2, straight_through)

    def first(self, x: Tensor) -> AggregatorCarry:
        to_average, to_max = x.chunk(2, dim=-1)
        return *self.average.first(to_average), *self.max.first(to_max)

    def forward(self, x: Tensor, carry: AggregatorCarry) -> tuple[Tensor, AggregatorCarry]:
        to_average, to_max = x.chunk(2, dim=-1)
        average, averaged = self.average(to_average, carry[:2])
        highest, maximum = self.max(to_max, carry[2:])
        return torch.cat([average, highest], dim=-1), (*averaged, *maximum)


class WeightedAverage(Aggregator):
    """``sum p x / max(sum p, 0.1)`` with ``p = softplus(w)``, where ``[x, w]`` are the halves of the input.

    Carry: both sums, ``[B, n / 2]`` each.
    """

    parts = 2

    @property
    def output_dim(self) -> int:
        return self.input_dim // 2

    def first(self, x: Tensor) -> AggregatorCarry:
        value, weight = x.chunk(2, dim=-1)
        return F.softplus(weight) * value, F.softplus(weight)

    def forward(self, x: Tensor, carry: AggregatorCarry) -> tuple[Tensor, AggregatorCarry]:
        weighted, weight = self.first(x)
        total, total_weight = running_sum(weighted, carry[0]), running_sum(weight, carry[1])
        return self._output(total, total_weight.clamp(min=SMALLEST_WEIGHT)), (total[-1], total_weight[-1])

    def _output(self, total: Tensor, total_weight: Tensor) -> Tensor:
        return self._quotient(total, total_weight)


class GaussianProduct(WeightedAverage):
    """The product of one Gaussian factor per step; means and ``softplus`` precisions are the halves of the input.

    Output: mean and log variance of the product, concatenated (PEARL, Rakelly et al. 2019). There is no prior factor,
    unless a learned initial state acts as one.
    """

    @property
    def output_dim(self) -> int:
        return self.input_dim

    def _output(self, total: Tensor, total_weight: Tensor) -> Tensor:
        return torch.cat([super()._output(total, total_weight), -total_weight.log()], dim=-1)


class Softmax(Aggregator):
    """``sum p x / sum p`` with ``p = exp((x - 2) / temperature)``: between the average (hot) and the maximum (cold).

    Carry: the average and the logarithm of the sum of weights, ``[B, n]`` each. A step moves the average by its share
    of the total weight, a difference of logarithms, which neither overflows nor vanishes at any temperature or length.
    The 2 cancels, except in the straight-through gradient, which is that of ``sum p x``. The published code divides by
    ``max(sum p, exp(-3 / temperature))``, a bound that no input within ±1 reaches.

    Args:
        input_dim, straight_through: see ``Aggregator``.
        temperature: initial value; its logarithm is learned, so that it stays positive.
    """

    has_temperature = True

    def __init__(self, input_dim: int, straight_through: bool = False, temperature: float = DEFAULT_TEMPERATURE):
        super().__init__(input_dim, straight_through)
        self.log_temperature = nn.Parameter(torch.tensor(temperature).log())

    def first(self, x: Tensor) -> AggregatorCarry:
        value, weight = self._value_and_weight(x)
        return value, weight / self.log_temperature.exp()

    def empty(self, like: Tensor) -> AggregatorCarry:
        value, log_weight = super().empty(like)
        return value, torch.full_like(log_weight, -torch.inf)

    def forward(self, x: Tensor, carry: AggregatorCarry) -> tuple[Tensor, AggregatorCarry]:
        value, log_weight = self.first(x)
        log_total = torch.logaddexp(log_weight.logcumsumexp(0), carry[1])
        excess = log_weight - torch.cat([carry[1].unsqueeze(0), log_total[:-1]])  # over the total weight before
        average = linear_scan(torch.sigmoid(-excess), torch.sigmoid(excess) * value, carry[0])
        if self.straight_through:
            published = (log_weight - 2 / self.log_temperature.exp()).exp()
            average = straight_through(average, running_sum(published * value, carry[0]))
        return average, (average[-1], log_total[-1])

    def _value_and_weight(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class WeightedSoftmax(Softmax):
    """``Softmax`` with ``p = exp((w - 2) / temperature)``, where ``[x, w]`` are the halves of the input."""

    parts = 2

    @property
    def output_dim(self) -> int:
        return self.input_dim // 2

    def _value_and_weight(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, weight = x.chunk(2, dim=-1)
        return value, weight


AGGREGATORS: dict[AggregatorName, type[Aggregator]] = {
    "sum": Sum,
    "average": Average,
    "max": Max,
    "normalized_max": NormalizedMax,
    "average_max": AverageMax,
    "weighted_average": WeightedAverage,
    "weighted_softmax": WeightedSoftmax,
    "softmax": Softmax,
    "gaussian": GaussianProduct,
}


def running_sum(x: Tensor, start: Tensor) -> Tensor:
    """Cumulative sums ``[T, ...]`` of ``x [T, ...]`` over time, from ``start [...]``."""
    return x.cumsum(0) + start


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """``value``, with the gradient of ``surrogate``."""
    return value.detach() + (surrogate - surrogate.detach())
