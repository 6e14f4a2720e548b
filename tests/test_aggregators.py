"""Aggregators against the obvious loop, what SplAgger and AMRL build of them, and the claims of their papers."""

import typing

import pytest
import torch
import torch.nn.functional as F
from helpers import perturb
from torch import nn
from torch.utils._pytree import tree_leaves

from metarl.models.aggregators import AGGREGATORS, AggregatorName
from metarl.models.amrl import AMRL
from metarl.models.gru import GRU
from metarl.models.lstm import LSTM
from metarl.models.splagger import SplAgger
from metarl.seeding import make_generator

STEPS, LANES, WIDTH = 23, 3, 6
TEMPERATURE = 0.3

every_aggregator = pytest.mark.parametrize("name", AGGREGATORS)
every_kind = pytest.mark.parametrize("kind", [SplAgger, AMRL])
either_gradient = pytest.mark.parametrize("straight_through", [False, True], ids=["exact", "straight-through"])


def make(name: str, straight_through: bool = False, temperature: float = TEMPERATURE, width: int = WIDTH):
    kind = AGGREGATORS[name]
    return kind(width, straight_through, **({"temperature": temperature} if kind.has_temperature else {}))


def inputs(steps: int = STEPS, dtype=torch.float64, width: int = WIDTH) -> torch.Tensor:
    """Within ±1, as every encoder's outputs are."""
    return 2 * torch.rand(steps, LANES, width, generator=make_generator(3), dtype=dtype) - 1


def whole(aggregator, x):
    return aggregator(x, aggregator.empty(x[0]))


def gradients(aggregator, run, x) -> list[torch.Tensor]:
    """Of a random functional of all outputs and of the last carry, where it has a gradient."""
    x = x.clone().requires_grad_()
    y, carry = run(aggregator, x)
    parts = [y, *(part for part in carry if part.requires_grad)]
    weights = [torch.randn(part.shape, generator=make_generator(4), dtype=torch.float64) for part in parts]
    loss = sum((part * weight.to(x.dtype)).sum() for part, weight in zip(parts, weights, strict=True))
    return list(torch.autograd.grad(loss, [x, *aggregator.parameters()]))


# ---------------------------------------------------------------- the loop


class PlainMax(torch.autograd.Function):
    """A maximum that tells both of its arguments all it is told."""

    @staticmethod
    def forward(ctx, left, right):
        return torch.maximum(left, right)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, gradient


class PlainQuotient(torch.autograd.Function):
    """A quotient that tells its numerator all it is told, and its denominator nothing."""

    @staticmethod
    def forward(ctx, numerator, denominator):
        return numerator / denominator

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def weight_of(name: str, x, temperature):
    """What one step adds: value and weight."""
    value, score = (x, x) if name in ("softmax", "average") else x.chunk(2, dim=-1)
    if name == "average":
        return value, torch.ones_like(x)
    return value, ((score - 2) / temperature).exp() if "softmax" in name else F.softplus(score)


def looped(name: str, x, temperature, straight_through: bool):
    """Step by step, as published, floors of denominators included."""
    if name == "average_max":
        halves = zip(("average", "max"), x.chunk(2, dim=-1), strict=True)
        return torch.cat([looped(half, part, temperature, straight_through) for half, part in halves], dim=-1)
    maximum = PlainMax.apply if straight_through else torch.maximum
    divided = PlainQuotient.apply if straight_through else torch.div
    total = weights = highest = torch.zeros(1, dtype=x.dtype)
    floor = (-3 / temperature).exp() if "softmax" in name else torch.tensor(0.1, dtype=x.dtype)
    outputs = []
    for row in x:
        if name == "sum":
            total = total + row
            outputs.append(total)
        elif "max" in name and "softmax" not in name:
            highest = maximum(highest.expand_as(row), row)
            length = highest.detach().square().sum(-1, keepdim=True).sqrt()
            outputs.append(divided(highest, torch.maximum(length, floor)) if name == "normalized_max" else highest)
        else:
            value, weight = weight_of(name, row, temperature)
            total, weights = total + weight * value, weights + weight
            floored = torch.maximum(weights, floor)
            mean = divided(total, floored)
            outputs.append(torch.cat([mean, -floored.log()], dim=-1) if name == "gaussian" else mean)
    return torch.stack(outputs)


def test_every_aggregator_has_a_name_users_can_give():
    assert set(typing.get_args(AggregatorName)) == set(AGGREGATORS)


@every_aggregator
@either_gradient
def test_an_aggregator_computes_its_formula(name, straight_through):
    aggregator = make(name, straight_through).double()
    y, _ = whole(aggregator, inputs())
    assert y.shape == (STEPS, LANES, aggregator.output_dim)
    expected = looped(name, inputs(), torch.tensor(TEMPERATURE), straight_through)
    torch.testing.assert_close(y, expected, atol=1e-7 if aggregator.has_temperature else 1e-10, rtol=0)


@every_aggregator
@either_gradient
def test_gradients_are_those_of_the_loop(name, straight_through):
    aggregator = make(name, straight_through).double()
    x = inputs().requires_grad_()
    temperature = aggregator.log_temperature.exp() if aggregator.has_temperature else torch.ones(())
    weights = torch.randn(STEPS, LANES, aggregator.output_dim, generator=make_generator(5), dtype=x.dtype)
    sources = [x, *aggregator.parameters()]
    y, expected = whole(aggregator, x)[0], looped(name, x, temperature, straight_through)
    torch.testing.assert_close(y, expected, atol=1e-10, rtol=0)
    found = torch.autograd.grad((y * weights).sum(), sources)
    for left, right in zip(found, torch.autograd.grad((expected * weights).sum(), sources), strict=True):
        assert right.abs().max() > 0
        torch.testing.assert_close(left, right, atol=1e-10, rtol=1e-9)


@every_aggregator
@either_gradient
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("lengths", [(11, 12), (1, 16, 1, 5), (1,) * STEPS], ids=["two", "uneven", "steps"])
def test_pieces_give_what_the_whole_gives(name, straight_through, dtype, tolerance, lengths):
    aggregator, x = make(name, straight_through).to(dtype), inputs(dtype=dtype)

    def in_pieces(aggregator, x):
        carry, outputs = aggregator.empty(x[0]), []
        for piece in x.split(list(lengths)):
            y, carry = aggregator(piece, carry)
            outputs.append(y)
        return torch.cat(outputs), carry

    found, expected = in_pieces(aggregator, x), whole(aggregator, x)
    for left, right in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        torch.testing.assert_close(left, right, atol=tolerance, rtol=tolerance)
    for left, right in zip(gradients(aggregator, in_pieces, x), gradients(aggregator, whole, x), strict=True):
        torch.testing.assert_close(left, right, atol=tolerance * max(1.0, right.abs().max().item()), rtol=tolerance)


@every_aggregator
def test_straight_through_gradients_change_no_output_and_every_gradient_but_that_of_a_sum(name):
    exact, straight = make(name), make(name, True)
    x = inputs(dtype=torch.float32)
    assert torch.equal(whole(exact, x)[0], whole(straight, x)[0])
    pairs = zip(gradients(exact, whole, x), gradients(straight, whole, x), strict=True)
    assert all(torch.allclose(left, right) == (name == "sum") for left, right in pairs)


@pytest.mark.parametrize("name", ["max", "normalized_max", "average", "average_max"])
def test_a_straight_through_input_is_told_all_that_later_outputs_are_told(name):
    x = inputs().requires_grad_()
    told = torch.randn(STEPS, LANES, WIDTH, generator=make_generator(6), dtype=x.dtype)
    (found,) = torch.autograd.grad(whole(make(name, True), x)[0], x, told)
    for t in range(STEPS):
        torch.testing.assert_close(found[t], told[t:].sum(0), atol=1e-12, rtol=0)


@every_aggregator
def test_order_does_not_matter(name):
    aggregator, order = make(name).double(), torch.randperm(STEPS, generator=make_generator(7))
    y, shuffled = whole(aggregator, inputs())[0], whole(aggregator, inputs()[order])[0]
    torch.testing.assert_close(y[-1], shuffled[-1], atol=1e-12, rtol=0)
    assert not torch.allclose(y[0], shuffled[0], atol=1e-3)


@every_aggregator
def test_having_been_fed_one_observation_is_a_carry(name):
    aggregator, x = make(name).double(), inputs()
    x[0].abs_()  # a maximum starts from 0, unless it has been fed something
    (y, carry), (expected, last) = aggregator(x[1:], aggregator.first(x[0])), whole(aggregator, x)
    for left, right in zip((y, *carry), (expected[1:], *last), strict=True):
        torch.testing.assert_close(left, right, atol=1e-10, rtol=0)


def test_a_maximum_starts_from_zero():
    aggregator, x = make("max"), -inputs(dtype=torch.float32).abs()
    assert whole(aggregator, x)[0].abs().max() == 0
    assert torch.equal(aggregator(x[1:], aggregator.first(x[0]))[0], x.cummax(0).values[1:])


# ---------------------------------------------------------------- numerics


@every_aggregator
@either_gradient
def test_five_thousand_steps_stay_accurate(name, straight_through):
    steps = 5000
    exact, rough = make(name, straight_through, 0.1).double(), make(name, straight_through, 0.1)
    x = inputs(steps)
    y, expected = whole(rough, x.float())[0], whole(exact, x)[0]
    torch.testing.assert_close(y.double(), expected, atol=1e-5 * max(1.0, expected.abs().max().item()), rtol=1e-5)
    for left, right in zip(gradients(rough, whole, x.float()), gradients(exact, whole, x), strict=True):
        assert (left - right).norm() <= 1e-3 * right.norm()  # random signs cancel in sums over 5,000 steps


@pytest.mark.parametrize("name", ["softmax", "weighted_softmax"])
@pytest.mark.parametrize(("temperature", "scale"), [(1e-5, 1.0), (0.01, 1000.0), (100.0, 1.0)])
def test_a_softmax_average_lies_between_average_and_maximum_at_any_temperature(name, temperature, scale):
    aggregator, x = make(name, temperature=temperature), scale * inputs(500, torch.float32)
    y, _ = whole(aggregator, x)
    value, weight = (x, x) if name == "softmax" else x.chunk(2, dim=-1)
    assert all(gradient.isfinite().all() for gradient in gradients(aggregator, whole, x))
    if temperature == 100:
        torch.testing.assert_close(y[-1], value.mean(0), atol=0.02, rtol=0)
    else:  # all weight on one step
        winner = value.gather(0, weight.argmax(0, keepdim=True))[0]
        torch.testing.assert_close(y[-1], winner, atol=0.02 * scale, rtol=0)


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


@pytest.mark.parametrize(("skip", "expected"), [("half", 8 + 4), ("whole", 16 + 8), ("none", 8)])
def test_units_bypass_the_aggregator_or_enter_it(skip, expected):
    model = memory(skip=skip, aggregator="weighted_average")
    x = inputs(dtype=torch.float32)
    encoded, _ = model.encoder(x, model.encoder.initial_carry(LANES))
    y, _ = model(x, model.initial_carry(LANES))
    aggregate, _ = whole(model.aggregator, encoded[..., 8:] if skip == "half" else encoded)
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
        ({"size": 7}, ["model.hidden_size=7", "divisible by 2", "model.skip=half", "use 8"]),
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


@pytest.mark.parametrize(("invariant_start", "expected"), [(True, True), (False, False)])
def test_cells_of_an_invariant_lstm_sum_whatever_the_order_at_the_start(invariant_start, expected):
    torch.manual_seed(0)
    model, x = LSTM(WIDTH, 16, invariant_start=invariant_start), inputs(dtype=torch.float32)
    cells = [model(some, model.initial_carry(LANES))[1][1] for some in (x, x.flip(0))]
    total = torch.tanh(x @ model.lstm.weight_ih_l0[32:48].T).sum(0)
    for found in (cells[1], total):  # gates stand open up to 1e-4 of a cell of a few units, per step
        assert torch.allclose(cells[0], found, atol=0.01, rtol=0) == expected


def test_an_invariant_lstm_can_learn_to_close_its_gates():
    torch.manual_seed(0)
    model = LSTM(WIDTH, 16, invariant_start=True)
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
