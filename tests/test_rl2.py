"""RL²: every option does what it says, minibatches are whole trials, and it learns."""

import copy

import pytest
import torch
from helpers import (
    Corridor,
    batch_of,
    collected,
    config_of,
    make_algorithm,
    own_options,
    perturb,
    same,
    small_config,
)

from metarl.configuration.build import build_env_factory, parts
from metarl.evaluation import evaluate
from metarl.rollout import collect_trial
from metarl.seeding import make_generator

PROGRESS = 0.5  # in the middle of the schedules, where both of their ends count

# One change of every option of the algorithm. Each must change the weights after an update.
CHANGES = {
    "objective": "regret",
    "regret_coefficient": "1.0",
    "final_regret_coefficient": "1.0",
    "discount": "0.5",
    "gae_lambda": "0.9",
    "learning_rate": "3e-3",
    "final_learning_rate": "1e-3",
    "entropy_coefficient": "0.5",
    "final_entropy_coefficient": "0.5",
    "clip": "0.001",
    "num_epochs": "3",
    "num_minibatches": "4",
    "value_loss": "huber",
    "value_coefficient": "0.1",
    "standardize_advantages": "false",
    "normalize_returns": "false",
    "max_gradient_norm": "0.01",
    "target_kl": "1e-12",
}


def updated(*overrides: str, updates: int = 2):
    """An agent after updates at ``PROGRESS`` on the tabular MDP, where returns exceed one unit; and the last log."""
    agent, env = make_algorithm("env=tabular_mdp", *overrides, lanes=8)
    perturb(agent, 0.2)
    acting, updating, log = make_generator(0), make_generator(1), {}
    for _ in range(updates):
        env.sample_tasks()
        log = agent.update(collect_trial(env, agent, acting), PROGRESS, updating)
    return agent, log


def test_every_option_of_the_algorithm_is_tried():
    assert own_options(config_of()["algorithm"]) == set(CHANGES)


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_of_the_algorithm_changes_what_is_learnt(option):
    plain, _ = updated()
    again, _ = updated()
    changed, _ = updated(f"algorithm.{option}={CHANGES[option]}")
    assert same(plain.state_dict(), again.state_dict())
    assert not same(plain.policy.state_dict(), changed.policy.state_dict())


# ---------------------------------------------------------------- schedules and limits


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 1e-2), (0.25, 8e-3), (0.5, 6e-3), (1.0, 2e-3), (1.5, 2e-3)])
def test_the_learning_rate_is_linear_in_progress(progress, expected):
    agent, env = make_algorithm("algorithm.learning_rate=1e-2", "algorithm.final_learning_rate=2e-3")
    agent.update(collected(agent, env), progress, make_generator(0))
    assert [group["lr"] for group in agent.optimizer.param_groups] == [pytest.approx(expected)]


def gradient(agent, batch, progress: float) -> torch.Tensor:
    twin = copy.deepcopy(agent)
    twin._minibatch_step(batch, progress, make_generator(0))
    return torch.cat([parameter.grad.flatten() for parameter in twin.parameters() if parameter.grad is not None])


def test_the_entropy_bonus_is_linear_in_progress():
    limits = ("algorithm.entropy_coefficient=1.0", "algorithm.final_entropy_coefficient=3.0")
    agent, env = make_algorithm(*limits, "algorithm.max_gradient_norm=null")
    perturb(agent, 0.3)
    batch = batch_of(agent, collected(agent, env)[0])
    start, middle, end = (gradient(agent, batch, progress) for progress in (0.0, 0.25, 1.0))
    assert (end - start).norm() > 1e-3
    torch.testing.assert_close(middle, 0.75 * start + 0.25 * end, atol=1e-6, rtol=1e-4)


def test_the_entropy_bonus_keeps_the_policy_random():
    def entropy(coefficient):
        rates = ("algorithm.learning_rate=1e-2", "algorithm.final_learning_rate=1e-2")
        both = (f"algorithm.{name}={coefficient}" for name in ("entropy_coefficient", "final_entropy_coefficient"))
        return updated(*rates, *both, updates=6)[1]["entropy"]

    assert entropy(1.0) > entropy(0.0) + 0.01


def test_the_gradient_is_scaled_down_to_its_limit_and_reported_before():
    loose, env = make_algorithm("env=tabular_mdp", "algorithm.max_gradient_norm=null")
    tight, _ = make_algorithm("env=tabular_mdp", "algorithm.max_gradient_norm=0.01")
    (rollout,) = collected(loose, env)
    norms, reported = [], []
    for agent in (loose, tight):
        reported.append(agent._minibatch_step(batch_of(agent, rollout), 0.0, make_generator(0))["gradient_norm"].item())
        norms.append(torch.cat([p.grad.flatten() for p in agent.parameters() if p.grad is not None]).norm().item())
    assert norms[0] == pytest.approx(reported[0], rel=1e-5) and norms[0] > 0.01
    assert norms[1] == pytest.approx(0.01, rel=1e-3) and reported[1] == pytest.approx(reported[0], rel=1e-5)


@pytest.mark.parametrize(("target", "epochs"), [("1e-12", 1), ("1e3", 5), ("null", 5)])
def test_epochs_stop_once_the_policy_has_moved_too_far(target, epochs):
    size = ("algorithm.num_epochs=5", "algorithm.num_minibatches=2", "algorithm.learning_rate=1e-2")
    _, log = updated(*size, f"algorithm.target_kl={target}")
    assert log["updates"] == 2 * epochs


def test_a_wide_clip_lets_the_policy_move_farther():
    def divergence(clip):
        size = ("algorithm.num_epochs=10", "algorithm.learning_rate=1e-2", "algorithm.final_learning_rate=1e-2")
        return updated(f"algorithm.clip={clip}", *size)[1]

    assert divergence(10.0)["approx_kl"] > 1.5 * divergence(0.01)["approx_kl"]
    assert divergence(10.0)["clip_fraction"] == 0 < divergence(0.01)["clip_fraction"]


def test_the_value_coefficient_weighs_the_critic_alone():
    agent, env = make_algorithm("model.critic=separate", "algorithm.max_gradient_norm=null")
    perturb(agent, 0.2)
    batch = batch_of(agent, collected(agent, env)[0])

    def gradients_at(coefficient):
        twin = copy.deepcopy(agent)
        twin.value_coefficient = coefficient
        twin._minibatch_step(batch, 0.0, make_generator(0))
        policy = twin.policy
        modules = {
            "actor": [policy.memory, policy.heads.actor_head],
            "critic": [policy.critic_memory, policy.heads.value_head],
        }
        return {
            name: torch.cat([p.grad.flatten() for module in group for p in module.parameters()])
            for name, group in modules.items()
        }

    once, twice = gradients_at(1.0), gradients_at(2.0)
    torch.testing.assert_close(twice["critic"], 2 * once["critic"])
    torch.testing.assert_close(twice["actor"], once["actor"], atol=1e-7, rtol=1e-5)
    assert once["critic"].norm() > 0 and once["actor"].norm() > 0


# ---------------------------------------------------------------- the batch


@pytest.mark.parametrize("flag", ["true", "false"])
def test_advantages_are_standardised_where_asked(flag):
    agent, env = make_algorithm("env=tabular_mdp", f"algorithm.standardize_advantages={flag}", lanes=16)
    batch = batch_of(agent, collected(agent, env)[0])
    is_standard = batch.advantage.mean().abs() < 1e-5 and abs(batch.advantage.std(correction=0).item() - 1) < 1e-3
    assert is_standard == (flag == "true")


def test_standardising_shifts_and_scales_advantages_and_leaves_value_targets():
    batches = []
    for flag in ("true", "false"):
        agent, env = make_algorithm("env=tabular_mdp", f"algorithm.standardize_advantages={flag}")
        batches.append(batch_of(agent, collected(agent, env)[0]))
    assert torch.equal(batches[0].returns, batches[1].returns)
    raw = batches[1].advantage
    torch.testing.assert_close(batches[0].advantage, (raw - raw.mean()) / raw.std(correction=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("flag", ["true", "false"])
def test_returns_are_normalised_where_asked(flag):
    agent, env = make_algorithm("env=tabular_mdp", f"algorithm.normalize_returns={flag}")
    batch = batch_of(agent, collected(agent, env)[0])
    head = agent.policy.value_head
    if flag == "true":
        torch.testing.assert_close(head.mean, batch.returns.mean())
        torch.testing.assert_close(head.std, batch.returns.std(correction=0))
    else:
        assert head.mean == 0 and head.std == 1


def test_value_targets_are_discounted_returns_of_the_whole_trial():
    """With lambda 1, over episode boundaries, and nothing after the end."""
    factors = ("algorithm.discount=0.9", "algorithm.gae_lambda=1.0")
    agent, env = make_algorithm("env=tabular_mdp", *factors)
    (rollout,) = collected(agent, env, updates=1)
    expected = torch.zeros_like(rollout.reward)
    for t in range(len(expected)):
        for k in range(t, len(expected)):
            expected[t] += 0.9 ** (k - t) * rollout.reward[k]
    torch.testing.assert_close(batch_of(agent, rollout).returns, expected, atol=1e-4, rtol=1e-4)


def watched_update(agent, trial) -> list:
    """The batches of all minibatch steps of one update."""
    seen, original = [], agent._minibatch_step
    agent._minibatch_step = lambda batch, *rest: seen.append(batch) or original(batch, *rest)
    agent.update(trial, 0.0, make_generator(0))
    return seen


def lanes_of(batch, rollout) -> list[int]:
    """Which lanes a batch holds, known by their tasks; every part must be that lane's, whole."""
    description = rollout.tasks.description
    lanes = [int((description == row).all(1).nonzero().item()) for row in batch.task]
    assert torch.equal(batch.action, rollout.decision.action[:, lanes])
    assert torch.equal(batch.log_prob, rollout.decision.log_prob[:, lanes])
    assert torch.equal(batch.mask, rollout.mask[:, lanes])
    for found, stored in zip(batch.timestep, rollout.timestep, strict=True):
        assert torch.equal(found, stored[:, lanes])
    return lanes


@pytest.mark.parametrize(("lanes", "minibatches"), [(8, 4), (7, 3), (5, 1), (4, 4)])
def test_minibatches_are_whole_trials_and_cover_every_lane_once_per_epoch(lanes, minibatches):
    size = ("algorithm.num_epochs=3", f"algorithm.num_minibatches={minibatches}")
    agent, env = make_algorithm("env=tabular_mdp", *size, lanes=lanes)
    trial = collected(agent, env)
    batches = [lanes_of(batch, trial[0]) for batch in watched_update(agent, trial)]
    assert len(batches) == 3 * minibatches
    epochs = [batches[start : start + minibatches] for start in range(0, len(batches), minibatches)]
    for epoch in epochs:
        assert sorted(lane for batch in epoch for lane in batch) == list(range(lanes))
    assert lanes < 5 or minibatches == 1 or epochs[0] != epochs[1]


@pytest.mark.parametrize(("lanes", "minibatches"), [(9, 4), (10, 6)])
def test_the_number_of_minibatches_is_the_one_asked_for(lanes, minibatches):
    agent, env = make_algorithm("algorithm.num_epochs=1", f"algorithm.num_minibatches={minibatches}", lanes=lanes)
    assert len(watched_update(agent, collected(agent, env))) == minibatches


def test_steps_after_a_lane_is_done_teach_nothing():
    """Episodes of unequal length: whatever the waiting lanes do or earn, the update is the same."""
    env = Corridor(num_tasks=8, seed=2)
    config = small_config("env=bandit", lanes=8)
    weights = []
    for garbage in (0.0, 1e4):
        torch.manual_seed(0)
        agent = parts(config).make_algorithm(env)
        (rollout,) = collected(agent, Corridor(num_tasks=8, seed=2))
        assert not rollout.mask.all()
        reward = torch.where(rollout.mask, rollout.reward, garbage)
        value = torch.where(rollout.mask, rollout.decision.value, -garbage)
        log_prob = torch.where(rollout.mask, rollout.decision.log_prob, rollout.decision.log_prob - garbage / 1e4)
        decision = rollout.decision._replace(value=value, log_prob=log_prob)
        agent.update([rollout._replace(reward=reward, decision=decision)], 0.0, make_generator(0))
        weights.append(agent.state_dict())
    assert same(*weights)


# ---------------------------------------------------------------- learning


def test_the_optimiser_resumes_with_the_weights():
    twins = []
    agent, env = make_algorithm()
    collected(agent, env, updates=2)
    trial = collected(agent, env)
    fresh, _ = make_algorithm()
    fresh.load_state_dict(agent.state_dict())
    fresh.load_training_state(copy.deepcopy(agent.training_state()))
    for twin in (agent, fresh):
        twin.update(trial, 0.5, make_generator(3))
        twins.append(twin.state_dict())
    assert same(*twins)


def test_it_learns_to_explore_and_exploit_a_three_armed_bandit():
    rates = ("algorithm.learning_rate=1e-2", "algorithm.final_learning_rate=3e-3")
    rates += ("algorithm.num_minibatches=2", "algorithm.num_epochs=8", "algorithm.entropy_coefficient=0.01")
    size = (
        "env.num_arms=3",
        "env.num_episodes=10",
        "model.hidden_size=16",
        "model.layer_norm=false",
        "model.timescale=1",
    )
    agent, env = make_algorithm(*size, *rates, lanes=300)
    acting, updating = make_generator(0), make_generator(1)

    factory = build_env_factory(small_config(*size, *rates))

    def score() -> float:
        return evaluate(agent, factory, num_tasks=4000, seed=9, greedy=True).return_mean

    assert score() < 5.3  # untrained: 5 by chance
    for iteration in range(40):
        env.sample_tasks()
        agent.update(collect_trial(env, agent, acting), iteration / 40, updating)
    assert score() > 5.9  # other seeds reach 6.2; the best there is, 6.4
