"""GTrXL against its formulas written out, how far it sees, and its gates."""

import math
from itertools import product

import pytest
import torch
from helpers import perturb

from metarl.models.gtrxl import GRUGate, GTrXL
from metarl.seeding import make_generator

STEPS, LANES, INPUT = 23, 2, 5
CHOICES = list(product(("residual", "residual_relu", "gru"), ("sinusoidal", "learned"), ("pre", "post")))


def made(seed: int = 0, **options) -> GTrXL:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 12, "num_heads": 3, "feedforward_size": 7, "memory_length": 4}
    model = GTrXL(INPUT, **(sizes | options)).double()
    perturb(model, 0.3)
    return model


def sequence(steps: int = STEPS) -> torch.Tensor:
    return torch.randn(steps, LANES, INPUT, dtype=torch.float64, generator=make_generator(1))


def outputs(model: GTrXL, x: torch.Tensor) -> torch.Tensor:
    return model(x, model.initial_carry(x.shape[1]))[0]


def written_out(model: GTrXL, x: torch.Tensor, gating: str = "gru", norm: str = "pre") -> torch.Tensor:
    """One lane ``[T, input]``, layer by layer and step by step, from the hidden states themselves."""
    rows, pre = list(model.embed(x)), norm == "pre"
    for attention, feed in zip(model.attentions, model.feeds, strict=True):
        hidden = [attention.before(row) if pre else row for row in rows]
        read = [head_outputs(attention.function, hidden[: t + 1], model.window) for t in range(len(rows))]
        rows = [joined(attention, gating, row, y) for row, y in zip(rows, read, strict=True)]
        rows = rows if pre else [attention.after(row) for row in rows]
        fed = [feed.function(feed.before(row) if pre else row) for row in rows]
        rows = [joined(feed, gating, row, y) for row, y in zip(rows, fed, strict=True)]
        rows = rows if pre else [feed.after(row) for row in rows]
    return model.final_norm(torch.stack(rows)) if pre else torch.stack(rows)


def joined(layer, gating: str, x, y):
    if gating == "gru":
        return gate_reference(layer.gate, x, y.relu())
    return x + (y.relu() if gating == "residual_relu" else y)


def gate_reference(gate: GRUGate, x, y):
    w_z, w_r, w_g = gate.from_output.weight.chunk(3)
    (u_z, u_r), u_g = gate.from_input.weight.chunk(2), gate.from_reset.weight
    z = torch.sigmoid(w_z @ y + u_z @ x - gate.bias)
    r = torch.sigmoid(w_r @ y + u_r @ x)
    return (1 - z) * x + z * torch.tanh(w_g @ y + u_g @ (r * x))


def head_outputs(heads, hidden: list[torch.Tensor], window: int) -> torch.Tensor:
    """What the last of some hidden states sees of the window before it."""
    size, read = heads.head_dim, []
    to_query, to_key, to_value = heads.project.weight.chunk(3)
    for head in range(heads.num_heads):
        rows = slice(head * size, (head + 1) * size)
        seen = hidden[-window:]
        query = to_query[rows] @ hidden[-1]
        scores = []
        for distance, h in zip(reversed(range(len(seen))), seen, strict=True):
            score = (query + heads.content_bias[head, 0]) @ (to_key[rows] @ h)
            score = score + distance_score(heads, head, query, distance)
            scores.append(score / math.sqrt(size))
        weights = torch.softmax(torch.stack(scores), 0)
        read.append(sum(weight * (to_value[rows] @ h) for weight, h in zip(weights, seen, strict=True)))
    return heads.output(torch.cat(read))


def distance_score(heads, head: int, query, distance: int):
    if not heads.sinusoidal:
        return query @ heads.distance[head, :, distance] + heads.distance_bias[head, 0, distance]
    frequencies = [10000 ** (-2 * i / heads.head_dim) for i in range(heads.head_dim // 2)]
    wave = [math.sin(distance * f) for f in frequencies] + [math.cos(distance * f) for f in frequencies]
    mapped = heads.distance[head] @ torch.tensor(wave, dtype=query.dtype)
    return (query + heads.position_bias[head, 0]) @ mapped


@pytest.mark.parametrize(("gating", "position_encoding", "norm"), CHOICES)
def test_it_computes_its_formulas(gating, position_encoding, norm):
    model, x = made(gating=gating, position_encoding=position_encoding, norm=norm), sequence()
    expected = torch.stack([written_out(model, x[:, lane], gating, norm) for lane in range(LANES)], 1)
    torch.testing.assert_close(outputs(model, x), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("position_encoding", ["sinusoidal", "learned"])
@pytest.mark.parametrize("grad", [True, False], ids=["with gradients", "without"])
def test_a_window_as_long_as_the_trial_or_longer_computes_its_formulas(position_encoding, grad):
    for memory_length in (STEPS - 1, STEPS + 40):
        model, x = made(position_encoding=position_encoding, memory_length=memory_length), sequence()
        with torch.set_grad_enabled(grad):
            carry, rows = model.initial_carry(LANES), []
            for row in x:
                y, carry = model.step(row, carry)
                rows.append(y)
            expected = torch.stack([written_out(model, x[:, lane]) for lane in range(LANES)], 1)
            torch.testing.assert_close(outputs(model, x), expected, atol=1e-10, rtol=1e-10)
            torch.testing.assert_close(torch.stack(rows), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("position_encoding", ["sinusoidal", "learned"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("memory_length", [1, 4])
def test_layers_see_as_many_windows_back(layers, memory_length, position_encoding):
    model = made(num_layers=layers, memory_length=memory_length, position_encoding=position_encoding)
    x = sequence().requires_grad_()
    (slopes,) = torch.autograd.grad(outputs(model, x)[-1].sum(), x)
    seen = slopes.abs().amax((1, 2)) > 0
    farthest = STEPS - 1 - layers * memory_length
    assert seen.tolist() == [t >= farthest for t in range(STEPS)]


@pytest.mark.parametrize("position_encoding", ["sinusoidal", "learned"])
def test_only_distance_counts(position_encoding):
    """What was seen in the window decides, wherever in the trial it is."""
    model, x = made(position_encoding=position_encoding, num_layers=2), sequence()
    late = torch.cat([sequence(31), x])
    torch.testing.assert_close(outputs(model, late)[-8:], outputs(model, x)[-8:], atol=1e-10, rtol=1e-10)
    assert not torch.allclose(outputs(model, late)[31], outputs(model, x)[0], atol=1e-3)


def test_detaching_the_carry_cuts_gradients_and_nothing_else():
    model, x = made(), sequence().requires_grad_()
    _, carry = model(x[:10], model.initial_carry(LANES))
    cut = tuple(type(ring)(*(part.detach() for part in ring)) for ring in carry)
    whole, detached = model(x[10:], carry)[0], model(x[10:], cut)[0]
    assert torch.equal(whole, detached)
    (through,), (stopped,) = (torch.autograd.grad(y.sum(), x) for y in (whole, detached))
    assert through[:10].abs().max() > 0 and stopped[:10].abs().max() == 0


def test_a_carry_does_not_grow():
    model = made(memory_length=4)
    sizes = {
        tuple(ring.keys.shape) for steps in (1, 5, 23) for ring in model(sequence(steps), model.initial_carry(2))[1]
    }
    assert sizes == {(LANES, 3, 5, 8)}


def test_gated_layers_start_close_to_the_identity():
    """The gate's bias of 2 lets through sigmoid(-2), 0.12, of what is new where weights are zero."""
    gate = GRUGate(6)
    for linear in (gate.from_output, gate.from_input, gate.from_reset):
        torch.nn.init.zeros_(linear.weight)
    x = torch.randn(3, 6)
    torch.testing.assert_close(gate(x, torch.randn(3, 6)), x * (1 - 1 / (1 + math.exp(2))))


def test_every_block_of_a_gate_starts_at_xavier_scale():
    gate, bound = GRUGate(64), math.sqrt(6 / 128)
    for linear in (gate.from_output, gate.from_input, gate.from_reset):
        for block in linear.weight.split(64):
            assert 0.9 * bound < block.abs().max() <= bound


def test_sizes_that_do_not_fit_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"model.num_heads=5 does not divide model.hidden_size=12; one of \[1, 2, 3"):
        GTrXL(INPUT, hidden_size=12, num_heads=5)
    with pytest.raises(ValueError, match=r"hidden_size=12 over model.num_heads=4 .* model.position_encoding=learned"):
        GTrXL(INPUT, hidden_size=12, num_heads=4)
    assert GTrXL(INPUT, hidden_size=12, num_heads=4, position_encoding="learned").output_dim == 12
