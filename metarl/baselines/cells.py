"""Scripted agents for goals in cells: an oracle of the goal, Thompson sampling, and the best systematic search."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from metarl.baselines.base import Solver, decision_of
from metarl.baselines.registry import solvers
from metarl.envs.grid import STEP_REWARD, CellWorld
from metarl.types import Agent, Decision, Tasks, Timestep

BEAM = 4000  # partial searches kept at every step


class Search(NamedTuple):
    """State of a search for the goal within a trial, ``[B, ...]``."""

    belief: Tensor  # posterior probability that each cell is the goal
    target: Tensor  # cell to go to
    steps: Tensor  # since the episode began
    episodes: Tensor  # begun


class CellSolver(Solver):
    """Walks along shortest paths, with the exact posterior over goals given all steps so far.

    Args:
        env: environment with the cells and their neighbours.
    """

    def __init__(self, env: CellWorld):
        super().__init__(env.num_episodes)
        self.env = env
        self.first_action = shortest_paths(env.neighbours)[1].to(env.device)

    def initial_state(self, tasks: Tasks) -> Search:
        zeros = torch.zeros(len(tasks), dtype=torch.long, device=self.env.device)
        return Search(self.env.initial_belief(len(tasks)), zeros, zeros, zeros)

    def act(
        self, timestep: Timestep, state: Search, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, Search]:
        belief = self.env.update_belief(state.belief, timestep)
        first = timestep.first.long()
        state = Search(belief, state.target, state.steps * (1 - first), state.episodes + first)
        here = self.env.cell(timestep.observation)
        state = state._replace(target=self.choose(state, here, timestep.first, generator))
        action = self.first_action[here, state.target]
        return decision_of(action), state._replace(steps=state.steps + 1)

    def choose(self, state: Search, here: Tensor, first: Tensor, generator: Generator) -> Tensor:
        """Cells to go to, ``[B]``."""
        raise NotImplementedError


class KnownGoal(Solver):
    """Oracle that observes the goal and walks there: an upper bound for all agents.

    Args:
        env: see ``CellSolver``.
    """

    def __init__(self, env: CellWorld):
        super().__init__(env.num_episodes)
        self.env = env
        self.first_action = shortest_paths(env.neighbours)[1].to(env.device)

    def initial_state(self, tasks: Tasks) -> tuple[Tensor, Tensor]:
        goal = self.env.cell(tasks.parameters["goal"])
        return goal, torch.zeros(len(tasks), 2, dtype=torch.long, device=self.env.device)

    def act(self, timestep, state, generator, greedy=False):
        goal, position = state
        # The position is tracked, because observations may not show it.
        moved = self.env.moved(position, timestep.previous_action.clamp(min=0))
        position = torch.where(timestep.first.unsqueeze(1), self.env.position_in(timestep.observation), moved)
        return decision_of(self.first_action[self.env.number(position), goal]), (goal, position)


class PosteriorSampling(CellSolver):
    """Draws a goal from the posterior at the start of every episode and walks there (Strens 2000)."""

    def choose(self, state, here, first, generator):
        clocks = torch.empty_like(state.belief).exponential_(generator=generator)
        drawn = (state.belief / clocks).argmax(1)
        return torch.where(first, drawn, state.target)


class Sweep(CellSolver):
    """Visits possible goals in the order of highest expected return, and stays at the goal once it is found.

    All episodes must start in the same cell. A wide beam search over all walks finds the order, for rewards without
    bonuses.

    Args:
        env: see ``CellSolver``.
    """

    def __init__(self, env: CellWorld):
        super().__init__(env)
        assert env.home is not None
        plan, self.expected_return = best_sweep(
            env.neighbours, env.candidates.tolist(), env.home, env.horizon, env.num_episodes, env.goal_reward
        )
        self.plan = torch.tensor(plan, device=env.device)

    def choose(self, state, here, first, generator):
        planned = self.plan[state.episodes - 1, state.steps.clamp(max=self.plan.shape[1] - 1)]
        return torch.where(state.belief.amax(1) > 0.999, state.belief.argmax(1), planned)


def shortest_paths(neighbours: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Steps between all cells, and the first action on a shortest way; 0 stays.

    Args:
        neighbours: for every cell, where each action leads.
    """
    count = len(neighbours)
    after = torch.tensor(neighbours)
    distance = torch.full((count, count), count)
    distance.fill_diagonal_(0)
    for _ in range(count):
        closer = torch.minimum(distance, distance[after].amin(1) + 1)
        if torch.equal(closer, distance):
            break
        distance = closer
    action = distance[after].argmin(1)  # [from, to]: the action whose cell is nearest
    action.fill_diagonal_(0)
    return distance, action


def best_sweep(
    neighbours: list[list[int]], candidates: list[int], home: int, horizon: int, episodes: int, goal_reward: float
) -> tuple[list[list[int]], float]:
    """Cells to be in after every step of every episode as long as the goal is not found, and the expected return."""
    distance = shortest_paths(neighbours)[0]
    bit = {cell: 1 << index for index, cell in enumerate(candidates)}

    def episode_return(steps: int) -> float:
        """Return of arriving at the goal after ``steps`` steps and staying there."""
        return (
            STEP_REWARD * (steps - 1) + goal_reward * (horizon - steps + 1)
            if steps <= horizon
            else STEP_REWARD * horizon
        )

    walks: dict[tuple[int, int], tuple[float, tuple]] = {(home, 0): (0.0, ())}
    for episode in range(episodes):
        best: dict[int, tuple[float, tuple]] = {}
        for (_, visited), walk in walks.items():
            if visited not in best or walk[0] > best[visited][0]:
                best[visited] = walk
        walks = {(home, visited): walk for visited, walk in best.items()}
        for step in range(1, horizon + 1):
            found: dict[tuple[int, int], tuple[float, tuple]] = {}
            for (cell, visited), (score, path) in walks.items():
                for after in neighbours[cell]:
                    new = bit.get(after, 0) & ~visited
                    gain = 0.0
                    if new:
                        later = (episodes - episode - 1) * episode_return(max(int(distance[home, after]), 1))
                        gain = episode_return(step) + later - (episodes - episode) * STEP_REWARD * horizon
                    key = (after, visited | new)
                    if key not in found or score + gain > found[key][0]:
                        found[key] = (score + gain, (path, after))
            ranked = sorted(found.items(), key=lambda item: -item[1][0])
            walks = dict(ranked[:BEAM])
    score, path = max(walks.values(), key=lambda walk: walk[0])
    cells: list[int] = []
    while path:
        path, cell = path
        cells.append(cell)
    cells.reverse()
    plan = [cells[start : start + horizon] for start in range(0, len(cells), horizon)]
    return plan, score / len(candidates) + episodes * horizon * STEP_REWARD


@solvers.register
def _(env: CellWorld) -> dict[str, Agent]:
    found: dict[str, Agent] = {"Known goal": KnownGoal(env)}
    if env.has_exact_belief:
        found |= {"Posterior sampling": PosteriorSampling(env), "Sweep": Sweep(env)}
    return found
