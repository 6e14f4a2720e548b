"""Task distributions over one simulated body: what is seen, rewarded and ends an episode, over all lanes at once."""

import logging
import math
from abc import abstractmethod
from copy import copy
from functools import cached_property, partial
from importlib.resources import files
from typing import Annotated, Literal

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor

from metarl.envs.actions import BoxActions
from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import Measured, Planar, Quantity, Renderable
from metarl.envs.physics import Array, BatchedPhysics, ObservedPhysics
from metarl.envs.rendering import Camera, Frame
from metarl.envs.simulator import mujoco
from metarl.types import Step, Tasks

Flags = NDArray[np.bool_]
# Along the x axis; any in the plane; the angles 1 and -1 radian of TrMRL's code, 115 degrees apart.
Directions = Literal["forward_backward", "any", "legacy_radian"]


def load_model(file: str) -> mujoco.MjModel:
    """A body of ours, or one that comes with Gymnasium."""
    own = files("metarl.envs") / "bodies" / file
    path = own if own.is_file() else files("gymnasium.envs.mujoco") / "assets" / file
    return mujoco.MjModel.from_xml_path(str(path))


class MujocoEnv(MetaEnv, Renderable):
    """Lanes of one MuJoCo body. Physics is float64 on the CPU for any device; observations and rewards are float32.

    A subclass says what ``observe`` and ``reward`` are, where an episode starts (``rest``) and, where it can end before
    its horizon, when (``ended``). They see the state in ``self.physics``, and what it was before the control step in
    ``position_before`` and ``observed_before``. A simulation that diverges ends its episode with reward 0; the lane
    starts anew.

    Args:
        horizon: most steps of an episode.
        num_episodes: episodes of a trial.
        reset_noise: half-width of noise on starting positions; on velocities too, or the standard deviation where they
            are normal.
        num_threads: CPU threads of the simulation; None takes all cores. Results do not depend on it.
        lanes: see ``MetaEnv``.
    """

    file: str  # of the body
    frame_skip: int  # simulation steps per control step
    timestep: float | None = None  # seconds of a simulation step; None: as the file has it
    observed: tuple[str, ...] = ()  # further fields of mujoco.MjData that observation or reward need
    models_per_lane = False  # lanes differ in their bodies
    view, goal_height = 4.0, 0.1  # metres, of the camera from the body and of a goal's mark above the ground
    normal_velocities = True  # at the start of an episode; else uniform, as positions are

    def __init__(
        self,
        horizon: PositiveInt,
        num_episodes: PositiveInt,
        reset_noise: Annotated[float, Field(ge=0, le=10)],
        num_threads: PositiveInt | None,
        **lanes,
    ):
        super().__init__(horizon=horizon, num_episodes=num_episodes, **lanes)
        self.reset_noise = reset_noise
        self.model = model = load_model(self.file)
        model.opt.timestep = self.timestep or model.opt.timestep
        models = [copy(model) for _ in range(self.num_lanes)] if self.models_per_lane else [model]
        kind = partial(ObservedPhysics, observed=self.observed) if self.observed else BatchedPhysics
        self.physics = kind(models, self.num_lanes, self.frame_skip, num_threads)
        self.actions = BoxActions(self.executed_space())
        self.action_space = self.actions.space
        self.seconds_per_step = self.physics.control_interval
        self.steps_per_second = 1 / self.seconds_per_step
        self.before = self.physics.state.copy()
        self.observed_before = {name: values.copy() for name, values in self.physics.observed.items()}
        self._camera: Camera | None = None
        self.num_unstable = 0  # simulations that diverged so far
        self._episode = np.zeros(self.num_lanes, int)  # begun so far
        self._elapsed = torch.zeros(self.num_lanes, dtype=torch.long)
        self._all: Flags = np.ones(self.num_lanes, bool)
        self.physics.place(self._all, self.rest, np.zeros(model.nv))

    @cached_property
    def observation_space(self) -> spaces.Box:  # type: ignore[override]
        """Unbounded box with as many numbers as ``observe`` gives."""
        return spaces.Box(-np.inf, np.inf, self.observe().shape[1:])

    # ---------------------------------------------------------------- hooks of subclasses

    @abstractmethod
    def observe(self) -> Array:
        """Observation of the present states, ``[B, ...]``."""

    @abstractmethod
    def reward(self, action: Array) -> Array:
        """Reward of the last control step, ``[B]``; ``action`` is unclipped, ``[B, action_dim]``."""

    def ended(self) -> Flags:
        """Whether an episode ends here, ``[B]``."""
        return ~self._all

    def succeeded(self) -> Flags | None:
        """Whether a lane reached the goal of its task, ``[B]``."""
        return None

    def forward_velocity(self) -> Array:
        """Velocity along the first coordinate over the control step, metres per second, ``[B]``."""
        return (self.physics.qpos[:, 0] - self.position_before[:, 0]) / self.physics.control_interval

    def executed_space(self) -> spaces.Box:
        """Space of actions in the units of ``control`` and ``reward``; agents act between -1 and 1."""
        return spaces.Box(*self.model.actuator_ctrlrange.T.astype(np.float32))

    def control(self, action: Array) -> Array:
        """Control signals of the actuators, ``[B, num_actuators]``: the action, clipped."""
        return action.clip(*self.model.actuator_ctrlrange.T)

    @property
    def rest(self) -> Array:
        """Joint positions ``[nq]`` around which episodes start."""
        return self.model.qpos0

    # ---------------------------------------------------------------- what it may use

    @property
    def position_before(self) -> Array:
        """Joint positions ``[B, nq]`` before the control step."""
        return self.before[:, 1 : 1 + self.model.nq]

    def task(self, name: str) -> Array:
        """A parameter of the tasks, ``[B, ...]``."""
        return self._parameters[name]

    def draw(self, shape: int | tuple[int, ...], bounds: tuple[float, float]) -> Tensor:
        """For each new task a number between two bounds, evenly, or several: ``[N, ...]``."""
        low, high = bounds
        return low + (high - low) * torch.rand(shape, generator=self.task_generator, device=self.device)

    def draw_sign(self, num_tasks: int) -> Tensor:
        """For each new task 1 or -1, evenly."""
        return 1 - 2.0 * torch.randint(2, (num_tasks,), generator=self.task_generator, device=self.device)

    @property
    def signs(self) -> Tensor:
        """Both values that ``draw_sign`` can give, ``[2]``."""
        return torch.tensor([1.0, -1.0], device=self.device)

    def only(self, bounds: tuple[float, float]) -> Tensor | None:
        """The value that ``draw`` gives between bounds that are equal, ``[1]``; None between others."""
        low, high = bounds
        return torch.tensor([low], device=self.device) if low == high else None

    def uniform(self, *shape: int) -> Array:
        """Draws from [-1, 1] for starting states."""
        unit = torch.rand(shape, generator=self.generator, dtype=torch.float64, device=self.device)
        return (2 * unit - 1).cpu().numpy()

    def normal(self, *shape: int) -> Array:
        """Standard normal draws for starting states."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64, device=self.device).cpu().numpy()

    def starting_states(self, count: int) -> tuple[Array, Array]:
        """Positions and velocities at the start of episodes."""
        draw = self.normal if self.normal_velocities else self.uniform
        position = self.rest + self.reset_noise * self.uniform(count, self.model.nq)
        return position, self.reset_noise * draw(count, self.model.nv)

    # ---------------------------------------------------------------- the contract

    def set_tasks(self, tasks):
        tasks = super().set_tasks(tasks)
        self._parameters = {name: value.double().cpu().numpy() for name, value in tasks.parameters.items()}
        return tasks

    def reset(self) -> Tensor:
        # Drawn for a whole trial, so that no lane's starts depend on when the episodes of others end.
        drawn = self.starting_states(self.num_episodes * self.num_lanes)
        self._starts = [part.reshape(self.num_episodes, self.num_lanes, -1) for part in drawn]
        self._episode[:] = 0
        self._elapsed.zero_()
        self._start(self._all)
        return self._tensor(self.observe())

    def step(self, action: Tensor) -> Step:
        given = self.actions.scaled(action.detach().double().cpu().numpy())
        self._keep()
        self.physics.advance(self.control(given))
        unstable = self._recover()
        reward, observation = self.reward(given), self.observe()
        ended, success = self.ended() | unstable, self.succeeded()
        reward[unstable] = 0
        self._elapsed += 1
        terminated = torch.from_numpy(ended)
        truncated = (self._elapsed >= self.horizon) & ~terminated
        final = self._tensor(observation)
        done = (terminated | truncated).numpy()
        if done.any():
            self._elapsed[torch.from_numpy(done)] = 0
            self._start(done)
            following = self._tensor(self.observe())
        else:
            following = final
        return Step(
            following,
            self._tensor(reward),
            terminated.to(self.device),
            truncated.to(self.device),
            None if success is None else torch.from_numpy(success).to(self.device),
            final,
        )

    def _keep(self) -> None:
        np.copyto(self.before, self.physics.state)
        for name, values in self.physics.observed.items():
            np.copyto(self.observed_before[name], values)

    def render(self, lane: int = 0) -> Frame:
        if self._camera is None:
            self._camera = Camera(self.model, self.view)
        model = self.physics.models[lane]
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = self.physics.qpos[lane], self.physics.qvel[lane]
        mujoco.mj_forward(model, data)
        goal = self._parameters["goal"][lane] if "goal" in self._parameters else None
        return self._camera.render(data, None if goal is None else np.append(goal, self.goal_height))

    def _start(self, lanes: Flags) -> None:
        position, velocity = (part[self._episode[lanes] % self.num_episodes, lanes] for part in self._starts)
        self._episode[lanes] += 1
        self.physics.place(lanes, position, velocity)

    def _recover(self) -> Flags:
        """Put diverged lanes back where they were before the step, so that all that follows is finite."""
        unstable = self.physics.unstable()
        if unstable.any():
            count = int(unstable.sum())
            self.num_unstable += count
            self.physics.place(unstable, self.position_before[unstable], self._velocity_before[unstable])
            message = "%d simulations of %s diverged (%d so far); their episodes end here"
            logging.getLogger(__name__).warning(message, count, type(self).__name__, self.num_unstable)
        return unstable

    @property
    def _velocity_before(self) -> Array:
        return self.before[:, 1 + self.model.nq : 1 + self.model.nq + self.model.nv]

    def _tensor(self, values: Array) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.device)


class PlanarMujocoEnv(MujocoEnv, Planar):
    """A body whose tasks are about a position in a plane."""

    position_axes = ("x (m)", "y (m)")

    @abstractmethod
    def place(self) -> Array:
        """Position of every agent in the plane, ``[B, 2]``."""

    def positions(self) -> Tensor:
        return self._tensor(self.place())


class VelocityTasks(MujocoEnv, Measured):
    """Tasks are velocities v* in metres per second, uniform between two bounds.

    Args:
        min_velocity, max_velocity: range of v*, metres per second.
        inherited: of the body.
    """

    task_dim = 1

    def __init__(self, min_velocity: float, max_velocity: float, **inherited):
        super().__init__(**inherited)
        check_range("velocity", min_velocity, max_velocity)
        self.bounds_of_velocity = (min_velocity, max_velocity)

    def quantity(self, lane=0):
        return Quantity("forward velocity", "m/s", self.forward_velocity()[lane], self.task("velocity")[lane])

    def draw_tasks(self, num_tasks, task_set):
        return Tasks({"velocity": self.draw(num_tasks, self.bounds_of_velocity)})

    def all_tasks(self, task_set):
        only = self.only(self.bounds_of_velocity)
        return None if only is None else Tasks({"velocity": only})


class DirectionTasks(MujocoEnv, Measured):
    """Tasks are directions in the plane.

    Args:
        directions: which there are, see ``Directions``.
        inherited: of the body.
    """

    task_dim = 2

    def __init__(self, directions: Directions, **inherited):
        super().__init__(**inherited)
        self.directions: Directions = directions

    @abstractmethod
    def progress(self) -> Array:
        """Velocity along the direction of the task over the control step, metres per second, ``[B]``."""

    def quantity(self, lane=0):
        return Quantity("velocity in the direction of the task", "m/s", self.progress()[lane], None)

    def draw_tasks(self, num_tasks, task_set):
        sign = self.draw_sign(num_tasks)
        return self._tasks(self.draw(num_tasks, (0, 2 * math.pi)) if self.directions == "any" else sign)

    def all_tasks(self, task_set):
        return None if self.directions == "any" else self._tasks(self.signs)

    def _tasks(self, drawn: Tensor) -> Tasks:
        """Tasks from signs along the x axis, or from angles in radians."""
        if self.directions == "forward_backward":
            return Tasks({"direction": torch.stack([drawn, torch.zeros_like(drawn)], dim=1)})
        return Tasks({"direction": on_circle(drawn)})


def on_circle(angle: Tensor) -> Tensor:
    """Points of the unit circle ``[N, 2]`` at angles in radians ``[N]``."""
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def check_range(name: str, low: float, high: float) -> None:
    """Refuse bounds that hold no interval.

    Raises:
        ValueError: the lower bound is above the upper one.
    """
    if low > high:
        raise ValueError(f"env.min_{name}={low} is above env.max_{name}={high}; exchange them")
