"""The published formulas of each environment: moments, frequencies, horizons."""

import numpy as np
import pytest
import torch
from helpers import make_env, random_actions
from scipy import stats

from metarl.rollout import collect_trial, episode_returns
from metarl.seeding import make_generator
from metarl.types import Tasks

SIGMAS = 5  # of a mean; a right implementation fails once in two million draws of a seed


def assert_mean(values: torch.Tensor, expected: float) -> None:
    """The sample mean lies within a few standard errors of what it should be."""
    values = values.double().flatten()
    error = values.std().item() / len(values) ** 0.5
    assert abs(values.mean().item() - expected) < SIGMAS * error + 1e-9


def random_return(*overrides: str, num_tasks: int) -> torch.Tensor:
    """Returns of trials under uniform actions, one per task."""
    from metarl.baselines.base import Random

    env = make_env(*overrides, num_tasks=num_tasks)
    env.sample_tasks()
    (rollout,) = collect_trial(env, Random(env.action_space, env.num_episodes), make_generator(0))
    return episode_returns(rollout, env.num_episodes).sum(0)


# ---------------------------------------------------------------- bandits


def bandit_with(means: list[list[float]], *overrides: str):
    env = make_env(*overrides, f"env.num_arms={len(means[0])}", num_tasks=len(means))
    env.set_tasks(Tasks({"mean": torch.tensor(means)}))
    env.reset()
    return env


@pytest.mark.parametrize("option", ["bandit", "gaussian_bandit"])
def test_arm_means_are_uniform_on_the_unit_interval(option):
    mean = make_env(f"env={option}", num_tasks=4000).sample_tasks().parameters["mean"]
    assert_mean(mean, 0.5)
    assert stats.kstest(mean.flatten().numpy(), "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(mean.numpy().T) - np.eye(5)).max() < 0.1


@pytest.mark.parametrize("option", ["bandit", "gaussian_bandit"])
def test_a_bandit_pull_ends_the_episode_and_shows_nothing(option):
    env = make_env(f"env={option}")
    env.sample_tasks()
    assert env.reset().tolist() == [0] * 4 and env.horizon == 1 and env.observation_space.n == 1
    step = env.step(torch.zeros(4, dtype=torch.long))
    assert step.terminated.all() and not step.truncated.any() and step.observation.tolist() == [0] * 4


def test_bernoulli_rewards_are_certain_for_certain_arms():
    env = bandit_with([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]], "env=bandit")
    for arm, expected in [(0, [0, 1]), (1, [1, 0]), (2, [0, 1])]:
        for _ in range(20):
            assert env.step(torch.full((2,), arm)).reward.tolist() == expected


def test_bernoulli_rewards_are_one_with_the_probability_of_the_pulled_arm():
    env = make_env("env=bandit", num_tasks=20_000)
    mean = env.sample_tasks().parameters["mean"]
    arm = torch.arange(20_000) % 5
    reward = env.step(arm).reward
    assert set(reward.tolist()) == {0.0, 1.0}
    pulled = mean[torch.arange(20_000), arm]
    assert_mean(reward - pulled, 0)
    assert_mean((reward - pulled) * pulled, 0)
    assert_mean((reward - pulled).square() / (pulled * (1 - pulled)).clamp(min=1e-3), 1)


def test_bernoulli_rewards_follow_the_formula_from_the_generator():
    env = make_env("env=bandit", num_tasks=50)
    mean = env.sample_tasks().parameters["mean"]
    twin = torch.Generator()
    twin.set_state(env.generator.get_state())
    for arm in (0, 3, 3):
        uniform = torch.rand(50, generator=twin)
        expected = [float(uniform[lane] < mean[lane, arm]) for lane in range(50)]
        assert env.step(torch.full((50,), arm)).reward.tolist() == expected


@pytest.mark.parametrize("std", [1.0, 0.25])
def test_gaussian_rewards_are_the_mean_plus_noise_of_the_given_width(std):
    env = make_env("env=gaussian_bandit", f"env.reward_std={std}", num_tasks=20_000)
    mean = env.sample_tasks().parameters["mean"]
    arm = torch.arange(20_000) % 5
    noise = (env.step(arm).reward - mean[torch.arange(20_000), arm]) / std
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-4
    again = (env.step(arm).reward - mean[torch.arange(20_000), arm]) / std
    assert abs(torch.corrcoef(torch.stack([noise, again]))[0, 1]) < 0.05


def test_gaussian_noise_is_one_unless_told_otherwise():
    assert make_env("env=gaussian_bandit").reward_std == 1.0


@pytest.mark.parametrize("option", ["bandit", "gaussian_bandit"])
def test_random_pulls_return_half_the_episodes(option):
    assert_mean(random_return(f"env={option}", "env.num_episodes=20", num_tasks=4000), 10)


# ---------------------------------------------------------------- tabular MDPs


def mdp_with(reward_mean: torch.Tensor, transition: torch.Tensor, lanes_per_task: int = 1, horizon: int = 10):
    tasks, states, actions = reward_mean.shape
    env = make_env(
        "env=tabular_mdp",
        f"env.num_states={states}",
        f"env.num_actions={actions}",
        f"env.horizon={horizon}",
        num_tasks=tasks,
        lanes_per_task=lanes_per_task,
    )
    env.set_tasks(Tasks({"reward_mean": reward_mean, "transition": transition}))
    env.reset()
    return env


def test_mdp_reward_means_are_normal_around_one():
    mean = make_env("env=tabular_mdp", num_tasks=400).sample_tasks().parameters["reward_mean"]
    assert mean.shape == (400, 10, 5)
    assert_mean(mean, 1.0)
    assert stats.kstest(mean.flatten().numpy(), "norm", args=(1, 1)).pvalue > 1e-4


def test_mdp_transitions_are_flat_dirichlet_rows():
    rows = make_env("env=tabular_mdp", num_tasks=400).sample_tasks().parameters["transition"]
    assert rows.shape == (400, 10, 5, 10) and (rows >= 0).all()
    torch.testing.assert_close(rows.sum(-1), torch.ones(400, 10, 5))
    rows = rows.reshape(-1, 10)
    for state in range(10):
        assert_mean(rows[:, state], 1 / 10)
        assert_mean(rows[:, state].square(), 2 / (10 * 11))  # E[p^2] of a flat Dirichlet over S is 2 / (S (S + 1))
    assert_mean(rows[:, 0] * rows[:, 7], 1 / (10 * 11))
    assert stats.kstest(rows[:, 4].numpy(), "beta", args=(1, 9)).pvalue > 1e-4


def test_mdp_rows_of_other_states_and_actions_are_independent():
    rows = make_env("env=tabular_mdp", num_tasks=4000).sample_tasks().parameters["transition"]
    pair = torch.stack([rows[:, 0, 0, 0], rows[:, 1, 0, 0], rows[:, 0, 1, 0]])
    assert abs(torch.corrcoef(pair) - torch.eye(3)).max() < 0.1


def test_mdp_episodes_start_in_state_zero_and_are_cut_after_ten_steps():
    env = make_env("env=tabular_mdp", num_tasks=50)
    env.sample_tasks()
    assert env.reset().tolist() == [0] * 50
    generator = make_generator(0)
    for t in range(1, 31):
        step = env.step(random_actions(env, generator))
        assert not step.terminated.any()
        assert step.truncated.all() == (t % 10 == 0)
        assert (step.observation == 0).all() == (t % 10 == 0)
        assert step.final_observation.unique().numel() > 1


def test_mdp_rewards_are_the_mean_of_state_and_action_plus_unit_noise():
    env = make_env("env=tabular_mdp", num_tasks=2000)
    mean = env.sample_tasks().parameters["reward_mean"]
    generator, state, noise = make_generator(0), env.reset(), []
    for _ in range(15):
        action = random_actions(env, generator)
        step = env.step(action)
        noise.append(step.reward - mean[torch.arange(2000), state, action])
        state = step.observation
    noise = torch.stack(noise)
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-4
    assert abs(torch.corrcoef(noise) - torch.eye(15)).max() < 0.12


def test_mdp_follows_certain_transitions():
    """Ring: action a moves a + 1 states on; another ring for the second task."""
    states, actions = 5, 3
    transition = torch.zeros(2, states, actions, states)
    for s in range(states):
        for a in range(actions):
            transition[0, s, a, (s + a + 1) % states] = 1
            transition[1, s, a, (s - a - 1) % states] = 1
    env = mdp_with(torch.zeros(2, states, actions), transition, lanes_per_task=2, horizon=50)
    generator, where = make_generator(0), [0, 0, 0, 0]
    for _ in range(49):
        action = random_actions(env, generator)
        moves = (action + 1).tolist()
        where = [(s + (m if lane < 2 else -m)) % states for lane, (s, m) in enumerate(zip(where, moves, strict=True))]
        assert env.step(action).observation.tolist() == where


def test_mdp_next_states_have_the_frequencies_of_their_row():
    lanes = 20_000
    transition = make_env("env=tabular_mdp", num_tasks=1, seed=4).sample_tasks().parameters["transition"]
    env = mdp_with(torch.zeros(1, 10, 5), transition, lanes_per_task=lanes)
    for action in (0, 4):
        env.reset()
        reached = env.step(torch.full((lanes,), action)).observation
        counts = torch.bincount(reached, minlength=10).numpy()
        expected = transition[0, 0, action].double().numpy() * lanes
        assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-4


def test_mdp_of_one_state_and_one_step_works():
    env = make_env("env=tabular_mdp", "env.num_states=1", "env.horizon=1", num_tasks=6)
    env.sample_tasks()
    env.reset()
    step = env.step(torch.zeros(6, dtype=torch.long))
    assert step.observation.tolist() == [0] * 6 and step.truncated.all()


def test_random_mdp_steps_return_one_each():
    assert_mean(random_return("env=tabular_mdp", "env.num_episodes=4", num_tasks=2000), 40)
