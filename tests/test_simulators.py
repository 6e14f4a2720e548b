"""Simulated bodies against Gymnasium's own environments, one lane at a time, and the papers' rewards."""

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from helpers import make_env

from metarl.envs.physics import BatchedPhysics, ObservedPhysics
from metarl.seeding import make_generator

STEPS = 1000
TOLERANCE = 1e-9

# What a lane's reward should be, from what Gymnasium says of the same step: its info, the action, the task, its data.


def square(action):
    return np.square(action).sum()


def runs_at_velocity(info, action, task, data):
    return -abs(info["x_velocity"] - task["velocity"]) - 0.05 * square(action)


def runs_in_direction(info, action, task, data):
    return task["direction"] * info["x_velocity"] - 0.05 * square(action)


def runs_far_off(info, action, task, data):
    return task["direction"] * info["x_velocity"] * (abs(info["x_position"]) >= 10) - 0.05 * square(action)


def hops(info, action, task, data):
    return 10 * (-abs(0.7 + data.qpos[1] - task["height"]) - 0.05 * square(action))


def hops_or_walks(info, action, task, data):
    return hops(info, action, task, data) if task["hop"] else runs_in_direction(info, action, task, data)


def ant_runs(info, action, task, data):
    along = info["x_velocity"] * task["direction"][0] + info["y_velocity"] * task["direction"][1]
    return along + 1 + info["reward_ctrl"] + info["reward_contact"]


def ant_runs_at_velocity(info, action, task, data):
    return 1.05 - abs(info["x_velocity"] - task["velocity"]) - 0.005 * square(action) + info["reward_contact"]


def ant_nears(info, action, task, data):
    return -np.abs(data.xpos[1, :2] - task["goal"]).sum() - 0.1 * square(action) + info["reward_contact"]


def ant_nears_when_near(info, action, task, data):
    distance = np.linalg.norm(data.xpos[1, :2] - task["goal"])
    return -min(0.75, distance) - 0.01 * square(action) + info["reward_contact"]


def humanoid_runs(info, action, task, data):
    along = info["x_velocity"] * task["direction"][0] + info["y_velocity"] * task["direction"][1]
    return 1.25 * along + 5 + info["reward_ctrl"] + info["reward_contact"]


def swims(info, action, task, data):
    return info["x_velocity"] * task["direction"][0] + info["y_velocity"] * task["direction"][1] - 1e-4 * square(action)


def as_gymnasium(info, action, task, data):
    return info["reward_forward"] + info["reward_ctrl"] + ("reward_survive" in info)


NO_CONTACTS = {"include_cfrc_ext_in_observation": False}
POSITION = {"exclude_current_positions_from_observation": False}
SAME = {
    "cheetah_vel": ("HalfCheetah-v5", {}, runs_at_velocity),
    "cheetah_dir": ("HalfCheetah-v5", {}, runs_in_direction),
    "cheetah_dir_sparse": ("HalfCheetah-v5", {}, runs_far_off),
    "cheetah_hop": ("HalfCheetah-v5", {}, hops),
    "cheetah_hop_walk": ("HalfCheetah-v5", {}, hops_or_walks),
    "cheetah_grid": ("HalfCheetah-v5", {}, as_gymnasium),
    "ant_dir": ("Ant-v5", NO_CONTACTS, ant_runs),
    "ant_vel": ("Ant-v5", NO_CONTACTS, ant_runs_at_velocity),
    "ant_goal": ("Ant-v5", POSITION, ant_nears),
    "ant_goal_sparse": ("Ant-v5", POSITION, ant_nears_when_near),
    "humanoid_dir": ("Humanoid-v5", {}, humanoid_runs),
    "swimmer_dir": ("Swimmer-v5", {}, swims),
    "hopper_grid": ("Hopper-v5", {}, as_gymnasium),
    "hopper_params": ("Hopper-v5", {}, as_gymnasium),
    "walker_grid": ("Walker2d-v5", {"xml_file": "walker2d.xml"}, as_gymnasium),
    "walker_params": ("Walker2d-v5", {"xml_file": "walker2d.xml"}, as_gymnasium),
}
LANES = 4


class Twin:
    """Gymnasium's environment in the body and the state of one lane."""

    def __init__(self, env, lane: int, name: str, options: dict):
        self.env, self.lane = env, lane
        self.gym = gymnasium.make(name, **options).unwrapped
        self.gym.reset(seed=0)
        task = {name: value[lane].numpy() for name, value in env.tasks.parameters.items()}
        self.task = {name: value.astype(float) for name, value in task.items()}
        self.gym.model.opt.timestep = env.model.opt.timestep
        self._take_dynamics()

    def _take_dynamics(self) -> None:
        """Factors on masses, inertias, frictions and dampings, then the constants that follow from them."""
        model, base = self.gym.model, {"body_mass": 1.5, "body_inertia": 1.5, "geom_friction": 1.5, "dof_damping": 1.3}
        for field, name in zip(base, ("mass", "inertia", "friction", "damping"), strict=True):
            if name in self.task:
                values, given = getattr(model, field), self.task[name]
                values[:] = values * (base[field] ** given.reshape(values.shape) if given.ndim else given)
                mujoco.mj_setConst(model, mujoco.MjData(model))

    def follow(self) -> None:
        """Take the lane's state."""
        physics = self.env.physics
        mujoco.mj_resetData(self.gym.model, self.gym.data)
        self.gym.set_state(physics.qpos[self.lane].copy(), physics.qvel[self.lane].copy())
        if isinstance(physics, BatchedPhysics):  # its solver starts cold
            self.gym.data.qacc_warmstart[:] = 0


def spied(env) -> dict:
    """Last results of ``observe``, ``reward`` and ``ended``, in float64 and before any lane is reset."""
    said: dict = {}
    for name in ("reward", "observe", "ended"):
        original = getattr(env, name)

        def call(*given, original=original, name=name):
            values = original(*given)
            said.setdefault(name, np.array(values))
            return values

        setattr(env, name, call)
    return said


@pytest.mark.parametrize("option", sorted(SAME))
def test_steps_equal_gymnasiums(option):
    """Physics, observation, reward and termination, from the same state under the same actions."""
    name, options, expected_reward = SAME[option]
    env = make_env(f"env={option}", num_tasks=LANES)
    env.sample_tasks()
    env.reset()
    twins = [Twin(env, lane, name, options) for lane in range(LANES)]
    carried = isinstance(env.physics, ObservedPhysics)  # the solver's warm start too: then they run freely
    said, generator, began = spied(env), make_generator(0), np.ones(LANES, bool)
    low, high = (torch.from_numpy(bound) for bound in (env.action_space.low, env.action_space.high))
    for _ in range(STEPS // LANES):
        action = low + (high - low) * torch.rand(LANES, len(low), generator=generator)
        for twin in twins:
            if began[twin.lane] or not carried:
                twin.follow()
        said.clear()
        native = env.actions.scaled(action.double().numpy())
        step = env.step(action)
        for twin in twins:
            given = native[twin.lane]
            observation, _, ended, _, info = twin.gym.step(given)
            lane = twin.lane
            atol = TOLERANCE * max(1, abs(observation).max())
            np.testing.assert_allclose(said["observe"][lane], observation, rtol=0, atol=atol)
            reward = expected_reward(info, given, twin.task, twin.gym.data)
            assert abs(said["reward"][lane] - reward) < TOLERANCE
            if not env.fixed_length:
                assert bool(said["ended"][lane]) == bool(ended)
        began = (step.terminated | step.truncated).numpy()
