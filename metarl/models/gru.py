"""Gated recurrent unit (Cho et al. 2014), the memory of RL² (Duan et al. 2016)."""

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.base import SequenceModel, initialize_recurrent


class GRU(SequenceModel):
    """GRU on torch's fused kernels: Xavier input weights, orthogonal recurrent weights, zero biases.

    Args:
        input_dim: size of the input.
        hidden_size: number of units.
        layer_norm: normalise the projections of input and state separately, for gates and for the candidate, as in the
            published RL² codes. The input is projected and normalised for all time at once.
        timescale: longest initial memory in steps: the units' time constants are drawn between 1 and this number
            (chrono initialisation, Tallec & Ollivier 2018). 1 leaves the biases of the gates at 0.
    """

    def __init__(
        self, input_dim: int, hidden_size: PositiveInt = 128, layer_norm: bool = True, timescale: PositiveInt = 10
    ):
        super().__init__()
        self.output_dim = self.hidden_size = hidden_size
        self.layer_norm = layer_norm
        self.gru = nn.GRU(input_dim, hidden_size)
        initialize_recurrent(self.gru)
        if layer_norm:
            self.input_norm = nn.ModuleList([nn.LayerNorm(2 * hidden_size), nn.LayerNorm(hidden_size)])
            self.hidden_norm = nn.ModuleList([nn.LayerNorm(2 * hidden_size), nn.LayerNorm(hidden_size)])

        if timescale > 1:
            bias = self.input_norm.get_parameter("0.bias") if layer_norm else self.gru.all_weights[0][2]
            steps = 1 + (timescale - 1) * torch.rand(hidden_size)
            bias.data[hidden_size : 2 * hidden_size] = steps.log()  # torch orders the gates reset, update, new

    def initial_carry(self, batch_size: int) -> Tensor:
        return next(self.parameters()).new_zeros(batch_size, self.hidden_size)

    def forward(self, x: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        if self.layer_norm:
            return self._normalized(x, carry)
        y, last = self.gru(x, carry.unsqueeze(0))
        return y, last.squeeze(0)

    def step(self, x: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        if self.layer_norm:
            _, carry = self._normalized(x.unsqueeze(0), carry)
            return carry, carry
        carry = torch.gru_cell(x, carry, *self.gru.all_weights[0])
        return carry, carry

    def _normalized(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        gates = slice(0, 2 * self.hidden_size)
        candidate = slice(2 * self.hidden_size, None)
        input_weight, hidden_weight, input_bias, hidden_bias = self.gru.all_weights[0]
        # Everything that does not depend on the recurrence, for all time at once. Gates and candidate are separate
        # products, because a slice of one product would be copied before it is normalised.
        gate_inputs = self.input_norm[0](F.linear(x, input_weight[gates], input_bias[gates]))
        candidate_inputs = self.input_norm[1](F.linear(x, input_weight[candidate], input_bias[candidate]))
        gate_weight, gate_bias = hidden_weight[gates], hidden_bias[gates]
        candidate_weight, candidate_bias = hidden_weight[candidate], hidden_bias[candidate]
        outputs = []
        for gate_input, candidate_input in zip(gate_inputs.unbind(0), candidate_inputs.unbind(0), strict=True):
            gates_open = torch.sigmoid(gate_input + self.hidden_norm[0](F.linear(hidden, gate_weight, gate_bias)))
            reset, update = gates_open.chunk(2, dim=-1)
            recurrent = self.hidden_norm[1](F.linear(hidden, candidate_weight, candidate_bias))
            proposed = torch.tanh(torch.addcmul(candidate_input, reset, recurrent))
            hidden = torch.lerp(proposed, hidden, update)
            outputs.append(hidden)
        return torch.stack(outputs), hidden
