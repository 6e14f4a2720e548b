"""Fixed sets of goals in the plane: training, held-out and out-of-range goals (Lan et al. 2019)."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from metarl.envs.base import MetaEnv
from metarl.types import Tasks

ATTEMPTS = 100_000  # draws of a set before it is refused as too dense
ROUNDS = 10_000  # of drawing fresh goals; areas of a thousandth of all take far fewer
TASK_SETS = ("train", "held_out", "out_of_range")


@dataclass(frozen=True)
class GoalPlan:
    """Layout of goals, as in TESP's code; its supplement names neither ``min_radius`` nor ``min_goal_distance``.

    ``annulus``: training and held-out goals lie between ``min_radius`` and ``train_radius``, out-of-range goals between
    ``train_radius`` and ``ood_radius``. ``half_plane``: the former lie right of the start, the latter left of it, in
    ``[0, 2] x [-2, 2]`` and its mirror image.

    Args:
        split: the layout.
        min_radius, train_radius, ood_radius: radii of the annuli around the start, metres.
        min_goal_distance: minimum distance between two goals of a set, and of held-out from training goals, metres.
        num_goals: size of each set; null draws new goals every time and ignores ``min_goal_distance``.
        goal_seed: seed of the sets; runs with the same seed have the same goals.
    """

    split: Literal["annulus", "half_plane"]
    min_radius: NonNegativeFloat
    train_radius: PositiveFloat
    ood_radius: PositiveFloat
    min_goal_distance: NonNegativeFloat
    num_goals: PositiveInt | None
    goal_seed: NonNegativeInt

    def __post_init__(self):
        if not self.min_radius < self.train_radius < self.ood_radius:
            raise ValueError(
                f"env.min_radius={self.min_radius}, env.train_radius={self.train_radius}, "
                f"env.ood_radius={self.ood_radius}: must increase"
            )


class GoalTasks(MetaEnv):
    """Tasks are the goals of a plan, drawn with a random state of their own.

    Args:
        split, min_radius, train_radius, ood_radius, min_goal_distance, num_goals, goal_seed: see ``GoalPlan``.
        inherited: of what shall reach them.

    Raises:
        ValueError: the goals do not fit into their area at ``min_goal_distance``.
    """

    task_dim, task_sets = 2, TASK_SETS
    more_tasks = " or raise env.num_goals"

    def __init__(
        self,
        split: Literal["annulus", "half_plane"],
        min_radius: NonNegativeFloat,
        train_radius: PositiveFloat,
        ood_radius: PositiveFloat,
        min_goal_distance: NonNegativeFloat,
        num_goals: PositiveInt | None,
        goal_seed: NonNegativeInt,
        **inherited,
    ):
        self.plan = GoalPlan(split, min_radius, train_radius, ood_radius, min_goal_distance, num_goals, goal_seed)
        self.goals = {} if num_goals is None else packed(self.plan)
        super().__init__(**inherited)

    def draw_tasks(self, num_tasks, task_set):
        if self.plan.num_goals is None:
            return Tasks({"goal": self._fresh(num_tasks, task_set)})
        if num_tasks > self.plan.num_goals:
            raise ValueError(
                f"{num_tasks} tasks in parallel: each set has env.num_goals={self.plan.num_goals}; lower "
                "meta_batch_size or eval.batch_size, or raise env.num_goals"
            )
        chosen = torch.randperm(self.plan.num_goals, generator=self.task_generator, device=self.device)[:num_tasks]
        return Tasks({"goal": torch.from_numpy(self.goals[task_set]).to(self.device)[chosen].float()})

    def max_num_tasks(self, task_set):
        return self.plan.num_goals

    def all_tasks(self, task_set):
        if self.plan.num_goals is None:
            return None
        return Tasks({"goal": torch.from_numpy(self.goals[task_set]).to(self.device).float()})

    def _fresh(self, num_tasks: int, task_set: str) -> Tensor:
        """Goals by rejection sampling, all missing ones in every round."""
        generator, device = self.task_generator, self.device
        goals = torch.full((num_tasks, 2), torch.nan, dtype=torch.float64, device=device)
        for _ in range(ROUNDS):
            missing = goals[:, 0].isnan()
            if not missing.any():
                return goals.float()
            unit = torch.rand(num_tasks, 2, generator=generator, dtype=torch.float64, device=device)
            candidates = scaled(unit.cpu().numpy(), self.plan, task_set)
            fits = torch.from_numpy(within(candidates, self.plan, task_set)).to(device)
            goals = torch.where((missing & fits).unsqueeze(1), torch.from_numpy(candidates).to(device), goals)
        raise ValueError(f"the area of the {task_set} goals is too small a part of all: {_area(self.plan)}; correct it")


@cache
def packed(plan: GoalPlan) -> dict[str, np.ndarray]:
    """The goals ``[num_goals, 2]`` of each set, each candidate taken that is far enough from those before it."""
    goals: dict[str, np.ndarray] = {}
    random = np.random.default_rng(plan.goal_seed)
    for task_set in TASK_SETS:
        candidates = scaled(random.random((ATTEMPTS, 2)), plan, task_set)
        candidates = candidates[within(candidates, plan, task_set)]
        others = goals["train"] if task_set == "held_out" else candidates[:0]
        goals[task_set] = _apart(candidates, others, plan, task_set)
    return goals


def _apart(candidates: np.ndarray, others: np.ndarray, plan: GoalPlan, task_set: str) -> np.ndarray:
    wanted, count = len(others) + (plan.num_goals or 0), len(others)
    kept = np.concatenate([others, np.empty((wanted - count, 2))])
    for candidate in candidates:
        if (np.square(kept[:count] - candidate).sum(1) >= plan.min_goal_distance**2).all():
            kept[count] = candidate
            count += 1
            if count == wanted:
                return kept[len(others) :]
    raise ValueError(
        f"env.num_goals={plan.num_goals} at env.min_goal_distance={plan.min_goal_distance} do not fit into the area "
        f"of the {task_set} goals ({count - len(others)} did); lower one of them, or correct the area: {_area(plan)}"
    )


def _area(plan: GoalPlan) -> str:
    return f"env.min_radius={plan.min_radius}, env.train_radius={plan.train_radius}, env.ood_radius={plan.ood_radius}"


def scaled(unit: np.ndarray, plan: GoalPlan, task_set: str) -> np.ndarray:
    """Points of the unit square ``[N, 2]``, where the goals of a set may lie."""
    if plan.split == "half_plane":
        right = np.array([0.0, -2.0]) + unit * np.array([2.0, 4.0])
        return right * np.array([-1.0, 1.0]) if task_set == "out_of_range" else right
    return plan.ood_radius * (2 * unit - 1)


def within(goals: np.ndarray, plan: GoalPlan, task_set: str) -> np.ndarray:
    """Whether each of the points ``[N, 2]`` lies in the area of a set, bool ``[N]``."""
    if plan.split == "half_plane":
        return np.ones(len(goals), bool)
    far = task_set == "out_of_range"
    low, high = (plan.train_radius, plan.ood_radius) if far else (plan.min_radius, plan.train_radius)
    distance = np.linalg.norm(goals, axis=1)
    return (low < distance) & (distance < high)
