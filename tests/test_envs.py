"""The environment contract over every ``conf/env`` option, and the published formulas of each environment."""

import io

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import global_randomness, make_env, random_actions, same
from scipy import stats

from metarl.envs.base import Step, Tasks
from metarl.rollout import collect_trial, episode_returns
from metarl.seeding import make_generator

SIGMAS = 5  # of a mean; a right implementation fails once in two million draws of a seed


def env_of(env_option: str, **keywords):
    return make_env(f"env={env_option}", **keywords)


def play(env, steps: int, seed: int = 3) -> list:
    """Everything the environment says over some steps of random actions, from new tasks on."""
    generator = make_generator(seed)
    said: list = [env.sample_tasks().description, env.reset()]
    for _ in range(steps):
        said += [part for part in env.step(random_actions(env, generator)) if part is not None]
    return said


def in_space(space: spaces.Space, values: torch.Tensor, lanes: int) -> bool:
    if isinstance(space, spaces.Discrete):
        within = bool((values >= 0).all() & (values < space.n).all())
        return values.shape == (lanes,) and values.dtype == torch.long and within
    return values.shape == (lanes, *space.shape) and values.dtype == torch.float32 and bool(values.isfinite().all())


def assert_mean(values: torch.Tensor, expected: float) -> None:
    """The sample mean lies within a few standard errors of what it should be."""
    values = values.double().flatten()
    error = values.std().item() / len(values) ** 0.5
    assert abs(values.mean().item() - expected) < SIGMAS * error + 1e-9


# ---------------------------------------------------------------- the contract


def test_a_step_has_the_promised_shapes_and_types(env_option):
    env = env_of(env_option, num_tasks=4, lanes_per_task=2)
    assert env.num_lanes == 8
    env.sample_tasks()
    assert in_space(env.observation_space, env.reset(), 8)
    generator = make_generator(0)
    for _ in range(2 * env.horizon + 1):
        step = env.step(random_actions(env, generator))
        assert isinstance(step, Step)
        assert in_space(env.observation_space, step.observation, 8)
        assert in_space(env.observation_space, step.final_observation, 8)
        assert step.reward.shape == (8,) and step.reward.dtype == torch.float32
        flags = [step.terminated, step.truncated] + ([] if step.success is None else [step.success])
        assert all(flag.shape == (8,) and flag.dtype == torch.bool for flag in flags)
        done = step.terminated | step.truncated
        assert same(step.observation[~done], step.final_observation[~done])


def test_task_descriptions_have_the_promised_size(env_option):
    env = env_of(env_option, num_tasks=3, lanes_per_task=2)
    description = env.sample_tasks().description
    assert description.shape == (6, env.task_dim) and description.dtype == torch.float32
    assert description.isfinite().all()


def test_lanes_of_one_task_share_it_and_tasks_differ(env_option):
    env = env_of(env_option, num_tasks=3, lanes_per_task=2)
    description = env.sample_tasks().description
    assert torch.equal(description[0::2], description[1::2])
    assert len({tuple(row) for row in description.tolist()}) == 3


def test_tasks_persist_over_episodes_and_change_only_by_sampling(env_option):
    env = env_of(env_option)
    first = env.sample_tasks().description.clone()
    generator = make_generator(0)
    for _ in range(3):
        env.reset()
        for _ in range(env.horizon + 1):
            env.step(random_actions(env, generator))
            assert torch.equal(env.tasks.description, first)
    assert not (env.sample_tasks().description == first).all(1).any()


def test_rewards_depend_on_the_task(env_option):
    def total(seed):
        env = env_of(env_option, num_tasks=200)
        tasks = env_of(env_option, num_tasks=200, seed=seed).sample_tasks()
        env.set_tasks(tasks)
        env.reset()
        generator = make_generator(0)
        return torch.stack([env.step(random_actions(env, generator)).reward for _ in range(5)])

    assert same(total(1), total(1)) and not same(total(1), total(2))


def test_the_same_seed_gives_the_same_stream_and_another_seed_another(env_option):
    steps = 2 * env_of(env_option).horizon + 1
    first, again, other = (play(env_of(env_option, seed=seed), steps) for seed in (7, 7, 8))
    assert same(first, again) and not same(first, other)


def test_the_stream_does_not_depend_on_the_number_of_threads(env_option):
    before = torch.get_num_threads()
    played = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            played.append(play(env_of(env_option, num_tasks=3000), 3))
    finally:
        torch.set_num_threads(before)
    assert same(*played)


def test_an_environment_uses_no_global_randomness(env_option):
    before = global_randomness()
    play(env_of(env_option), 5)
    assert same(global_randomness(), before)


def test_state_dict_resumes_the_stream_and_survives_a_safe_file(env_option):
    env = env_of(env_option, seed=1)
    play(env, 3)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    file.seek(0)
    expected = play(env, env.horizon + 2)
    resumed = env_of(env_option, seed=99)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert same(play(resumed, env.horizon + 2), expected)


def test_what_a_step_returned_never_changes_afterwards(env_option):
    env = env_of(env_option)
    tasks = env.sample_tasks()
    generator = make_generator(0)
    said = [env.reset(), tasks.description]
    for _ in range(env.horizon + 1):
        said += [part for part in env.step(random_actions(env, generator)) if part is not None]
    copies = [part.clone() for part in said]
    env.reset()
    for _ in range(env.horizon + 1):
        env.step(random_actions(env, generator))
    env.sample_tasks()
    assert same(said, copies)


def test_every_task_set_can_be_drawn_and_an_unknown_one_is_refused(env_option):
    env = env_of(env_option)
    assert {"train", "held_out"} <= set(env.task_sets)
    for task_set in env.task_sets:
        assert len(env.sample_tasks(task_set)) == env.num_lanes
    with pytest.raises(ValueError, match=r"task_set='tset'.*train, held_out"):
        env.sample_tasks("tset")


def test_set_tasks_plays_the_given_tasks_in_groups_of_lanes(env_option):
    given = env_of(env_option, num_tasks=3, seed=5).sample_tasks()
    env = env_of(env_option, num_tasks=3, lanes_per_task=2)
    returned = env.set_tasks(given)
    assert torch.equal(returned.description, given.description.repeat_interleave(2, 0))
    assert torch.equal(env.tasks.description, returned.description)


@pytest.mark.parametrize("count", [2, 4])
def test_set_tasks_refuses_the_wrong_number(env_option, count):
    tasks = env_of(env_option, num_tasks=count).sample_tasks()
    with pytest.raises(ValueError, match=f"given {count} tasks.* plays 3"):
        env_of(env_option, num_tasks=3, lanes_per_task=2).set_tasks(tasks)


def test_another_lanes_task_and_action_change_nothing_for_a_lane(env_option):
    """With the same noise: lane 0 gets another task and other actions."""
    tasks = env_of(env_option, seed=5).sample_tasks()
    swapped = tasks.select(torch.tensor([3, 1, 2, 3]))

    def rewards(given: Tasks, action_shift: int):
        env = env_of(env_option, seed=1)
        env.set_tasks(given)
        env.reset()
        generator = make_generator(0)
        rows = []
        for _ in range(2 * env.horizon):
            action = random_actions(env, generator)
            action[0] = (action[0] + action_shift) % env.action_space.n if action.dtype == torch.long else -action[0]
            step = env.step(action)
            rows.append(torch.cat([step.reward[1:], step.observation[1:].float().flatten()]))
        return torch.stack(rows)

    assert torch.equal(rewards(tasks, 0), rewards(swapped, 1))


def test_episodes_of_fixed_length_end_exactly_at_the_horizon(env_option):
    env = env_of(env_option)
    if not env.fixed_length:
        pytest.skip("episodes of this environment vary in length")
    env.sample_tasks()
    env.reset()
    generator = make_generator(0)
    for t in range(1, 3 * env.horizon + 1):
        step = env.step(random_actions(env, generator))
        done = step.terminated | step.truncated
        assert done.all() if t % env.horizon == 0 else not done.any()


def test_reset_in_the_middle_of_an_episode_starts_a_whole_new_one(env_option):
    env = env_of(env_option)
    env.sample_tasks()
    generator = make_generator(0)
    env.reset()
    for _ in range(env.horizon // 2):
        env.step(random_actions(env, generator))
    env.reset()
    for t in range(1, env.horizon + 1):
        step = env.step(random_actions(env, generator))
        if env.fixed_length:
            assert (step.terminated | step.truncated).all() == (t == env.horizon)


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
    mean = env_of(option, num_tasks=4000).sample_tasks().parameters["mean"]
    assert_mean(mean, 0.5)
    assert stats.kstest(mean.flatten().numpy(), "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(mean.numpy().T) - np.eye(5)).max() < 0.1


@pytest.mark.parametrize("option", ["bandit", "gaussian_bandit"])
def test_a_bandit_pull_ends_the_episode_and_shows_nothing(option):
    env = env_of(option)
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
    mean = env_of("tabular_mdp", num_tasks=400).sample_tasks().parameters["reward_mean"]
    assert mean.shape == (400, 10, 5)
    assert_mean(mean, 1.0)
    assert stats.kstest(mean.flatten().numpy(), "norm", args=(1, 1)).pvalue > 1e-4


def test_mdp_transitions_are_flat_dirichlet_rows():
    rows = env_of("tabular_mdp", num_tasks=400).sample_tasks().parameters["transition"]
    assert rows.shape == (400, 10, 5, 10) and (rows >= 0).all()
    torch.testing.assert_close(rows.sum(-1), torch.ones(400, 10, 5))
    rows = rows.reshape(-1, 10)
    for state in range(10):
        assert_mean(rows[:, state], 1 / 10)
        assert_mean(rows[:, state].square(), 2 / (10 * 11))  # E[p^2] of a flat Dirichlet over S is 2 / (S (S + 1))
    assert_mean(rows[:, 0] * rows[:, 7], 1 / (10 * 11))
    assert stats.kstest(rows[:, 4].numpy(), "beta", args=(1, 9)).pvalue > 1e-4


def test_mdp_rows_of_other_states_and_actions_are_independent():
    rows = env_of("tabular_mdp", num_tasks=4000).sample_tasks().parameters["transition"]
    pair = torch.stack([rows[:, 0, 0, 0], rows[:, 1, 0, 0], rows[:, 0, 1, 0]])
    assert abs(torch.corrcoef(pair) - torch.eye(3)).max() < 0.1


def test_mdp_episodes_start_in_state_zero_and_are_cut_after_ten_steps():
    env = env_of("tabular_mdp", num_tasks=50)
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
    env = env_of("tabular_mdp", num_tasks=2000)
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
