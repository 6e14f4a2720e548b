"""T-mazes: an early indicator, a long noisy corridor, and a junction where it counts (Beck et al. 2020, 2024)."""

import math
from typing import Annotated, Literal

import torch
from gymnasium import spaces
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from metarl.envs.base import MetaEnv, every_bit_pattern
from metarl.types import Step, Tasks

RIGHT_TURN, WRONG_TURN = 4.0, -3.0  # rewards at the junction
Share = Annotated[float, Field(gt=0.5, le=1)]


class TMaze(MetaEnv):
    """A corridor that moves the agent on by itself, and a junction after ``length - 1`` moves.

    Observation: start, indicator (-1, 1, or 0 where there is none), junction, and a bit (-1 or 1) that is drawn anew at
    every step. Actions: left, right, up, down; at the junction left counts as up and right as down, elsewhere nothing
    does. The right turn earns 4, the other one -3. It is up where the product of all indicators is 1 (a single one), or
    -1 (two: they must differ).

    Args:
        length: steps of an episode.
        indicators: positions of one or two indicators, each -1 or 1 with equal odds; none if ``biased_bits`` is given.
        biased_bits: no indicators; the bits are 1 with this probability where up is right, and 1 or -1 with equal odds
            elsewhere. Null has indicators and noise.
        position_encoding: ``none``; ``raw`` adds the step of the episode divided by the horizon (hyper's code: the step
            itself); ``sincos`` a sine and a cosine of it, with one period.
        num_episodes: episodes of a trial.
        lanes: see ``MetaEnv``.

    Raises:
        ValueError: a position does not exist, or no observation determines the turn.
    """

    action_space = spaces.Discrete(4)

    def __init__(
        self,
        length: PositiveInt,
        indicators: list[NonNegativeInt],
        biased_bits: Share | None,
        position_encoding: Literal["none", "raw", "sincos"],
        *,
        num_episodes: PositiveInt,
        **lanes,
    ):
        super().__init__(num_episodes=num_episodes, horizon=lanes.pop("horizon", length), **lanes)
        if biased_bits is None and len(indicators) not in (1, 2):
            raise ValueError(f"env.indicators={indicators}: one or two positions, or env.biased_bits")
        if biased_bits is not None and indicators:
            raise ValueError(f"env.indicators={indicators}: with env.biased_bits there are none; use []")
        if len(set(indicators)) < len(indicators) or any(place >= length - 1 for place in indicators):
            raise ValueError(
                f"env.indicators={indicators}: must be different positions before the junction at {length - 1} "
                f"(env.length={length})"
            )
        self.length, self.indicators, self.biased_bits = length, indicators, biased_bits
        self.task_dim = max(len(indicators), 1)
        self.position_encoding = position_encoding
        self.observation_space = spaces.Box(-1.0, 1.0, (4 + {"none": 0, "raw": 1, "sincos": 2}[position_encoding],))
        self.position = torch.zeros(self.num_lanes, dtype=torch.long, device=self.device)

    def draw_tasks(self, num_tasks, task_set):
        drawn = torch.randint(2, (num_tasks, self.task_dim), generator=self.task_generator, device=self.device)
        return Tasks({"indicators": 2.0 * drawn - 1.0})

    def all_tasks(self, task_set):
        return Tasks({"indicators": 2.0 * every_bit_pattern(self.task_dim, self.device) - 1.0})

    def set_tasks(self, tasks):
        tasks = super().set_tasks(tasks)
        # By position: what the indicators of the task show there.
        self._shown = torch.zeros(self.num_lanes, self.length, device=self.device)
        self._shown[:, self.indicators] = tasks.parameters["indicators"][:, : len(self.indicators)]
        self._up_is_right = upward(tasks.parameters["indicators"])
        return tasks

    def reset(self):
        self.position = torch.zeros_like(self.position)
        self._elapsed = torch.zeros_like(self.position)
        self._bit = self._draw_bits()
        return self._observe()

    def _observe(self) -> Tensor:
        shown = self._shown.gather(1, self.position.unsqueeze(1)).squeeze(1)
        parts = [(self.position == 0).float(), shown, (self.position == self.length - 1).float(), self._bit]
        share = self._elapsed / self.horizon
        if self.position_encoding == "raw":
            parts.append(share)
        elif self.position_encoding == "sincos":
            parts += [(2 * math.pi * share).sin(), (2 * math.pi * share).cos()]
        return torch.stack(parts, dim=1)

    def _draw_bits(self) -> Tensor:
        unit = torch.rand(self.num_lanes, generator=self.generator, device=self.device)
        if self.biased_bits is None:
            return torch.where(unit < 0.5, 1.0, -1.0)
        return torch.where(unit < torch.where(self._up_is_right, self.biased_bits, 0.5), 1.0, -1.0)

    def _move(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Positions after an action, and what moving there earns."""
        return self.position + 1, torch.zeros(self.num_lanes, device=self.device)

    def step(self, action):
        turns = self.position == self.length - 1
        up, down = (action == 0) | (action == 2), (action == 1) | (action == 3)
        success = turns & torch.where(self._up_is_right, up, down)
        moved, earned = self._move(action)
        self.position = torch.where(turns, self.position, moved)
        self._elapsed = self._elapsed + 1
        reward = torch.where(turns, torch.where(success, RIGHT_TURN, WRONG_TURN), earned)
        truncated = (self._elapsed == self.horizon) & ~turns
        done = turns | truncated
        self._bit = self._draw_bits()  # once a step: no lane's noise may depend on who is done
        final = self._observe()
        if not done.any():
            return Step(final, reward, turns, truncated, success, final)
        self.position, self._elapsed = self.position * ~done, self._elapsed * ~done
        return Step(self._observe(), reward, turns, truncated, success, final)


class CopyingTMaze(TMaze):
    """A T-maze where only pressing up for a bit of 1, and down for -1, moves the agent on, and earns 0.1.

    Args:
        horizon: most steps of an episode.
        inherited: see ``TMaze``.

    Raises:
        ValueError: the horizon is too short to reach the junction.
    """

    fixed_length = False

    def __init__(self, horizon: PositiveInt, length: PositiveInt, **inherited):
        if horizon < length:
            raise ValueError(f"env.horizon={horizon}: no way through env.length={length} steps; raise it")
        super().__init__(length=length, horizon=horizon, **inherited)

    def _move(self, action):
        copied = torch.where(self._bit > 0, action == 2, action == 3)
        return self.position + copied, 0.1 * copied


def upward(indicators: Tensor) -> Tensor:
    """Whether up is the right turn, bool ``[B]``, from all indicators ``[B, 1 or 2]``."""
    product = indicators.prod(1)
    return product > 0 if indicators.shape[1] == 1 else product < 0
