"""Humanoid: run in a direction (Rothfuss et al. 2018)."""

import numpy as np
from pydantic import NonNegativeFloat

from metarl.envs.mujoco_env import DirectionTasks, Flags, PlanarMujocoEnv
from metarl.envs.physics import Array

HEALTHY = (1.0, 2.0)  # metres of the torso above the ground
PROGRESS, HEALTHY_BONUS, CONTACT_COST, MOST_CONTACT_COST = 1.25, 5.0, 5e-7, 10.0


class HumanoidDirection(DirectionTasks, PlanarMujocoEnv):
    """Run in a direction d as fast as possible, in the body of Gymnasium's ``Humanoid-v5``.

    Reward: ``1.25 d . v - 0.1 |a|² - min(5e-7 |contacts|², 10) + 5``, v the velocity of the centre of mass in the
    plane. Along the x axis and with ``bonus_when_unhealthy=false`` that is the reward of ``Humanoid-v5``. An episode
    ends where the torso leaves 1 to 2 metres above the ground.

    Observation (348): positions but x and y, velocities, inertias and velocities of the body's parts about its centre,
    forces of the joints, and contact forces. The published codes show 376 numbers: also the world's own inertia,
    velocity and contacts and the forces of the free joint, all zeros. Actions reach from -0.4 to 0.4; VariBAD's code
    scales them to [-1, 1].

    Args:
        bonus_when_unhealthy: the 5 for survival is paid on unhealthy steps, too, such as the one that ends an episode,
            as in the published codes; Gymnasium's ``v5`` pays it while healthy alone.
        control_cost: weight of the squared action.
        inherited: see ``DirectionTasks`` and ``MujocoEnv``.
    """

    fixed_length = False
    normal_velocities = False
    file, frame_skip = "humanoid.xml", 5
    observed = ("xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext")

    def __init__(self, bonus_when_unhealthy: bool, control_cost: NonNegativeFloat, **inherited):
        super().__init__(**inherited)
        self.bonus_when_unhealthy, self.control_cost = bonus_when_unhealthy, control_cost
        self._share = self.model.body_mass / self.model.body_mass.sum()

    def observe(self) -> Array:
        seen = self.physics.observed
        parts = [self.physics.qpos[:, 2:], self.physics.qvel]
        parts += [seen["cinert"][:, 1:], seen["cvel"][:, 1:], seen["qfrc_actuator"][:, 6:], seen["cfrc_ext"][:, 1:]]
        return np.concatenate([part.reshape(self.num_lanes, -1) for part in parts], axis=1)

    def place(self):
        return self.physics.qpos[:, :2]

    def reward(self, action):
        contact = CONTACT_COST * np.square(self.physics.observed["cfrc_ext"]).sum(axis=(1, 2))
        cost = self.control_cost * np.square(action).sum(axis=1) + contact.clip(max=MOST_CONTACT_COST)
        paid = self._all if self.bonus_when_unhealthy else self._healthy()
        return PROGRESS * self.progress() + HEALTHY_BONUS * paid - cost

    def progress(self):
        moved = self._share @ (self.physics.observed["xipos"] - self.observed_before["xipos"])[..., :2]
        return (moved * self.task("direction")).sum(axis=1) / self.physics.control_interval

    def ended(self) -> Flags:
        return ~self._healthy()

    def _healthy(self) -> Flags:
        low, high = HEALTHY
        height = self.physics.qpos[:, 2]
        return (low < height) & (height < high)
