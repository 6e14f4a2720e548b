"""Recurrences in parallel against one step after another."""

import pytest
import torch

from metarl.models.linear_attention import LinearAttention, gated_linear_attention
from metarl.models.mingru import MinGRU
from metarl.models.scan import linear_scan

LANES = 3


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradients(outputs, inputs) -> list[torch.Tensor]:
    total = sum((output * random(*output.shape, seed=9)).sum() for output in outputs)
    return list(torch.autograd.grad(total, inputs))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 50, 257])
def test_a_scan_is_the_recurrence(steps):
    decay, given = random(steps, LANES, 4, seed=0).sigmoid(), random(steps, LANES, 4, seed=1)
    leaves = [leaf.requires_grad_() for leaf in (decay, given, random(LANES, 4, seed=2))]
    state, states = leaves[2], []
    for share, new in zip(leaves[0], leaves[1], strict=True):
        state = share * state + new
        states.append(state)
    expected, found = torch.stack(states), linear_scan(*leaves)
    torch.testing.assert_close(found, expected)
    for left, right in zip(gradients([found], leaves), gradients([expected], leaves), strict=True):
        torch.testing.assert_close(left, right)


def test_a_scan_of_vanishing_decays_stays_finite():
    decay, given = torch.full((5000, 1, 1), 1e-30), torch.ones(5000, 1, 1)
    decay.requires_grad_()
    states = linear_scan(decay, given, torch.zeros(1, 1))
    states.sum().backward()
    assert torch.allclose(states, torch.ones(())) and decay.grad is not None and decay.grad.isfinite().all()


@pytest.mark.parametrize("steps", [1, 5, 8, 21])
def test_gated_linear_attention_is_the_recurrence_of_a_matrix(steps):
    query, key, value = (random(LANES, 2, steps, 4, seed=seed) for seed in range(3))
    log_decay = -random(LANES, 2, steps, seed=3).exp()
    leaves = [leaf.requires_grad_() for leaf in (query, key, value, log_decay, random(LANES, 2, 4, 4, seed=4))]
    state, read = leaves[4], []
    for t in range(steps):
        outer = leaves[1][:, :, t, :, None] * leaves[2][:, :, t, None, :]
        state = leaves[3][:, :, t].exp()[..., None, None] * state + outer
        read.append((leaves[0][:, :, t, None] @ state).squeeze(2))
    expected, found = (torch.stack(read, 2), state), gated_linear_attention(*leaves, chunk=8)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)
    for left, right in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        torch.testing.assert_close(left, right)


def test_gated_linear_attention_that_forgets_at_once_stays_finite():
    ones = torch.ones(1, 1, 300, 2, requires_grad=True)
    log_decay = torch.full((1, 1, 300), -200.0, requires_grad=True)
    read, state = gated_linear_attention(ones, ones, ones, log_decay, torch.zeros(1, 1, 2, 2))
    (read.sum() + state.sum()).backward()
    assert torch.allclose(read, 2 * torch.ones(()))
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in (ones, log_decay))


@pytest.mark.parametrize("timescale", [1, 100])
def test_a_mingru_starts_with_memories_up_to_its_timescale(timescale):
    torch.manual_seed(0)
    layer = MinGRU(4, 400, timescale=timescale).layers[0]
    kept = 1 - torch.sigmoid(layer.project.bias[:400])
    steps = kept / (1 - kept)
    assert steps.min() >= 0.999 and steps.max() <= timescale + 1e-3
    assert steps.mean().item() == pytest.approx((1 + timescale) / 2, rel=0.1)


def test_linear_attention_starts_with_heads_of_growing_timescale():
    kept = torch.sigmoid(LinearAttention(4, 16, num_heads=4, timescale=10000).layers[0].decay.bias)
    torch.testing.assert_close(kept / (1 - kept), torch.tensor([10.0, 100.0, 1000.0, 10000.0]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("model", [MinGRU, LinearAttention])
def test_the_timescale_is_the_context_unless_given(model):
    def biases(**options):
        torch.manual_seed(0)
        return torch.cat([p.flatten() for name, p in model(4, 16, **options).named_parameters() if "bias" in name])

    assert torch.equal(biases(context=50), biases(timescale=50))
    assert not torch.equal(biases(context=50), biases(context=50, timescale=9))
