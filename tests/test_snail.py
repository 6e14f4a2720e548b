"""SNAIL against its convolutions one tap at a time, and its published sizes."""

import math

import pytest
import torch
from helpers import perturb

from metarl.models.snail import SNAIL

STEPS, LANES, INPUT, SIZE = 21, 2, 5, 4


@pytest.mark.parametrize(("input_dim", "count"), [(7, 433_192), (17, 452_122)], ids=["bandit", "tabular MDP"])
def test_published_parameter_counts(input_dim, count):
    """32 channels, trials of 100 steps, five actions; a policy head included."""
    model = SNAIL(input_dim, 32, context=100)
    head = model.output_dim * 5 + 5
    assert sum(parameter.numel() for parameter in model.parameters()) + head == count


@pytest.mark.parametrize(("context", "depth"), [(1, 1), (2, 1), (10, 4), (25, 5), (100, 7), (500, 9), (1000, 10)])
def test_dilations_double_until_they_cover_the_context(context, depth):
    model = SNAIL(INPUT, SIZE, context=context)
    assert model.dilations == [2**layer for layer in range(depth)] * 2
    assert model.output_dim == INPUT + 2 * depth * SIZE + SIZE


@pytest.mark.parametrize("layer_norm", [True, False])
def test_it_computes_its_formulas(layer_norm):
    torch.manual_seed(0)
    model = SNAIL(INPUT, SIZE, layer_norm, context=STEPS).double()
    perturb(model, 0.3)
    x = torch.randn(STEPS, LANES, INPUT, dtype=torch.float64)
    columns = [[x[t, lane] for t in range(STEPS)] for lane in range(LANES)]
    expected = torch.stack([alone(model, column) for column in columns], 1)
    torch.testing.assert_close(model(x, model.initial_carry(LANES))[0], expected, atol=1e-10, rtol=1e-10)


def alone(model: SNAIL, rows: list[torch.Tensor]) -> torch.Tensor:
    """One lane, one step, one tap at a time."""
    for convolution, dilation in zip(model.convolutions, model.dilations, strict=True):
        now, past = convolution.weight.chunk(2)
        added = []
        for t, row in enumerate(rows):
            total = now @ row
            if t >= dilation:
                total = total + past @ rows[t - dilation]
            total = convolution.norm(total) if convolution.bias is None else total + convolution.bias
            gate, value = total.chunk(2)
            added.append(torch.sigmoid(gate) * torch.tanh(value))
        rows = [torch.cat([row, more]) for row, more in zip(rows, added, strict=True)]
    query, key, value = (model.project(torch.stack(rows))).chunk(3, dim=-1)
    read = []
    for t in range(len(rows)):
        weights = ((query[t] * key[: t + 1]).sum(-1) / math.sqrt(SIZE)).softmax(0)
        read.append(weights @ value[: t + 1])
    return torch.cat([torch.stack(rows), torch.stack(read)], -1)


def test_without_the_length_of_a_trial_it_is_refused():
    with pytest.raises(ValueError, match=r"model\.context=null"):
        SNAIL(INPUT)
