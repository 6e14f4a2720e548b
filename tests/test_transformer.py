"""Attention against loops over queries, patterns against who may see whom, and published sizes."""

import math

import pytest
import torch
from helpers import make_policy
from torch import nn

from metarl.models.attention import Cache, causal_attention, empty_cache, sinusoidal_positions
from metarl.models.dense_transformer import DenseTransformer
from metarl.models.sparse_transformer import SparseTransformer, row_length, sparse_attention
from metarl.models.transformer import SelfAttention, Transformer

STEPS, LANES, HEADS, DIM = 23, 2, 2, 6


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parts() -> list[torch.Tensor]:
    return [random(LANES, HEADS, STEPS, DIM, seed=seed) for seed in range(3)]


def looked_at(query, keys, values, scale: float, visible) -> torch.Tensor:
    """One query at a time over a list of what it may see; zeros where that is nothing."""
    out = torch.zeros_like(query)
    for step in range(query.shape[2]):
        seen = [other for other in range(query.shape[2]) if visible(step, other)]
        if seen:
            scores = scale * (query[:, :, step, None] * keys[:, :, seen]).sum(-1)
            out[:, :, step] = (scores.softmax(-1).unsqueeze(-1) * values[:, :, seen]).sum(2)
    return out


def cached(keys, values) -> Cache:
    return empty_cache(LANES, HEADS, DIM, DIM, keys).append(keys, values)


def test_attention_sees_the_present_and_all_before():
    query, keys, values = parts()
    expected = looked_at(query, keys, values, 0.3, lambda step, other: other <= step)
    torch.testing.assert_close(causal_attention(query, cached(keys, values), 0.3), expected)


VISIBLE = {
    "row": lambda row: lambda step, other: other <= step and other // row == step // row,
    "column": lambda row: lambda step, other: other <= step and other % row == step % row,
    "previous_row": lambda row: lambda step, other: other // row == step // row - 1,
}


@pytest.mark.parametrize("pattern", VISIBLE)
@pytest.mark.parametrize("row", [1, 4, 5, 23])
@pytest.mark.parametrize("cuts", [(23,), (7, 16), (20, 1, 2), (1,) * 23], ids=str)
def test_sparse_attention_sees_its_pattern_however_it_is_fed(pattern, row, cuts):
    query, keys, values = parts()
    expected = looked_at(query, keys, values, 0.3, VISIBLE[pattern](row))
    cache, outputs = empty_cache(LANES, HEADS, DIM, DIM, keys), []
    for q, k, v in zip(*(part.split(cuts, 2) for part in (query, keys, values)), strict=True):
        cache = cache.append(k, v)
        outputs.append(sparse_attention(q, cache, 0.3, pattern, row))
    torch.testing.assert_close(torch.cat(outputs, 2), expected)


@pytest.mark.parametrize(("context", "row"), [(10, 2), (100, 10), (1000, 25), (500, 20), (13, 2), (3, 1), (1, 1)])
def test_a_trial_folds_into_rows(context, row):
    assert row_length(context) == row


def test_a_cache_written_in_place_holds_what_a_new_one_would():
    _, keys, values = parts()
    with torch.no_grad():
        cache = empty_cache(LANES, HEADS, DIM, DIM, keys)
        for step in range(STEPS):
            buffer = cache.keys
            cache = cache.append(keys[:, :, step : step + 1], values[:, :, step : step + 1])
            assert cache.steps == step + 1 and (step in (0, 16) or cache.keys is buffer)
    for found, expected in zip(cache.contents(), (keys, values), strict=True):
        assert torch.equal(found, expected)


def heads_of(positions: str) -> SelfAttention:
    torch.manual_seed(0)
    heads = SelfAttention(5, HEADS * DIM, HEADS, positions).double()
    for parameter in heads.parameters():
        nn.init.normal_(parameter)
    return heads


def attended(heads: SelfAttention, x: torch.Tensor, start: int = 0) -> torch.Tensor:
    key_dim = DIM * (2 if heads.positions == "relative" else 1)
    at = sinusoidal_positions(start, STEPS, DIM, x)
    return heads(x, empty_cache(LANES, HEADS, key_dim, DIM, x), at)[0]


def test_relative_scores_are_those_of_transformer_xl():
    """``(q_i + u) . k_j + (q_i + v) . W R_(i-j)`` over the root of the head's size, one pair at a time."""
    heads, x = heads_of("relative"), random(STEPS, LANES, 5)
    query, key, value = heads.project(x).unflatten(-1, (3, HEADS, DIM)).permute(2, 1, 3, 0, 4)
    distances = torch.cat(sinusoidal_positions(0, STEPS, DIM, x), -1)  # [STEPS, DIM]
    out = torch.zeros_like(query)
    for i in range(STEPS):
        content = (query[:, :, i, None] + heads.content_bias) * key[:, :, : i + 1]
        turned = ((query[:, :, i, None] + heads.position_bias) @ heads.distance) * distances[: i + 1].flip(0)
        weights = ((content + turned).sum(-1) / math.sqrt(DIM)).softmax(-1)
        out[:, :, i] = (weights.unsqueeze(-1) * value[:, :, : i + 1]).sum(2)
    torch.testing.assert_close(attended(heads, x), heads.output(out.permute(2, 0, 1, 3).flatten(2)))


@pytest.mark.parametrize("positions", ["rotary", "relative"])
def test_relative_positions_know_distances_alone(positions):
    heads, x = heads_of(positions), random(STEPS, LANES, 5)
    torch.testing.assert_close(attended(heads, x, start=1000), attended(heads, x), atol=1e-8, rtol=1e-8)
    swapped = x[[1, 0, *range(2, STEPS)]]
    assert not torch.allclose(attended(heads, swapped)[-1], attended(heads, x)[-1])


def test_attention_without_positions_would_not_notice_the_swap():
    heads, x = heads_of("learned"), random(STEPS, LANES, 5)
    swapped = x[[1, 0, *range(2, STEPS)]]
    torch.testing.assert_close(attended(heads, swapped)[-1], attended(heads, x)[-1])


def test_published_parameter_count_of_the_dense_transformer():
    """By default, on the bandit of five arms, a policy head included."""
    model = DenseTransformer(7, context=100)
    assert model.output_dim == 20 * 256
    head = model.output_dim * 5 + 5
    assert sum(parameter.numel() for parameter in model.parameters()) + head == 25_403_909


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("model.num_heads=3",), r"model\.num_heads=3 does not divide model\.hidden_size=128; one of \[1, 2, 4, 8"),
        (("model.hidden_size=12", "model.num_heads=4"), r"heads of odd size.*model\.positions=learned"),
        (("model.context=49",), r"model\.context=49 is shorter than a trial of 50 steps; raise it, or leave it null"),
        (("model.hidden_size=9", "model.num_heads=3", "model.positions=sinusoidal"), r"hidden_size=9 is odd"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_remedy(changes, message):
    if not any("hidden_size" in change for change in changes):
        changes = (*changes, "model.hidden_size=128")
    with pytest.raises(Exception, match=message):
        make_policy("model=transformer", *changes)


@pytest.mark.parametrize(
    ("kind", "option"),
    [(Transformer, {"positions": "learned"}), (SparseTransformer, {}), (DenseTransformer, {})],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_what_needs_the_length_of_a_trial_says_so(kind, option):
    with pytest.raises(ValueError, match=r"model\.context=null"):
        kind(5, **option)


@pytest.mark.parametrize("positions", ["sinusoidal", "rotary"])
def test_dense_connections_concatenate_positions_and_layers(positions):
    """Each layer passes its input on: the embedding is the start of the output."""
    model = DenseTransformer(5, 8, 2, 2, 8, attention="full", positions=positions)
    x = torch.randn(3, LANES, 5)
    y, _ = model(x, model.initial_carry(LANES))
    assert model.output_dim == y.shape[-1] == 8 * (1 + (positions == "sinusoidal") + 4)
    torch.testing.assert_close(y[..., :8], model.embed(x))


def test_a_step_beyond_the_learned_positions_is_refused():
    model = Transformer(5, 8, num_heads=2, positions="learned", context=4)
    with pytest.raises(ValueError, match=r"step 5 is beyond model\.context=4"):
        model(torch.zeros(5, 1, 5), model.initial_carry(1))
