"""Checks of an environment's tasks: they persist, can be set again, differ, and affect the dynamics or rewards."""

import pickle
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.checking.comparing import demand, random_actions, same
from metarl.checking.outcomes import Check, Fault, NotApplicable
from metarl.checking.world import World, stream
from metarl.envs.gymnasium_lanes import VectorizedGymEnv
from metarl.seeding import make_generator
from metarl.types import Tasks

SAMPLE = 200  # tasks of a set, to compare sets


def persist(world: World) -> None:
    """Tasks last over episodes and resets."""
    env, generator = world.env(), make_generator(0)
    first = env.sample_tasks().description.clone()
    for episode in range(1, 4):
        env.reset()
        for step in range(1, env.horizon + 2):
            env.step(random_actions(env, generator))
            demand(same(env.tasks.description, first), f"tasks changed in step {step} after reset {episode}")


def change_by_sampling(world: World) -> None:
    """New tasks are others."""
    env = world.env(num_tasks=world.many(20))
    found = [env.sample_tasks().description.clone() for _ in range(4)]
    demand(any(not same(later, found[0]) for later in found[1:]), "sample_tasks() gave the same tasks four times")


def depend_on_no_play(world: World) -> None:
    """Tasks are drawn alike whatever was played before, so that agents of equal seed are given equal tasks."""
    still, played = world.env(), world.env()
    generator = make_generator(0)
    for env in (still, played):
        env.sample_tasks()
        env.reset()
    for _ in range(3):
        played.step(random_actions(played, generator))
    demand(
        same(still.sample_tasks().description, played.sample_tasks().description),
        "after some steps other tasks are drawn than without them",
    )


def are_shared_by_lanes(world: World) -> None:
    """Lanes of one task have the same description, finite and of the promised size."""
    env = world.env(num_tasks=3, lanes_per_task=2)
    description = env.sample_tasks().description
    demand(same(description[0::2], description[1::2]), "two lanes of one task were given different tasks")
    demand(
        description.shape == (6, env.task_dim),
        f"6 lanes have descriptions {tuple(description.shape)}; task_dim is {env.task_dim}",
    )


def differ(world: World) -> None:
    """Not all tasks that are drawn are the same."""
    drawn = world.draw(20).description
    demand(len(drawn.unique(dim=0)) > 1, f"{len(drawn)} tasks drawn, all the same")


def can_be_given_again(world: World) -> None:
    """``set_tasks`` plays the given tasks, in groups of lanes, the same every time."""
    given = world.draw(3, seed=5)
    env = world.env(num_tasks=3, lanes_per_task=2)
    demand(
        same(env.set_tasks(given).description, given.description.repeat_interleave(2, 0)),
        "set_tasks() returns other tasks than it was given, or in another order of lanes",
    )
    demand(
        same(env.tasks.description, given.description.repeat_interleave(2, 0)), "env.tasks are not those of set_tasks()"
    )
    steps = 2 * env.horizon
    first, again = (stream(world.env(num_tasks=3, seed=1), steps, given) for _ in range(2))
    demand(same(first, again), "the same tasks given to two environments of equal seed are played differently")


def what_tasks_decide(world: World, steps: int = 12, tasks: int = 200) -> set[str]:
    """Quantities that differ between tasks under equal actions and noise: ``reward``, ``observation``, ``end``."""
    count = world.many(tasks)
    given = [world.draw(count, seed=seed) for seed in (1, 2)]
    found: dict[str, list[list[Tensor]]] = {name: [] for name in ("reward", "observation", "end")}
    for drawn in given:
        env, generator = world.env(num_tasks=count), make_generator(0)
        env.set_tasks(drawn)
        said: dict[str, list[Tensor]] = {name: [] for name in found}
        said["observation"].append(env.reset())
        for _ in range(steps):
            step = env.step(random_actions(env, generator))
            said["reward"].append(step.reward)
            said["observation"].append(step.final_observation)
            said["end"].append(step.terminated)
        for name, parts in said.items():
            found[name].append(parts)
    return {name for name, (one, other) in found.items() if not same(one, other)}


def decide_what_happens(world: World) -> None:
    """Tasks differ in what is seen or earned; where random actions show nothing, in what the environment reads."""
    horizon = world.sample.horizon
    if what_tasks_decide(world, tasks=20) or what_tasks_decide(world) or what_tasks_decide(world, 2 * horizon):
        return
    if not _reads_tasks(world):
        raise Fault("no reward, observation or end depends on the task, which is never read")
    raise NotApplicable(
        f"{2 * horizon} random steps showed no effect of the task; check an easier setting if rewards are rare"
    )


def _reads_tasks(world: World) -> bool:
    """Whether ``set_tasks``, ``reset`` or ``step`` looks at the parameters of the tasks."""
    if world.raw is not None:
        return _is_marked_by_tasks(world.raw().unwrapped)
    read: list[str] = []
    drawn = world.draw(1)
    env = world.env(num_tasks=1)
    env.set_tasks(WatchedTasks(Watched(drawn.parameters, read)))
    env.reset()
    for _ in range(2):
        env.step(random_actions(env, make_generator(0)))
    return bool(read)


class Watched(dict[str, Tensor]):
    """Notes which parameters are read.

    Args:
        parameters: of tasks.
        read: where names are noted.
    """

    def __init__(self, parameters: dict[str, Tensor], read: list[str]):
        super().__init__(parameters)
        self.read = read

    def __getitem__(self, name: str) -> Tensor:
        self.read.append(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.append(name)
        return super().get(name, default)

    def items(self) -> Any:
        self.read.extend(self)
        return super().items()


class WatchedTasks(Tasks):
    """Tasks that note whether their description is read."""

    @property
    def description(self) -> Tensor:
        if isinstance(self.parameters, Watched):
            self.parameters.read.append("description")
        return super().description


def _is_marked_by_tasks(env: Any) -> bool:
    """Whether another task leaves another state after ``set_task``; true where that cannot be known."""
    env.np_random = np.random.default_rng(0)
    marks = set()
    for task in env.sample_tasks(20):
        env.set_task(task)
        try:
            marks.add(pickle.dumps({name: value for name, value in vars(env).items() if name != "_np_random"}))
        except Exception:  # holds what cannot be pickled
            return True
    return len(marks) > 1


def leave_training(world: World) -> str | None:
    """Held-out tasks are no training tasks, unless both are all there are."""
    sets = [world.sample.all_tasks(name) for name in ("train", "held_out")]
    train, held_out = (
        _rows(drawn if drawn is not None else world.draw(SAMPLE, name, seed))
        for drawn, name, seed in zip(sets, ("train", "held_out"), (0, 1), strict=True)
    )
    shared = train & held_out
    if not shared:
        return None
    whole = all(found is not None for found in sets)
    if whole and train == held_out:
        raise NotApplicable(f"both sets are the same {len(train)} tasks: held-out scores are of tasks trained on")
    drawn_from_few = not whole and len(train) < SAMPLE and len(held_out) < SAMPLE
    demand(drawn_from_few, f"{len(shared)} of {len(held_out)} held-out tasks are training tasks")
    raise NotApplicable("both sets are drawn from the same few tasks: held-out scores are of tasks trained on")


def _rows(tasks: Tasks) -> set[tuple[float, ...]]:
    return {tuple(row) for row in tasks.description.tolist()}


def leave_other_lanes_alone(world: World) -> None:
    """Lane 0 gets another task and other actions, and nothing changes for the others."""
    tasks = world.draw(4, seed=5)
    swapped = tasks.select(torch.tensor([3, 1, 2, 3], device=world.sample.device))

    def told(given: Tasks, shift: bool) -> list:
        env, generator = world.env(seed=1), make_generator(0)
        env.set_tasks(given)
        rows = [env.reset()[1:]]
        for _ in range(2 * env.horizon):
            action = random_actions(env, generator)
            if shift:
                action[0] = _another(action[0], env.action_space)
            step = env.step(action)
            rows += [step.reward[1:], step.observation[1:], step.terminated[1:]]
        return rows

    demand(
        same(told(tasks, False), told(swapped, True)), "another task and other actions in lane 0 changed other lanes"
    )


def _another(action: Tensor, space: Any) -> Tensor:
    """Another action than this one."""
    if isinstance(space, spaces.Discrete):
        return int(space.start) + (action - int(space.start) + 1) % int(space.n)
    return -action


def come_in_any_order(world: World) -> None:
    """Lanes in reverse order have reversed outputs, and a lane alone has its outputs among others."""
    tasks = world.draw(4, seed=5)
    env = world.env(seed=1)
    if not isinstance(env, VectorizedGymEnv) and not same(
        *(_ordered(world, tasks, [0, 1, 2, 3], seed) for seed in (1, 2))
    ):
        raise NotApplicable("the noise of all lanes is drawn at once, so it belongs to places, not to tasks")
    whole = _ordered(world, tasks, [0, 1, 2, 3], 1)
    for order in ([3, 2, 1, 0], [2]):
        expected = [part[torch.tensor(order, device=env.device)] for part in whole]
        demand(
            same(_ordered(world, tasks, order, 1), expected),
            "lanes in another order have other outputs" if len(order) > 1 else "a lane alone has other outputs",
        )


def _ordered(world: World, tasks: Tasks, order: list[int], seed: int) -> list:
    """Outputs of lanes that play these tasks in this order, each with the actions and seed of its task."""
    env, generator = world.env(num_tasks=len(order), seed=seed), make_generator(0)
    index = torch.tensor(order, device=env.device)
    env.set_tasks(tasks.select(index))
    said: list = []
    if isinstance(env, VectorizedGymEnv):
        env.lanes.reset([100 + lane for lane in order])
    else:
        said.append(env.reset())
    kind = world.sample
    for _ in range(min(2 * env.horizon, 200)):
        step = env.step(random_actions(kind, generator)[index])
        said += [step.observation, step.reward, step.terminated]
    return said


TASK_CHECKS = (
    Check("tasks persist over episodes", persist, "change tasks in set_tasks() alone"),
    Check("sampling gives new tasks", change_by_sampling, "draw from task_generator (Gymnasium: self.np_random)"),
    Check("tasks do not depend on play", depend_on_no_play, "draw tasks from task_generator, noise from generator"),
    Check("lanes of a task share it", are_shared_by_lanes, "return self.tasks from set_tasks(), as MetaEnv does"),
    Check("tasks differ", differ, "draw several tasks, not one"),
    Check("tasks can be given again", can_be_given_again, "let set_tasks() alone decide which task a lane plays"),
    Check("tasks decide what happens", decide_what_happens, "use the task in reset() or step()"),
    Check("held-out tasks are not training tasks", leave_training, "split tasks by task_set in draw_tasks()"),
    Check("lanes do not interact", leave_other_lanes_alone, "keep all state per lane, none in the class or module"),
    Check(
        "lanes can be reordered",
        come_in_any_order,
        "keep all state per lane; draw noise from self.np_random",
    ),
)
