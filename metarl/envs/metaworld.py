"""Meta-World (Yu et al. 2020; McLean et al. 2025): a robot arm's manipulation tasks, with hidden goals."""

import difflib
import importlib.metadata
import pickle
from typing import Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt

from metarl.envs.actions import BoxActions
from metarl.envs.goal_cache import Goals, remembered
from metarl.envs.gymnasium_lanes import VectorizedGymEnv
from metarl.envs.metaworld_lane import ACTION, GOAL_DIM, HORIZON, OBSERVATION, MetaWorldLane
from metarl.types import Tasks

Benchmark = Literal["ML1", "ML10", "ML25", "ML45"]
NUM_GOALS = 50  # of each class and set


class MetaWorld(VectorizedGymEnv):
    """A benchmark of Meta-World: classes of tasks, 50 goals each, to train on and held out.

    ML1 has one class with other goals held out; ML10, ML25 and ML45 hold out whole classes. Lanes take turns with the
    classes, so a meta-batch that is a multiple of their number samples each equally often. Task parameters: the class,
    one-hot where there are several, and the vector that places objects and goal, padded to six numbers.

    Args:
        benchmark: ``ML1``, ``ML10`` or ``ML45``.
        task: task class of ML1, such as ``reach``; null for the others.
        horizon: steps of an episode, 500 at most.
        num_episodes: episodes of a trial.
        goal_seed: seed of the goals, as the library draws them.
        num_workers: processes; 0 steps all lanes in this one.
        lanes: see ``MetaEnv``.

    Raises:
        ValueError: no such task, one where there can be none, or too long a horizon.
    """

    steps_per_second = 80.0

    def __init__(
        self,
        benchmark: Benchmark,
        task: str | None,
        horizon: PositiveInt,
        num_episodes: PositiveInt,
        goal_seed: NonNegativeInt,
        num_workers: NonNegativeInt,
        **lanes,
    ):
        super().__init__(horizon=horizon, num_episodes=num_episodes, **lanes)
        if horizon > HORIZON:
            raise ValueError(f"env.horizon={horizon}: episodes of Meta-World last {HORIZON} steps at most")
        self.goals = known_goals(benchmark, full_name(benchmark, task), goal_seed)
        self.classes = tuple(dict.fromkeys(name for goals in self.goals.values() for name in goals))
        self.task_dim = GOAL_DIM + (len(self.classes) if len(self.classes) > 1 else 0)
        self.open([MetaWorldLane] * self.num_lanes, OBSERVATION, BoxActions(ACTION), num_workers)

    def draw_tasks(self, num_tasks, task_set):
        goals = self.goals[task_set]
        if num_tasks > NUM_GOALS * len(goals):
            raise ValueError(
                f"{num_tasks} parallel tasks: only {NUM_GOALS} goals of {len(goals)} classes; lower meta_batch_size "
                "or eval.batch_size"
            )
        chosen = self._classes(num_tasks, len(goals))
        order = {name: self._permutation(NUM_GOALS) for name in goals}
        names, count = list(goals), dict.fromkeys(goals, 0)
        rows = []
        for name in (names[choice] for choice in chosen):
            rows.append((name, goals[name][order[name][count[name]]]))
            count[name] += 1
        return self._tasks(rows)

    def max_num_tasks(self, task_set):
        return NUM_GOALS * len(self.goals[task_set])

    def all_tasks(self, task_set):
        return self._tasks([(name, goal) for name, goals in self.goals[task_set].items() for goal in goals])

    def _tasks(self, rows: list[tuple[str, np.ndarray]]) -> Tasks:
        """Tasks from pairs of class and goal."""
        vectors = np.stack([np.pad(goal, (0, GOAL_DIM - len(goal))) for _, goal in rows])
        parameters = {"goal": torch.from_numpy(vectors).to(self.device)}
        if len(self.classes) > 1:
            kinds = torch.tensor([self.classes.index(name) for name, _ in rows])
            one_hot = torch.nn.functional.one_hot(kinds, len(self.classes))
            parameters = {"class": one_hot.to(self.device)} | parameters
        return Tasks(parameters)

    def to_native_tasks(self, tasks):
        goals = tasks.parameters["goal"].cpu().numpy()
        kinds = tasks.parameters.get("class", torch.ones(len(tasks), 1)).argmax(1).tolist()
        names = [self.classes[kind] for kind in kinds]
        sizes = {name: vectors.shape[1] for goals_of in self.goals.values() for name, vectors in goals_of.items()}
        return [(name, goal[: sizes[name]]) for name, goal in zip(names, goals, strict=True)]

    def _classes(self, num_tasks: int, count: int) -> list[int]:
        """Classes in turn, or any of them if there are fewer tasks than classes."""
        if num_tasks < count:
            return self._permutation(count)[:num_tasks]
        return [row % count for row in range(num_tasks)]

    def _permutation(self, count: int) -> list[int]:
        drawn: list[int] = torch.randperm(count, generator=self.task_generator, device=self.device).tolist()
        return drawn


def full_name(benchmark: Benchmark, task: str | None) -> str | None:
    """The library's name of a task such as ``reach``, which ML1 alone has.

    Raises:
        ValueError: there is none, or none is wanted.
    """
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    if benchmark != "ML1":
        if task is not None:
            raise ValueError(f"env.task={task}: {benchmark} has all its tasks; leave it null, or use env=ml1")
        return None
    names = [name.removesuffix("-v3") for name in ALL_V3_ENVIRONMENTS]
    if task is not None and task.removesuffix("-v3") in names:
        return f"{task.removesuffix('-v3')}-v3"
    close = difflib.get_close_matches(str(task), names, n=3, cutoff=0.3) or ["reach", "push", "pick-place"]
    raise ValueError(f"env.task={task}: no such task of Meta-World; it has {len(names)}, such as {', '.join(close)}")


def known_goals(benchmark: Benchmark, task: str | None, seed: int) -> Goals:
    """The goals the library draws, which takes up to half a minute and is therefore remembered in a file.

    The file lies in ``~/.cache/metarl``, or where ``XDG_CACHE_HOME`` says.
    """
    version = importlib.metadata.version("metaworld")
    name = f"metaworld-{version}-{task or benchmark}-{seed}.npz"
    return remembered(name, lambda: _drawn_goals(benchmark, task, seed), lambda goals: _fits(goals, benchmark, task))


def _fits(goals: Goals, benchmark: Benchmark, task: str | None) -> bool:
    """Whether goals have the shape of those of a benchmark."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    names = {task} if task else set(ALL_V3_ENVIRONMENTS)
    right = all(found and set(found) <= names for found in goals.values())
    arrays = [rows for found in goals.values() for rows in found.values()]
    return right and all(
        rows.ndim == 2
        and len(rows) == NUM_GOALS
        and 0 < rows.shape[1] <= GOAL_DIM
        and rows.dtype.kind == "f"
        and np.isfinite(rows).all()
        for rows in arrays
    )


def _drawn_goals(benchmark: Benchmark, task: str | None, seed: int) -> Goals:
    import metaworld

    made = metaworld.ML1(task, seed=seed) if task else getattr(metaworld, benchmark)(seed=seed)
    goals: Goals = {}
    for name, tasks in (("train", made.train_tasks), ("held_out", made.test_tasks)):
        found: dict[str, list] = {}
        for one in tasks:
            found.setdefault(one.env_name, []).append(pickle.loads(one.data)["rand_vec"])  # made just above
        goals[name] = {kind: np.array(rows) for kind, rows in found.items()}
    return goals
