"""Generalised advantages against the sum they abbreviate, term by term."""

import pytest
import torch

from metarl.algorithms.advantages import generalized_advantages
from metarl.seeding import make_generator

TIMES = [1, 2, 13]
FACTORS = [(0.99, 0.3), (0.9, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5)]


def case(steps: int, lanes: int = 4) -> tuple[torch.Tensor, ...]:
    """Rewards, values, last value and continues, in double precision."""
    generator = make_generator(steps)
    rewards, values = (torch.randn(steps, lanes, generator=generator, dtype=torch.float64) for _ in range(2))
    last = torch.randn(lanes, generator=generator, dtype=torch.float64)
    continues = (torch.rand(steps, lanes, generator=generator) < 0.7).double()
    return rewards, values, last, continues


def reference(rewards, values, discount, gae_lambda, last_value=None, continues=None) -> torch.Tensor:
    """A_t = sum over k of (discount * lambda)^k delta_{t+k}, for as long as credit flows: O(T^2)."""
    steps, lanes = rewards.shape
    out = torch.zeros_like(rewards)
    for lane in range(lanes):
        for t in range(steps):
            weight = 1.0
            for k in range(t, steps):
                go_on = 1.0 if continues is None else continues[k, lane].item()
                if k + 1 < steps:
                    following = values[k + 1, lane].item()
                else:
                    following = 0.0 if last_value is None else last_value[lane].item()
                delta = rewards[k, lane].item() + discount * go_on * following - values[k, lane].item()
                out[t, lane] += weight * delta
                weight *= discount * gae_lambda * go_on
    return out


@pytest.mark.parametrize("steps", TIMES)
@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("with_last", [False, True])
@pytest.mark.parametrize("with_continues", [False, True])
def test_advantages_are_the_weighted_sum_of_temporal_differences(steps, factors, with_last, with_continues):
    rewards, values, last, continues = case(steps)
    optional = {"last_value": last if with_last else None, "continues": continues if with_continues else None}
    found = generalized_advantages(rewards, values, *factors, **optional)
    torch.testing.assert_close(found, reference(rewards, values, *factors, **optional), atol=1e-12, rtol=0)


def test_without_discount_they_are_all_later_rewards_less_the_value():
    rewards, values, _, _ = case(9)
    expected = rewards.flip(0).cumsum(0).flip(0) - values
    torch.testing.assert_close(generalized_advantages(rewards, values, 1.0, 1.0), expected)


def test_credit_flows_over_episode_boundaries_unless_stopped():
    rewards, values, _, _ = case(6)
    changed = rewards.clone()
    changed[5] += 1
    stop_after_second = torch.ones_like(rewards)
    stop_after_second[2] = 0

    def effect(continues):
        before = generalized_advantages(rewards, values, 0.9, 0.8, continues=continues)
        return generalized_advantages(changed, values, 0.9, 0.8, continues=continues) - before

    assert (effect(None)[:, 0] > 0).all()
    assert effect(stop_after_second)[:, 0].gt(0).tolist() == [False, False, False, True, True, True]


def test_the_value_after_a_stop_is_ignored_even_at_the_end():
    rewards, values, last, _ = case(3)
    stopped = torch.zeros_like(rewards)
    found = generalized_advantages(rewards, values, 0.9, 0.8, last_value=last, continues=stopped)
    torch.testing.assert_close(found, rewards - values)


@pytest.mark.parametrize("with_continues", [False, True])
def test_the_inputs_are_left_alone(with_continues):
    inputs = case(5)
    copies = [part.clone() for part in inputs]
    rewards, values, last, continues = inputs
    generalized_advantages(rewards, values, 0.9, 0.8, last, continues if with_continues else None)
    assert all(torch.equal(part, copy) for part, copy in zip(inputs, copies, strict=True))


def test_lanes_do_not_interact():
    rewards, values, last, continues = case(7)
    changed = rewards.clone()
    changed[:, 1] += 100
    before = generalized_advantages(rewards, values, 0.9, 0.8, last, continues)
    after = generalized_advantages(changed, values, 0.9, 0.8, last, continues)
    assert torch.equal(before[:, [0, 2, 3]], after[:, [0, 2, 3]]) and not torch.equal(before[:, 1], after[:, 1])
