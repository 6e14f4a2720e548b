"""SplAgger: split aggregation for meta-reinforcement learning (Beck et al. 2024)."""

from typing import ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from metarl.models.aggregators import AGGREGATORS, AggregatorName
from metarl.models.base import Carry, SequenceModel
from metarl.models.gru import GRU
from metarl.models.lstm import LSTM
from metarl.models.mlp import MLP
from metarl.tree import tree_leaves, tree_map

Encoder = Literal["gru", "layernorm_gru", "lstm", "permutation_invariant_lstm", "none"]
Skip = Literal["split", "all", "none"]


class SplAgger(SequenceModel):
    """A recurrent encoder with half of its units in a permutation-invariant aggregator, and half bypassing it.

    The aggregate is lossless in time and its gradient does not vanish; the units that skip it can depend on order. With
    ``encoder=none`` and ``skip=none`` the memory is permutation-invariant; with ``aggregator=average`` as well it is a
    conditional neural process (Garnelo et al. 2018).

    The carry is a pair: that of the encoder and that of the aggregator.

    Args:
        input_dim: size of the input.
        hidden_size: units of the encoder.
        encoder: ``gru`` and ``lstm`` are these memories with their initialisation, the GRU without chrono biases;
            ``layernorm_gru`` normalises the gates; ``permutation_invariant_lstm`` is initialised so that the order of
            its inputs does not matter; ``none`` is a tanh layer of each step alone.
        aggregator: name in ``metarl.models.aggregators``. Those with weights or precisions read these from half of
            their input.
        skip: units of the encoder that bypass the aggregator: with ``split`` one half, and the other is aggregated;
            with ``all`` and ``none`` every unit is aggregated.
        temperature: initial temperature of ``softmax`` and ``weighted_softmax``; None is 0.1.
        learn_initial_state: learn the initial state of the encoder, and a first element of the aggregator; both are
            initially 0. Otherwise a trial starts from zeros and an empty aggregator.
        output_size: units of a linear output layer; None: no layer.

    Raises:
        ValueError: the units cannot be split evenly, or an aggregator without temperature is given one.
    """

    straight_through: ClassVar[bool] = False

    def __init__(
        self,
        input_dim: int,
        hidden_size: PositiveInt = 128,
        encoder: Encoder = "layernorm_gru",
        aggregator: AggregatorName = "max",
        skip: Skip = "split",
        temperature: PositiveFloat | None = None,
        learn_initial_state: bool = False,
        output_size: PositiveInt | None = None,
    ):
        super().__init__()
        kind = AGGREGATORS[aggregator]
        parts = kind.parts * (2 if skip == "split" else 1)
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
        aggregated = hidden_size // 2 if skip == "split" else hidden_size
        self.aggregator = kind(aggregated, self.straight_through, **options)
        self.initial = self._learned_carry() if learn_initial_state else None
        width = self.aggregator.output_dim + {"split": hidden_size // 2, "all": hidden_size, "none": 0}[skip]
        # The output of a product of Gaussians alone is a belief: means, then log variances.
        self.is_belief = aggregator == "gaussian" and skip == "none" and output_size is None
        self.output = nn.Linear(width, output_size) if output_size else None
        self.output_dim = output_size or width

    def _learned_carry(self) -> nn.ParameterList:
        starts = [start.clone() for start in tree_leaves(self.encoder.initial_carry(1))]  # they may be one tensor
        return nn.ParameterList([*starts, torch.zeros(1, self.aggregator.input_dim)])

    def initial_carry(self, batch_size: int) -> tuple[Carry, Carry]:
        if self.initial is None:
            like = next(self.parameters()).new_zeros(batch_size, self.aggregator.input_dim)
            return self.encoder.initial_carry(batch_size), self.aggregator.empty(like)
        starts = iter([start.repeat(batch_size, 1) for start in self.initial])  # [B, size] each
        encoder_carry = tree_map(lambda _: next(starts), self.encoder.initial_carry(1))
        return encoder_carry, self.aggregator.first(next(starts))

    def forward(self, x: Tensor, carry: tuple[Carry, Carry]) -> tuple[Tensor, tuple[Carry, Carry]]:
        encoded, encoder_carry = self.encoder(x, carry[0])
        y, aggregate = self._aggregate(encoded, carry[1])
        return y, (encoder_carry, aggregate)

    def step(self, x: Tensor, carry: tuple[Carry, Carry]) -> tuple[Tensor, tuple[Carry, Carry]]:
        encoded, encoder_carry = self.encoder.step(x, carry[0])
        y, aggregate = self._aggregate(encoded.unsqueeze(0), carry[1])
        return y.squeeze(0), (encoder_carry, aggregate)

    def _aggregate(self, encoded: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        bypass, to_aggregate = encoded.chunk(2, dim=-1) if self.skip == "split" else (encoded, encoded)
        y, carry = self.aggregator(to_aggregate, carry)
        if self.skip != "none":
            y = torch.cat([bypass, y], dim=-1)
        return y if self.output is None else self.output(y), carry


def _encoder(name: Encoder, input_dim: int, size: int) -> SequenceModel:
    match name:
        case "gru" | "layernorm_gru":
            return GRU(input_dim, size, layer_norm=name == "layernorm_gru", timescale=1)
        case "lstm" | "permutation_invariant_lstm":
            return LSTM(input_dim, size, permutation_invariant_init=name == "permutation_invariant_lstm")
        case "none":
            return MLP(input_dim, size, num_layers=1)
