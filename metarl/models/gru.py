"""Gated recurrent unit (Cho et al. 2014), the memory of RL² (Duan et al. 2016)."""

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.base import SequenceModel


class GRU(SequenceModel):
    """GRU on torch's fused kernels: Xavier input weights, orthogonal recurrent weights, zero biases.

    Args:
        input_dim: size of the input.
        hidden_size: units.
        layer_norm: normalise both projections of gates and candidate separately, as in the published RL²
            codes. The input's projection and its normalisation run over all time at once.
    """

    def __init__(self, input_dim: int, hidden_size: PositiveInt = 128, layer_norm: bool = False):
        super().__init__()
        self.output_dim = self.hidden_size = hidden_size
        self.layer_norm = layer_norm
        self.gru = nn.GRU(input_dim, hidden_size)
        for block in range(3):
            rows = slice(block * hidden_size, (block + 1) * hidden_size)
            nn.init.xavier_uniform_(self.gru.weight_ih_l0.data[rows])
            nn.init.orthogonal_(self.gru.weight_hh_l0.data[rows])
        nn.init.zeros_(self.gru.bias_ih_l0)
        nn.init.zeros_(self.gru.bias_hh_l0)
        if layer_norm:
            self.input_norm = nn.ModuleList([nn.LayerNorm(2 * hidden_size), nn.LayerNorm(hidden_size)])
            self.hidden_norm = nn.ModuleList([nn.LayerNorm(2 * hidden_size), nn.LayerNorm(hidden_size)])

    def initial_carry(self, batch_size: int) -> Tensor:
        return self.gru.weight_hh_l0.new_zeros(batch_size, self.hidden_size)

    def forward(self, x: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        if self.layer_norm:
            return self._normalised(x, carry)
        y, last = self.gru(x, carry.unsqueeze(0))
        return y, last.squeeze(0)

    def step(self, x: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        if self.layer_norm:
            y, carry = self._normalised(x.unsqueeze(0), carry)
            return carry, carry
        gru = self.gru
        weights = gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0
        carry = torch.gru_cell(x, carry, *weights)
        return carry, carry

    def _normalised(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        size, gru = self.hidden_size, self.gru
        # All that does not depend on the recurrence, for all time at once.
        gate_inputs = self.input_norm[0](F.linear(x, gru.weight_ih_l0[: 2 * size], gru.bias_ih_l0[: 2 * size]))
        candidate_inputs = self.input_norm[1](F.linear(x, gru.weight_ih_l0[2 * size :], gru.bias_ih_l0[2 * size :]))
        # Separate products, because a slice of one product would be copied before it is normalised.
        gate_weight, candidate_weight = gru.weight_hh_l0[: 2 * size], gru.weight_hh_l0[2 * size :]
        gate_bias, candidate_bias = gru.bias_hh_l0[: 2 * size], gru.bias_hh_l0[2 * size :]
        outputs = []
        for gate_input, candidate_input in zip(gate_inputs.unbind(0), candidate_inputs.unbind(0), strict=True):
            gates = torch.sigmoid(gate_input + self.hidden_norm[0](F.linear(hidden, gate_weight, gate_bias)))
            reset, keep = gates.chunk(2, dim=-1)
            recurrent = self.hidden_norm[1](F.linear(hidden, candidate_weight, candidate_bias))
            candidate = torch.tanh(torch.addcmul(candidate_input, reset, recurrent))
            hidden = torch.lerp(candidate, hidden, keep)
            outputs.append(hidden)
        return torch.stack(outputs), hidden
