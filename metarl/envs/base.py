"""The environment contract: many lanes, each with a task that lasts until new tasks are given."""

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.seeding import make_generator, split_seed
from metarl.types import EnvSpec, Step, Tasks


class MetaEnv(ABC):
    """Lanes of one task distribution, stepped together.

    Lane ``i`` plays task ``i // lanes_per_task``. A task persists over episodes and changes only by
    ``sample_tasks`` or ``set_tasks``. ``reset`` starts a fresh episode in every lane; a lane whose episode
    ends starts its next one by itself, and that ``Step.observation`` already belongs to the next episode.

    Args:
        num_tasks: tasks sampled in parallel (the meta-batch).
        lanes_per_task: lanes that share each task.
        num_episodes: episodes of a trial.
        horizon: maximum number of steps of an episode.
        seed: seed of all randomness of this environment.
        device: torch device of its tensors.
    """

    observation_space: spaces.Space
    action_space: spaces.Space  # of the agent: Discrete, or a flat Box whose finite bounds are -1 and 1
    native_actions = False  # agents act in the units of the environment, whatever its bounds
    task_dim: int
    tasks: Tasks  # one row per lane, once there are any
    fixed_length = True  # every episode lasts ``horizon`` steps
    can_fall = True  # an episode that ends early may be no success
    task_sets: tuple[str, ...] = ("train", "held_out")  # arguments of ``sample_tasks``
    more_tasks = ""  # end of the message on too many tasks, if a setting gives more
    classes: tuple[str, ...] = ()  # names of task classes, indexed by the task parameter ``class``

    def __init__(
        self,
        *,
        num_tasks: int,
        num_episodes: int,
        horizon: int,
        seed: int,
        lanes_per_task: int = 1,
        device: str | torch.device = "cpu",
    ):
        self.num_tasks = num_tasks
        self.lanes_per_task = lanes_per_task
        self.num_lanes = num_tasks * lanes_per_task
        self.num_episodes = num_episodes
        self.horizon = horizon
        self.device = torch.device(device)
        task_seed, noise_seed = split_seed(seed, 2)
        self.task_generator = make_generator(task_seed, device)  # apart, so that tasks depend on no agent
        self.generator = make_generator(noise_seed, device)
        self._false = torch.zeros(self.num_lanes, dtype=torch.bool, device=self.device)
        self._true = torch.ones(self.num_lanes, dtype=torch.bool, device=self.device)

    @property
    def trial_length(self) -> int:
        """Most steps of a trial."""
        return self.num_episodes * self.horizon

    @property
    def spec(self) -> EnvSpec:
        """Spaces and sizes that a model is built for."""
        return EnvSpec(self.observation_space, self.action_space, self.task_dim, self.trial_length)

    @abstractmethod
    def draw_tasks(self, num_tasks: int, task_set: str) -> Tasks:
        """``num_tasks`` new tasks of a set. Where tasks have a density, a fresh draw is held out already."""

    @abstractmethod
    def reset(self) -> Tensor:
        """First observation ``[B, ...]`` of a fresh episode in every lane, on the same tasks."""

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Advance every lane by one action ``[B, ...]``."""

    def sample_tasks(self, task_set: str = "train") -> Tasks:
        """Give every group of lanes a new task and return them, one row per lane.

        Raises:
            ValueError: the environment has no such task set.
        """
        if task_set not in self.task_sets:
            raise ValueError(f"task_set={task_set!r}: {type(self).__name__} has {', '.join(self.task_sets)}")
        return self.set_tasks(self.draw_tasks(self.num_tasks, task_set))

    def set_tasks(self, tasks: Tasks) -> Tasks:
        """Play these tasks, ``num_tasks`` rows; returns them, one row per lane.

        Raises:
            ValueError: the number of tasks differs from ``num_tasks``.
        """
        if len(tasks) != self.num_tasks:
            raise ValueError(f"set_tasks was given {len(tasks)} tasks; this environment plays {self.num_tasks}")
        self.tasks = tasks.repeat(self.lanes_per_task) if self.lanes_per_task > 1 else tasks
        return self.tasks

    def max_num_tasks(self, task_set: str) -> int | None:
        """Maximum number of parallel tasks of a set; None if unlimited."""
        return None

    def all_tasks(self, task_set: str) -> Tasks | None:
        """All tasks of a set, in order, each as likely as any other; None where their number has no end.

        The same answer for every set: either all sets are finite, or none is.
        """
        return None

    @property
    def num_tasks_total(self) -> int | None:
        """Number of different tasks in all sets together, see ``task_id``; None if infinite."""
        return None if self._numbered_tasks is None else len(self._numbered_tasks)

    def task_id(self, tasks: Tasks) -> Tensor:
        """Number of each of these tasks among all there are, ``[N]``, below ``num_tasks_total``.

        Tasks are numbered in the order of ``all_tasks``, the first set of ``task_sets`` first.

        Raises:
            NotImplementedError: tasks are drawn afresh.
        """
        if self._numbered_tasks is None:
            raise NotImplementedError(f"{type(self).__name__} does not number its tasks")
        return (tasks.description.unsqueeze(1) == self._numbered_tasks).all(2).long().argmax(1)

    @cached_property
    def _numbered_tasks(self) -> Tensor | None:
        """Descriptions of all different tasks, ``[num_tasks_total, task_dim]``."""
        rows: dict[tuple[float, ...], Tensor] = {}
        for task_set in self.task_sets:
            tasks = self.all_tasks(task_set)
            if tasks is None:
                return None
            for row in tasks.description:
                rows.setdefault(tuple(row.tolist()), row)
        return torch.stack(list(rows.values()))

    def trial_state(self) -> dict[str, Tensor]:
        """State, other than the task, that persists across the episodes of a trial."""
        return {}

    def load_trial_state(self, state: dict[str, Tensor]) -> None:
        """Go back to ``trial_state``."""
        assert not state

    def state_dict(self) -> dict:
        """State that an exact resume needs between two trials: the random generators."""
        return {"tasks": self.task_generator.get_state(), "noise": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Continue the random streams of ``state_dict``."""
        self.task_generator.set_state(state["tasks"].cpu())
        self.generator.set_state(state["noise"].cpu())


def every_bit_pattern(num_bits: int, device: torch.device) -> Tensor:
    """All patterns of 0 and 1, ``[2^num_bits, num_bits]``; the first bit counts 1, the next 2 and so on."""
    number = torch.arange(2**num_bits, device=device).unsqueeze(1)
    return number // 2 ** torch.arange(num_bits, device=device) % 2
