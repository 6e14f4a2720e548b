"""Run forward in bodies whose dynamics are the task: mass, inertia, friction and damping differ.

Random factors on everything are those of ``rand_param_envs`` (Rothfuss et al. 2018; Zintgraf et al. 2020), the grid of
mass and damping that of a fork of TrMRL's code with the bodies of D4RL.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveFloat

from metarl.envs.capabilities import Measured, Quantity
from metarl.envs.mujoco_env import Flags, MujocoEnv
from metarl.envs.physics import Array
from metarl.envs.simulator import mujoco
from metarl.types import Tasks

FIELDS = {"mass": "body_mass", "inertia": "body_inertia", "friction": "geom_friction", "damping": "dof_damping"}
RATIOS = (0.75, 0.85, 1.0, 1.15, 1.25)


@dataclass(frozen=True)
class Body:
    """A runner of Gymnasium: its file and what its environment rewards and ends."""

    file: str
    frame_skip: int
    control_cost: float
    normal_velocities: bool
    healthy_bonus: float = 0.0
    healthy_height: tuple[float, float] | None = None  # metres
    healthy_angle: float = np.inf  # radians, either way
    healthy_state: float = np.inf  # of every other position and velocity, either way
    seen_velocity: float = np.inf  # velocities are clipped to this, either way


BODIES = {
    "half_cheetah": Body("half_cheetah.xml", 5, 0.1, True),
    "hopper": Body("hopper.xml", 4, 1e-3, False, 1.0, (0.7, np.inf), 0.2, 100.0, 10.0),
    "walker2d": Body("walker2d.xml", 4, 1e-3, False, 1.0, (0.8, 2.0), 1.0, np.inf, 10.0),
    "walker2d_v5": Body("walker2d_v5.xml", 4, 1e-3, False, 1.0, (0.8, 2.0), 1.0, np.inf, 10.0),
}
BodyName = Literal["half_cheetah", "hopper", "walker2d", "walker2d_v5"]


class ParameterizedLocomotion(MujocoEnv, Measured):
    """Run forward as fast as possible in a body that differs between tasks.

    Observation and reward are those of Gymnasium's HalfCheetah, Hopper or Walker2d: forward velocity, minus a cost of
    control, plus 1 where the body can fall, which ends an episode.

    Args:
        body: which. The feet of ``walker2d`` have frictions of 0.9 and 1.9, as in all published codes; those of
            ``walker2d_v5`` both 1.9, as Gymnasium has corrected them.
        timestep: seconds of a simulation step, of which a control step has 4 (the cheetah 5); null has the body's own,
            which is 0.002 (the cheetah 0.01).
        constants: what MuJoCo derives from masses and inertias, such as the weights of contacts, is computed ``anew``
            for every task; or stays that of the ``nominal`` body, as in ``rand_param_envs``, where that is missing.
        bonus_when_unhealthy: the 1 for survival is paid on unhealthy steps, too, such as the one that ends an episode,
            as in the published codes; Gymnasium's ``v5`` pays it while healthy alone.
        inherited: see ``MujocoEnv``.
    """

    models_per_lane = True

    def __init__(
        self,
        body: BodyName,
        timestep: PositiveFloat | None,
        constants: Literal["anew", "nominal"],
        bonus_when_unhealthy: bool = True,
        **inherited,
    ):
        self.body, self.timestep = BODIES[body], timestep
        self.constants, self.bonus_when_unhealthy = constants, bonus_when_unhealthy
        self.file, self.frame_skip = self.body.file, self.body.frame_skip
        self.normal_velocities = self.body.normal_velocities
        self.fixed_length = self.body.healthy_height is None
        super().__init__(**inherited)
        self._scratch = mujoco.MjData(self.model)

    def set_tasks(self, tasks):
        tasks = super().set_tasks(tasks)
        factors = {name: self.factors(name) for name in tasks.parameters}
        for lane, model in enumerate(self.physics.models):
            for name in factors:
                nominal, factor = getattr(self.model, FIELDS[name]), factors[name][lane]
                getattr(model, FIELDS[name])[:] = nominal * (factor.reshape(nominal.shape) if factor.ndim else factor)
            if self.constants == "anew":
                mujoco.mj_setConst(model, self._scratch)
        return tasks

    def factors(self, name: str) -> Array:
        """Factor of a property of the body, ``[B, ...]``."""
        return self.task(name)

    def observe(self) -> Array:
        velocity = self.physics.qvel.clip(-self.body.seen_velocity, self.body.seen_velocity)
        return np.concatenate([self.physics.qpos[:, 1:], velocity], axis=1)

    def reward(self, action):
        cost = self.body.control_cost * np.square(action).sum(axis=1)
        paid = self._all if self.bonus_when_unhealthy else self._healthy()
        return self.forward_velocity() + self.body.healthy_bonus * paid - cost

    def quantity(self, lane=0):
        return Quantity("forward velocity", "m/s", self.forward_velocity()[lane], None)

    def ended(self) -> Flags:
        return ~self._healthy()

    def _healthy(self) -> Flags:
        if self.body.healthy_height is None:
            return self._all
        (low, high), body = self.body.healthy_height, self.body
        height, angle = self.physics.qpos[:, 1], self.physics.qpos[:, 2]
        upright: Flags = (low < height) & (height < high) & (np.abs(angle) < body.healthy_angle)
        return upright & (np.abs(self.physics.state[:, 3:]) < body.healthy_state).all(axis=1)


class DynamicsGrid(ParameterizedLocomotion):
    """Mass and damping of all parts, each 0.75, 0.85, 1, 1.15 or 1.25 times the body's own: 25 tasks.

    Task i has the mass of row ``i // 5`` and the damping of column ``i % 5``; task 12 is the body itself. Published
    episodes have up to 1,000 steps, one to a trial.

    Args:
        held_out: tasks of the grid that are not used in training; if empty, both sets have all 25.
        inherited: see ``ParameterizedLocomotion``.
    """

    def __init__(self, held_out: list[int], **inherited):
        super().__init__(**inherited)
        cells = len(RATIOS) ** 2
        wrong = [cell for cell in held_out if not 0 <= cell < cells]
        if wrong or len(set(held_out)) == cells:
            raise ValueError(f"env.held_out={held_out}: must leave some of the tasks 0 to {cells - 1} to train on")
        training = [cell for cell in range(cells) if cell not in held_out]
        self._cells = {"train": training, "held_out": held_out or training}
        self.task_dim = 2

    def draw_tasks(self, num_tasks, task_set):
        cells = torch.tensor(self._cells[task_set], device=self.device)
        chosen = torch.randint(len(cells), (num_tasks,), generator=self.task_generator, device=self.device)
        return self._tasks(cells[chosen])

    def all_tasks(self, task_set):
        return self._tasks(torch.tensor(self._cells[task_set], device=self.device))

    def _tasks(self, cell: torch.Tensor) -> Tasks:
        ratio = torch.tensor(RATIOS, device=self.device)
        return Tasks({"mass": ratio[cell // len(RATIOS)], "damping": ratio[cell % len(RATIOS)]})


class RandomDynamics(ParameterizedLocomotion):
    """Every mass, inertia, friction and damping of a body has a factor of its own.

    Masses, inertias and frictions are multiplied by ``1.5^u``, dampings by ``1.3^u``, each with its u uniform between
    plus and minus ``spread`` (Rothfuss et al. 2018: 3). Task parameters are the exponents; VariBAD's code describes a
    task by the resulting values, in another order.

    Args:
        spread: half-width of the exponents of the factors.
        inherited: see ``ParameterizedLocomotion``.
    """

    def __init__(self, spread: PositiveFloat, **inherited):
        super().__init__(**inherited)
        self.spread = spread
        self._sizes = {name: getattr(self.model, field).size for name, field in FIELDS.items()}
        self.task_dim = sum(self._sizes.values())

    def draw_tasks(self, num_tasks, task_set):
        bounds = (-self.spread, self.spread)
        return Tasks({name: self.draw((num_tasks, size), bounds) for name, size in self._sizes.items()})

    def factors(self, name):
        return (1.3 if name == "damping" else 1.5) ** self.task(name)
