"""Aggregators against the obvious loop."""

import typing

import pytest
import torch
import torch.nn.functional as F
from aggregator_inputs import LANES, STEPS, WIDTH, every_aggregator, inputs, whole

from metarl.models.aggregators import AGGREGATORS, AggregatorName
from metarl.seeding import make_generator
from metarl.tree import tree_leaves

TEMPERATURE = 0.3
either_gradient = pytest.mark.parametrize("straight_through", [False, True], ids=["exact", "straight-through"])


def make(name: str, straight_through: bool = False, temperature: float = TEMPERATURE, width: int = WIDTH):
    kind = AGGREGATORS[name]
    return kind(width, straight_through, **({"temperature": temperature} if kind.has_temperature else {}))


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
