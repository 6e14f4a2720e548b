"""Reinstatement against its formulas over explicit lists of steps and episodes, and what it forgets."""

import math

import pytest
import torch
from helpers import perturb
from torch.utils._pytree import tree_map

from metarl.models.reinstatement import Reinstatement
from metarl.seeding import make_generator

STEPS, LANES, INPUT = 19, 3, 5


def made(**options) -> Reinstatement:
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_heads": 3, "embedding_size": 6, "feedforward_size": 7, "window": 3, "num_slots": 3}
    model = Reinstatement(INPUT, **(sizes | options)).double()
    perturb(model, 0.3)
    return model


def sequence(*starts: list[int], steps: int = STEPS) -> torch.Tensor:
    """One lane for each list of the steps at which episodes start."""
    x = torch.randn(steps, len(starts), INPUT, dtype=torch.float64, generator=make_generator(1))
    x[..., -1] = 0
    for lane, times in enumerate(starts):
        x[times, lane, -1] = 1
    return x


UNEVEN = ([0, 4, 5, 11, 12, 13, 18], [0, 1, 2, 3, 4, 5, 6, 7], [0, 9])


def outputs(model, x) -> torch.Tensor:
    return model(x, model.initial_carry(x.shape[1]))[0]


# ---------------------------------------------------------------- the slow, obvious version


def written_out(model: Reinstatement, x: torch.Tensor) -> torch.Tensor:
    """One lane ``[T, input]``: the steps of the episode and the memories of episodes are lists, nothing is masked."""
    steps, memories, rows = [], [], []
    for row in x:
        if row[-1] > 0.5:
            steps = []
            memories = [*memories, torch.zeros(model.hidden_size, dtype=x.dtype)][-model.num_slots :]
        steps.append(model.embed(row))
        seen = steps[-model.window :]
        encoded = torch.stack([step + code(len(seen) - 1 - i, model.hidden_size) for i, step in enumerate(seen)])
        for layer in model.encoder.layers:
            encoded = encoder_layer(layer, encoded)
        slots = torch.stack([memory + code(i, model.hidden_size) for i, memory in enumerate(memories)])
        for layer, source in zip(model.decoder, model.sources, strict=True):
            slots = decoder_layer(layer, slots, source.project(encoded))
        memories[-1] = slots[-1]
        rows.append(torch.cat([steps[-1], memories[-1]]))
    return torch.stack(rows)


def code(position: int, size: int) -> torch.Tensor:
    angles = [position * 10000 ** (-2 * i / size) for i in range(size // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def attention(query, key, value, num_heads: int) -> torch.Tensor:
    """All rows to all rows, head by head."""
    size, read = query.shape[-1] // num_heads, []
    for q, k, v in zip(query.split(size, -1), key.split(size, -1), value.split(size, -1), strict=True):
        read.append(torch.softmax(q @ k.T / math.sqrt(size), -1) @ v)
    return torch.cat(read, -1)


def encoder_layer(layer, x) -> torch.Tensor:
    heads = layer.self_attn
    projected = (x @ heads.in_proj_weight.T + heads.in_proj_bias).chunk(3, -1)
    x = layer.norm1(x + heads.out_proj(attention(*projected, heads.num_heads)))
    return layer.norm2(x + layer.linear2(torch.relu(layer.linear1(x))))


def decoder_layer(layer, slots, keys_and_values) -> torch.Tensor:
    read = attention(layer.query(slots), *layer.slots(slots).chunk(2, -1), layer.num_heads)
    x = layer.norms[0](slots + layer.output(read))
    read = attention(layer.window_query(x), *keys_and_values.chunk(2, -1), layer.num_heads)
    x = layer.norms[1](x + layer.window_output(read))
    return layer.norms[2](x + layer.feed(x))


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize(("window", "num_slots"), [(1, 1), (3, 3), (4, 2), (30, 30)])
def test_it_computes_its_formulas_forward_and_in_gradients(window, num_slots, num_layers):
    model, x = made(window=window, num_slots=num_slots, num_layers=num_layers), sequence(*UNEVEN)
    found, expected = outputs(model, x), torch.stack([written_out(model, x[:, lane]) for lane in range(LANES)], 1)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    weights = torch.randn(found.shape, dtype=x.dtype, generator=make_generator(2))
    slopes = [torch.autograd.grad((y * weights).sum(), list(model.parameters())) for y in (found, expected)]
    for left, right in zip(*slopes, strict=True):
        torch.testing.assert_close(left, right, atol=1e-9, rtol=1e-8)


def test_the_decoder_is_that_of_the_library():
    """The same weights in torch's own decoder, of which all slots are real."""
    model = made(num_slots=4)
    (layer,), (projection,) = model.decoder, model.sources
    twin = torch.nn.TransformerDecoderLayer(12, 3, 7, dropout=0.0, batch_first=True).double()
    with torch.no_grad():
        for heads, query, rest, out in (
            (twin.self_attn, layer.query, layer.slots, layer.output),
            (twin.multihead_attn, layer.window_query, projection.project, layer.window_output),
        ):
            heads.in_proj_weight.copy_(torch.cat([query.weight, rest.weight]))
            heads.out_proj.weight.copy_(out.weight)
        for name, linear in (("linear1", layer.feed[0]), ("linear2", layer.feed[2])):
            getattr(twin, name).load_state_dict(linear.state_dict())
        for index, norm in enumerate(layer.norms, 1):
            getattr(twin, f"norm{index}").load_state_dict(norm.state_dict())
    slots, encoded = (torch.randn(2, rows, 12, dtype=torch.float64, generator=make_generator(rows)) for rows in (4, 3))
    none = torch.zeros(2, 1, 1, 4, dtype=torch.bool)
    present = torch.zeros(2, dtype=torch.long)
    source = projection(encoded[None], torch.zeros(1, 2, 3, dtype=torch.bool)).at(0)
    torch.testing.assert_close(layer(slots, slots, none, source, present), twin(slots, encoded), atol=1e-10, rtol=1e-10)


# ---------------------------------------------------------------- what is remembered


def seen_from_the_end(model, x) -> list[bool]:
    """Which steps the last output depends on."""
    x = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(outputs(model, x)[-1].sum(), x)
    return (slopes[..., :-1].abs().amax((1, 2)) > 1e-14).tolist()


def test_with_one_slot_nothing_outlives_its_episode():
    model = made(num_slots=1)
    assert seen_from_the_end(model, sequence([0, 6, 12])) == [t >= 12 for t in range(STEPS)]


def test_the_oldest_episode_is_dropped():
    """With every step an episode, slots move by one place, and the last is the new episode's."""
    model, x = made(num_slots=3), sequence(list(range(STEPS)))
    _, carry = model(x, model.initial_carry(1))
    _, before = model(x[:-1], model.initial_carry(1))
    torch.testing.assert_close(carry.slots[:, :2], before.slots[:, 1:])
    assert not torch.allclose(carry.slots[:, 2], before.slots[:, 2], atol=1e-3)
    assert carry.episodes.tolist() == [STEPS] and carry.episode_step.tolist() == [1]


def test_only_the_slot_of_the_present_episode_is_written():
    model, x = made(num_slots=4), sequence([0, 5, 10])
    carry, kept = model.initial_carry(1), []
    for t, row in enumerate(x):
        before = carry.slots
        _, carry = model.step(row, carry)
        changed = (carry.slots != before).any(-1)[0].tolist()
        kept.append(changed.index(True))
        assert sum(changed) == 1 and kept[-1] == (t >= 5) + (t >= 10)


def test_the_window_ends_at_its_length_and_at_the_start_of_an_episode():
    """What the present embedding and slot do not already tell: the encoded window of a fresh memory."""
    model, x = made(window=3, num_slots=2), sequence([0, 2], steps=8)
    for length, expected in ((8, 3), (4, 2), (3, 1), (2, 2)):
        given = x[:length].clone().requires_grad_()
        plan = model._plan(given[..., -1] > 0.5, model.initial_carry(1))
        rows = torch.cat([model.initial_carry(1).recent.transpose(0, 1), model.embed(given)])
        padding_mask = torch.arange(2, -1, -1) > plan.episode_step.unsqueeze(-1)
        newest = model._encode(rows, padding_mask)[-1, :, -1]
        (slopes,) = torch.autograd.grad(newest.sum(), given)
        assert (slopes.abs().amax((1, 2)) > 0).tolist() == [t >= length - expected for t in range(length)]


def test_nothing_is_read_from_rows_and_slots_that_are_not_there():
    """Whatever empty memories hold, the outputs are bitwise the same."""
    model, x = made(), sequence([0, 4], [0], [0, 1])
    empty = model.initial_carry(3)
    noise = torch.randn(3, 3, 12, dtype=torch.float64)
    noise[:, 0] = 0  # the slot that the first episode starts from
    filled = empty._replace(recent=torch.full_like(empty.recent, 1e3), slots=noise)
    assert torch.equal(model(x[:1], filled)[0], model(x[:1], empty)[0])


def test_a_trial_starts_an_episode_even_where_no_flag_says_so():
    model = made()
    flagged, plain = sequence([0, 7]), sequence([7])
    _, left = model(flagged, model.initial_carry(1))
    _, right = model(plain, model.initial_carry(1))
    assert torch.equal(left.episode_step, right.episode_step) and torch.equal(left.episodes, right.episodes)


@pytest.mark.parametrize("lengths", [(1,) * STEPS, (5, 1, 12, 1), (18, 1)], ids=["steps", "pieces", "one more"])
def test_lanes_in_different_episodes_obey_the_memory_law(lengths):
    model, x = made(), sequence(*UNEVEN)
    y, after = model(x, model.initial_carry(LANES))
    carry, rows = model.initial_carry(LANES), []
    for piece in x.split(lengths):
        part, carry = model(piece, carry)
        rows.append(part)
    torch.testing.assert_close(torch.cat(rows), y, atol=1e-12, rtol=1e-10)
    tree_map(lambda left, right: torch.testing.assert_close(left, right, atol=1e-12, rtol=1e-10), carry, after)


def test_weights_start_at_xavier_scale_and_biases_at_zero():
    model = Reinstatement(INPUT, hidden_size=64, embedding_size=64, feedforward_size=64)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0
        elif parameter.ndim > 1 and parameter.shape[1] == 64:
            for block in parameter.split(64):
                assert 0.9 * math.sqrt(6 / 128) < block.abs().max() <= math.sqrt(6 / 128)


def test_sizes_that_do_not_fit_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"model.num_heads=5 does not divide model.hidden_size=12; one of \[1, 2, 3"):
        made(num_heads=5)
    with pytest.raises(ValueError, match=r"model.hidden_size=9 is odd; sinusoidal positions need an even one"):
        made(hidden_size=9)
