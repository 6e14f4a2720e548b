"""Actions of agents and of environments; what is seen and done beyond bounds; what follows the end of a task."""

import os

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import brief, make_algorithm, make_env, small_config

from metarl.algorithms.samples import AdvantageConfig, make_samples
from metarl.baselines.base import Random
from metarl.configuration.build import build_algorithm
from metarl.envs.actions import BoxActions, JointActions
from metarl.envs.base import MetaEnv
from metarl.envs.gymnasium_lanes import GymnasiumEnv
from metarl.errors import ContractError
from metarl.models.distributions import action_distribution
from metarl.models.features import OneHot
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from metarl.types import Step, Tasks, Timestep


class Aim(gymnasium.Env):
    """Pays for being near to 200 between 0 and 255."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(0, 255, (1,))

    def sample_tasks(self, num_tasks):
        return [0.0] * num_tasks

    def set_task(self, task):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros(1), -abs(float(action[0]) - 200) / 100, False, False, {}


class Falls(Aim):
    """Pays 1 a step and falls at a step."""

    observation_space = spaces.Box(-10, 10, (1,))

    def __init__(self, fall):
        self.fall = fall

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.ones(1), {}

    def step(self, action):
        self.steps += 1
        return np.ones(1), 1.0, self.steps >= self.fall, False, {}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    monkeypatch.setenv("METARL_TRUST", __name__)


def env_of(name, horizon=5, num_tasks=4, **given):
    options = given.pop("options", {})
    make = f"test_actions:{name}"
    return GymnasiumEnv(make, options, horizon, 1, bool(options), 0, num_tasks=num_tasks, seed=0, **given)


# ---------------------------------------------------------------- bounds of actions


def box(low, high, kind=np.float32):
    return spaces.Box(np.array(low, kind), np.array(high, kind), dtype=kind)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.uint8, np.int32])
def test_ends_and_middle_are_reached_exactly(kind):
    actions = BoxActions(box([0, 3], [255, 7], kind))
    assert actions.space == spaces.Box(-1, 1, (2,))
    native = actions.native(np.array([[-1, -1], [1, 1], [-4, 9], [0.2, 0]], np.float32))
    assert native.dtype == kind and native[:3].tolist() == [[0, 3], [255, 7], [0, 7]]
    assert native[3].tolist() == pytest.approx([153, 5], rel=1e-3)
    assert all(actions.executed.contains(row) for row in native)


def test_a_number_that_single_precision_rounds_up_stays_within_bounds():
    actions = BoxActions(box([-0.1], [0.1], np.float64))
    assert actions.native(np.array([[1.0], [-1.0]], np.float32)).tolist() == [[0.1], [-0.1]]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_bounds_of_one_are_left_alone_bit_for_bit(kind):
    actions, given = BoxActions(box([-1] * 3, [1] * 3, kind)), np.random.default_rng(0).normal(size=(50, 3))
    assert actions.scaled(given) is given
    native = actions.native(given.astype(np.float32))
    assert native.dtype == np.float32 and np.array_equal(native, given.astype(np.float32).clip(-1, 1))


def test_channels_without_a_bound_are_left_alone_and_the_others_are_not():
    most = np.finfo(np.float32).max
    actions = BoxActions(box([-np.inf, 0, -most, -1, 0], [np.inf, np.inf, most, 1, 10]))
    assert actions.space.low.tolist() == [-np.inf, 0, -most, -1, -1]
    assert actions.space.high.tolist() == [np.inf, np.inf, most, 1, 1]
    found = actions.native(np.array([[7.0, -2.0, 1e9, 3.0, 3.0]], np.float32))
    assert found.tolist() == [[7.0, 0.0, 1e9, 1.0, 10.0]]


def test_agents_may_act_in_the_units_of_the_environment():
    env = env_of("Aim", scale_actions=False)
    assert env.action_space == spaces.Box(0, 255, (1,))
    env.sample_tasks()
    env.reset()
    assert env.step(torch.full((4, 1), 200.0)).reward.tolist() == [0] * 4


def test_combinations_have_a_number_each():
    space = spaces.MultiDiscrete([[2, 3], [2, 1]], start=[[0, 1], [5, 0]])
    actions = JointActions(space)
    native = actions.native(np.arange(12))
    assert actions.space == spaces.Discrete(12) and len({row.tobytes() for row in native}) == 12
    assert all(space.contains(row) for row in native)


def test_the_best_action_between_wide_bounds_is_learned():
    settings = ("algorithm.learning_rate=1e-2", "algorithm.num_epochs=4")
    config = small_config("algorithm=rl2", "model=mlp", *settings, lanes=20)
    target = {"_target_": "metarl.envs.gymnasium_lanes.GymnasiumEnv", "_partial_": True, "make": "test_actions:Aim"}
    config["env"] = target | {"options": {}, "horizon": 5, "num_episodes": 1, "ends_early": False, "num_workers": 0}
    agent, built = build_algorithm(config)
    env, acting, updating = built.make_env(num_tasks=20, seed=1), make_generator(2), make_generator(3)
    for step in range(60):
        env.sample_tasks()
        agent.update(collect_trial(env, agent, acting), step / 60, updating)
    (rollout,) = collect_trial(env, agent, acting, greedy=True)
    assert rollout.reward.mean() > -0.2  # within 20 of 200; -2 at 0


def test_a_simulated_body_with_other_bounds_is_driven_from_minus_one_to_one():
    env = make_env("env=humanoid_dir", num_tasks=1)
    assert env.action_space == spaces.Box(-1, 1, (17,))
    env.sample_tasks()
    env.reset()
    seen = []
    env.physics.advance = seen.append
    env.step(torch.full((1, 17), -3.0))
    env.step(torch.full((1, 17), 0.5))
    assert (seen[0] == -0.4).all() and seen[1] == pytest.approx(0.2)


class Wide(MetaEnv):
    """An environment of metarl whose actions have other bounds."""

    observation_space, action_space, task_dim = spaces.Discrete(1), spaces.Box(0, 255, (1,)), 1

    def draw_tasks(self, num_tasks, task_set):
        return Tasks({"task": torch.zeros(num_tasks, 1)})

    def reset(self):
        return torch.zeros(self.num_lanes, dtype=torch.long)

    def step(self, action):
        return Step(self.reset(), action.squeeze(1), self._false, self._true, None, self.reset())


def test_an_environment_of_metarl_with_other_bounds_is_refused_with_the_remedy():
    config = small_config("algorithm=rl2")
    config["env"] = {"_target_": "test_actions.Wide", "_partial_": True, "num_episodes": 1, "horizon": 1}
    with pytest.raises(ContractError, match=r"Wide.action_space=Box\(0.0, 255.0.*agents act between -1 and 1; scale"):
        build_algorithm(config)


# ---------------------------------------------------------------- from whatever number on


def test_discrete_actions_are_drawn_and_judged_from_the_first_number_on():
    plain, odd = action_distribution(spaces.Discrete(3)), action_distribution(spaces.Discrete(3, start=-2))
    logits = torch.randn(500, 3, generator=make_generator(0))
    drawn = [each.sample(logits, make_generator(1)) for each in (plain, odd)]
    assert torch.equal(drawn[0] - 2, drawn[1]) and torch.equal(plain.mode(logits) - 2, odd.mode(logits))
    assert torch.equal(plain.log_prob(logits, drawn[0]), odd.log_prob(logits, drawn[1]))
    found = Random(spaces.Discrete(3, start=-2), 1).act(Timestep(*[torch.zeros(99)] * 5), (), make_generator(0))[0]
    assert set(found.action.tolist()) == {-2, -1, 0}


def test_one_hot_vectors_count_from_the_first_number_and_nothing_is_zeros():
    vectors = OneHot(spaces.Discrete(3, start=-1))
    assert vectors(torch.tensor([-2, -1, 0, 1])).tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


# ---------------------------------------------------------------- beyond bounds


def test_observations_beyond_their_bounds_are_seen_and_actions_count_as_executed():
    space, beyond = spaces.Box(0, 1, (2,)), torch.tensor([[5.0, -2.0]])
    assert OneHot(space)(beyond).tolist() == [[5.0, -2.0]]
    assert OneHot(space, executed=True)(beyond).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("model", ["gru", "mlp"])
def test_a_policy_tells_observations_beyond_bounds_apart(model):
    agent, env = make_algorithm("env=point_goal", f"model={model}", "model.inputs=transition")
    zeros = torch.zeros(1, 2)
    common = {"previous_reward": torch.zeros(1), "first": torch.zeros(1, dtype=torch.bool)}

    def seen(now, before, action):
        return agent.policy.features(Timestep(zeros + now, zeros + before, zeros + action, **common))

    assert env.observation_space.high.max() < 7
    assert not torch.equal(seen(7.0, 0, 0), seen(9.0, 0, 0)) and not torch.equal(seen(0, 7.0, 0), seen(0, 9.0, 0))
    assert torch.equal(seen(0, 0, 1.0), seen(0, 0, 9.0))


# ---------------------------------------------------------------- terminated and truncated


@pytest.mark.parametrize("baseline", ["linear", "linear_time", "zero"])
def test_nothing_follows_a_fall_at_the_horizon(baseline):
    env = env_of("Falls", options={"fall": 5})
    env.sample_tasks()
    (rollout,) = collect_trial(env, Random(env.action_space, 1), make_generator(0))
    assert rollout.terminated[-1].all() and not rollout.truncated.any() and len(rollout.reward) == 5
    for said in (rollout, rollout._replace(truncated=rollout.terminated)):  # an environment may say both
        for bootstrap in (False, True):
            returns = make_samples(said, 1, AdvantageConfig(0.99, 1.0, baseline, False, bootstrap)).returns
            torch.testing.assert_close(returns[:, 0], torch.full((4,), 4.90099501), atol=1e-4, rtol=0)
            torch.testing.assert_close(returns[:, -1], torch.ones(4), atol=1e-4, rtol=0)


def test_returns_go_on_where_the_time_limit_alone_cut_an_episode():
    env = env_of("Falls", options={"fall": 9})
    env.sample_tasks()
    (rollout,) = collect_trial(env, Random(env.action_space, 1), make_generator(0))
    assert rollout.truncated[-1].all() and not rollout.terminated.any()
    returns = make_samples(rollout, 1, AdvantageConfig(0.99, 1.0, "linear", False, True)).returns
    torch.testing.assert_close(returns, torch.full_like(returns, 100.0), atol=0.1, rtol=0)


def test_no_step_of_any_environment_is_terminated_and_truncated(env_option):
    env = make_env(f"env={env_option}", *brief(env_option), num_tasks=4)
    env.sample_tasks()
    env.reset()
    agent, generator = Random(env.action_space, 1), make_generator(0)
    timestep = Timestep(*[torch.zeros(4)] * 5)
    for _ in range(min(2 * env.horizon, 250)):
        step = env.step(agent.act(timestep, (), generator)[0].action)
        assert not (step.terminated & step.truncated).any()
