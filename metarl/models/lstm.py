"""Long short-term memory (Hochreiter & Schmidhuber 1997) and an open forget gate (Jozefowicz et al. 2015)."""

import math

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.base import SequenceModel, initialize_recurrent

# Distance of initially open gates from 1. The published code adds their bias twice, with the input and with the state:
# the gates then round to 1 in float32, have no gradient there, and never learn to close.
GATE_MARGIN = 1e-4


class LSTM(SequenceModel):
    """LSTM on torch's fused kernels: Xavier input weights, orthogonal recurrent weights, forget bias 1.

    Args:
        input_dim: size of the input.
        hidden_size: number of units.
        permutation_invariant_init: initialise close to ``cell += tanh(W x)``, which does not depend on the order of the
            inputs (SplAgger's ablation, Beck et al. 2024): input and forget gates are 1 - ``GATE_MARGIN`` for every
            input, and candidate and output gate depend on the input alone.
    """

    def __init__(self, input_dim: int, hidden_size: PositiveInt = 128, permutation_invariant_init: bool = False):
        super().__init__()
        self.output_dim = self.hidden_size = hidden_size
        self.lstm = nn.LSTM(input_dim, hidden_size)
        initialize_recurrent(self.lstm)
        input_bias = self.lstm.all_weights[0][2]
        input_bias.data[hidden_size : 2 * hidden_size] = 1.0  # torch orders the gates input, forget, cell, output
        if permutation_invariant_init:
            self._initialize_invariant()

    def _initialize_invariant(self) -> None:
        input_weight, hidden_weight, input_bias, _ = self.lstm.all_weights[0]
        input_and_forget = slice(0, 2 * self.hidden_size)
        input_weight.data[input_and_forget] = 0
        hidden_weight.data.zero_()
        input_bias.data[input_and_forget] = math.log((1 - GATE_MARGIN) / GATE_MARGIN)

    def initial_carry(self, batch_size: int) -> tuple[Tensor, Tensor]:
        zeros = next(self.parameters()).new_zeros(batch_size, self.hidden_size)
        return zeros, zeros

    def forward(self, x: Tensor, carry: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, cell = carry
        y, (hidden, cell) = self.lstm(x, (hidden.unsqueeze(0), cell.unsqueeze(0)))
        return y, (hidden.squeeze(0), cell.squeeze(0))

    def step(self, x: Tensor, carry: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        carry = torch.lstm_cell(x, carry, *self.lstm.all_weights[0])
        return carry[0], carry
