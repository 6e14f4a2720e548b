"""Collecting trials: what an agent is shown, what is recorded, and where episodes of unequal length end."""

from functools import cache
from typing import NamedTuple

import pytest
import torch
from helpers import (
    Corridor,
    Counter,
    collected,
    corridor_with,
    global_randomness,
    make_algorithm,
    make_env,
    perturb,
    same,
)

from metarl.baselines.base import Random
from metarl.envs.base import MetaEnv
from metarl.rollout import collect, collect_trial, episode_returns
from metarl.seeding import make_generator
from metarl.types import Rollout

LENGTHS = [1, 4, 2, 9]  # of episodes; the horizon of 5 truncates the last
LIVED = [1, 4, 2, 5]


def corridor_trial(*rollouts: int, **options):
    agent = Counter(*rollouts)
    env = corridor_with(LENGTHS, bonus=[0.0, 10.0, 20.0, 30.0], **options)
    return collect_trial(env, agent, make_generator(0)), agent


def naive_returns(rollout: Rollout, episodes: int) -> list[list[float]]:
    """Walk through every lane, adding rewards up until an episode ends."""
    steps, lanes = rollout.reward.shape
    returns = [[0.0] * lanes for _ in range(episodes)]
    for lane in range(lanes):
        episode = 0
        for t in range(steps):
            if episode < episodes:
                returns[episode][lane] += rollout.reward[t, lane].item()
            episode += int(rollout.terminated[t, lane] or rollout.truncated[t, lane])
    return returns


class Collected(NamedTuple):
    """A trial, and whether global generators were left alone."""

    env: MetaEnv
    rollout: Rollout
    undisturbed: bool


@cache
def trial_in(env_option: str) -> Collected:
    """A trial for several tests to look at."""
    algorithm, env = make_algorithm(f"env={env_option}")
    before = global_randomness()
    (rollout,) = collected(algorithm, env)
    return Collected(env, rollout, same(global_randomness(), before))


def test_a_trial_is_one_rollout_of_all_episodes_time_major(env_option):
    env, rollout, _ = trial_in(env_option)
    shape = (env.num_episodes * env.horizon, env.num_lanes)
    for part in (rollout.reward, rollout.terminated, rollout.truncated, rollout.mask, *rollout.decision[1:3]):
        assert part.shape == shape
    for part in (rollout.timestep.previous_reward, rollout.timestep.first):
        assert part.shape == shape
    assert rollout.decision.action.shape == (*shape, *env.action_space.shape)
    assert rollout.timestep.observation.shape == (*shape, *env.observation_space.shape)
    assert rollout.timestep.observation.shape == rollout.timestep.previous_observation.shape
    assert len(rollout.tasks) == env.num_lanes


def test_every_step_of_fixed_length_episodes_counts(env_option):
    env, rollout, _ = trial_in(env_option)
    if env.fixed_length:
        assert rollout.mask.all()
        episodes = env.num_episodes
        assert (rollout.terminated | rollout.truncated).sum(0).tolist() == [episodes] * env.num_lanes


def assert_shifted(rollout: Rollout, start_action) -> None:
    """Each timestep that counts shows what the step before it did and gave."""
    timestep, counts = rollout.timestep, rollout.mask[1:]
    for shown, given in (
        (timestep.previous_action, rollout.decision.action),
        (timestep.previous_reward, rollout.reward),
        (timestep.previous_observation, timestep.observation),
        (timestep.first, rollout.terminated | rollout.truncated),
    ):
        assert torch.equal(shown[1:][counts], given[:-1][counts])
    assert timestep.first[0].all()
    assert (timestep.previous_action[0] == start_action).all() and (timestep.previous_reward[0] == 0).all()


def test_a_timestep_shows_the_previous_action_and_reward_and_where_episodes_start(env_option):
    env, rollout, _ = trial_in(env_option)
    assert_shifted(rollout, -1 if hasattr(env.action_space, "n") else 0)


def test_a_discrete_observation_before_the_first_is_told_apart_from_all_others():
    env = make_env("env=tabular_mdp")
    env.sample_tasks()
    (rollout,) = collect_trial(env, Random(env.action_space, env.num_episodes), make_generator(0))
    assert (rollout.timestep.previous_observation[0] == -1).all()


def test_episode_returns_are_those_of_a_naive_loop(env_option):
    env, rollout, _ = trial_in(env_option)
    expected = torch.tensor(naive_returns(rollout, env.num_episodes))
    torch.testing.assert_close(episode_returns(rollout, env.num_episodes), expected)


def test_episode_returns_of_unequal_episodes_are_those_of_a_naive_loop():
    (rollout,), _ = corridor_trial(3)
    expected = torch.tensor(naive_returns(rollout, 3))
    torch.testing.assert_close(episode_returns(rollout, 3), expected)
    assert expected[0, 1].item() == pytest.approx(4 * 10 + (0 + 1 + 2 + 3) / 8)


def test_the_mask_covers_exactly_the_steps_of_the_asked_episodes():
    (rollout,), _ = corridor_trial(3)
    for lane, length in enumerate(LIVED):
        assert rollout.mask[:, lane].tolist() == [t < 3 * length for t in range(len(rollout.mask))]


def test_collection_ends_once_every_lane_is_done():
    (rollout,), _ = corridor_trial(3)
    assert len(rollout.reward) == 3 * max(LIVED)
    short = collect_trial(corridor_with([1, 2, 1]), Counter(4), make_generator(0))[0]
    assert len(short.reward) == 4 * 2


def test_episodes_terminate_at_their_length_and_are_truncated_at_the_horizon():
    (rollout,), _ = corridor_trial(2)
    for lane, length in enumerate(LIVED):
        ends = [t for t in range(2 * length) if rollout.terminated[t, lane] or rollout.truncated[t, lane]]
        assert ends == [length - 1, 2 * length - 1]
    assert not rollout.terminated[:, 3].any() and rollout.truncated[4, 3]
    assert torch.equal(rollout.success, rollout.terminated)


def test_lanes_of_unequal_episodes_are_shown_their_own_past():
    (rollout,), _ = corridor_trial(3)
    assert_shifted(rollout, -1)


def test_a_rollout_without_success_has_none():
    env = make_env("env=bandit")
    env.sample_tasks()
    assert collect_trial(env, Counter(2), make_generator(0))[0].success is None


def test_an_agent_adapts_between_its_rollouts_to_the_one_just_lived():
    trial, agent = corridor_trial(1, 2)
    assert len(trial) == 2 and len(agent.adapted_on) == 1 and agent.adapted_on[0] is trial[0]
    assert (trial[0].decision.action == 0).all() and (trial[1].decision.action == 1).all()
    for rollout, episodes in zip(trial, (1, 2), strict=True):
        ended = (rollout.terminated | rollout.truncated) & rollout.mask
        assert ended.sum(0).tolist() == [episodes] * 4


def test_state_is_handed_from_rollout_to_rollout():
    trial, _ = corridor_trial(1, 2)
    counts = torch.cat([rollout.decision.value for rollout in trial])[:, 0]
    assert counts.tolist() == list(range(len(counts)))


def test_each_rollout_starts_with_fresh_episodes_and_no_past():
    trial, _ = corridor_trial(1, 2)
    for rollout in trial:
        assert_shifted(rollout, -1)
        assert (rollout.timestep.observation[0, :, 0] == 0).all()


def test_tasks_stay_the_same_over_all_rollouts_of_a_trial():
    trial, _ = corridor_trial(1, 2, 1)
    assert len(trial) == 3
    assert all(same(rollout.tasks, trial[0].tasks) for rollout in trial)


@pytest.mark.parametrize("greedy", [False, True])
def test_the_wish_for_greedy_actions_reaches_the_agent(greedy):
    agent = Counter(2)
    collect_trial(corridor_with([2, 3]), agent, make_generator(0), greedy=greedy)
    assert set(agent.greedy) == {greedy}


def test_support_is_sampled_whatever_the_wish():
    """Greedy support would show an agent that learns by gradients nothing to learn from."""
    agent = Counter(1, 2, 1)
    collect_trial(corridor_with([3, 3]), agent, make_generator(0), greedy=True)
    assert agent.greedy == [False] * 9 + [True] * 3


def test_greedy_actions_are_the_most_likely_and_need_no_randomness():
    algorithm, env = make_algorithm("env=tabular_mdp")
    perturb(algorithm)
    env.sample_tasks()
    generator = make_generator(0)
    before = generator.get_state()
    (rollout,) = collect_trial(env, algorithm, generator, greedy=True)
    assert torch.equal(generator.get_state(), before)
    carry = algorithm.policy.initial_carry(env.num_lanes)
    output, _ = algorithm.policy(rollout.timestep, carry, rollout.tasks.description)
    assert torch.equal(output.distribution_params.argmax(-1), rollout.decision.action)


def test_collecting_builds_no_graph_and_uses_only_the_given_generator(env_option):
    _, rollout, undisturbed = trial_in(env_option)
    assert undisturbed
    parts = (rollout.reward, *rollout.decision, *rollout.timestep)
    assert not any(part.requires_grad for part in parts if part is not None)


def test_the_same_generators_collect_the_same_trial(env_option):
    first, again, other = (
        collected(*make_algorithm(f"env={env_option}"), seed=seed)[0].decision.action for seed in (5, 5, 6)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_collect_returns_the_state_after_the_last_step():
    env, agent = corridor_with([2, 2]), Counter(2)
    _, state = collect(env, agent, agent.initial_state(env.tasks), 2, make_generator(0))
    assert state.steps.tolist() == [4, 4]


def test_the_test_environment_keeps_the_contract_itself():
    env = Corridor(num_tasks=3, lanes_per_task=2, seed=1)
    assert torch.equal(env.sample_tasks().description[0::2], env.tasks.description[1::2])
    assert env.tasks.description.shape == (6, env.task_dim)
