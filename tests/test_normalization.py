"""Running statistics: those of all that was seen; with PopArt no update of them changes a value."""

import pytest
import torch

from metarl.models.normalization import RunningMeanStd, ValueHead, ValueLayer
from metarl.seeding import make_generator


def head_of(dtype=torch.float64, **options) -> ValueHead:
    torch.manual_seed(0)
    return ValueHead(ValueLayer(6), **options).to(dtype)


def batches(count: int) -> list[torch.Tensor]:
    """Targets whose mean and width drift."""
    generator = make_generator(2)
    return [10.0 * k + (1.0 + k) * torch.randn(50, generator=generator, dtype=torch.float64) for k in range(count)]


def features() -> torch.Tensor:
    return torch.randn(4, 3, 6, generator=make_generator(1), dtype=torch.float64)


def test_an_update_leaves_every_output_unchanged():
    head = head_of()
    before = head(features())
    assert before.shape == (4, 3)
    for targets in batches(5):
        head.update(targets)
        torch.testing.assert_close(head(features()), before, atol=1e-9, rtol=1e-9)


def test_an_update_moves_the_normalised_output():
    head = head_of()
    before = head.normalize(head(features()))
    head.update(batches(3)[2])
    assert not torch.allclose(head.normalize(head(features())), before, atol=0.1)


def test_the_first_batch_counts_whole():
    head, (targets,) = head_of(), batches(1)
    head.update(targets)
    torch.testing.assert_close(head.mean, targets.mean())
    torch.testing.assert_close(head.std, targets.std(correction=0))
    standardized = head.normalize(targets)
    assert standardized.mean().abs() < 1e-9 and standardized.std(correction=0).item() == pytest.approx(1)


@pytest.mark.parametrize("decay", [0.9, 0.5])
def test_statistics_are_the_decaying_average_of_all_batches(decay):
    head, seen = head_of(decay=decay), batches(6)
    for targets in seen:
        head.update(targets)
    weights = torch.tensor([decay ** (5 - k) for k in range(6)], dtype=torch.float64)
    weights = weights / weights.sum()
    mean = sum(w * targets.mean() for w, targets in zip(weights, seen, strict=True))
    square = sum(w * targets.square().mean() for w, targets in zip(weights, seen, strict=True))
    torch.testing.assert_close(head.mean, mean)
    torch.testing.assert_close(head.std, (square - mean**2).sqrt())


def test_without_updates_it_is_a_plain_linear_layer():
    head = head_of()
    expected = (features() @ head.layer.weight.T + head.layer.bias).squeeze(-1)
    torch.testing.assert_close(head(features()), expected)
    torch.testing.assert_close(head.normalize(expected), expected)


def test_constant_targets_do_not_divide_by_zero():
    head = head_of()
    before = head(features())
    for _ in range(3):
        head.update(torch.full((20,), 5.0, dtype=torch.float64))
    assert head.mean.item() == pytest.approx(5) and head.std.item() == pytest.approx(1e-3)
    torch.testing.assert_close(head(features()), before, atol=1e-6, rtol=1e-6)


def test_single_precision_suffices_for_returns_of_thousands():
    head = head_of(torch.float32)
    before = head(features().float())
    targets = 2000 + 50 * torch.randn(5000, generator=make_generator(3))
    for _ in range(50):
        head.update(targets)
    assert head.mean.item() == pytest.approx(targets.mean().item(), rel=1e-4)
    assert head.std.item() == pytest.approx(targets.std().item(), rel=0.02)
    torch.testing.assert_close(head(features().float()), before, atol=0.05, rtol=1e-3)


def test_statistics_are_saved_with_the_weights():
    head = head_of()
    head.update(batches(2)[1])
    other = head_of()
    other.load_state_dict(head.state_dict())
    for twin in (head, other):
        twin.update(batches(3)[2])
    assert torch.equal(head(features()), other(features())) and torch.equal(head.std, other.std)


def test_statistics_are_no_parameters():
    assert {name for name, _ in head_of().named_parameters()} == {"layer.weight", "layer.bias"}


# ---------------------------------------------------------------- inputs


def test_a_scale_holds_the_moments_of_all_it_was_shown():
    scale, seen = RunningMeanStd(3), torch.empty(0, 3)
    for size in (7, 1, 40, 300):
        batch = 5.0 + size * torch.randn(size, 3, generator=make_generator(size))
        scale.update(batch)
        seen = torch.cat([seen, batch])
        torch.testing.assert_close(scale.mean, seen.double().mean(0))
        torch.testing.assert_close(scale.variance, seen.double().var(0, correction=0))
    standard = scale(seen)
    torch.testing.assert_close(standard.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_a_scale_without_a_center_divides_by_the_root_mean_square():
    scale = RunningMeanStd(1, center=False)
    batches = [3 + torch.randn(50, 1, generator=make_generator(seed)) for seed in range(3)]
    for batch in batches:
        scale.update(batch)
    size = torch.cat(batches).square().mean().sqrt()
    torch.testing.assert_close(scale(batches[0]), batches[0] / size, rtol=1e-4, atol=0)


def test_a_scale_changes_nothing_before_it_saw_anything_and_limits_what_leaves():
    scale = RunningMeanStd(2)
    values = torch.tensor([[1.0, -3.0]])
    torch.testing.assert_close(scale(values), values, rtol=1e-5, atol=0)
    assert scale(1e6 * values).tolist() == [[10.0, -10.0]]
