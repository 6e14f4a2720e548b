"""Swimmer: swim in a direction."""

import numpy as np
from pydantic import NonNegativeFloat

from metarl.envs.mujoco_env import DirectionTasks, PlanarMujocoEnv
from metarl.envs.physics import Array


class SwimmerDirection(DirectionTasks, PlanarMujocoEnv):
    """Swim in a direction d as fast as possible, in the body of Gymnasium's ``Swimmer-v5``: ``d . v - 1e-4 |a|²``.

    The task is from no paper. (ProMP's code has a swimmer with target velocities, whose reward has the wrong sign.)

    Observation (8): angles (3) and velocities (5).

    Args:
        control_cost: weight of the squared action.
        inherited: see ``DirectionTasks`` and ``MujocoEnv``.
    """

    normal_velocities = False
    file, frame_skip = "swimmer.xml", 4

    def __init__(self, control_cost: NonNegativeFloat, **inherited):
        super().__init__(**inherited)
        self.control_cost = control_cost

    def observe(self) -> Array:
        return np.concatenate([self.physics.qpos[:, 2:], self.physics.qvel], axis=1)

    def place(self):
        return self.physics.qpos[:, :2]

    def reward(self, action):
        return self.progress() - self.control_cost * np.square(action).sum(axis=1)

    def progress(self):
        velocity = (self.physics.qpos[:, :2] - self.position_before[:, :2]) / self.physics.control_interval
        return (velocity * self.task("direction")).sum(axis=1)
