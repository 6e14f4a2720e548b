"""SplAgger and AMRL: sizes, initial states, blindness to order, and the claims of their papers."""

import pytest
import torch
import torch.nn.functional as F
from aggregator_inputs import LANES, WIDTH, every_aggregator, inputs, whole
from helpers import perturb
from torch import nn

from metarl.models.amrl import AMRL
from metarl.models.gru import GRU
from metarl.models.lstm import LSTM
from metarl.models.splagger import SplAgger
from metarl.seeding import make_generator
from metarl.tree import tree_leaves

every_kind = pytest.mark.parametrize("kind", [SplAgger, AMRL])


# ---------------------------------------------------------------- the models


def memory(kind=SplAgger, size: int = 16, input_dim: int = WIDTH, seed: int = 0, **options):
    torch.manual_seed(seed)
    return kind(input_dim, size, **options)


@pytest.mark.parametrize(
    ("options", "parameters", "carry"),
    [
        # Published with one parameter more each, a temperature that nothing reads.
        ({}, 259_608, 384),
        ({"skip": "none"}, 259_608, 512),
        ({"aggregator": "average_max"}, 259_608, 385),
        ({"aggregator": "softmax"}, 259_609, 512),
        ({"encoder": "none", "skip": "none"}, 24_856, 256),
        ({"encoder": "none", "skip": "none", "aggregator": "average"}, 24_856, 257),
        ({"encoder": "lstm"}, 344_088, 640),
    ],
)
@every_kind
def test_sizes_are_the_published_ones(kind, options, parameters, carry):
    model = memory(kind, 256, 72, output_size=24, **{"encoder": "gru"} | options)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert sum(leaf.shape[1] for leaf in tree_leaves(model.initial_carry(5))) == carry


@pytest.mark.parametrize(("skip", "expected"), [("split", 8 + 4), ("all", 16 + 8), ("none", 8)])
def test_units_bypass_the_aggregator_or_enter_it(skip, expected):
    model = memory(skip=skip, aggregator="weighted_average")
    x = inputs(dtype=torch.float32)
    encoded, _ = model.encoder(x, model.encoder.initial_carry(LANES))
    y, _ = model(x, model.initial_carry(LANES))
    aggregate, _ = whole(model.aggregator, encoded[..., 8:] if skip == "split" else encoded)
    assert y.shape[-1] == model.output_dim == expected
    assert torch.equal(y[..., expected - aggregate.shape[-1] :], aggregate)
    assert torch.equal(y[..., : expected - aggregate.shape[-1]], encoded[..., : expected - aggregate.shape[-1]])


@every_aggregator
@every_kind
@pytest.mark.parametrize("encoder", ["gru", "lstm", "none"])
def test_a_learned_initial_state_starts_at_zero_and_is_trained(name, kind, encoder):
    model = memory(kind, aggregator=name, encoder=encoder, learn_initial_state=True)
    assert all(start.abs().max() == 0 for start in model.initial)
    perturb(model)
    y, _ = model(inputs(4, torch.float32), model.initial_carry(LANES))
    assert len({start.data_ptr() for start in model.initial}) == len(model.initial)
    starts = torch.autograd.grad(y.square().sum(), list(model.initial))
    assert all(gradient.abs().max() > 0 for gradient in starts)


def test_no_temperature_given_is_a_tenth_and_it_stays_positive():
    default, given = (memory(aggregator="softmax", temperature=t) for t in (None, 0.1))
    assert default.aggregator.log_temperature.exp().item() == pytest.approx(0.1)
    assert torch.equal(default.aggregator.log_temperature, given.aggregator.log_temperature)
    assert all("temperature" not in name for name, _ in memory().named_parameters())


@every_kind
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 7}, ["model.hidden_size=7", "divisible by 2", "model.skip=split", "use 8"]),
        ({"size": 10, "aggregator": "gaussian"}, ["model.hidden_size=10", "divisible by 4", "gaussian", "use 12"]),
        ({"size": 7, "skip": "none", "aggregator": "average_max"}, ["model.hidden_size=7", "divisible by 2"]),
        ({"temperature": 0.5}, ["model.temperature=0.5", "model.aggregator=max", "softmax", "null"]),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_remedy(kind, options, said):
    with pytest.raises(ValueError, match="model") as refusal:
        memory(kind, **options)
    assert not [fragment for fragment in said if fragment not in str(refusal.value)], refusal.value


# ---------------------------------------------------------------- blind to order


def change_by_order(model, steps: int = 60) -> float:
    """How far the last output turns when all inputs are shuffled; 2 at most."""
    x = inputs(steps, torch.float32)
    order = torch.randperm(steps, generator=make_generator(9))
    y, shuffled = (model(one, model.initial_carry(LANES))[0][-1] for one in (x, x[order]))
    return (F.normalize(y, dim=-1) - F.normalize(shuffled, dim=-1)).norm(dim=-1).mean().item()


@every_aggregator
def test_without_encoder_a_memory_is_blind_to_order_and_with_one_it_is_not(name):
    blind = memory(encoder="none", skip="none", aggregator=name)
    assert change_by_order(blind) < 1e-5
    assert change_by_order(memory(aggregator=name)) > 0.05


@pytest.mark.parametrize(("permutation_invariant_init", "expected"), [(True, True), (False, False)])
def test_cells_of_an_invariant_lstm_sum_whatever_the_order_at_the_start(permutation_invariant_init, expected):
    torch.manual_seed(0)
    model, x = LSTM(WIDTH, 16, permutation_invariant_init=permutation_invariant_init), inputs(dtype=torch.float32)
    cells = [model(some, model.initial_carry(LANES))[1][1] for some in (x, x.flip(0))]
    total = torch.tanh(x @ model.lstm.weight_ih_l0[32:48].T).sum(0)
    for found in (cells[1], total):  # gates stand open up to 1e-4 of a cell of a few units, per step
        assert torch.allclose(cells[0], found, atol=0.01, rtol=0) == expected


def test_an_invariant_lstm_can_learn_to_close_its_gates():
    torch.manual_seed(0)
    model = LSTM(WIDTH, 16, permutation_invariant_init=True)
    y, _ = model(inputs(dtype=torch.float32), model.initial_carry(LANES))
    y.square().sum().backward()
    for weight in model.parameters():
        assert all(gate.abs().max() > 1e-5 for gate in weight.grad.chunk(4))


# ---------------------------------------------------------------- gradients over a long trial


class WithOutput(nn.Module):
    """A plain recurrent memory under the same linear layer."""

    def __init__(self, size: int):
        super().__init__()
        self.memory, self.output = GRU(80, size, layer_norm=False, timescale=1), nn.Linear(size, 24)
        self.initial_carry = self.memory.initial_carry

    def forward(self, x, carry):
        y, carry = self.memory(x, carry)
        return self.output(y), carry


def gradient_norms(make_model) -> list[list[float]]:
    """``|d y_t / d x_0|`` and ``|d y_t / d parameters|`` at t = 10, 50, 99, where ``y_t`` is the sum of an output."""
    norms = []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        model = make_model()
        x = (2 * torch.rand(100, 1, 80) - 1).requires_grad_()
        y = model(x, model.initial_carry(1))[0].sum((1, 2))
        for t in (10, 50, 99):
            to_input, *to_parameters = torch.autograd.grad(y[t], [x, *model.parameters()], retain_graph=True)
            norms += [to_input[0].norm(), torch.cat([g.flatten() for g in to_parameters]).norm()]
    return torch.stack(norms).view(3, 3, 2).mean(0).T.tolist()


def test_gradients_vanish_in_a_gru_explode_in_amrl_and_do_neither_in_splagger():
    """The papers' argument, at initialisation, over 100 steps of uniform inputs."""
    size = 64
    gru = gradient_norms(lambda: WithOutput(size))
    amrl = gradient_norms(lambda: AMRL(80, size, output_size=24, encoder="gru"))
    splagger = gradient_norms(lambda: SplAgger(80, size, output_size=24, encoder="gru"))
    to_first_input, to_parameters = 0, 1
    assert gru[to_first_input][2] < 1e-12
    assert splagger[to_first_input][2] > 1e-3
    assert amrl[to_first_input][2] == pytest.approx(amrl[to_first_input][1], rel=1e-3)
    assert amrl[to_parameters][2] / amrl[to_parameters][1] == pytest.approx(99 / 50, rel=0.25)
    assert amrl[to_parameters][2] > 5 * splagger[to_parameters][2]
    assert splagger[to_parameters][2] < 1.3 * splagger[to_parameters][1] < 2 * splagger[to_parameters][0]
