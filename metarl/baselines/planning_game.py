"""Scripted agents of the planning game: what a map of the labels is worth."""

from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from metarl.baselines.base import Solver, decision_of
from metarl.baselines.registry import solvers
from metarl.envs.planning import PlanningGame
from metarl.types import Agent, Decision, Tasks, Timestep

UP, DOWN, LEFT, RIGHT, COLLECT = range(5)


class Chart(NamedTuple):
    """Place of the agent ``[B]``, and the place of every label ``[B, num_places]``, -1 where it is unknown."""

    place: Tensor
    places: Tensor


class Walker(Solver):
    """Takes the shortest path to a goal at a place on its map, otherwise walks through all cells until it finds it.

    Args:
        env: environment with the rules.
        known: places of labels on the map: ``none``; ``seen``, those visited in this episode, relative to its start;
            ``all``, for an oracle.
    """

    def __init__(self, env: PlanningGame, known: Literal["none", "seen", "all"]):
        super().__init__(env.num_episodes)
        self.env, self.size, self.known = env, env.size, known

    def initial_state(self, tasks: Tasks) -> Chart:
        labels = tasks.parameters["labels"].long()  # of every place
        places = labels.argsort(1) if self.known == "all" else torch.full_like(labels, -1)
        return Chart(torch.zeros_like(labels[:, 0]), places)

    def act(
        self, timestep: Timestep, state: Chart, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, Chart]:
        here, there = timestep.observation.unflatten(1, (2, -1)).argmax(2).unbind(1)  # labels
        moved = self.env.moved(state.place, timestep.previous_action.clamp(min=0))  # -1: there was none yet
        place = torch.where(timestep.first, 0, moved)
        places = state.places
        match self.known:
            case "all":
                place = places.gather(1, here.unsqueeze(1)).squeeze(1)
            case "seen":
                places = torch.where(timestep.first.unsqueeze(1), -1, places)
                places = places.scatter(1, here.unsqueeze(1), place.unsqueeze(1))
        goal = places.gather(1, there.unsqueeze(1)).squeeze(1)
        action = torch.where(goal < 0, self._round(place), self._way(place, goal))
        return decision_of(torch.where(here == there, COLLECT, action)), Chart(place, places)

    def _round(self, place: Tensor) -> Tensor:
        """Action of a walk through all cells: right along a row, up at its end."""
        return torch.where((place % self.size + place // self.size) % self.size == self.size - 1, UP, RIGHT)

    def _way(self, place: Tensor, goal: Tensor) -> Tensor:
        right, up = (goal - place) % self.size, (goal // self.size - place // self.size) % self.size
        sideways = torch.where(2 * right <= self.size, RIGHT, LEFT)
        upright = torch.where(2 * up <= self.size, UP, DOWN)
        return torch.where(right > 0, sideways, upright)


class GoalSweep(Solver):
    """Walks through all cells where labels are hidden; one number of the observation is 1 at the goal.

    Args:
        env: gives the rules.
    """

    def __init__(self, env: PlanningGame):
        super().__init__(env.num_episodes)
        self.size = env.size

    def initial_state(self, tasks: Tasks) -> Tensor:
        """Steps of the round so far, ``[B]``."""
        return torch.zeros(len(tasks), dtype=torch.long, device=tasks.description.device)

    def act(
        self, timestep: Timestep, state: Tensor, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, Tensor]:
        found = timestep.observation[:, 0] == 1
        action = torch.where(state % self.size == self.size - 1, UP, RIGHT)
        return decision_of(torch.where(found, COLLECT, action)), state + (~found).long()


@solvers.register
def _(env: PlanningGame) -> dict[str, Agent]:
    if not env.show_labels:
        return {"Sweep": GoalSweep(env)}
    return {"Sweep": Walker(env, "none"), "Mapping": Walker(env, "seen"), "Known map": Walker(env, "all")}
