"""Filming: an agent lives through one trial in one lane, and what happens is kept."""

from collections.abc import Sequence
from typing import Any

import torch

from metarl.analysis.film import STRIP, Film, captioned
from metarl.envs.base import MetaEnv
from metarl.envs.pictures import NoRendererError
from metarl.rollout import collect_trial
from metarl.seeding import make_generator, split_seed
from metarl.types import Agent, Step, Tasks


class FilmedEnv:
    """An environment of one lane that keeps what happens. All else it leaves to the environment itself.

    Args:
        env: of one lane, with tasks.
        every: steps between pictures; 0 takes none.
    """

    def __init__(self, env: MetaEnv, every: int):
        self.env, self.every = env, every
        goal = env.tasks.parameters.get("goal")
        flat = None if goal is None or goal.shape[1] != 2 else goal[0].cpu().numpy()
        self.film = Film(in_words(env.tasks), goal=flat)
        self._step = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self):
        """See ``MetaEnv``."""
        observation = self.env.reset()
        self._begin()
        return observation

    def step(self, action) -> Step:
        """See ``MetaEnv``."""
        step = self.env.step(action)
        self._step += 1
        self.film.returns[-1] += float(step.reward[0])
        if bool(step.terminated[0] | step.truncated[0]):
            self._begin()
        else:
            self._look()
        return step

    def _begin(self) -> None:
        self.film.returns.append(0.0)
        self.film.places.append([])
        self._step = 0
        self._look()

    def _look(self) -> None:
        places = self.env.places()
        if places is not None:
            self.film.places[-1].append(places[0].cpu().numpy())
        if self.every and self._step % self.every == 0:
            episode, earned = len(self.film.returns), self.film.returns[-1]
            text = f"episode {episode}   step {self._step}   return {earned:.1f}"
            self.film.pictures.append(captioned(self.env.picture(), text, f"   {self.film.task}"))
            self.film.picture_episodes.append(episode - 1)


def film_trial(agent: Agent, env: MetaEnv, seed: int, every: int, greedy: bool = False) -> Film:
    """One trial in an environment of one lane, on the task it has.

    Raises:
        NotImplementedError, NoRendererError: pictures are asked for, and there are none.
    """
    filmed = FilmedEnv(env, every)
    collect_trial(filmed, agent, make_generator(split_seed(seed, 2)[1], env.device), greedy)  # type: ignore[arg-type]
    film = filmed.film
    count = sum(agent.rollouts)
    film.returns, film.places = film.returns[:count], film.places[:count]
    shown = sum(episode < count for episode in film.picture_episodes)
    film.pictures, film.picture_episodes = film.pictures[:shown], film.picture_episodes[:shown]
    return film


def final_film(agent: Agent, env: MetaEnv, seed: int) -> Film | None:
    """A trial for the report: with pictures where they can be drawn; None where there is nothing to see."""
    env.sample_tasks("held_out")
    every = max(1, env.horizon // (STRIP - 1))
    try:
        return film_trial(agent, env, seed, every)
    except (NotImplementedError, NoRendererError):
        film = film_trial(agent, env, seed, every=0)
        return film if any(film.places) else None


def in_words(tasks: Tasks) -> str:
    """The first task: short parameters with their values, of long ones the size."""
    words = []
    for name, value in tasks.parameters.items():
        numbers = value[0].flatten().tolist()
        shown = ", ".join(f"{number:.3g}" for number in numbers) if len(numbers) <= 3 else f"{len(numbers)} numbers"
        words.append(f"{name} {shown}")
    return "; ".join(words)


def with_parameters(tasks: Tasks, given: Sequence[str]) -> Tasks:
    """A task with some parameters set by hand: ``velocity=1.5``, ``goal=0.5,1``.

    Raises:
        ValueError: no such parameter, or not as many numbers as it has.
    """
    parameters = dict(tasks.parameters)
    for pair in given:
        name, _, text = pair.partition("=")
        if name not in parameters:
            raise ValueError(f"--task {pair}: no such parameter; the task has {', '.join(parameters)}")
        shape = parameters[name][:1].shape
        try:
            numbers = torch.tensor([float(number) for number in text.split(",")], dtype=parameters[name].dtype)
            parameters[name] = numbers.reshape(shape)
        except (ValueError, RuntimeError):
            size = parameters[name][0].numel()
            raise ValueError(
                f"--task {pair}: {name} is {size} number{'s' * (size > 1)}, such as {name}=" + ",".join(["0.5"] * size)
            ) from None
    return Tasks(parameters)
