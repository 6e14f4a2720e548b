"""Blocked attention over a sliding window against attention to an explicit list of the past."""

import pytest
import torch

from metarl.models.sliding_window import blockwise_attention, empty_ring, sliding_window_attention
from metarl.seeding import make_generator

BATCH, HEADS, KEY, VALUE, SCALE = 2, 3, 5, 4, 0.3


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=make_generator(seed)).requires_grad_()


def inputs(steps: int, past: int):
    """Query, keys and values of T steps and what was before."""
    sizes = ((steps, KEY), (past + steps, KEY), (past + steps, VALUE))
    return [drawn(BATCH, HEADS, *size, seed=seed) for seed, size in enumerate(sizes)]


def reference(query, keys, values, window, relative_bias=None, max_lookback=None) -> torch.Tensor:
    """Each step's list of the past, softmax and sum, one lane and head at a time."""
    past, rows = keys.shape[2] - query.shape[2], []
    for lane in range(BATCH):
        for head in range(HEADS):
            for t in range(query.shape[2]):
                limit = window - 1 if max_lookback is None else min(window - 1, int(max_lookback[lane, t]))
                seen = [j for j in range(past + t + 1) if past + t - j <= limit]
                scores = [SCALE * (query[lane, head, t] @ keys[lane, head, j]) for j in seen]
                if relative_bias is not None:
                    table = relative_bias.expand(BATCH, HEADS, query.shape[2], -1)[lane, head, t]
                    scores = [score + table[past + t - j] for score, j in zip(scores, seen, strict=True)]
                weights = torch.softmax(torch.stack(scores), 0)
                rows.append(sum(weight * values[lane, head, j] for weight, j in zip(weights, seen, strict=True)))
    return torch.stack(rows).view(BATCH, HEADS, -1, VALUE)


def table_of(kind: str, steps: int, window: int):
    shapes = {
        "by step": (BATCH, HEADS, steps, window),
        "by head": (1, HEADS, 1, window),
        "by lane": (BATCH, 1, 1, window),
    }
    return None if kind == "none" else drawn(*shapes[kind], seed=7)


def reach_of(limited: bool, steps: int):
    return torch.randint(0, 6, (BATCH, steps), generator=make_generator(8)) if limited else None


CASES = [
    (1, 0, 1),
    (1, 3, 4),
    (12, 0, 4),
    (13, 3, 4),
    (13, 2, 4),
    (10, 0, 30),
    (7, 12, 30),
    (9, 0, 9),
    (11, 1, 2),
    (6, 0, 1),
]


@pytest.mark.parametrize("limited", [False, True], ids=["", "limited max_lookback"])
@pytest.mark.parametrize("table", ["none", "by step", "by head", "by lane"])
@pytest.mark.parametrize(("steps", "past", "window"), CASES)
def test_blocks_give_what_the_list_of_the_past_gives_forward_and_in_gradients(steps, past, window, table, limited):
    parts, relative_bias, max_lookback = inputs(steps, past), table_of(table, steps, window), reach_of(limited, steps)
    leaves = [*parts] if relative_bias is None else [*parts, relative_bias]
    weights = drawn(BATCH, HEADS, steps, VALUE, seed=9).detach()
    expected = reference(*parts, window, relative_bias, max_lookback)
    slopes = torch.autograd.grad((expected * weights).sum(), leaves, allow_unused=True)
    for block in (None, 1, 2, 4, 5, 100):
        found = blockwise_attention(*parts, window, SCALE, relative_bias, max_lookback, block)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)
        for left, right in zip(torch.autograd.grad((found * weights).sum(), leaves), slopes, strict=True):
            torch.testing.assert_close(left, right, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("limited", [False, True], ids=["", "limited max_lookback"])
@pytest.mark.parametrize("table", ["none", "by step", "by head"])
@pytest.mark.parametrize("cut", [(23,), (1,) * 23, (1, 2, 9, 1, 1, 3, 6)], ids=["whole", "steps", "pieces"])
@pytest.mark.parametrize("grad", [True, False], ids=["with gradients", "without"])
def test_a_ring_hands_on_what_the_next_steps_may_see(cut, table, limited, grad):
    window, steps = 4, 23
    query, keys, values = inputs(steps, 0)
    relative_bias, max_lookback = table_of(table, steps, window), reach_of(limited, steps)
    expected = reference(query, keys, values, window, relative_bias, max_lookback)
    ring = empty_ring(BATCH, HEADS, window, KEY, VALUE, query)
    start, found = 0, []
    with torch.set_grad_enabled(grad):
        for length in cut:
            at = slice(start, start + length)
            scores = relative_bias[:, :, at] if table == "by step" else relative_bias
            limit = None if max_lookback is None else max_lookback[:, at]
            parts = (part[:, :, at] for part in (query, keys, values))
            read, ring = sliding_window_attention(*parts, ring, SCALE, scores, limit)
            found.append(read)
            start += length
    torch.testing.assert_close(torch.cat(found, 2), expected, atol=1e-12, rtol=1e-10)
    assert ring.steps == steps
    for old, new in ((ring.keys, keys), (ring.values, values)):
        for t in range(steps - window, steps):
            assert torch.equal(old[:, :, t % window], new[:, :, t])


def test_scores_are_never_held_for_all_pairs_of_steps():
    """Memory is linear in time: no tensor of any operation has more than steps x (window + block) scores per head."""
    steps, window = 1024, 16
    parts, largest = inputs(steps, 0), 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        blockwise_attention(*parts, window, SCALE, table_of("by step", steps, window)).sum().backward()
    assert largest < BATCH * HEADS * steps * 64 < BATCH * HEADS * steps * steps / 4
