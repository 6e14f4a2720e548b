"""Tasks with parameters that the user of a command chose."""

from collections.abc import Sequence

import torch

from metarl.envs.base import MetaEnv
from metarl.evaluation import MakeEnv
from metarl.types import Tasks


def with_parameters(tasks: Tasks, given: Sequence[str]) -> Tasks:
    """Tasks with some parameters set by hand, the same in all: ``velocity=1.5``, ``goal=0.5,1``.

    Raises:
        ValueError: a parameter does not exist, or has another size.
    """
    parameters = dict(tasks.parameters)
    for pair in given:
        name, _, text = pair.partition("=")
        if name not in parameters:
            raise ValueError(f"--task {pair}: no such parameter; the task has {', '.join(parameters)}")
        parameters[name] = _parsed(pair, text, name, parameters[name])
    return Tasks(parameters)


def _parsed(pair: str, text: str, name: str, present: torch.Tensor) -> torch.Tensor:
    try:
        numbers = torch.tensor([float(number) for number in text.split(",")]).to(present)
        return numbers.reshape(present[:1].shape).repeat(len(present), *[1] * (present.ndim - 1))
    except (ValueError, RuntimeError):
        size = present[0].numel()
        raise ValueError(
            f"--task {pair}: {name} is {size} number{'s' * (size > 1)}, such as {name}=" + ",".join(["0.5"] * size)
        ) from None


def with_chosen_tasks(make_env: MakeEnv, given: Sequence[str]) -> MakeEnv:
    """Makes the environment with these parameters in all tasks it draws; the others are drawn as ever."""

    def make(**options: int) -> MetaEnv:
        env = make_env(**options)  # type: ignore[arg-type]
        draw = env.draw_tasks
        # Of this one environment: a class of its own would hide what the environment is able to do.
        env.draw_tasks = lambda num_tasks, task_set: with_parameters(draw(num_tasks, task_set), given)  # type: ignore[method-assign, assignment]
        env.all_tasks = lambda task_set: None  # type: ignore[method-assign] # drawn afresh, so that their number is free
        return env

    return make if given else make_env
