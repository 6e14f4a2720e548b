"""The environment contract over every ``conf/env`` option."""

import io

import pytest
import torch
from gymnasium import spaces
from helpers import SHOWN, global_randomness, make_env, random_actions, same

from metarl.envs.base import Step, Tasks
from metarl.seeding import make_generator

# What takes milliseconds per step and megabytes per lane is met briefly.
COSTLY = {name: ("env.horizon=4", "env.num_workers=0") for name in ("ml1", "ml10", "ml45")}


def env_of(env_option: str, *overrides: str, **keywords):
    return make_env(f"env={env_option}", *COSTLY.get(env_option, ()), *overrides, **keywords)


def many(env_option: str, most: int) -> int:
    """As many tasks as the environment can meet side by side."""
    return 3 if env_option in COSTLY else min(most, env_of(env_option).most_tasks("train") or most)


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
    env = env_of(env_option, num_tasks=20, lanes_per_task=2)
    description = env.sample_tasks().description
    assert torch.equal(description[0::2], description[1::2])
    assert len({tuple(row) for row in description.tolist()}) > 1


def test_tasks_persist_over_episodes_and_change_only_by_sampling(env_option):
    env = env_of(env_option, num_tasks=20)
    first = env.sample_tasks().description.clone()
    generator = make_generator(0)
    for _ in range(3):
        env.reset()
        for _ in range(env.horizon + 1):
            env.step(random_actions(env, generator))
            assert torch.equal(env.tasks.description, first)
    assert not torch.equal(env.sample_tasks().description, first)


def test_rewards_depend_on_the_task(env_option):
    if env_option == "planning_game":
        pytest.skip("its tasks differ in what is seen")

    def total(seed):
        count, shown = many(env_option, 200), [SHOWN[env_option]] if env_option in SHOWN else []
        env = env_of(env_option, *shown, num_tasks=count)
        tasks = env_of(env_option, num_tasks=count, seed=seed).sample_tasks()
        env.set_tasks(tasks)
        env.reset()
        generator = make_generator(0)
        return torch.stack([env.step(random_actions(env, generator)).reward for _ in range(12)])

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
            played.append(play(env_of(env_option, num_tasks=many(env_option, 2000)), 1))
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
