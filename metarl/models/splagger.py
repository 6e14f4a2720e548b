"""SplAgger: split aggregation for meta-reinforcement learning (Beck et al. 2024)."""

from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from metarl.models.aggregators import AGGREGATORS, AggregatorName
from metarl.models.base import Carry, SequenceModel
from metarl.models.gru import GRU
from metarl.models.lstm import LSTM
from metarl.models.mlp import MLP

Encoder = Literal["gru", "normalized_gru", "lstm", "invariant_lstm", "none"]
Skip = Literal["half", "whole", "none"]


class SplAgger(SequenceModel):
    """A recurrent encoder with half of its units in a permutation-invariant aggregator, and half bypassing it.

    The aggregate remembers without forgetting and its gradient does not vanish; what skips it can follow order.
    With ``encoder=none`` and ``skip=none`` the memory is permutation-invariant; with ``aggregator=average`` as well it
    is a conditional neural process.

    Carry: that of the encoder and that of the aggregator.

    Args:
        input_dim: size of the input.
        hidden_size: units of the encoder.
        encoder: ``gru`` and ``lstm`` as these memories start; ``normalized_gru`` normalises its gates;
            ``invariant_lstm`` starts indifferent to order; ``none`` is a tanh layer of each step alone.
        aggregator: of ``metarl.models.aggregators``. Those with weights or precisions take these from half of what
            they are fed.
        skip: units of the encoder that bypass the aggregator: ``half``, the other half being aggregated; or all are
            aggregated, and the ``whole`` or ``none`` bypasses.
        temperature: of ``softmax`` and ``weighted_softmax`` at the start of training; None is 0.1.
        learn_initial_state: learn what the encoder starts from, and one vector the aggregator holds as its first
            observation; both start at 0. Otherwise a trial starts from zeros and no observation.
        output_size: units of a linear layer on top; None: none.

    Raises:
        ValueError: units cannot be split evenly, or a temperature is given that nothing has.
    """

    straight_through: ClassVar[bool] = False

    def __init__(
        self,
        input_dim: int,
        hidden_size: PositiveInt = 128,
        encoder: Encoder = "normalized_gru",
        aggregator: AggregatorName = "max",
        skip: Skip = "half",
        temperature: PositiveFloat | None = None,
        learn_initial_state: bool = False,
        output_size: PositiveInt | None = None,
    ):
        super().__init__()
        kind = AGGREGATORS[aggregator]
        parts = kind.parts * (2 if skip == "half" else 1)
        if hidden_size % parts:
            raise ValueError(
                f"model.hidden_size={hidden_size} must be divisible by {parts} with model.skip={skip} and "
                f"model.aggregator={aggregator}; use {hidden_size + parts - hidden_size % parts}"
            )
        if temperature is not None and not kind.has_temperature:
            tempered = " or ".join(
                f"model.aggregator={name}" for name, one in AGGREGATORS.items() if one.has_temperature
            )
            raise ValueError(
                f"model.temperature={temperature}: model.aggregator={aggregator} has none; "
                f"use {tempered}, or model.temperature=null"
            )
        self.skip = skip
        self.encoder = _encoder(encoder, input_dim, hidden_size)
        options = {} if temperature is None else {"temperature": temperature}
        aggregated = hidden_size // 2 if skip == "half" else hidden_size
        self.aggregator = kind(aggregated, self.straight_through, **options)
        self.initial = self._learned_start() if learn_initial_state else None
        width = self.aggregator.output_dim + {"half": hidden_size // 2, "whole": hidden_size, "none": 0}[skip]
        # A product of Gaussians alone is a belief already: means, then log variances.
        self.is_belief = aggregator == "gaussian" and skip == "none" and output_size is None
        self.output = nn.Linear(width, output_size) if output_size else None
        self.output_dim = output_size or width

    def _learned_start(self) -> nn.ParameterList:
        leaves, self._structure = tree_flatten(self.encoder.initial_carry(1))
        return nn.ParameterList([*leaves, torch.zeros(1, self.aggregator.input_dim)])

    def initial_carry(self, batch_size: int) -> tuple[Carry, Carry]:
        if self.initial is None:
            nothing = next(self.parameters()).new_zeros(batch_size, self.aggregator.input_dim)
            return self.encoder.initial_carry(batch_size), self.aggregator.empty(nothing)
        *leaves, observation = (start.repeat(batch_size, 1) for start in self.initial)
        return tree_unflatten(leaves, self._structure), self.aggregator.first(observation)

    def forward(self, x: Tensor, carry: tuple[Carry, Carry]) -> tuple[Tensor, tuple[Carry, Carry]]:
        encoded, encoder_carry = self.encoder(x, carry[0])
        y, aggregate = self._aggregate(encoded, carry[1])
        return y, (encoder_carry, aggregate)

    def step(self, x: Tensor, carry: tuple[Carry, Carry]) -> tuple[Tensor, tuple[Carry, Carry]]:
        encoded, encoder_carry = self.encoder.step(x, carry[0])
        y, aggregate = self._aggregate(encoded.unsqueeze(0), carry[1])
        return y.squeeze(0), (encoder_carry, aggregate)

    def _aggregate(self, encoded: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        bypass, to_aggregate = encoded.chunk(2, dim=-1) if self.skip == "half" else (encoded, encoded)
        y, carry = self.aggregator(to_aggregate, carry)
        if self.skip != "none":
            y = torch.cat([bypass, y], dim=-1)
        return y if self.output is None else self.output(y), carry


def _encoder(name: Encoder, input_dim: int, size: int) -> SequenceModel:
    match name:
        case "gru" | "normalized_gru":
            return GRU(input_dim, size, layer_norm=name == "normalized_gru", timescale=1)
        case "lstm" | "invariant_lstm":
            return LSTM(input_dim, size, invariant_start=name == "invariant_lstm")
        case "none":
            return MLP(input_dim, size, num_layers=1)
