"""Ant tasks: run in a direction or at a velocity, reach a goal (Finn et al. 2017; Rothfuss et al. 2018)."""

import math
from typing import Literal

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat

from metarl.envs.mujoco_env import DirectionTasks, Flags, PlanarMujocoEnv, VelocityTasks, on_circle
from metarl.envs.physics import Array
from metarl.types import Tasks

TORSO = 1  # body number
HEALTHY = (0.2, 1.0)  # metres above the ground


class Ant(PlanarMujocoEnv):
    """The body of Gymnasium's ``Ant-v5``: 20 control steps a second.

    Observation: the torso's x and y (2) where ``observe_position``, its height, attitude and joint angles (13),
    velocities (14), and contact forces clipped to [-1, 1] (78) where ``observe_contacts``.

    The published codes show the contact forces of the world, too, which are zeros (84 in place of 78), and the torso's
    x, y and z a second time where goals are sparse. Under the simulator they used, contact forces were near 0.

    Args:
        terminate_when_unhealthy: an episode ends where the torso leaves 0.2 to 1 metre.
        observe_position, observe_contacts: the observation has the position of the torso, or the contact forces.
        control_cost: weight of the squared action.
        contact_cost: weight of the squared contact forces, clipped to [-1, 1].
        inherited: see ``MujocoEnv``.
    """

    file, frame_skip, observed = "ant.xml", 5, ("xpos", "cfrc_ext")

    def __init__(
        self,
        terminate_when_unhealthy: bool,
        observe_position: bool,
        observe_contacts: bool,
        control_cost: NonNegativeFloat,
        contact_cost: NonNegativeFloat,
        **inherited,
    ):
        super().__init__(**inherited)
        self.terminate_when_unhealthy, self.fixed_length = terminate_when_unhealthy, not terminate_when_unhealthy
        self.observe_position, self.observe_contacts = observe_position, observe_contacts
        self.control_cost, self.contact_cost = control_cost, contact_cost

    def observe(self) -> Array:
        parts = [self.physics.qpos[:, 0 if self.observe_position else 2 :], self.physics.qvel]
        if self.observe_contacts:
            parts.append(self._contacts()[:, 1:].reshape(self.num_lanes, -1))  # without the world's
        return np.concatenate(parts, axis=1)

    def ended(self) -> Flags:
        return ~self.healthy() if self.terminate_when_unhealthy else super().ended()

    def healthy(self) -> Flags:
        """Whether the torso is neither on the ground nor in the air, ``[B]``."""
        low, high = HEALTHY
        height = self.physics.qpos[:, 2]
        return (low <= height) & (height <= high)

    def torso(self) -> Array:
        """Position of the torso in the plane, ``[B, 2]``, one integrator stage late as MuJoCo and Gymnasium have it."""
        return self.physics.observed["xpos"][:, TORSO, :2]

    def place(self):
        return self.physics.qpos[:, :2]

    def velocity(self) -> Array:
        """Velocity of the torso in the plane over the control step, metres per second, ``[B, 2]``."""
        return (self.torso() - self.observed_before["xpos"][:, TORSO, :2]) / self.physics.control_interval

    def cost(self, action: Array) -> Array:
        """Cost of control, from the unclipped action, and of contacts, ``[B]``."""
        control = self.control_cost * np.square(action).sum(axis=1)
        return control + self.contact_cost * np.square(self._contacts()).sum(axis=(1, 2))

    def _contacts(self) -> Array:
        return self.physics.observed["cfrc_ext"].clip(-1, 1)


class PaidAnt(Ant):
    """An ant that earns a bonus for survival at every step.

    Args:
        bonus_when_unhealthy: the bonus is paid on unhealthy steps, too, such as the one that ends an episode, as in the
            published codes; Gymnasium's ``v5`` pays it while healthy alone.
        inherited: see ``Ant``.
    """

    def __init__(self, bonus_when_unhealthy: bool, **inherited):
        super().__init__(**inherited)
        self.bonus_when_unhealthy = bonus_when_unhealthy

    def survived(self) -> Flags:
        """Who is paid the bonus, ``[B]``."""
        return self._all if self.bonus_when_unhealthy else self.healthy()


class AntDirection(DirectionTasks, PaidAnt):
    """Run in a direction d as fast as possible: ``d . v - 0.5 |a|² - contacts + 1``.

    With a direction of 0 radians and ``bonus_when_unhealthy=false`` these are the rewards of ``Ant-v5``. Finn et al.
    2017 pay 0.05 in place of 1 and weigh the action by 0.005.
    """

    def reward(self, action):
        return self.progress() - self.cost(action) + self.survived()

    def progress(self):
        return (self.velocity() * self.task("direction")).sum(axis=1)


class AntVelocity(VelocityTasks, PaidAnt):
    """Run forward at v* metres per second: ``1 - |v_x - v*| - costs + 0.05``, the last a bonus for survival."""

    def reward(self, action):
        bonus = 1 + 0.05 * self.survived()
        return bonus - np.abs(self.forward_velocity() - self.task("velocity")) - self.cost(action)

    def forward_velocity(self):
        return self.velocity()[:, 0]


class AntGoal(Ant):
    """Reach a goal, uniform in a disc around the start: minus the distance of the torso, minus costs.

    There is no bonus for survival, and no episode of the published codes ends early.

    Args:
        radius: radius of the disc of goals, metres.
        norm: norm of the distance, ``l1`` in the dense and ``l2`` in the sparse variant, as published.
        sparse_distance: the distance counts up to this alone (Beck et al. 2022: 0.75), and being no farther is success;
            null counts all of it.
        inherited: see ``Ant``.
    """

    def __init__(
        self,
        radius: PositiveFloat,
        norm: Literal["l1", "l2"],
        sparse_distance: PositiveFloat | None,
        **inherited,
    ):
        super().__init__(**inherited)
        self.radius, self.norm, self.sparse_distance = radius, norm, sparse_distance
        self.task_dim = 2

    def draw_tasks(self, num_tasks, task_set):
        distance = self.radius * self.draw(num_tasks, (0, 1)).sqrt()
        return Tasks({"goal": distance.unsqueeze(1) * on_circle(self.draw(num_tasks, (0, 2 * math.pi)))})

    def reward(self, action):
        distance = self._distance()
        if self.sparse_distance is not None:
            distance = distance.clip(max=self.sparse_distance)
        return -distance - self.cost(action)

    def succeeded(self):
        return None if self.sparse_distance is None else self._distance() <= self.sparse_distance

    def _distance(self) -> Array:
        return np.linalg.norm(self.torso() - self.task("goal"), ord=1 if self.norm == "l1" else 2, axis=1)
