"""HalfCheetah tasks: run at a velocity, in a direction, hop to a height, or one of these.

Finn et al. 2017 (velocity and direction), Beck et al. 2022 (the others).
"""

import numpy as np
import torch
from pydantic import NonNegativeFloat

from metarl.envs.capabilities import Measured, Quantity
from metarl.envs.mujoco_env import PlanarMujocoEnv, VelocityTasks, check_range
from metarl.envs.physics import Array
from metarl.types import Tasks

TORSO_HEIGHT = 0.7  # metres, of the torso where the joint that lifts it is at 0


class HalfCheetah(PlanarMujocoEnv):
    """The body of Gymnasium's ``HalfCheetah-v5``: 20 control steps a second, episodes of exactly ``horizon`` steps.

    Observation: joint positions but the first (8), joint velocities (9) and, with ``observe_torso_position``, the
    torso's x, y and z in metres (3) as in the papers. Episodes start from the body's rest position with uniform noise
    on positions and normal noise on velocities.

    The published codes read the torso from MuJoCo's body positions, one simulation step (10 ms) late; here it is where
    the joints are after the step.

    Args:
        control_cost: weight of the squared action.
        observe_torso_position: the observation has the position of the torso.
        inherited: see ``MujocoEnv``.
    """

    file, frame_skip = "half_cheetah.xml", 5
    position_axes = ("x (m)", "height of the torso (m)")

    def __init__(self, control_cost: NonNegativeFloat, observe_torso_position: bool, **inherited):
        super().__init__(**inherited)
        self.control_cost, self.observe_torso_position = control_cost, observe_torso_position

    def observe(self) -> Array:
        position, velocity = self.physics.qpos, self.physics.qvel
        parts = [position[:, 1:], velocity]
        if self.observe_torso_position:
            x, z = position[:, 0], TORSO_HEIGHT + position[:, 1]
            parts.append(np.stack([x, np.zeros_like(x), z], axis=1))
        return np.concatenate(parts, axis=1)

    def place(self):
        return np.stack([self.physics.qpos[:, 0], TORSO_HEIGHT + self.physics.qpos[:, 1]], axis=1)

    def cost(self, action: Array) -> Array:
        """Cost of control, ``[B]``, from the action as given, before actuators clip it."""
        return self.control_cost * np.square(action).sum(axis=1)


class CheetahVelocity(VelocityTasks, HalfCheetah):
    """Run at a velocity v*: ``-|v - v*| - 0.05 |a|²``.

    v* lies between 0 and 3 in the codes of ProMP, VariBAD and TrMRL, between 0 and 2 in Finn et al. 2017. Standing
    still costs about 300 in 200 steps where v* is between 0 and 3, running at the mean velocity about 150.
    """

    def reward(self, action):
        return -np.abs(self.forward_velocity() - self.task("velocity")) - self.cost(action)


class CheetahDirection(HalfCheetah, Measured):
    """Run forward or backward as fast as possible: ``d v - 0.05 |a|²``, d = 1 or -1.

    VariBAD's and hyper's codes play one episode of 200 steps (the sparse variant: 400), TrMRL's two.

    Args:
        sparse_distance: metres from the start before which the velocity earns nothing (Beck et al. 2022: 10); 0 earns
            from the start.
        inherited: see ``HalfCheetah``.
    """

    def __init__(self, sparse_distance: NonNegativeFloat, **inherited):
        super().__init__(**inherited)
        self.sparse_distance = sparse_distance
        self.task_dim = 1

    def draw_tasks(self, num_tasks, task_set):
        return Tasks({"direction": self.draw_sign(num_tasks)})

    def all_tasks(self, task_set):
        return Tasks({"direction": self.signs})

    def reward(self, action):
        return self.progress() * (np.abs(self.physics.qpos[:, 0]) >= self.sparse_distance) - self.cost(action)

    def progress(self) -> Array:
        """Velocity in the direction of the task, metres per second, ``[B]``."""
        return self.task("direction") * self.forward_velocity()

    def quantity(self, lane=0):
        return Quantity("velocity in the direction of the task", "m/s", self.progress()[lane], None)


class CheetahHop(HalfCheetah, Measured):
    """Lift the torso to a height z* above the ground: ``10 (-|z - z*| - 0.05 |a|²)``.

    At rest the torso is 0.7 metres high, so that the published range, 0.3 to 2, is 0.4 below to 1.3 above rest.

    Args:
        min_height, max_height: range of z*, in metres above the ground.
        inherited: see ``HalfCheetah``.
    """

    def __init__(self, min_height: float, max_height: float, **inherited):
        super().__init__(**inherited)
        check_range("height", min_height, max_height)
        self.bounds_of_height = (min_height, max_height)
        self.task_dim = 1

    def draw_tasks(self, num_tasks, task_set):
        return Tasks({"height": self.draw(num_tasks, self.bounds_of_height)})

    def all_tasks(self, task_set):
        only = self.only(self.bounds_of_height)
        return None if only is None else Tasks({"height": only})

    def reward(self, action):
        return 10 * (-np.abs(self.height() - self.task("height")) - self.cost(action))

    def height(self) -> Array:
        """Height of the torso above the ground, metres, ``[B]``."""
        return TORSO_HEIGHT + self.physics.qpos[:, 1]

    def quantity(self, lane=0):
        return Quantity("height of the torso", "m", self.height()[lane], self.task("height")[lane])


class CheetahHopWalk(CheetahHop):
    """Either run in a direction or hop to a height, evenly: the rewards of ``CheetahDirection`` and ``CheetahHop``.

    Task parameters: 1 to hop, the direction, the height; those that do not count are 0. The published code has two: 1
    to hop, and the direction or the height.

    Args:
        parametric: directions and heights vary; else it is forward and the greatest height, as in the published
            variant without parameters.
        inherited: see ``CheetahHop``.
    """

    def __init__(self, parametric: bool, **inherited):
        super().__init__(**inherited)
        self.parametric = parametric
        self.task_dim = 3

    def draw_tasks(self, num_tasks, task_set):
        hop = torch.rand(num_tasks, generator=self.task_generator, device=self.device) < 0.5
        low, high = self.bounds_of_height
        height = self.draw(num_tasks, (low if self.parametric else high, high))
        direction = self.draw_sign(num_tasks) if self.parametric else torch.ones_like(height)
        return Tasks({"hop": hop.float(), "direction": direction * ~hop, "height": height * hop})

    def all_tasks(self, task_set):
        if self.parametric:
            return None
        hop = torch.tensor([0.0, 1.0], device=self.device)
        return Tasks({"hop": hop, "direction": 1 - hop, "height": self.bounds_of_height[1] * hop})

    def reward(self, action):
        run = self.task("direction") * self.forward_velocity() - self.cost(action)
        return np.where(self.task("hop") > 0, super().reward(action), run)

    def quantity(self, lane=0):
        if self.task("hop")[lane] > 0:
            return super().quantity(lane)
        along = (self.task("direction") * self.forward_velocity())[lane]
        return Quantity("velocity in the direction of the task", "m/s", along, None)
