"""Measure every classical solver on the settings of Duan et al. 2016 (RL²), or tune its parameter.

    python benchmarks/baselines.py --bandits 10,5 100,5 --tasks 20000
    python benchmarks/baselines.py --mdps 10 25 --tasks 4000
    python benchmarks/baselines.py --mdps 10 25 --tasks 4000 --prior tabularl  # the prior of the published solvers
    python benchmarks/baselines.py --bandits 100,5 --tasks 20000 --tune

Prints the rows of a Markdown table one by one. Columns: the return of a trial; the regret-corrected return (the optimal
expected return over the task distribution minus the regret of the actions taken), an estimate with less variance; the
value of an independent computation and the published value (over 1,000 tasks), each with its distance in joint standard
errors; and seconds.
"""

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from metarl.baselines.references import best_values, mdp_grid, mdp_size, mdp_solvers, tune
from metarl.baselines.registry import baseline_grid, baselines, bounds
from metarl.envs.bandit import BernoulliBandit
from metarl.envs.base import MetaEnv
from metarl.envs.tabular_mdp import TabularMDP
from metarl.envs.value_iteration import MDP, value_iteration
from metarl.evaluation import MakeEnv
from metarl.rollout import collect_trial
from metarl.seeding import make_generator, split_seed
from metarl.types import Agent

PUBLISHED = """
setting     Random Gittins Thompson OTS   UCB1  ε-greedy Greedy
n=10,k=5    5.0    6.6     5.7      6.5   6.7   6.6      6.6
n=10,k=10   5.0    6.6     5.5      6.2   6.7   6.6      6.6
n=10,k=50   5.1    6.5     5.2      5.5   6.6   6.5      6.5
n=100,k=5   49.9   78.3    74.7     77.9  78.0  75.4     74.8
n=100,k=10  49.9   82.8    76.7     81.4  82.4  77.4     77.1
n=100,k=50  49.8   85.2    64.5     67.7  84.3  78.3     78.0
n=500,k=5   249.8  405.8   402.0    406.7 405.8 388.2    380.6
n=500,k=10  249.0  437.8   429.5    438.9 437.1 408.0    395.0
n=500,k=50  249.6  463.7   427.2    437.6 457.6 413.6    402.8
setting Random PSRL   OPSRL  UCRL2  BEB    ε-greedy Greedy
n=10    100.1  138.1  144.1  146.6  150.2  132.8    134.8
n=25    250.2  408.8  425.2  424.1  427.8  377.3    368.8
n=50    499.7  904.4  930.7  918.9  917.8  823.3    769.3
n=75    749.9  1417.1 1449.2 1427.6 1422.6 1293.9   1172.9
n=100   999.4  1939.5 1973.9 1942.1 1935.1 1778.2   1578.5
"""
# Exact (no error), or simulated by code independent of this package; MDP solvers with the true prior.
INDEPENDENT = """
setting    Random Gittins     Thompson  OTS       UCB1      Greedy    Bayes_optimum
n=10,k=5   5      6.65999     5.842±.014 6.47±.015 6.659±.016 6.62622 6.65999
n=10,k=10  5      6.71395     -         -         -         -         6.71395
n=10,k=50  5      6.71395     -         -         -         -         6.71395
n=100,k=5  50     78.651±.011 75.00±.11 -         78.49±.11 75.97±.12 -
n=100,k=10 50     83.749±.013 77.06±.08 -         83.42±.08 79.41±.09 -
n=100,k=50 50     85.554±.018 -         -         84.86±.07 80.43±.09 -
n=500,k=5  250    408.60±.05  -         -         -         -         -
n=500,k=10 250    442.15±.06  -         -         -         -         -
n=500,k=50 250    464.97±.12  -         -         -         -         -
setting Random PSRL     UCRL2    BEB        Greedy     Known_MDP
n=10    100    132.6±.4 156.2±.4 157.3±.4   154.9±.4   218.4±.2
n=25    250    -        -        451.9±.9   434.0±.9   546.0±.4
n=50    500    -        -        974.9±1.9  912.4±1.8  1092.1±.8
n=75    750    -        -        1502.2±2.8 1395.4±2.6 1638.1±1.2
n=100   1000   -        -        2031.1±3.7 1887.8±3.5 2184.2±1.6
"""
PUBLISHED_TASKS = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error."""

    mean: float
    error: float = 0.0

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.error:.3f}"

    def distance(self, other: "Estimate") -> float:
        """Difference of the means in units of its standard error."""
        return (self.mean - other.mean) / math.hypot(self.error, other.error, 1e-9)


def parse(table: str) -> dict[tuple[str, str], str]:
    """Entries by setting and solver; a line that starts with "setting" names the columns below it."""
    entries: dict[tuple[str, str], str] = {}
    names: list[str] = []
    for line in table.strip().splitlines():
        setting, *cells = line.split()
        if setting == "setting":
            names = [cell.replace("_", " ") for cell in cells]
        else:
            entries |= {(setting, name): cell for name, cell in zip(names, cells, strict=True)}
    return entries


def make_bandit(num_arms: int, num_episodes: int, *, num_tasks: int, seed: int) -> MetaEnv:
    """A Bernoulli bandit."""
    return BernoulliBandit(num_arms, num_episodes, num_tasks=num_tasks, seed=seed)


def make_mdp(num_episodes: int, *, num_tasks: int, seed: int) -> MetaEnv:
    """A tabular MDP of 10 states, 5 actions and episodes of 10 steps."""
    return TabularMDP(10, 5, 10, num_episodes, num_tasks=num_tasks, seed=seed)


def settings(arguments: argparse.Namespace) -> Iterator[tuple[str, MakeEnv]]:
    """Name and environment factory of every requested setting."""
    for setting in arguments.bandits:
        num_episodes, num_arms = map(int, setting.split(","))
        yield f"n={num_episodes},k={num_arms}", partial(make_bandit, num_arms, num_episodes)
    for num_episodes in arguments.mdps:
        yield f"n={num_episodes}", partial(make_mdp, num_episodes)


def measure(setting: str, make_env: MakeEnv, arguments: argparse.Namespace) -> None:
    """Print the return of every solver, and the bounds."""
    env = make_env(num_tasks=1, seed=0)
    agents, independent = baselines(env), parse(INDEPENDENT)
    if isinstance(env, TabularMDP) and arguments.prior == "tabularl":
        agents, independent = mdp_solvers(mdp_size(env), "tabularl"), {}
    best = best_return(env)
    for solver, agent in agents.items():
        if solver in arguments.skip or solver not in (arguments.solvers or agents):
            continue
        start = time.perf_counter()
        paid, regret = play(agent, make_env, arguments.tasks, arguments.seed)
        returned = estimate(paid)
        corrected = Estimate(best.mean - estimate(regret).mean, math.hypot(best.error, estimate(regret).error))
        reference = entry(independent, setting, solver)
        published = entry(parse(PUBLISHED), setting, solver, error=paid.std().item() / math.sqrt(PUBLISHED_TASKS))
        seconds = f"{time.perf_counter() - start:.0f}"
        print_row(
            setting,
            solver,
            returned,
            corrected,
            *compared(corrected, reference),
            *compared(corrected, published),
            seconds,
        )
    for bound, value in ({} if arguments.solvers else bounds(env)).items():
        reference = entry(independent, setting, bound)
        print_row(setting, bound, "", f"{value:.4f}", "" if reference is None else reference.mean, "", "", "", "")


def play(agent: Agent, make_env: MakeEnv, num_tasks: int, seed: int, at_once: int = 1000) -> tuple[Tensor, Tensor]:
    """Return and regret of a trial on each task, ``[num_tasks]`` each."""
    env_seed, acting_seed = split_seed(seed, 2)
    env, generator = make_env(num_tasks=at_once, seed=env_seed), make_generator(acting_seed)
    paid, regrets = [], []
    for _ in range(math.ceil(num_tasks / at_once)):
        env.sample_tasks("held_out")
        (rollout,) = collect_trial(env, agent, generator)
        taken = env.regrets(rollout).gather(-1, rollout.decision.action.unsqueeze(-1))
        paid.append(rollout.reward.sum(0))
        regrets.append(taken.squeeze(-1).sum(0))
    return torch.cat(paid).double(), torch.cat(regrets).double()


def best_return(env: MetaEnv, num_tasks: int = 400_000) -> Estimate:
    """Optimal expected return of a trial when the task is given: exact for bandits, over many tasks for MDPs."""
    if isinstance(env, BernoulliBandit):
        return Estimate(env.num_episodes * env.num_arms / (env.num_arms + 1))
    values = []
    for _ in range(num_tasks // 10_000):
        mdp = MDP(*env.draw_tasks(10_000, "held_out").parameters.values())
        values.append(env.num_episodes * value_iteration(mdp, env.horizon)[:, 0, 0].amax(-1))
    return estimate(torch.cat(values))


def estimate(values: Tensor) -> Estimate:
    """Mean of the values and its standard error."""
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(len(values)))


def entry(table: dict[tuple[str, str], str], setting: str, solver: str, error: float = 0.0) -> Estimate | None:
    """An entry of the table with its own error, else ``error``; None if the table has no such entry."""
    cell = table.get((setting, solver), "-")
    if cell == "-":
        return None
    mean, _, stated = cell.partition("±")
    return Estimate(float(mean), float(stated or error))


def compared(ours: Estimate, other: Estimate | None) -> tuple[str, str]:
    """Another estimate, and the number of standard errors by which ours exceeds it."""
    if other is None:
        return "", ""
    distance = "exact" if ours.error == other.error == 0 else f"{ours.distance(other):+.1f}"
    return f"{other.mean:g}", distance


def print_row(*cells: object) -> None:
    """A row of a Markdown table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def search(setting: str, make_env: MakeEnv, arguments: argparse.Namespace) -> None:
    """Print every point of the grids, then the best values."""
    env = make_env(num_tasks=1, seed=0)
    grid = mdp_grid(mdp_size(env), arguments.prior) if isinstance(env, TabularMDP) else baseline_grid(env)
    grid = {solver: points for solver, points in grid.items() if solver in (arguments.solvers or grid)}
    rows = tune(make_env, num_tasks=arguments.tasks, seed=arguments.seed, grid=grid)
    for row in rows:
        print(f"| {setting} | {row.solver} | {row.value:g} | {row.return_mean:.3f} ± {row.return_se:.3f} |")
    print(f"| {setting} | best | {best_values(rows)} | |", flush=True)


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandits", nargs="*", default=[], metavar="n,k")
    parser.add_argument("--mdps", nargs="*", type=int, default=[], metavar="n")
    parser.add_argument("--solvers", nargs="*", help="solvers to measure, without bounds (default: all, with bounds)")
    parser.add_argument("--skip", nargs="*", default=[], help="solvers to leave out")
    parser.add_argument("--prior", choices=["true", "tabularl"], default="true", help="prior of the MDP solvers")
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.tune:
        columns = (
            "setting",
            "solver",
            "return",
            "regret-corrected",
            "independent",
            "distance",
            "published",
            "distance",
            "s",
        )
        print_row(*(name.replace("_", " ") for name in columns))
        print_row(*["---"] * len(columns))
    for setting, make_env in settings(arguments):
        (search if arguments.tune else measure)(setting, make_env, arguments)


if __name__ == "__main__":
    main()
