"""Adaptation by gradient steps: laws of every method, trust regions, options, and learning."""

import copy
from operator import itemgetter

import numpy as np
import pytest
import torch
from gradient_methods import METHODS, TINY, double_stages, learner
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
from metarl.algorithms.samples import by_lane
from metarl.errors import ConfigError
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from metarl.tree import tree_map

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
