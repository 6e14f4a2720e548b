"""Methods of adaptation by gradient steps: their formulas computed by hand, their options, their refusals."""

import copy

import pytest
import torch
from helpers import collected, config_of, make_algorithm, perturb, same

from metarl.algorithms.samples import AdvantageConfig, make_samples, ridge_regression
from metarl.errors import ConfigError
from metarl.models.episode_encoder import Episodes, best_episodes, empty_episodes
from metarl.rollout import collect_trial
from metarl.seeding import make_generator

TINY = ("model.hidden_size=3", "env.horizon=4", "env.num_episodes=2", "lanes_per_task=2")
TINY += ("algorithm.entropy_coefficient=0",)  # which environments set
LANES = 2


def learner(method: str, *overrides: str, env: str = "point_navigation", tasks: int = 3):
    agent, on = make_algorithm(f"algorithm={method}", f"env={env}", *TINY, *overrides, lanes=tasks)
    perturb(agent.policy, 0.3)
    return agent, on


# ---------------------------------------------------------------- formulas


def test_promp_weighs_the_mean_divergence_of_the_stages():
    agent, env = learner("promp", "algorithm.num_inner_steps=2", "algorithm.inner_kl_coefficient=0.4")
    stages = agent.stages(collected(agent, env))
    perturb(agent.policy, 0.1)
    terms = agent.outer_terms(stages, None)
    mean = (terms.parts["inner_kl_0"] + terms.parts["inner_kl_1"]) / 2
    torch.testing.assert_close(terms.loss, terms.parts["policy_loss"] + 0.4 * mean)
    assert mean.min() > 1e-4


@pytest.mark.parametrize("meta_optimizer", ["trpo", "ppo", "vpg", "best_iterate"])
def test_the_weight_of_promps_divergence_follows_that_after_the_step(meta_optimizer):
    weights = []
    for target in ("1e-12", "100"):
        agent, env = learner("promp", f"meta_optimizer={meta_optimizer}", f"algorithm.inner_kl_target={target}")
        if meta_optimizer == "best_iterate":
            agent.meta_optimizer.max_kl = 10.0
        agent.update(collected(agent, env), 0.0, make_generator(0))
        weights.append(agent.coefficients.item())
    assert weights == pytest.approx([2 * 5e-4, 5e-4 / 2])


def test_e_maml_credits_support_actions_for_the_return_of_the_query():
    agent, env = learner("e_maml", "algorithm.exploration_coefficient=0.7")
    support, query = collected(agent, env)
    stages = agent.stages([support, query])
    terms = agent.outer_terms(stages, None)
    earned = (query.reward * query.mask).sum(0).view(3, LANES).mean(1)
    credit = (earned - earned.mean()) / earned.std(correction=0)
    log_prob = (support.decision.log_prob * support.mask).sum(0).view(3, LANES).sum(1)
    expected = -credit * log_prob / support.mask.sum(0).view(3, LANES).sum(1)
    torch.testing.assert_close(terms.parts["exploration_loss"], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(terms.loss, terms.parts["policy_loss"] + 0.7 * expected, atol=1e-5, rtol=1e-4)


def test_maesns_gaussian_is_kept_near_a_standard_one_before_it_adapts():
    agent, env = learner("maesn", "algorithm.kl_coefficient=0.3")
    with torch.no_grad():
        agent.latent_mean.copy_(torch.tensor([0.5, -1.0]))
        agent.latent_log_std.copy_(torch.tensor([0.2, -0.4]))
    terms = agent.outer_terms(agent.stages(collected(agent, env)), None)
    mean, log_std = agent.latent_mean.detach(), agent.latent_log_std.detach()
    expected = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum()
    torch.testing.assert_close(terms.parts["latent_kl"], expected.expand(3))
    torch.testing.assert_close(terms.loss, terms.parts["policy_loss"] + 0.3 * expected)


def test_maesn_draws_its_latent_once_an_episode_and_takes_the_mean_when_greedy():
    agent, env = learner("maesn")
    env.sample_tasks()
    support, query = collect_trial(env, agent, make_generator(0), greedy=True)
    noise, first = support.decision.noise, support.timestep.first
    drawn = noise[first]
    assert len(drawn) == 2 * env.num_lanes and len(drawn.unique(dim=0)) == len(drawn)
    assert torch.equal(noise[1:][~first[1:]], noise[:-1][~first[1:]])
    assert query.decision.noise.abs().max() == 0


def test_adapt_sv_adapts_a_short_latent_alone_and_holds_it_down():
    agent, env = learner("adapt_sv", "algorithm.latent_coefficient=0.6")
    assert agent.latent.norm().item() == pytest.approx(0.01)
    support, query = collected(agent, env)
    state = agent.adapt(agent.initial_state(support.tasks), support)
    assert list(state.parameters) == ["latent"]
    terms = agent.outer_terms(agent.stages([support, query]), None)
    expected = state.parameters["latent"].square().mean(1)
    torch.testing.assert_close(terms.parts["latent_square"], expected)
    torch.testing.assert_close(terms.loss, terms.parts["policy_loss"] + 0.6 * expected)


# ---------------------------------------------------------------- numbers that are none, and nothing to learn from


@pytest.mark.parametrize("meta_optimizer", ["ppo", "trpo"])
def test_a_task_that_earns_nothing_keeps_all_gradients_numbers(meta_optimizer):
    """The norm of a gradient of zero has no slope."""
    agent, env = learner("maml", f"meta_optimizer={meta_optimizer}", "algorithm.max_inner_gradient_norm=0.05")
    support, query = collected(agent, env)
    nothing = torch.cat([torch.zeros_like(support.reward[:, :LANES]), support.reward[:, LANES:]], 1)
    before = copy.deepcopy(dict(agent.policy.state_dict()))
    agent.update([support._replace(reward=nothing), query], 0.0, make_generator(0))
    after = dict(agent.policy.state_dict())
    assert not same(before, after) and all(value.isfinite().all() for value in after.values())


@pytest.mark.parametrize(
    ("method", "overrides"), [("maml", ("meta_optimizer=ppo",)), ("tesp", ("algorithm.meta_optimizer.max_kl=10",))]
)
def test_what_is_no_number_teaches_nothing_and_what_follows_teaches_again(method, overrides):
    agent, env = learner(method, *overrides)
    trial = collected(agent, env)
    broken = [*trial[:-1], trial[-1]._replace(reward=torch.full_like(trial[-1].reward, torch.nan))]
    states = [copy.deepcopy(dict(agent.state_dict()))]
    for given in (broken, trial):
        agent.update(given, 0.0, make_generator(0))
        states.append(copy.deepcopy(dict(agent.state_dict())))
    assert same(states[0], states[1]) and not same(states[1], states[2])
    assert all(value.isfinite().all() for value in states[2].values())


def test_promp_goes_on_where_no_iterate_qualifies():
    agent, env = learner("promp", "meta_optimizer=best_iterate", "algorithm.inner_kl_target=0.01")
    trial = collected(agent, env)
    broken = trial[-1]._replace(reward=torch.full_like(trial[-1].reward, torch.nan))
    before = copy.deepcopy(dict(agent.policy.state_dict()))
    logs = agent.update([*trial[:-1], broken], 0.0, make_generator(0))
    assert logs["chosen_step"] == 0 and same(before, dict(agent.policy.state_dict()))


def test_a_task_without_numbers_leaves_the_advantages_of_others_alone():
    agent, env = learner("maml")
    support = collected(agent, env)[0]
    broken = torch.cat([torch.full_like(support.reward[:, :LANES], torch.nan), support.reward[:, LANES:]], 1)
    whole, spoilt = (agent.samples(rollout) for rollout in (support, support._replace(reward=broken)))
    assert torch.equal(whole.advantage[1:], spoilt.advantage[1:]) and spoilt.advantage[0].isnan().any()
    singular = torch.stack([torch.full((4, 2), torch.nan), torch.eye(2).repeat(2, 1)]).double()
    weights = ridge_regression(singular, torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double(), atol=1e-4, rtol=0)


def test_episodes_without_a_return_are_the_worst():
    new = Episodes(torch.arange(3.0).view(1, 3, 1, 1), torch.ones(1, 3).long(), torch.tensor([[torch.nan, -1.0, -2.0]]))
    assert best_episodes(empty_episodes(1, 1, 1, new.returns.device), new, 2).returns.tolist() == [[-1.0, -2.0]]


def test_equal_advantages_are_standardised_to_zero():
    agent, env = learner("maml", "algorithm.baseline=zero", "algorithm.discount=0.0")
    support = collected(agent, env)[0]
    for reward in (0.1, 1 / 3, -1.3):
        samples = agent.samples(support._replace(reward=torch.full_like(support.reward, reward)))
        assert samples.advantage.abs().max() == 0


# ---------------------------------------------------------------- baselines


def test_a_baseline_of_time_alone_explains_what_depends_on_time_alone():
    agent, env = learner("maml", "env.horizon=60", "env.arrival=0")
    support = collected(agent, env)[0]
    time = torch.arange(len(support.reward)).unsqueeze(1) % env.horizon
    timely = support._replace(reward=(time / 60).expand_as(support.reward))
    by_lane = support._replace(reward=torch.arange(6.0).expand_as(support.reward))
    credit = AdvantageConfig(0.9, 1.0, "linear_time", False, False)
    assert make_samples(timely, LANES, credit).advantage.abs().max() < 1  # of returns up to 10
    assert make_samples(by_lane, LANES, credit).advantage.abs().max() > 4


def test_a_bootstrapped_baseline_knows_what_episodes_that_go_on_are_worth():
    """Nothing moves and every step earns what the first coordinate says: forever that is worth 1 / (1 - discount)."""
    agent, env = learner("maml", "lanes_per_task=20", "env.num_episodes=1", tasks=1)
    support = collected(agent, env)[0]
    still = support.timestep.observation[:1].expand_as(support.timestep.observation)
    still = still + torch.randn(20, 2, generator=make_generator(1))
    given = support._replace(
        timestep=support.timestep._replace(observation=still), next_observation=still, reward=still[..., 0]
    )
    samples = make_samples(given, 20, AdvantageConfig(0.9, 0.95, "linear", False, True))
    assert samples.advantage.abs().max() < 1e-2
    value = samples.returns.view(20, -1)[:, -1]
    torch.testing.assert_close(value, 10 * still[-1, :, 0], atol=2e-2, rtol=1e-3)


def test_the_baseline_tells_states_without_order_apart():
    agent, env = learner("maml", env="tabular_mdp", tasks=1)
    support = collected(agent, env)[0]
    state = support.timestep.observation
    assert state.dtype == torch.long and len(state.unique()) > 2
    given = support._replace(reward=(state == 1).float())
    credit = AdvantageConfig(0.0, 1.0, "linear", False, False)
    numbers, apart = (make_samples(given, LANES, credit, *how).advantage.abs().max() for how in ((), (agent.observed,)))
    assert apart < 1e-2 < numbers


# ---------------------------------------------------------------- options

CHANGES = {
    "meta_sgd": {"step_bound": "0.051", "step_bounding": "clip"},
    "promp": {"inner_kl_coefficient": "100.0", "inner_kl_target": "1e-12"},
    "e_maml": {"exploration_coefficient": "0.0"},
    "maesn": {
        "latent_dim": "3",
        "kl_coefficient": "100.0",
        "adapt_policy": "false",
        "step_bound": "0.051",
        "step_bounding": "clip",
    },
    "adapt_sv": {"latent_dim": "3", "latent_coefficient": "100.0", "step_bound": "0.051", "step_bounding": "clip"},
}
OF_TRUST_REGIONS = {
    "max_kl": "0.001",
    "num_cg_steps": "1",
    "damping": "0.1",
    "max_backtracks": "1",
    "backtrack_ratio": "0.5",
}


def learned(method: str, *overrides: str) -> dict:
    agent, env = learner(method, *overrides)
    if method in ("maesn", "adapt_sv"):  # away from where squares have no slope
        with torch.no_grad():
            (agent.latent_mean if method == "maesn" else agent.latent).add_(0.5)
    for seed in range(2):
        agent.update(collected(agent, env, seed=seed), 0.0, make_generator(0))
    return dict(agent.state_dict())


@pytest.mark.parametrize(("method", "option"), [(method, option) for method in CHANGES for option in CHANGES[method]])
def test_every_option_of_a_method_changes_what_is_learnt(method, option):
    fast = ("meta_optimizer=vpg", "algorithm.meta_optimizer.learning_rate=0.05", "algorithm.num_inner_steps=2")
    usual = learned(method, *fast)
    assert same(usual, learned(method, *fast))
    assert not same(usual, learned(method, *fast, f"algorithm.{option}={CHANGES[method][option]}"))


@pytest.mark.parametrize("option", OF_TRUST_REGIONS)
def test_every_option_of_a_trust_region_changes_what_is_learnt(option):
    wide = ("algorithm.meta_optimizer.max_kl=1.0",)  # so that the first length is too long
    assert not same(
        learned("maml", *wide), learned("maml", *wide, f"algorithm.meta_optimizer.{option}={OF_TRUST_REGIONS[option]}")
    )


def test_every_option_of_a_method_is_tried():
    common = config_of("algorithm=maml")["algorithm"].keys()
    for method, changes in CHANGES.items():
        assert config_of(f"algorithm={method}")["algorithm"].keys() - common == changes.keys()
    own = {name for name in config_of("algorithm=maml")["algorithm"]["meta_optimizer"] if not name.startswith("_")}
    assert own == OF_TRUST_REGIONS.keys()


REFUSED = {
    ("algorithm=maml", "algorithm.baseline=network"): ["trust region", "use meta_optimizer=ppo"],
    ("algorithm=maml", "algorithm.baseline=linear_time", "algorithm.bootstrap=true"): ["use linear"],
    ("algorithm=maml", "env=rooms"): ["model.image_embedding_size", "algorithm=rl2"],
    ("algorithm=tesp", "env=rooms"): ["model.image_embedding_size"],
    ("algorithm=tesp", "model.input_embedding_size=7"): ["model.input_embedding_size", "use null"],
    ("algorithm=maesn", "model.input_embedding_size=7"): ["model.input_embedding_size", "use null"],
    ("algorithm=maml", "algorithm.meta_optimizer.backtrack_ratio=1.5"): ["backtrack_ratio=1.5", "less than 1"],
    ("algorithm=promp", "algorithm.inner_kl_target=0.01", "algorithm.inner_kl_coefficient=0"): ["start it above 0"],
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_does_not_fit_a_method_is_refused_with_the_remedy(overrides):
    with pytest.raises(ConfigError) as refusal:
        make_algorithm(*overrides)
    assert all(part in str(refusal.value) for part in REFUSED[overrides]), refusal.value
