"""Recurrent cells and the MLP against their formulas, element by element, and how they start."""

import math

import pytest
import torch
from helpers import perturb

from metarl.models.gru import GRU
from metarl.models.lstm import LSTM
from metarl.models.mlp import MLP

STEPS, LANES, INPUT = 37, 5, 9


def sequence() -> torch.Tensor:
    return torch.randn(STEPS, LANES, INPUT, generator=torch.Generator().manual_seed(1))


def whole(memory, x: torch.Tensor):
    return memory(x, memory.initial_carry(x.shape[1]))


def in_steps(memory, x: torch.Tensor) -> torch.Tensor:
    carry, outputs = memory.initial_carry(x.shape[1]), []
    for row in x:
        y, carry = memory.step(row, carry)
        outputs.append(y)
    return torch.stack(outputs)


def gru_reference(model: GRU, x: torch.Tensor) -> torch.Tensor:
    """Element by element, from the formulas (reset applied after the recurrent product)."""
    size, cell = model.hidden_size, model.gru
    weight_x, weight_h = cell.weight_ih_l0.double(), cell.weight_hh_l0.double()
    bias_x, bias_h = cell.bias_ih_l0.double(), cell.bias_hh_l0.double()

    def normalised(vector, norms):
        if not model.layer_norm:
            return vector
        parts = [vector[: 2 * size], vector[2 * size :]]
        out = []
        for part, norm in zip(parts, norms, strict=True):
            centred = part - part.mean()
            scaled = centred / torch.sqrt((centred**2).mean() + norm.eps)
            out.append(scaled * norm.weight.double() + norm.bias.double())
        return torch.cat(out)

    input_norm = model.input_norm if model.layer_norm else None
    hidden_norm = model.hidden_norm if model.layer_norm else None
    outputs = torch.zeros(*x.shape[:2], size, dtype=torch.float64)
    for lane in range(x.shape[1]):
        hidden = torch.zeros(size, dtype=torch.float64)
        for t in range(x.shape[0]):
            from_x = normalised(weight_x @ x[t, lane].double() + bias_x, input_norm)
            from_h = normalised(weight_h @ hidden + bias_h, hidden_norm)
            reset = 1 / (1 + torch.exp(-(from_x[:size] + from_h[:size])))
            update = 1 / (1 + torch.exp(-(from_x[size : 2 * size] + from_h[size : 2 * size])))
            candidate = torch.tanh(from_x[2 * size :] + reset * from_h[2 * size :])
            hidden = (1 - update) * candidate + update * hidden
            outputs[t, lane] = hidden
    return outputs


def lstm_reference(model: LSTM, x: torch.Tensor) -> torch.Tensor:
    size, cell = model.hidden_size, model.lstm
    weight_x, weight_h = cell.weight_ih_l0.double(), cell.weight_hh_l0.double()
    bias = cell.bias_ih_l0.double() + cell.bias_hh_l0.double()
    outputs = torch.zeros(*x.shape[:2], size, dtype=torch.float64)
    for lane in range(x.shape[1]):
        hidden = memory = torch.zeros(size, dtype=torch.float64)
        for t in range(x.shape[0]):
            total = weight_x @ x[t, lane].double() + weight_h @ hidden + bias
            write, keep, candidate, show = total.split(size)
            memory = torch.sigmoid(keep) * memory + torch.sigmoid(write) * torch.tanh(candidate)
            hidden = torch.sigmoid(show) * torch.tanh(memory)
            outputs[t, lane] = hidden
    return outputs


REFERENCES = {
    "GRU": (lambda: GRU(INPUT, 8, layer_norm=False), gru_reference),
    "layer-normalised GRU": (lambda: GRU(INPUT, 8, layer_norm=True), gru_reference),
    "LSTM": (lambda: LSTM(INPUT, 8), lstm_reference),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_recurrent_cells_compute_their_formulas(name):
    make, reference = REFERENCES[name]
    torch.manual_seed(0)
    model = make()
    perturb(model, 0.3)
    expected = reference(model, sequence()).float()
    torch.testing.assert_close(whole(model, sequence())[0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(in_steps(model, sequence()), expected, atol=1e-5, rtol=1e-5)


RECURRENT = {
    "gru": (lambda: GRU(20, 48, layer_norm=False, timescale=1).gru, 3),
    "gru with layer norm": (lambda: GRU(20, 48, layer_norm=True, timescale=1).gru, 3),
    "lstm": (lambda: LSTM(20, 48).lstm, 4),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_blocks_start_orthogonal(name):
    make, blocks = RECURRENT[name]
    for block in make().weight_hh_l0.chunk(blocks):
        torch.testing.assert_close(block @ block.T, torch.eye(48), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RECURRENT)
def test_input_weights_of_each_gate_start_at_xavier_scale(name):
    make, blocks = RECURRENT[name]
    bound = math.sqrt(6 / (20 + 48))
    for block in make().weight_ih_l0.chunk(blocks):
        assert 0.9 * bound < block.abs().max() <= bound
        assert block.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_gru_biases_start_at_zero():
    cell = GRU(20, 48, layer_norm=False, timescale=1).gru
    assert cell.bias_ih_l0.abs().max() == 0 and cell.bias_hh_l0.abs().max() == 0


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_timescale_spreads_how_long_gru_units_keep_their_state(layer_norm):
    """Without input, a unit keeps steps / (steps + 1) of its state, steps uniform from 1 to the timescale."""
    torch.manual_seed(0)
    model = GRU(4, 400, layer_norm=layer_norm, timescale=100)
    hidden = torch.ones(1, 400)
    with torch.no_grad():
        for weight in (model.gru.weight_hh_l0, model.gru.weight_ih_l0):
            weight.zero_()
    kept = model.step(torch.zeros(1, 4), hidden)[0][0]
    steps = kept / (1 - kept)
    assert 1 - 1e-3 <= steps.min() < 5 and 95 < steps.max() <= 100 + 1e-2
    assert steps.mean().item() == pytest.approx(50.5, abs=5)


def test_lstm_forget_bias_starts_at_one_and_all_others_at_zero():
    cell = LSTM(20, 48).lstm
    total = cell.bias_ih_l0 + cell.bias_hh_l0
    assert total[48:96].tolist() == [1.0] * 48
    assert total[:48].abs().max() == 0 and total[96:].abs().max() == 0


def test_mlp_layers_start_orthogonal_with_the_gain_of_tanh():
    weight = MLP(20, 48, 1).layers[0].weight
    torch.testing.assert_close(weight.T @ weight, (5 / 3) ** 2 * torch.eye(20), atol=1e-4, rtol=0)


def test_mlp_without_layers_passes_its_input_on():
    model = MLP(INPUT, 8, 0)
    assert model.output_dim == INPUT and torch.equal(whole(model, sequence())[0], sequence())
