"""Adaptation by gradient steps: meta-gradients, stacked parameters, trust regions, and tasks kept apart."""

import copy
from operator import itemgetter

import numpy as np
import pytest
import torch
from helpers import (
    collected,
    config_of,
    finish,
    make_algorithm,
    perturb,
    same,
    small_config,
    timeless_states,
    whole_and_resumed,
)

from metarl.algorithms.meta_optimizers import FisherVectorProduct, conjugate_gradients
from metarl.algorithms.samples import by_lane, make_samples
from metarl.errors import ConfigError
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from metarl.tree import tree_map

METHODS = ("maml", "meta_sgd", "promp", "e_maml", "adapt_sv", "maesn", "tesp")
TINY = ("model.hidden_size=3", "env.horizon=4", "env.num_episodes=2", "lanes_per_task=2")


def learner(method: str, *overrides: str, env: str = "tabular_mdp", tasks: int = 3):
    agent, on = make_algorithm(f"algorithm={method}", f"env={env}", *TINY, *overrides, lanes=tasks)
    perturb(agent.policy, 0.3)
    return agent, on


def double_stages(agent, env):
    """The agent in double precision, and its stages."""
    stages = agent.stages(collected(agent, env))
    agent.double()

    def double(part):
        return part.double() if isinstance(part, torch.Tensor) and part.is_floating_point() else part

    return [
        stage._replace(
            timestep=tree_map(double, stage.timestep),
            **{name: double(part) for name, part in stage._asdict().items() if name != "timestep"},
        )
        for stage in stages
    ]


def mean_loss(agent, stages, clip=None) -> torch.Tensor:
    return agent.outer_terms(stages, clip).loss.mean()


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


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("method", METHODS)
def test_ratio_one_at_every_stage(method):
    agent, env = learner(method, "algorithm.num_inner_steps=2", env="point_goal")
    collected(agent, env, updates=1)
    trial = collected(agent, env)
    stages = agent.stages(trial)
    for stage, rollout in zip(stages, trial[-len(stages) :], strict=True):  # TESP's warm-up is none
        log_prob = agent.policy.distribution.log_prob(stage.behavior_params, stage.action)
        torch.testing.assert_close(log_prob[stage.mask], stage.log_prob[stage.mask], atol=1e-4, rtol=1e-4)
        assert torch.equal(by_lane(stage.log_prob, len(rollout.mask)), rollout.decision.log_prob)
    terms = agent.outer_terms(agent.stages(trial), clip=0.2)
    assert terms.divergence(terms.distribution_params).abs().max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_the_support_of_one_task_leaves_other_tasks_alone(method):
    agent, env = learner(method, env="point_navigation")
    *earlier, support, _ = collected(agent, env)
    state = agent.initial_state(support.tasks)
    for rollout in earlier:
        state = agent.adapt(state, rollout)
    adapted = agent.adapt(state, support)
    reward = support.reward.clone()
    reward[:, :2] += torch.randn(len(reward), 2)  # the lanes of task 0
    changed = agent.adapt(state, support._replace(reward=reward))
    adapted, changed = (getattr(state, "adapted", state) for state in (adapted, changed))  # MAESN's has noise, too
    for name in adapted.parameters:
        one, other = adapted.parameters[name], changed.parameters[name]
        assert torch.equal(one[1:], other[1:])
    assert any(not torch.equal(adapted.parameters[n][0], changed.parameters[n][0]) for n in adapted.parameters)


def test_stacked_parameters_are_a_policy_for_each_task():
    agent, env = learner("maml", "model.head_size=4", env="point_navigation")
    trial = collected(agent, env)
    state = agent.adapt(agent.initial_state(trial[0].tasks), trial[0])
    stage = agent.stages(trial)[0]
    output = agent.output(state.parameters, stage.timestep, {})
    for task in range(3):
        alone = copy.deepcopy(agent.policy)
        alone.load_state_dict({name: value[task] for name, value in state.parameters.items()}, strict=False)
        timestep = tree_map(itemgetter(task), stage.timestep)
        expected, _ = alone(timestep, ((),), timestep.first)
        torch.testing.assert_close(output.distribution_params[task], expected.distribution_params, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_chunks_of_tasks_change_nothing(method):
    results = []
    for chunk in (1, 2, 3):
        agent, env = learner(method, f"algorithm.tasks_per_chunk={chunk}", env="point_navigation")
        stages = agent.stages(collected(agent, env))
        agent.meta_optimizer.terms(agent, stages, lambda found, weight: (weight * found.loss.sum()).backward())
        results.append([p.grad for p in agent.parameters() if p.grad is not None])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("outer", ["trpo", "ppo", "vpg"])
def test_a_resumed_run_equals_the_uninterrupted_one(outer, tmp_path):
    sizes = ("training.total_steps=700", "training.eval_every=2", "eval.num_tasks=4", "eval.batch_size=4")
    given = ("env=point_navigation", "algorithm=promp", f"meta_optimizer={outer}", "algorithm.inner_kl_target=0.01")
    config = small_config(*given, *TINY, *sizes, lanes=3)
    trainers = whole_and_resumed(config, tmp_path, stop_at=2)
    finish(trainers[1])
    assert trainers[1].progress.iteration > 3
    assert same(*timeless_states(trainers))


# ---------------------------------------------------------------- outer steps


@pytest.mark.parametrize("method", METHODS)
def test_curvature_is_the_hessian_of_the_divergence(method):
    agent, env = learner(method, *(("meta_optimizer=trpo", "algorithm.first_order=false") if method == "tesp" else ()))
    stages = double_stages(agent, env)
    stages = agent.cache_behavior_policy(stages)  # in double precision, too: where the policies that acted still act
    parameters = [p for p in agent.parameters() if p.requires_grad]
    found = agent.outer_terms(stages, None)
    vector = torch.randn(sum(p.numel() for p in parameters), generator=make_generator(0)).double()
    product = FisherVectorProduct(found, 0.5, parameters)(vector)
    slope = torch.autograd.grad(
        0.5 * found.divergence(found.distribution_params).sum(), parameters, create_graph=True, materialize_grads=True
    )
    flat = torch.cat([part.flatten() for part in slope])
    exact = torch.autograd.grad(flat @ vector, parameters, materialize_grads=True)
    torch.testing.assert_close(product, torch.cat([part.flatten() for part in exact]), atol=1e-9, rtol=1e-6)
    assert product.abs().max() > 1e-3


@pytest.mark.parametrize("method", ["maml", "meta_sgd", "tesp"])
def test_constant_inner_gradients_stay_those_of_the_policies_that_acted(method):
    agent, env = learner(method, "algorithm.first_order=true", "algorithm.num_inner_steps=2", env="point_navigation")
    stages = agent.stages(collected(agent, env))
    start = agent.adapted_parameters(stages, False)
    anew = agent.adapted_parameters([stage._replace(gradients=None) for stage in stages], False)
    for found, expected in zip(start, anew, strict=True):
        torch.testing.assert_close(found, expected)
    perturb(agent, 0.01)
    moved = agent.adapted_parameters(stages, False)
    gradients = stages[0].gradients
    assert all(
        torch.equal(moved[1][name], moved[0][name] - agent.step_size(name) * gradients[name]) for name in gradients
    )


def test_conjugate_gradients_solve_a_known_system():
    root = torch.randn(12, 12, generator=make_generator(0)).double()
    matrix, target = root @ root.T + torch.eye(12), torch.randn(12, generator=make_generator(1)).double()
    found = conjugate_gradients(lambda vector: matrix @ vector, target, 30)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target), atol=1e-6, rtol=1e-6)


def test_a_trust_region_improves_within_its_radius():
    for radius in ("0.001", "0.05"):
        agent, env = learner("maml", f"algorithm.meta_optimizer.max_kl={radius}", env="point_navigation")
        before = copy.deepcopy(agent.policy.state_dict())
        logs = agent.update(collected(agent, env), 0.0, make_generator(0))
        assert 0 < logs["kl"] <= float(radius) and logs["improvement"] > 0
        assert not same(dict(before), dict(agent.policy.state_dict()))


def test_a_trust_region_restores_what_no_step_improves():
    agent, env = learner("maml", env="point_navigation")
    trial = collected(agent, env)
    wrong = trial[-1]._replace(reward=torch.full_like(trial[-1].reward, torch.nan))
    before = copy.deepcopy(dict(agent.policy.state_dict()))
    logs = agent.update([*trial[:-1], wrong], 0.0, make_generator(0))
    assert logs["step_share"] == 0 and same(before, dict(agent.policy.state_dict()))


def test_promp_starts_from_minus_the_mean_advantage():
    agent, env = learner("promp", "algorithm.standardize_advantages=false", "algorithm.entropy_coefficient=0")
    stages = agent.stages(collected(agent, env))
    terms = agent.outer_terms(stages, clip=0.3)
    torch.testing.assert_close(terms.parts["policy_loss"], -stages[-1].mean(stages[-1].advantage), atol=1e-5, rtol=1e-4)
    assert terms.parts["inner_kl_0"].abs().max() < 1e-6


# ---------------------------------------------------------------- options

CHANGES = {
    "num_inner_steps": "2",
    "inner_learning_rate": "0.02",
    "inner_loss": "likelihood_ratio",
    "max_inner_gradient_norm": "0.01",
    "first_order": "true",
    "discount": "0.5",
    "gae_lambda": "0.5",
    "baseline": "zero",
    "standardize_advantages": "false",
    "bootstrap": "true",
    "entropy_coefficient": "0.5",
    "meta_optimizer.learning_rate": "0.1",
    "meta_optimizer.num_steps": "3",
    "meta_optimizer.clip": "0.001",
    "meta_optimizer.max_gradient_norm": "0.001",
}


def learned(*overrides: str):
    agent, env = learner("maml", "meta_optimizer=ppo", *overrides, env="point_navigation")
    for seed in range(2):
        agent.update(collected(agent, env, seed=seed), 0.0, make_generator(0))
    return dict(agent.policy.state_dict())


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_what_is_learnt(option):
    assert same(learned(), learned())
    assert not same(learned(), learned(f"algorithm.{option}={CHANGES[option]}"))


def test_every_option_is_tried():
    own = {name for name in config_of("algorithm=maml")["algorithm"] if not name.startswith("_")}
    tried = {name.partition(".")[0] for name in CHANGES}
    assert own - tried == {"tasks_per_chunk", "value_coefficient"}  # the first only costs time; the second:
    network = ("algorithm.baseline=network",)
    assert not same(learned(*network), learned(*network, "algorithm.value_coefficient=0.01"))


REFUSED = {
    ("algorithm=maml", "model=gru"): ["use model=mlp"],
    ("algorithm=maml", "conditioning=film"): ["conditioning=none"],
    ("algorithm=maml", "model.inputs=action_reward"): ["use observation"],
    ("algorithm=maml", "algorithm.num_inner_steps=0"): ["num_inner_steps=0", "greater than 0"],
    ("algorithm=maml", "env.num_episodes=0"): ["env.num_episodes=0"],
    ("algorithm=maml", "algorithm.baseline=zero", "algorithm.bootstrap=true"): ["use linear"],
    ("algorithm=maml", "algorithm.inner_loss=dice", "algorithm.first_order=true"): ["first_order=false"],
    ("algorithm=meta_sgd", "algorithm.step_bound=-0.1"): ["step_bound=-0.1", "greater than 0"],
    ("algorithm=meta_sgd", "algorithm.step_bound=0.01"): ["start below it"],
    ("algorithm=maml", "meta_optimizer=none"): ["meta_optimizer"],
    ("meta_optimizer=trpo",): ["meta_optimizer=trpo"],
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_does_not_fit_is_refused_with_the_remedy(overrides):
    with pytest.raises(ConfigError) as refusal:
        make_algorithm(*overrides)
    assert all(part in str(refusal.value) for part in REFUSED[overrides])


def gained(method: str, updates: int) -> float:
    """By how much adaptation raises the return of held-out tasks after some outer steps."""
    sizes = ("env.horizon=20", "env.num_episodes=1", "lanes_per_task=10", "model.hidden_size=32", "env.arrival=0")
    advantages = ("algorithm.gae_lambda=0.95", "algorithm.entropy_coefficient=0.005")
    agent, env = make_algorithm(f"algorithm={method}", "env=point_navigation", *advantages, *sizes, lanes=20)
    generator = make_generator(0)
    for _ in range(updates):
        env.sample_tasks()
        agent.update(collect_trial(env, agent, generator), 0.0, generator)
    gains = []
    for _ in range(3):
        env.sample_tasks("held_out")
        trial = collect_trial(env, agent, generator)
        gains.append((trial[-1].reward.sum(0) - trial[0].reward.sum(0)).mean().item())
    return float(np.mean(gains))


@pytest.mark.parametrize("method", METHODS)
def test_adaptation_learns_to_walk_to_a_goal(method):
    """A gradient step helps an untrained policy a little; ProMP's few small steps are slow, the others are not."""
    assert gained(method, 12) > gained(method, 0) + (0.2 if method == "promp" else 2)
