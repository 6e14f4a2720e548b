"""Scripted agents with the rules of mazes and a perfect memory: references for returns."""

import torch
from torch import Generator, Tensor

from metarl.baselines.base import Solver, decision_of
from metarl.baselines.registry import solvers
from metarl.envs.rooms import DEPTH, GREEN, LEFT_DOOR, RED, ROOM, Rooms
from metarl.envs.tmaze import CopyingTMaze, TMaze, upward
from metarl.types import Agent, Decision, Tasks, Timestep


class Remembering(Solver):
    """Remembers the indicators of a T-maze up to its junction, or the likelihood of its bits over all episodes.

    Args:
        env: environment with the rules.
    """

    def __init__(self, env: TMaze):
        super().__init__(env.num_episodes)
        self.env = env

    def initial_state(self, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """Indicators seen ``[B, task_dim]``, and the log odds of up ``[B]``."""
        device = self.env.device
        return torch.zeros(len(tasks), self.env.task_dim, device=device), torch.zeros(len(tasks), device=device)

    def act(
        self, timestep: Timestep, state: tuple[Tensor, Tensor], generator: Generator, greedy: bool = False
    ) -> tuple[Decision, tuple[Tensor, Tensor]]:
        seen, odds = state
        shown, bit = timestep.observation[:, 1], timestep.observation[:, 3]
        if self.env.biased_bits is None:
            fresh = seen * ~timestep.first.unsqueeze(1)
            empty = (fresh == 0).long().cumsum(1) == 1  # the next free slot
            seen = torch.where(empty & (fresh == 0) & (shown != 0).unsqueeze(1), shown.unsqueeze(1), fresh)
            up = upward(seen)
        else:
            likely = torch.where(bit > 0, self.env.biased_bits, 1 - self.env.biased_bits)
            odds = odds + (likely / 0.5).log()
            up = odds > 0
        action = torch.where(up, 2, 3)
        if isinstance(self.env, CopyingTMaze):
            at_junction = timestep.observation[:, 2] == 1
            action = torch.where(at_junction, action, torch.where(bit > 0, 2, 3))
        return decision_of(action), (seen, odds)


class RoomWalker(Solver):
    """Reads views without noise and remembers the indicators, or the rewarded turn if indicators are hidden.

    Args:
        env: environment with the rules.
    """

    def __init__(self, env: Rooms):
        super().__init__(env.num_episodes)
        self.env = env

    def initial_state(self, tasks: Tasks) -> tuple[Tensor, Tensor]:
        """Indicators observed ``[B, num_indicators]``, -1 for none; whether up is right ``[B]``, -1 if unknown."""
        shape, device = (len(tasks), self.env.num_indicators), self.env.device
        return torch.full(shape, -1, device=device), torch.full(shape[:1], -1, device=device)

    def act(
        self, timestep: Timestep, state: tuple[Tensor, Tensor], generator: Generator, greedy: bool = False
    ) -> tuple[Decision, tuple[Tensor, Tensor]]:
        seen, up_is_right = state
        earned = timestep.previous_reward
        turned_up = timestep.previous_action == 0
        wrong = torch.where(earned < -1, 1 - turned_up.long(), up_is_right)
        up_is_right = torch.where(earned > 1, turned_up.long(), wrong)
        view = self.env.view_of(timestep.observation)
        seen = torch.where(timestep.first.unsqueeze(1), -1, seen)
        empty = (seen == -1).long().cumsum(1) == 1
        shows = (view < ROOM).unsqueeze(1)
        seen = torch.where(empty & (seen == -1) & shows, view.unsqueeze(1), seen)
        up = seen[:, 0] == GREEN
        if self.env.indicator == "order":
            up = up & (seen[:, 1] == RED)
        elif self.env.indicator == "hidden":
            up = up_is_right == 1
        action = torch.where(up, 0, 2)  # at the junction
        forward = (view < ROOM + DEPTH - 1).long()
        door = view - LEFT_DOOR
        action = torch.where((door == 0) | (door == 1), 2 * door, action)
        return decision_of(torch.where(forward == 1, 1, action)), (seen, up_is_right)


@solvers.register
def _(env: TMaze) -> dict[str, Agent]:
    return {"Remembering": Remembering(env)}


@solvers.register
def _(env: Rooms) -> dict[str, Agent]:
    return {"Remembering": RoomWalker(env)}
