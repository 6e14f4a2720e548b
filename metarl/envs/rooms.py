"""A row of rooms seen through a small camera, with an indicator before and a junction after (Beck et al. 2020, 2024).

The pictures are drawn here, in place of screenshots of Minecraft.
"""

from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from metarl.envs.base import MetaEnv, every_bit_pattern
from metarl.envs.capabilities import Renderable
from metarl.envs.tmaze import RIGHT_TURN, WRONG_TURN
from metarl.types import Step, Tasks

PIXELS = 10  # a side
DEPTH = 6  # steps of a room: five forward, then through the door on one side
PROGRESS = 0.1  # reward of every step that is right
INDICATORS = {"colour": 1, "order": 2, "hidden": 1}  # how many are shown
GREEN, RED, BLACK = 0, 1, 2
ROOM, LEFT_DOOR, JUNCTION = 3, 3 + DEPTH - 1, 3 + DEPTH + 1  # numbers of views; the right door's follows the left's


class Rooms(MetaEnv, Renderable):
    """Walk past the indicator, through all rooms, and turn at the junction: left for up, right for down.

    Observation: pictures ``[10, 10, 3]`` of values between -1 and 1. Actions: left, forward, right. Forward goes on
    past indicators and through the five steps of a room, and earns 0.1; at the room's end the picture shows the door's
    side: turning there goes on and earns 0.1, the other side goes on for nothing. At the junction the right turn earns
    4 and the other -3. Whatever else is done wastes a step.

    Rewards and lengths are those of hyper's code. Its moves differ: right past indicators; in a room one step forward,
    a turn to the side that its picture shows, two forward, a turn back and one forward; at the junction right for up
    and left for down. It has pictures flattened, and counts ``order`` tasks by the turn alone.

    Args:
        indicator: ``colour`` is green where up is right, else red; ``order`` shows two colours in turn, and up is right
            after green and red, in this order, alone; ``hidden`` shows nothing, and the first episode has to find out.
        num_rooms: rooms between the indicator and the junction.
        noise: standard deviation of what is added to every pixel.
        horizon: most steps of an episode.
        num_episodes: episodes of a trial.
        lanes: see ``MetaEnv``.

    Raises:
        ValueError: the horizon is too short to reach the junction.
    """

    fixed_length = False
    action_space = spaces.Discrete(3)
    observation_space = spaces.Box(-1.0, 1.0, (PIXELS, PIXELS, 3))

    def __init__(
        self,
        indicator: Literal["colour", "order", "hidden"],
        num_rooms: PositiveInt,
        noise: NonNegativeFloat,
        *,
        horizon: PositiveInt,
        num_episodes: PositiveInt,
        **lanes,
    ):
        super().__init__(horizon=horizon, num_episodes=num_episodes, **lanes)
        self.indicator, self.num_rooms, self.noise = indicator, num_rooms, noise
        self.num_indicators = INDICATORS[indicator]
        self.task_dim = self.num_indicators
        self.junction = self.num_indicators + DEPTH * num_rooms  # where it is, in steps forward
        if horizon <= self.junction:
            raise ValueError(f"env.horizon={horizon}: the junction is {self.junction} steps away; raise it")
        self._views = torch.from_numpy(draw_views()).to(self.device)
        self.position = torch.zeros(self.num_lanes, dtype=torch.long, device=self.device)
        self._lanes = torch.arange(self.num_lanes, device=self.device)

    def draw_tasks(self, num_tasks, task_set):
        drawn = torch.randint(2, (num_tasks, self.task_dim), generator=self.task_generator, device=self.device)
        return Tasks({"colours": drawn.float()})

    def all_tasks(self, task_set):
        return Tasks({"colours": every_bit_pattern(self.task_dim, self.device).float()})

    def set_tasks(self, tasks):
        tasks = super().set_tasks(tasks)
        colours = tasks.parameters["colours"].long()
        self._shown = torch.full_like(colours, BLACK) if self.indicator == "hidden" else colours
        self._up_is_right = colours[:, 0] == GREEN
        if self.indicator == "order":
            self._up_is_right = self._up_is_right & (colours[:, 1] == RED)
        return tasks

    def reset(self):
        self.position = torch.zeros_like(self.position)
        self._elapsed = torch.zeros_like(self.position)
        self._draw()
        self._doors = self._next_doors
        return self._observe()

    def _draw(self) -> None:
        """Draw for every lane at every step, so that random streams do not depend on which lanes are done."""
        # For the next episode: 0 left or 1 right, in every room.
        doors = (self.num_lanes, self.num_rooms)
        self._next_doors = torch.randint(2, doors, generator=self.generator, device=self.device)
        if self.noise:
            grain = torch.empty(self.num_lanes, PIXELS, PIXELS, 3, device=self.device)
            self._grain = self.noise * grain.normal_(generator=self.generator)

    def _place(self) -> tuple[Tensor, Tensor, Tensor]:
        """Steps into the room (below 0: at an indicator), door, and whether at the junction, for every lane."""
        inside = self.position - self.num_indicators
        room = (inside // DEPTH).clamp(0, self.num_rooms - 1)
        depth = torch.where(inside < 0, inside, inside % DEPTH)
        return depth, self._doors[self._lanes, room], self.position == self.junction

    def _observe(self) -> Tensor:
        depth, door, at_junction = self._place()
        indicator = self._shown[self._lanes, self.position.clamp(max=self.num_indicators - 1)]
        view = torch.where(depth == DEPTH - 1, LEFT_DOOR + door, ROOM + depth)
        view = torch.where(depth < 0, indicator, view)
        view = torch.where(at_junction, JUNCTION, view)
        pictures = self._views.index_select(0, view)
        return (pictures + self._grain).clamp(-1, 1) if self.noise else pictures

    def view_of(self, pictures: Tensor) -> Tensor:
        """Numbers of the views that pictures ``[B, 10, 10, 3]`` are nearest to."""
        return torch.cdist(pictures.flatten(1), self._views.flatten(1)).argmin(1)

    def step(self, action):
        depth, door, at_junction = self._place()
        at_door = (depth == DEPTH - 1) & ~at_junction
        turned = at_junction & (action != 1)
        success = turned & torch.where(self._up_is_right, action == 0, action == 2)
        moves = torch.where(at_door, action != 1, action == 1) & ~at_junction
        earns = torch.where(at_door, action == 2 * door, moves) & moves
        reward = PROGRESS * earns + torch.where(success, RIGHT_TURN, WRONG_TURN) * turned
        self.position = self.position + moves
        self._elapsed = self._elapsed + 1
        truncated = (self._elapsed == self.horizon) & ~turned
        done = turned | truncated
        self._draw()
        final = self._observe()
        if not done.any():
            return Step(final, reward, turned, truncated, success, final)
        self.position, self._elapsed = self.position * ~done, self._elapsed * ~done
        self._doors = torch.where(done.unsqueeze(1), self._next_doors, self._doors)
        return Step(self._observe(), reward, turned, truncated, success, final)

    def render(self, lane: int = 0):
        return ((self._observe()[lane].cpu().numpy() + 1) * 127.5).astype(np.uint8).repeat(24, 0).repeat(24, 1)


def draw_views() -> np.ndarray:
    """Pictures ``[view, 10, 10, 3]``: flat indicators, a room from every depth, its two ends, and the junction."""
    across, down = np.meshgrid(np.arange(PIXELS), np.arange(PIXELS))
    edge = np.minimum.reduce([across, down, PIXELS - 1 - across, PIXELS - 1 - down])  # 0 on the border, 4 within
    views = [np.full((PIXELS, PIXELS, 3), colour) for colour in ([-1, 0.6, -1], [0.8, -1, -1], [-1, -1, -1])]
    for depth in range(DEPTH - 1):  # walls that open as the far end comes near
        far = (edge > 4 - depth)[..., None]
        wall = np.array([0.1, -0.1, -0.4]) - 0.1 * edge[..., None]
        views.append(np.where(far, [0.3, 0.4, 0.6], wall))
    for left in (True, False):
        door = (across < 4 if left else across > 5) & (down > 2)
        views.append(np.where(door[..., None], [-0.9, -0.8, -0.6], [0.3, 0.4, 0.6]))
    stripe = (down // 2 % 2 == 0)[..., None]
    views.append(np.where(stripe, [0.9, 0.8, -0.6], [-0.2, -0.2, 0.7]))
    return np.stack(views).astype(np.float32)
