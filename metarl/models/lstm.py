"""Long short-term memory (Hochreiter & Schmidhuber 1997) with an open forget gate (Jozefowicz et al. 2015)."""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.base import SequenceModel


class LSTM(SequenceModel):
    """LSTM on torch's fused kernels: Xavier input weights, orthogonal recurrent weights, forget bias 1.

    Args:
        input_dim: size of the input.
        hidden_size: units.
    """

    def __init__(self, input_dim: int, hidden_size: PositiveInt = 128):
        super().__init__()
        self.output_dim = self.hidden_size = hidden_size
        self.lstm = nn.LSTM(input_dim, hidden_size)
        for block in range(4):
            rows = slice(block * hidden_size, (block + 1) * hidden_size)
            nn.init.xavier_uniform_(self.lstm.weight_ih_l0.data[rows])
            nn.init.orthogonal_(self.lstm.weight_hh_l0.data[rows])
        nn.init.zeros_(self.lstm.bias_ih_l0)
        nn.init.zeros_(self.lstm.bias_hh_l0)
        self.lstm.bias_ih_l0.data[hidden_size : 2 * hidden_size] = 1.0  # gates lie in the order i, f, g, o

    def initial_carry(self, batch_size: int) -> tuple[Tensor, Tensor]:
        zeros = self.lstm.weight_hh_l0.new_zeros(batch_size, self.hidden_size)
        return zeros, zeros

    def forward(self, x: Tensor, carry: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, cell = carry
        y, (hidden, cell) = self.lstm(x, (hidden.unsqueeze(0), cell.unsqueeze(0)))
        return y, (hidden.squeeze(0), cell.squeeze(0))

    def step(self, x: Tensor, carry: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        lstm = self.lstm
        weights = lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0
        carry = torch.lstm_cell(x, carry, *weights)
        return carry[0], carry
