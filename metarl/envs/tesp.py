"""Reach a goal with a cart, a small ant or an arm (Lan et al. 2019, TESP, section 5 and supplement).

Goals are 2-D and are not seen. There are three sets: those to train on (D), held-out ones in the same area (D'), and
ones out of its range (D''), the task set ``out_of_range``.
"""

from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from pydantic import NonNegativeFloat, NonNegativeInt

from metarl.envs.goal_sets import GoalTasks
from metarl.envs.mujoco_env import Flags, PlanarMujocoEnv
from metarl.envs.physics import Array

HEALTHY = (0.15, 0.45)  # metres of the ant's torso above the ground
FINGERTIP = {2: (0.75, 0.95), 4: (0.45, 0.45, 0.45, 0.65)}  # metres from joint to joint, and to the tip
Failure = Literal["random"] | NonNegativeInt


class GoalReaching(GoalTasks, PlanarMujocoEnv):
    """A body, 20 control steps a second, that starts each episode from the same state and ends it at its goal.

    Reward: minus the distance to the goal, minus ``control_cost / 2`` times the squared action, clipped to [-1, 1].
    That is the published code's; the supplement leaves out the half. The code counts time limits as terminations.
    Actions of 1 are the strongest of the velocity servos that move the joints. Reaching the goal is success.

    Args:
        control_cost: weight of the squared action.
        reward: ``distance``, as published, or ``progress``, by which the distance shrank, which dying early cannot
            exploit.
        observation_noise: standard deviation of noise on all that is seen.
        failed_actuator: one that does nothing: its number, or a ``random`` one at every step; null has none.
        inherited: see ``GoalTasks`` and ``MujocoEnv``.
    """

    fixed_length, can_fall = False, False
    frame_skip = 5
    arrival: float  # metres from the goal at which an episode ends

    def __init__(
        self,
        control_cost: NonNegativeFloat,
        reward: Literal["distance", "progress"],
        observation_noise: NonNegativeFloat,
        failed_actuator: Failure | None,
        **inherited,
    ):
        super().__init__(**inherited)
        model = self.model
        if isinstance(failed_actuator, int) and failed_actuator >= model.nu:
            raise ValueError(f"env.failed_actuator={failed_actuator}: this body has 0 to {model.nu - 1}, or random")
        self.control_cost, self.shaped = control_cost, reward == "progress"
        self.observation_noise, self.failed_actuator = observation_noise, failed_actuator
        self._noise = np.zeros(())

    def sees(self) -> Array:
        """Observation without noise, ``[B, ...]``."""
        raise NotImplementedError

    def point(self, position: Array) -> Array:
        """Point that has to reach the goal, ``[B, 2]``, at joint positions ``[B, nq]``."""
        raise NotImplementedError

    def place(self):
        return self.point(self.physics.qpos)

    def executed_space(self):
        return spaces.Box(-1, 1, (self.model.nu,))

    def control(self, action):
        self._draw_noise()
        control = action.clip(-1, 1) * self.model.actuator_ctrlrange[:, 1]
        if self.failed_actuator == "random":
            failed = torch.randint(control.shape[1], (self.num_lanes,), generator=self.generator, device=self.device)
            control[np.arange(self.num_lanes), failed.cpu().numpy()] = 0
        elif self.failed_actuator is not None:
            control[:, self.failed_actuator] = 0
        return control

    def observe(self) -> Array:
        return self.sees() + self._noise

    def reset(self):
        self._draw_noise()
        return super().reset()

    def _draw_noise(self) -> None:
        """Draw for every lane at every step, so that random streams do not depend on which episodes end."""
        if self.observation_noise:
            self._noise = self.observation_noise * self.normal(*self.sees().shape)

    def reward(self, action):
        distance = self._distance(self.physics.qpos)
        earned = self._distance(self.position_before) - distance if self.shaped else -distance
        return earned - self.control_cost * 0.5 * np.square(action.clip(-1, 1)).sum(axis=1)

    def ended(self) -> Flags:
        return self.succeeded()

    def succeeded(self) -> Flags:
        return self._distance(self.physics.qpos) < self.arrival

    def _distance(self, position: Array) -> Array:
        return np.linalg.norm(self.point(position) - self.task("goal"), axis=1)


class Wheeled(GoalReaching):
    """A cart with two driven wheels: its body's origin shall reach the goal.

    Observation (9): x, y, z, sine and cosine of the heading, and their four velocities.
    """

    file, arrival = "wheeled.xml", 0.02

    def sees(self):
        heading = self.physics.qpos[:, 3]
        angles = np.stack([np.sin(heading), np.cos(heading)], axis=1)
        return np.concatenate([self.physics.qpos[:, :3], angles, self.physics.qvel[:, :4]], axis=1)

    def point(self, position):
        return position[:, :2]


class SmallAnt(GoalReaching):
    """A small ant: its torso shall reach the goal.

    Observation (29): all positions (15) and velocities (14). As published an episode also ends where the torso leaves
    0.15 to 0.45 metres: with the reward of distance falling early then pays, and beats adapting.

    Args:
        terminate_when_unhealthy: an episode ends once the ant is unhealthy.
        unhealthy_penalty: taken from the reward of a step that ends so.
        inherited: see ``GoalReaching``.
    """

    file, arrival = "small_ant.xml", 0.03

    def __init__(self, terminate_when_unhealthy: bool, unhealthy_penalty: NonNegativeFloat, **inherited):
        super().__init__(**inherited)
        if unhealthy_penalty and not terminate_when_unhealthy:
            raise ValueError(
                f"env.unhealthy_penalty={unhealthy_penalty} is of steps that end an episode, which "
                "env.terminate_when_unhealthy=false has none of; set one of them back"
            )
        self.can_fall = terminate_when_unhealthy
        self.terminate_when_unhealthy, self.unhealthy_penalty = terminate_when_unhealthy, unhealthy_penalty

    @property
    def rest(self):
        position = self.model.qpos0.copy()
        position[[8, 10, 12, 14]] = [1, -1, -1, 1]  # ankles, radians
        return position

    def sees(self):
        return np.concatenate([self.physics.qpos, self.physics.qvel], axis=1)

    def point(self, position):
        return position[:, :2]

    def reward(self, action):
        return super().reward(action) - self.unhealthy_penalty * self._falls()

    def ended(self):
        return super().ended() | self._falls()

    def _falls(self) -> Flags:
        low, high = HEALTHY
        height = self.physics.qpos[:, 2]
        return self.terminate_when_unhealthy & ((height < low) | (height > high))


class Reacher(GoalReaching):
    """An arm in the plane: its fingertip shall reach the goal.

    Observation: cosines, sines and velocities of the joints, and x and y of the fingertip (8 for two links, 14 for
    four).

    Args:
        num_links: links of the arm.
        inherited: see ``GoalReaching``.
    """

    def __init__(self, num_links: Literal[2, 4], **inherited):
        self.file, self.arrival = f"reacher_{num_links}link.xml", {2: 0.06, 4: 0.11}[num_links]
        self.lengths = np.array(FINGERTIP[num_links])
        super().__init__(**inherited)

    def sees(self):
        angle = self.physics.qpos
        return np.concatenate([np.cos(angle), np.sin(angle), self.physics.qvel, self.point(angle)], axis=1)

    def point(self, position):
        direction = position.cumsum(axis=1)
        return np.stack([np.cos(direction) @ self.lengths, np.sin(direction) @ self.lengths], axis=1)
