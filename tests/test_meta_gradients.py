"""Meta-gradients against finite differences and closed forms, and step sizes that are learned."""

import pytest
import torch
from gradient_methods import double_stages, learner, mean_loss
from helpers import (
    make_algorithm,
    perturb,
)

from metarl.algorithms.samples import make_samples
from metarl.rollout import collect_trial
from metarl.seeding import make_generator

# ---------------------------------------------------------------- meta-gradients

CASES = [
    ("maml", ()),
    ("maml", ("algorithm.num_inner_steps=2",)),
    ("maml", ("algorithm.inner_loss=likelihood_ratio",)),
    ("maml", ("algorithm.max_inner_gradient_norm=0.05",)),
    ("maml", ("algorithm.baseline=network", "meta_optimizer=ppo")),
    ("maml", ("algorithm.entropy_coefficient=0.1",)),
    ("meta_sgd", ("algorithm.num_inner_steps=2",)),
    ("meta_sgd", ("algorithm.step_bound=null",)),
    ("promp", ("algorithm.num_inner_steps=2", "algorithm.inner_kl_coefficient=0.5")),
    ("e_maml", ()),
    ("adapt_sv", ("algorithm.num_inner_steps=2",)),
    ("maesn", ()),
    ("maesn", ("algorithm.adapt_policy=false",)),
    ("tesp", ("algorithm.first_order=false", "algorithm.inner_learning_rate=0.05")),
    ("tesp", ("algorithm.first_order=false", "algorithm.adapt_policy=true", "algorithm.gru_variant=torch")),
]


@pytest.mark.parametrize(("method", "overrides"), CASES)
@pytest.mark.parametrize("env_name", ["tabular_mdp", "point_navigation"])
def test_meta_gradients_agree_with_finite_differences(method, overrides, env_name):
    agent, env = learner(method, *overrides, env=env_name)
    stages = double_stages(agent, env)
    perturb(agent.policy, 0.05)  # away from the policy that acted: ratios and divergences count
    parameters = [p for p in agent.parameters() if p.requires_grad]
    found = torch.autograd.grad(mean_loss(agent, stages), parameters, allow_unused=True)
    generator = make_generator(1)
    directions = [torch.randn(p.shape, generator=generator).double() for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(found, directions, strict=True) if g is not None).item()
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(sign * 1e-6 * direction)
        values.append(mean_loss(agent, stages).item())
    assert abs(slope) > 1e-4
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_first_order_gradients_have_their_closed_form():
    """At the adapted parameters by theta; minus that times the sum of inner gradients by the step sizes."""
    free = "algorithm.step_bound=null"
    agent, env = learner("meta_sgd", "algorithm.first_order=true", "algorithm.num_inner_steps=2", free, tasks=1)
    stages = double_stages(agent, env)
    start = agent.inner_parameters()
    path = agent.adapted_parameters(stages, second_order=False)
    end = {name: value.detach().requires_grad_() for name, value in path[-1].items()}
    output = agent.output(end, stages[-1].timestep, {})
    log_prob = agent.policy.distribution.log_prob(output.distribution_params, stages[-1].action)
    loss = -stages[-1].mean((log_prob - stages[-1].log_prob).exp() * stages[-1].advantage).sum()
    at_end = dict(zip(end, torch.autograd.grad(loss, list(end.values())), strict=True))
    names = list(start)
    by_theta = torch.autograd.grad(mean_loss(agent, stages), list(start.values()), retain_graph=True)
    by_sizes = torch.autograd.grad(mean_loss(agent, stages), list(agent.step_sizes))
    for place, name in enumerate(names):
        torch.testing.assert_close(by_theta[place], at_end[name].squeeze(0), atol=1e-9, rtol=1e-7)
        inner_sum = (path[0][name] - path[-1][name]).squeeze(0) / agent.inner_learning_rate
        torch.testing.assert_close(by_sizes[place], -at_end[name].squeeze(0) * inner_sum, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("method", ["meta_sgd", "maesn", "adapt_sv", "tesp"])
def test_step_sizes_start_where_asked_and_can_grow_far_beyond(method):
    agent, _ = learner(method)
    start, most = agent.inner_learning_rate, agent.step_bound
    assert most >= 5 * start
    for name in agent.inner_parameters():
        torch.testing.assert_close(agent.step_size(name), torch.full_like(agent.step_size(name), start))
    learned = torch.tensor([0.0, 1e-3, 0.05, 0.3, 2.0, 1e4], requires_grad=True)
    sizes = agent.bounded(learned)
    assert (sizes.diff() > 0).all() and sizes[-1] <= most and sizes[-2] > 0.9 * most
    torch.testing.assert_close(agent.bounded(-learned), -sizes)
    (slope,) = torch.autograd.grad(sizes.sum(), learned)
    assert (slope > 0).all() and slope[0] == 1
    # x / sqrt(1 + (x / b)²) at x = b: b / sqrt(2), with a slope of 2 to the power of -3/2
    at_bound = torch.tensor(most, requires_grad=True)
    assert agent.bounded(at_bound).item() == pytest.approx(most * 0.70710678)
    assert torch.autograd.grad(agent.bounded(at_bound), at_bound)[0].item() == pytest.approx(0.35355339)


def test_step_sizes_of_meta_sgd_learn_to_exceed_mamls_rate_and_come_back():
    """The meta-optimizer alone, on a loss that asks for steps of 0.3, then of 0.01 from far beyond the bound."""
    agent, _ = learner("meta_sgd")
    assert agent.step_bound > 3 * learner("maml")[0].inner_learning_rate == pytest.approx(0.3)
    for start, wanted in ((None, 0.3), (1.5, 0.01)):
        if start is not None:
            torch.nn.init.constant_(agent.step_sizes[0], start)
        optimizer = torch.optim.Adam(agent.step_sizes, lr=0.02)
        for _ in range(400):
            loss = (agent.bounded(agent.step_sizes[0]) - wanted).square().sum()
            (agent.step_sizes[0].grad,) = torch.autograd.grad(loss, agent.step_sizes[0])
            optimizer.step()
        torch.testing.assert_close(
            agent.bounded(agent.step_sizes[0]), torch.full_like(agent.step_sizes[0], wanted), atol=0.02, rtol=0
        )


@pytest.mark.parametrize("learned", [0.5, 0.7, 5.0])
def test_outer_gradients_reach_step_sizes_at_their_bound_and_beyond(learned):
    agent, env = learner("meta_sgd", tasks=2)
    stages = double_stages(agent, env)
    with torch.no_grad():
        for sizes in agent.step_sizes:
            sizes.fill_(learned)
    gradients = torch.autograd.grad(mean_loss(agent, stages), list(agent.step_sizes), allow_unused=True)
    assert all(gradient.abs().max() > 0 for gradient in gradients if gradient is not None)
    assert sum(gradient is not None for gradient in gradients) >= len(gradients) - 2


def test_clipped_step_sizes_beyond_their_bound_count_as_on_it_and_learn_nothing():
    clip = "algorithm.step_bounding=clip"
    agent, env = learner("meta_sgd", "algorithm.step_bound=0.2", clip, tasks=2)
    stages = double_stages(agent, env)
    with torch.no_grad():
        for sizes in agent.step_sizes:
            sizes.fill_(0.7)
    beyond = agent.adapted_parameters(stages, False)[-1]
    assert all(
        g is None or g.abs().max() == 0 for g in torch.autograd.grad(mean_loss(agent, stages), list(agent.step_sizes))
    )
    with torch.no_grad():
        for sizes in agent.step_sizes:
            sizes.fill_(0.2)
    on_it = agent.adapted_parameters(stages, False)[-1]
    for name in beyond:
        torch.testing.assert_close(beyond[name], on_it[name])


def test_dice_knows_how_sampling_changes():
    """A one-step bandit: its derivative of the inner gradient is the Hessian of the expected reward."""
    agent, env = make_algorithm(
        "algorithm=maml",
        "env=bandit",
        "env.num_episodes=1",
        "lanes_per_task=6000",
        "algorithm.inner_loss=dice",
        "model.num_layers=0",
        lanes=1,
    )
    agent.double()
    env.sample_tasks()
    (support, _) = collect_trial(env, agent.float(), make_generator(0))
    means = env.tasks.parameters["mean" if "mean" in env.tasks.parameters else next(iter(env.tasks.parameters))][0]
    samples = make_samples(support, agent.lanes_per_task, agent.advantage_config)
    name = "heads.actor_head.bias"
    start = agent.inner_parameters()
    stacked = {key: value.detach().expand(1, *value.shape).clone().requires_grad_() for key, value in start.items()}
    loss = agent._inner_loss(stacked, samples).sum()
    (gradient,) = torch.autograd.grad(loss, stacked[name], create_graph=True)
    rows = [torch.autograd.grad(gradient[0, k], stacked[name], retain_graph=True)[0][0] for k in range(3)]
    logits = stacked[name].detach()[0].double().requires_grad_()
    weight = stacked["heads.actor_head.weight"].detach()[0].double().squeeze(1)

    def expected(bias):
        return -((bias + weight).softmax(0) * means.double()).sum()

    exact = torch.autograd.functional.hessian(expected, logits)
    torch.testing.assert_close(torch.stack(rows).double(), exact, atol=0.02, rtol=0.2)
