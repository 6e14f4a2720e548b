"""Action distributions agree with ``torch.distributions`` and with their own samples."""

import math

import pytest
import torch
from gymnasium import spaces
from scipy import stats

from metarl.models.distributions import Categorical, DiagonalGaussian, action_distribution
from metarl.seeding import make_generator

LEADS = [(), (7,), (4, 3)]


def categorical(lead: tuple[int, ...]):
    parameters = 2 * torch.randn(*lead, 5, generator=make_generator(1))
    return Categorical(5), parameters, torch_categorical(parameters)


def gaussian(lead: tuple[int, ...]):
    parameters = torch.randn(*lead, 6, generator=make_generator(1))
    return DiagonalGaussian(3), parameters, torch_gaussian(parameters)


def torch_categorical(parameters):
    return torch.distributions.Categorical(logits=parameters)


def torch_gaussian(parameters):
    mean, log_std = parameters.chunk(2, -1)
    return torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)


both = pytest.mark.parametrize("make", [categorical, gaussian])


@both
@pytest.mark.parametrize("lead", LEADS)
def test_log_probabilities_and_entropies_are_those_of_torch(make, lead):
    ours, parameters, reference = make(lead)
    assert ours.num_parameters == parameters.shape[-1]
    action = ours.sample(parameters, make_generator(0))
    assert action.shape == reference.sample().shape and action.dtype == reference.sample().dtype
    torch.testing.assert_close(ours.log_prob(parameters, action), reference.log_prob(action))
    torch.testing.assert_close(ours.entropy(parameters), reference.entropy())


@pytest.mark.parametrize(("make", "reference_of"), [(categorical, torch_categorical), (gaussian, torch_gaussian)])
@pytest.mark.parametrize("quantity", ["log_prob", "entropy"])
def test_gradients_are_those_of_torch(make, reference_of, quantity):
    ours, parameters, _ = make((4, 3))
    action = ours.sample(parameters, make_generator(0))
    parameters.requires_grad_()
    reference = reference_of(parameters)
    if quantity == "log_prob":
        mine, theirs = ours.log_prob(parameters, action), reference.log_prob(action)
    else:
        mine, theirs = ours.entropy(parameters), reference.entropy()
    (left,), (right,) = (torch.autograd.grad(value.sum(), parameters) for value in (mine, theirs))
    torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


@both
def test_samples_come_from_the_given_generator_alone(make):
    ours, parameters, _ = make((200,))
    before = torch.get_rng_state()
    first, again, other = (ours.sample(parameters, make_generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@both
def test_sampling_leaves_the_parameters_alone(make):
    ours, parameters, _ = make((20,))
    copy = parameters.clone()
    ours.sample(parameters, make_generator(0))
    assert torch.equal(parameters, copy)


def test_categorical_samples_have_the_frequencies_of_their_probabilities():
    ours, parameters, reference = categorical(())
    sample = ours.sample(parameters.expand(40_000, 5), make_generator(0))
    counts = torch.bincount(sample, minlength=5).numpy()
    expected = reference.probs.double().numpy()
    assert stats.chisquare(counts, expected / expected.sum() * 40_000).pvalue > 1e-4


def test_categorical_lanes_are_drawn_independently():
    sample = Categorical(2).sample(torch.zeros(20_000, 2, 2), make_generator(0))
    assert abs((sample[:, 0] == sample[:, 1]).float().mean().item() - 0.5) < 0.02


def test_categorical_never_draws_the_impossible_and_bears_large_logits():
    logits = torch.tensor([-math.inf, 1000.0, -1000.0]).expand(5000, 3)
    assert Categorical(3).sample(logits, make_generator(0)).unique().tolist() == [1]
    assert Categorical(3).log_prob(logits, torch.ones(5000, dtype=torch.long)).abs().max() == 0


def test_gaussian_samples_are_normal_with_mean_and_width():
    ours, parameters, _ = gaussian(())
    sample = ours.sample(parameters.expand(20_000, 6), make_generator(0))
    standardized = (sample - parameters[:3]) / parameters[3:].exp()
    for dimension in standardized.T:
        assert stats.kstest(dimension.numpy(), "norm").pvalue > 1e-4
    assert (torch.corrcoef(standardized.T) - torch.eye(3)).abs().max() < 0.05


@both
def test_the_mode_is_the_most_likely_action(make):
    ours, parameters, _ = make((50,))
    mode = ours.mode(parameters)
    best = ours.log_prob(parameters, mode)
    for seed in range(20):
        assert (best >= ours.log_prob(parameters, ours.sample(parameters, make_generator(seed)))).all()


def test_entropy_is_the_mean_surprise_of_samples():
    for make in (categorical, gaussian):
        ours, parameters, _ = make(())
        many = parameters.expand(40_000, -1)
        surprise = -ours.log_prob(many, ours.sample(many, make_generator(0)))
        assert surprise.mean().item() == pytest.approx(ours.entropy(parameters).item(), abs=0.05)


def test_spaces_get_the_family_that_fits():
    assert isinstance(action_distribution(spaces.Discrete(4)), Categorical)
    assert action_distribution(spaces.Discrete(4)).num_parameters == 4
    assert isinstance(action_distribution(spaces.Box(-1, 1, (3,))), DiagonalGaussian)
    assert action_distribution(spaces.Box(-1, 1, (3,))).num_parameters == 6


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2, 2)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)])
def test_other_spaces_are_refused_with_what_is_possible(space):
    with pytest.raises(TypeError, match="use Discrete or a one-dimensional Box"):
        action_distribution(space)
