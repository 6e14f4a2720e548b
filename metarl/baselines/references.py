"""Solvers and bounds of an environment, with parameters found by grid search.

``metarl.baselines.registry`` finds them for an environment.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from metarl.baselines import bandits, mdps
from metarl.baselines.arm_beliefs import ArmBelief, BetaBelief, TruncatedNormalBelief
from metarl.baselines.bandit_bounds import upper_bound
from metarl.baselines.bandit_optimum import bayes_optimum, is_tractable
from metarl.baselines.mdps import TRUE_PRIOR, Prior, TabularSize
from metarl.baselines.registry import Grid, baseline_grid, return_bounds, solver_grid, solvers
from metarl.envs.bandit import BernoulliBandit, GaussianBandit
from metarl.envs.tabular_mdp import TabularMDP
from metarl.evaluation import MakeEnv, evaluate
from metarl.types import Agent

Family = Callable[[Any], Agent]  # a solver, given its tunable parameter
Best = dict[tuple[int, ...], dict[str, float]]  # tuned values of a setting, by solver
Knowledge = Literal["true", "tabularl"]

BANDIT_GRID = {
    "ε-greedy": (0.0, 0.005, 0.01, 0.02, 0.05, 0.1),
    "UCB1": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0),
    "OTS": (2, 5, 10, 20, 50),
}
_PLANNER_GRID = {
    "OPSRL": (1, 2, 3, 5, 10, 20),
    "UCRL2": (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2),
    "BEB": (0.25, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0),
    "ε-greedy": (0.0, 0.01, 0.02, 0.05, 0.1, 0.2),
}
MDP_GRID = {"true": _PLANNER_GRID, "tabularl": _PLANNER_GRID | {"BEB": (0.0, 3e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3)}}

_DEFAULT, _VAGUE = Prior(0.0, 1.0, 1.0), Prior(0.0, 1e-4, 1e-4)
_TABULARL_PRIORS = {
    "PSRL": _DEFAULT,
    "OPSRL": _DEFAULT,
    "BEB": _DEFAULT,
    "UCRL2": Prior(0.0, 1e-4, 1e-5),
    "ε-greedy": _VAGUE,
    "Greedy": _VAGUE,
}
PRIORS = {"true": dict.fromkeys(_TABULARL_PRIORS, TRUE_PRIOR), "tabularl": _TABULARL_PRIORS}

# Best of the grids, by (pulls, arms) for bandits and by (episodes,) for MDPs; differences within noise go to the
# cheaper value. Searched with ``python benchmarks/baselines.py --tune``, Gaussian rewards at deviation 1.
BERNOULLI_BEST: Best = {
    (10, 5): {"ε-greedy": 0.0, "UCB1": 0.1, "OTS": 50},
    (10, 10): {"ε-greedy": 0.0, "UCB1": 0.05, "OTS": 50},
    (10, 50): {"ε-greedy": 0.0, "UCB1": 0.05, "OTS": 50},
    (100, 5): {"ε-greedy": 0.0, "UCB1": 0.2, "OTS": 20},
    (100, 10): {"ε-greedy": 0.0, "UCB1": 0.2, "OTS": 50},
    (100, 50): {"ε-greedy": 0.0, "UCB1": 0.15, "OTS": 50},
    (500, 5): {"ε-greedy": 0.05, "UCB1": 0.25, "OTS": 5},
    (500, 10): {"ε-greedy": 0.05, "UCB1": 0.2, "OTS": 20},
    (500, 50): {"ε-greedy": 0.05, "UCB1": 0.2, "OTS": 50},
}
GAUSSIAN_BEST: Best = {
    (10, 5): {"ε-greedy": 0.0, "UCB1": 0.25, "OTS": 50},
    (100, 5): {"ε-greedy": 0.0, "UCB1": 0.4, "OTS": 50},
    (100, 10): {"ε-greedy": 0.0, "UCB1": 0.4, "OTS": 50},
    (500, 5): {"ε-greedy": 0.01, "UCB1": 0.4, "OTS": 10},
}
MDP_BEST: dict[Knowledge, Best] = {
    "true": {
        (10,): {"OPSRL": 5, "UCRL2": 0.03, "BEB": 0.5, "ε-greedy": 0.0},
        (25,): {"OPSRL": 5, "UCRL2": 0.05, "BEB": 0.7, "ε-greedy": 0.0},
        (50,): {"OPSRL": 5, "UCRL2": 0.05, "BEB": 1.0, "ε-greedy": 0.0},
        (75,): {"OPSRL": 5, "UCRL2": 0.05, "BEB": 1.5, "ε-greedy": 0.02},
        (100,): {"OPSRL": 5, "UCRL2": 0.05, "BEB": 1.5, "ε-greedy": 0.05},
    },
    "tabularl": {
        (10,): {"OPSRL": 10, "UCRL2": 0.07, "BEB": 2e-3, "ε-greedy": 0.0},
        (25,): {"OPSRL": 10, "UCRL2": 0.07, "BEB": 1.5e-3, "ε-greedy": 0.1},
        (50,): {"OPSRL": 10, "UCRL2": 0.1, "BEB": 1.5e-3, "ε-greedy": 0.1},
        (75,): {"OPSRL": 10, "UCRL2": 0.1, "BEB": 1.5e-3, "ε-greedy": 0.1},
        (100,): {"OPSRL": 10, "UCRL2": 0.1, "BEB": 1.5e-3, "ε-greedy": 0.1},
    },
}


def nearest(best: Best, *setting: int) -> dict[str, float]:
    """The entry for the setting that differs by the smallest factors."""
    return best[min(best, key=lambda entry: sum(abs(math.log(a / b)) for a, b in zip(entry, setting, strict=True)))]


def _best(families: dict[str, Family], values: dict[str, float]) -> dict[str, Agent]:
    return {name: make(values[name]) for name, make in families.items()}


def _grid(families: dict[str, Family], values: Mapping[str, tuple]) -> Grid:
    return {name: [(value, make(value)) for value in values[name]] for name, make in families.items()}


def _bandit_families(belief: ArmBelief, num_arms: int, num_episodes: int) -> dict[str, Family]:
    problem = (belief, num_arms, num_episodes)
    return {
        "ε-greedy": lambda epsilon: bandits.EpsilonGreedy(*problem, epsilon),
        "UCB1": lambda c: bandits.UCB1(*problem, c),
        "OTS": lambda num_samples: bandits.OptimisticThompson(*problem, int(num_samples)),
    }


def _bandit_solvers(belief: ArmBelief, num_arms: int, num_episodes: int, best: Best) -> dict[str, Agent]:
    tuned = _best(_bandit_families(belief, num_arms, num_episodes), nearest(best, num_episodes, num_arms))
    return {
        "Greedy": bandits.Greedy(belief, num_arms, num_episodes),
        "ε-greedy": tuned["ε-greedy"],
        "UCB1": tuned["UCB1"],
        "Thompson": bandits.Thompson(belief, num_arms, num_episodes),
        "OTS": tuned["OTS"],
    }


@solvers.register
def _(env: BernoulliBandit) -> dict[str, Agent]:
    found = _bandit_solvers(BetaBelief(), env.num_arms, env.num_episodes, BERNOULLI_BEST)
    return found | {"Gittins": bandits.Gittins(env.num_arms, env.num_episodes)}


@solver_grid.register
def _(env: BernoulliBandit) -> Grid:
    return _grid(_bandit_families(BetaBelief(), env.num_arms, env.num_episodes), BANDIT_GRID)


@return_bounds.register
def _(env: BernoulliBandit) -> dict[str, float]:
    """The Bayes optimum, or an upper bound where computing the optimum is intractable."""
    if is_tractable(env.num_arms, env.num_episodes):
        return {"Bayes optimum": bayes_optimum(env.num_arms, env.num_episodes)}
    return {"Upper bound": upper_bound(env.num_arms, env.num_episodes)}


@solvers.register
def _(env: GaussianBandit) -> dict[str, Agent]:
    return _bandit_solvers(TruncatedNormalBelief(env.reward_std), env.num_arms, env.num_episodes, GAUSSIAN_BEST)


@solver_grid.register
def _(env: GaussianBandit) -> Grid:
    return _grid(_bandit_families(TruncatedNormalBelief(env.reward_std), env.num_arms, env.num_episodes), BANDIT_GRID)


@return_bounds.register
def _(env: GaussianBandit) -> dict[str, float]:
    """Expected return of an oracle that always pulls the best arm: the largest of k uniform means."""
    return {"Upper bound": env.num_episodes * env.num_arms / (env.num_arms + 1)}


def _mdp_families(size: TabularSize, knowledge: Knowledge) -> dict[str, Family]:
    priors = PRIORS[knowledge]
    bonus = mdps.TabulaRLBEB if knowledge == "tabularl" else mdps.BEB
    return {
        "OPSRL": lambda num_samples: mdps.OPSRL(size, int(num_samples), priors["OPSRL"]),
        "UCRL2": lambda scaling: mdps.UCRL2(size, scaling, prior=priors["UCRL2"]),
        "BEB": lambda scale: bonus(size, scale, priors["BEB"]),
        "ε-greedy": lambda epsilon: mdps.EpsilonGreedy(size, epsilon, priors["ε-greedy"]),
    }


def mdp_solvers(size: TabularSize, prior: Knowledge = "true") -> dict[str, Agent]:
    """Solvers of ``TabularMDP``, all but Random.

    Args:
        size: of the problem.
        prior: what the solvers believe at first: the distribution of the tasks, or what they believe by default in
            TabulaRL, where the published results come from.
    """
    tuned = _best(_mdp_families(size, prior), nearest(MDP_BEST[prior], size.num_episodes))
    return {
        "PSRL": mdps.PSRL(size, PRIORS[prior]["PSRL"]),
        **tuned,
        "Greedy": mdps.Greedy(size, PRIORS[prior]["Greedy"]),
        "Known MDP": mdps.KnownMDP(size),
    }


def mdp_grid(size: TabularSize, prior: Knowledge = "true") -> Grid:
    """Tunable solvers of ``TabularMDP``, over their grids."""
    return _grid(_mdp_families(size, prior), MDP_GRID[prior])


def mdp_size(env: TabularMDP) -> TabularSize:
    """Size of the problem that an environment poses."""
    return TabularSize(env.num_states, env.num_actions, env.horizon, env.num_episodes)


@solvers.register
def _(env: TabularMDP) -> dict[str, Agent]:
    return mdp_solvers(mdp_size(env))


@solver_grid.register
def _(env: TabularMDP) -> Grid:
    return mdp_grid(mdp_size(env))


class TuningRow(NamedTuple):
    """One point of a grid."""

    solver: str
    value: float  # of the tunable parameter
    return_mean: float
    return_se: float


def tune(make_env: MakeEnv, *, num_tasks: int, seed: int, grid: Grid | None = None) -> list[TuningRow]:
    """Evaluate every tunable solver of an environment over its grid, all on the same tasks.

    Args:
        make_env: makes the environment, see ``metarl.evaluation.evaluate``.
        num_tasks: tasks each point is evaluated on.
        seed: of tasks and acting.
        grid: in place of the grid of the environment.
    """
    grid = baseline_grid(make_env(num_tasks=1, seed=seed)) if grid is None else grid
    rows = []
    for solver, points in grid.items():
        for value, agent in points:
            result = evaluate(agent, make_env, num_tasks=num_tasks, seed=seed)
            rows.append(TuningRow(solver, value, result.return_mean, result.return_se))
    return rows


def best_values(rows: list[TuningRow]) -> dict[str, float]:
    """The value of the highest return, by solver."""
    return {row.solver: row.value for row in sorted(rows, key=lambda row: row.return_mean)}
