"""Our lanes as a vector environment of Gymnasium, and as the ``VecEnv`` of Stable-Baselines3."""

import re
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import make_env, random_actions, small_config
from test_gymnasium import UNBOUNDED

from metarl.api.agents import TrainedAgent
from metarl.configuration.build import build_algorithm
from metarl.envs.rendering import NoRendererError, RenderError
from metarl.seeding import make_generator

LANES = 4


def batched(option: str, num_envs: int = LANES, **keys):
    name = f"metarl.gymnasium_envs:metarl/{option}-v0"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Gymnasium warns where metadata are missing
        return gymnasium.make_vec(name, num_envs=num_envs, vectorization_mode="vector_entry_point", **keys)


@pytest.mark.parametrize("option", ["bandit", "tabular_mdp", "cheetah_vel", "hopper_params", "point_goal", "tmaze"])
def test_lanes_are_ours_and_their_spaces_hold(option):
    env = batched(option, **({"horizon": 5} if option in ("cheetah_vel", "hopper_params") else {}))
    ours, generator = make_env(f"env={option}", num_tasks=LANES, seed=5), make_generator(0)
    ours.horizon = env._lanes.env.horizon
    ours.sample_tasks()
    ours.set_tasks(env._lanes.env.tasks)
    observation, infos = env.reset(seed=5)
    np.testing.assert_array_equal(observation, ours.reset())
    assert infos == {} and env.observation_space.contains(observation)
    for _ in range(ours.horizon + 2):
        action = random_actions(ours, generator)
        observation, reward, terminated, truncated, infos = env.step(action.numpy())
        step = ours.step(action)
        np.testing.assert_array_equal(observation, step.observation)
        np.testing.assert_array_equal(reward, step.reward)
        np.testing.assert_array_equal(terminated, step.terminated)
        np.testing.assert_array_equal(truncated, step.truncated)
        assert env.observation_space.contains(observation) and (reward.dtype, terminated.dtype) == (float, bool)
        done = terminated | truncated
        assert ("final_obs" in infos) == done.any()
        if done.any():
            np.testing.assert_array_equal(infos["_final_obs"], done)
            last = step.final_observation.numpy()
            assert all(np.array_equal(infos["final_obs"][lane], last[lane]) for lane in np.flatnonzero(done))
            assert all(infos["final_obs"][lane] is None for lane in np.flatnonzero(~done))


def test_infos_are_those_of_gymnasiums_own_vector_environment():
    keys = {"horizon": 3, "num_episodes": 2}
    single = "metarl.gymnasium_envs:metarl/point_navigation-v0"
    theirs = SyncVectorEnv([lambda: gymnasium.make(single, **keys)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    ours = batched("point_navigation", 2, **keys)
    assert ours.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    for env in (ours, theirs):
        env.reset(seed=0)
    for _ in range(3):
        actions = np.zeros((2, *ours.single_action_space.shape), np.float32)
        found = [env.step(actions)[-1] for env in (ours, theirs)]
        assert described(found[0]) == described(found[1])
    assert "_final_info" in found[0]


def described(infos: dict) -> dict:
    """Names in vector infos with the masks of who has them, and the kinds of values."""
    return {
        name: described(value) if isinstance(value, dict) else value.tolist() if name[0] == "_" else value.dtype
        for name, value in infos.items()
    }


def test_tasks_are_kept_and_can_be_set():
    env = batched("bandit", 3)
    env.reset(seed=1)
    tasks = env.sample_tasks(3)
    env.set_tasks(tasks)
    env.reset(seed=2)
    assert np.array_equal(env._lanes.env.tasks.parameters["mean"], [task["mean"] for task in tasks])
    with pytest.raises(ValueError, match="2 tasks; this environment plays 3"):
        env.set_tasks(tasks[:2])


@pytest.mark.parametrize(
    ("given", "fragment"), [({"seed": [1, 2]}, "one number"), ({"options": {"reset_mask": 1}}, "all")]
)
def test_resets_of_single_lanes_are_refused(given, fragment):
    with pytest.raises(ValueError, match=fragment):
        batched("bandit", 2).reset(**given)


def test_a_session_takes_the_five_values_of_a_vector_environment():
    overrides = ("env=hopper_params", "env.horizon=6", "algorithm=maml", "model=mlp", "meta_optimizer=trpo")
    agent, parts = build_algorithm(small_config(*overrides))
    session = TrainedAgent(agent, parts).start(2, lanes_per_task=2)
    env, adapted_on, expected = batched("hopper_params", 2, horizon=6), [], []
    adapt = agent.adapt
    agent.adapt = lambda state, rollout: adapted_on.append(rollout) or adapt(state, rollout)
    observation, _ = env.reset(seed=0)
    while not adapted_on:
        step = env.step(session.act(observation))
        last = step[0].copy()
        for lane in np.flatnonzero(step[2] | step[3]):
            last[lane] = step[4]["final_obs"][lane]
        expected.append(last)
        session.observe(*step)
        observation = step[0]
    mask = adapted_on[0].mask
    assert np.array_equal(adapted_on[0].next_observation[mask], np.array(expected)[mask])


# ---------------------------------------------------------------- pictures


def test_registered_environments_render():
    try:
        env = gymnasium.make("metarl.gymnasium_envs:metarl/cheetah_vel-v0", render_mode="rgb_array").unwrapped
        env.reset(seed=0)
        frame = env.render()
    except NoRendererError as error:
        pytest.skip(str(error))
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.std() > 0
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_env(env)
    allowed = f"{UNBOUNDED}|alternative render modes|render_mode"
    assert not [str(each.message) for each in said if not re.search(allowed, str(each.message))]
    many = batched("cheetah_vel", 2, render_mode="rgb_array")
    many.reset(seed=0)
    assert [picture.shape for picture in many.render()] == [frame.shape] * 2
    assert batched("cheetah_vel", 2).render() is None


def test_an_environment_without_pictures_says_so():
    with pytest.raises(RenderError, match="metarl/bandit-v0: does not render as rgb_array; make it without"):
        batched("bandit", render_mode="rgb_array")
    assert batched("bandit").metadata["render_modes"] == []


# ---------------------------------------------------------------- other libraries


def test_loops_as_cleanrls_run():
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(batched("point_goal", 3, horizon=4))
    env.reset(seed=0)
    for _ in range(8):
        _observation, _reward, terminated, truncated, infos = env.step(env.action_space.sample())
    assert (terminated | truncated).all() and infos["episode"]["l"].tolist() == [4, 4, 4]


def test_recurrent_ppo_of_sb3_contrib_learns_on_it():
    pytest.importorskip("sb3_contrib")
    from sb3_contrib import RecurrentPPO

    from metarl.stable_baselines import StableBaselinesLanes

    env = StableBaselinesLanes(batched("point_goal", 8, horizon=4))
    learner = RecurrentPPO("MlpLstmPolicy", env, n_steps=16, batch_size=64, n_epochs=1, device="cpu", seed=0)
    before = [value.clone() for value in learner.policy.parameters()]
    learner.learn(256)
    assert learner.num_timesteps == 256
    assert any((old != new).any() for old, new in zip(before, learner.policy.parameters(), strict=True))
