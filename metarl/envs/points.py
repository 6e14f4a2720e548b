"""A point in the plane, without a simulator: navigation, sparse goals on a half circle, goals of TESP."""

import math

import torch
from gymnasium import spaces
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import Planar
from metarl.envs.goal_sets import GoalTasks
from metarl.types import Step, Tasks

PARTS = 10  # of an action of Semicircle


class PlanarEnv(MetaEnv, Planar):
    """Lanes whose state is a small tensor ``[B, state_dim]`` that every episode starts from ``start``.

    A subclass says how an action moves it (``move``), what it earns (``reward``), and who has arrived (``arrived``),
    which ends an episode unless its length is fixed. Actions lie in [-1, 1].

    Args:
        horizon: most steps of an episode.
        num_episodes: episodes of a trial.
        lanes: see ``MetaEnv``.
    """

    state: Tensor
    can_fall = False
    task_dim = 2
    observation_space = spaces.Box(-math.inf, math.inf, (2,))
    action_space = spaces.Box(-1, 1, (2,))

    def __init__(self, horizon: PositiveInt, num_episodes: PositiveInt, **lanes):
        super().__init__(horizon=horizon, num_episodes=num_episodes, **lanes)
        self._elapsed = torch.zeros(self.num_lanes, dtype=torch.long, device=self.device)

    @property
    def goal(self) -> Tensor:
        """``[B, 2]``."""
        return self.tasks.parameters["goal"]

    def start(self) -> Tensor:
        """States of fresh episodes, ``[B, state_dim]``: the origin."""
        return torch.zeros(self.num_lanes, 2, device=self.device)

    def move(self, action: Tensor) -> Tensor:
        """The states after an action ``[B, action_dim]``."""
        raise NotImplementedError

    def reward(self) -> Tensor:
        """Reward of the present states, ``[B]``."""
        raise NotImplementedError

    def arrived(self) -> Tensor:
        """Who is at the goal, bool ``[B]``."""
        raise NotImplementedError

    def distance(self) -> Tensor:
        """Distance to the goal, ``[B]``."""
        return (self.state[:, :2] - self.goal).norm(dim=1)

    def positions(self) -> Tensor:
        return self.state[:, :2]

    def positions_in(self, observation: Tensor) -> Tensor:
        return observation[:, :2]

    def reset(self) -> Tensor:
        self._elapsed = torch.zeros_like(self._elapsed)
        self.state = self.start()
        return self.state

    def step(self, action: Tensor) -> Step:
        self.state = self.move(action)
        reward, arrived, final = self.reward(), self.arrived(), self.state
        self._elapsed = self._elapsed + 1
        terminated = self._false if self.fixed_length else arrived
        truncated = (self._elapsed >= self.horizon) & ~terminated
        done = terminated | truncated
        if done.any():
            self.state = torch.where(done.unsqueeze(1), self.start(), self.state)
            self._elapsed = self._elapsed * ~done
        return Step(self.state, reward, terminated, truncated, arrived, final)


class PointNavigation(PlanarEnv):
    """Move to a goal, uniform in a square: minus the distance at every step (Finn et al. 2017, section 5.1).

    Observation: x and y. Actions of 1 move a coordinate by ``max_step``; in the published codes actions are the moves
    themselves, clipped.

    Args:
        half_width: half the width of the square of goals around the start.
        max_step: distance that an action of 1 moves a coordinate by.
        arrival: an episode ends where both coordinates are nearer to the goal than this.
        inherited: see ``PlanarEnv``.
    """

    def __init__(
        self,
        half_width: PositiveFloat,
        max_step: PositiveFloat,
        arrival: NonNegativeFloat,
        **inherited,
    ):
        super().__init__(**inherited)
        self.fixed_length = arrival == 0
        self.half_width, self.max_step, self.arrival = half_width, max_step, arrival

    def draw_tasks(self, num_tasks, task_set):
        unit = torch.rand(num_tasks, 2, generator=self.task_generator, device=self.device)
        return Tasks({"goal": self.half_width * (2 * unit - 1)})

    def move(self, action):
        return self.state + self.max_step * action.clamp(-1, 1)

    def reward(self):
        return -self.distance()

    def arrived(self):
        return ((self.state - self.goal).abs() < self.arrival).all(1)


class SparsePoint(PlanarEnv):
    """Move to a goal on the upper half of the unit circle; the reward is ``1 - distance`` near it, and 0 elsewhere.

    The sparse point robot of Rakelly et al. 2019 (section 6.3), as VariBAD's code has it, which plays episodes of 100
    steps where PEARL's has 20. Observation: x and y.

    Args:
        goal_radius: radius of the goal.
        max_step: an action of 1 moves a coordinate by this: 0.1 in the codes of PEARL and VariBAD. Hyper's has bounds
            of 0.05 that it does not hold actions to.
        inherited: see ``PlanarEnv``.
    """

    def __init__(
        self,
        goal_radius: PositiveFloat,
        max_step: PositiveFloat,
        **inherited,
    ):
        super().__init__(**inherited)
        self.goal_radius, self.max_step = goal_radius, max_step

    def draw_tasks(self, num_tasks, task_set):
        return Tasks({"goal": half_circle(num_tasks, self)})

    def move(self, action):
        return self.state + self.max_step * action.clamp(-1, 1)

    def reward(self):
        distance = self.distance()
        return torch.where(distance < self.goal_radius, 1 - distance, torch.zeros_like(distance))

    def arrived(self):
        return self.distance() < self.goal_radius


class Semicircle(PlanarEnv):
    """Drive to a goal on a half circle, as often as an episode allows; only arriving earns, 1 each time.

    The task of Humplik et al. 2019, as hyper's code has it, which plays one episode of 10 steps. Observation: x, y and
    the heading in radians (there modulo a full turn). An action is a speed and a turn, in [-1, 1] (there the moves of
    each part, not clipped); it is carried out in ten parts. Who arrives is put back to the start, with a random heading
    as at the start of an episode. Task parameters are the goal's x and y (there also its angle).

    Args:
        circle_radius: radius of the half circle.
        goal_radius: radius of the goal.
        max_speed: distance of one action.
        max_turn: radians of one action: a tenth of a full turn as published.
        walls: x, then y, are held inside the circle, as published.
        inherited: see ``PlanarEnv``.
    """

    observation_space = spaces.Box(-math.inf, math.inf, (3,))

    def __init__(
        self,
        circle_radius: PositiveFloat,
        goal_radius: PositiveFloat,
        max_speed: PositiveFloat,
        max_turn: PositiveFloat,
        walls: bool,
        **inherited,
    ):
        super().__init__(**inherited)
        self.circle_radius, self.goal_radius, self.max_speed, self.max_turn = (
            circle_radius,
            goal_radius,
            max_speed,
            max_turn,
        )
        self.walls = walls
        self._arrived = self._false

    def draw_tasks(self, num_tasks, task_set):
        return Tasks({"goal": self.circle_radius * half_circle(num_tasks, self)})

    def start(self):
        heading = 2 * math.pi * torch.rand(self.num_lanes, generator=self.generator, device=self.device)
        return torch.cat([super().start(), heading.unsqueeze(1)], dim=1)

    def move(self, action):
        speed, turn = (action.clamp(-1, 1) / PARTS).unbind(1)
        x, y, heading = self.state.unbind(1)
        goal_x, goal_y = self.goal.unbind(1)
        arrived = self._false
        for _ in range(PARTS):
            heading = heading + self.max_turn * turn
            x, y = x + self.max_speed * speed * heading.cos(), y + self.max_speed * speed * heading.sin()
            if self.walls:
                x = x.clamp(-self.circle_radius, self.circle_radius)
                most = (self.circle_radius**2 - x.square()).clamp(min=0).sqrt()
                y = y.clamp(-most, most)
            arrived = arrived | (torch.hypot(x - goal_x, y - goal_y) < self.goal_radius)
        self._arrived = arrived
        return torch.where(arrived.unsqueeze(1), self.start(), torch.stack([x, y, heading], dim=1))

    def reward(self):
        return self._arrived.float()

    def arrived(self):
        return self._arrived


class PointGoal(GoalTasks, PlanarEnv):
    """Move to a goal of TESP's fixed sets (Lan et al. 2019): minus the distance; an episode ends at the goal.

    Observation: x and y, held in [-5, 5]. Actions of 1 move a coordinate by ``max_step``.

    Args:
        max_step: distance that an action of 1 moves a coordinate by.
        arrival: an episode ends where both coordinates are nearer to the goal than this.
        inherited: see ``GoalTasks`` and ``PlanarEnv``.
    """

    WALL = 5.0
    fixed_length = False
    observation_space = spaces.Box(-WALL, WALL, (2,))

    def __init__(self, max_step: PositiveFloat, arrival: PositiveFloat, **inherited):
        super().__init__(**inherited)
        self.max_step, self.arrival = max_step, arrival

    def move(self, action):
        return (self.state + self.max_step * action.clamp(-1, 1)).clamp(-self.WALL, self.WALL)

    def reward(self):
        return -self.distance()

    def arrived(self):
        return ((self.state - self.goal).abs() < self.arrival).all(1)


def half_circle(num_tasks: int, env: MetaEnv) -> Tensor:
    """Points of the upper half of the unit circle, evenly, ``[N, 2]``."""
    angle = math.pi * torch.rand(num_tasks, generator=env.task_generator, device=env.device)
    return torch.stack([angle.cos(), angle.sin()], dim=1)
