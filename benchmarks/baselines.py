"""Measure every classical solver on the settings of Duan et al. 2016 (RL²), or search its parameter.

    python benchmarks/baselines.py --bandits 10,5 100,5 --tasks 20000
    python benchmarks/baselines.py --mdps 10 25 --tasks 4000
    python benchmarks/baselines.py --mdps 10 25 --tasks 4000 --prior tabularl  # what the published solvers believed
    python benchmarks/baselines.py --bandits 100,5 --tasks 20000 --tune

Prints rows of a Markdown table as they are known: return of a trial with its standard error, the same from another
implementation of ours or exact, the published one (over 1,000 tasks), and seconds.
"""

import argparse
import time
from collections.abc import Iterator
from functools import partial

import torch

from metarl.baselines.references import best_values, mdp_grid, mdp_solvers, tune
from metarl.envs.bandit import BernoulliBandit
from metarl.envs.base import MetaEnv
from metarl.envs.tabular_mdp import TabularMDP
from metarl.evaluation import MakeEnv, evaluate

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
# Exact, or simulated by code that shares nothing with this package; MDP solvers with the true prior.
INDEPENDENT = """
setting    Random Gittins Thompson OTS  UCB1  Greedy Bayes_optimum
n=10,k=5   5      6.65999 5.842    6.47 6.659 6.62622 6.65999
n=10,k=10  5      6.71395 -        -    -     -      6.71395
n=10,k=50  5      6.71395 -        -    -     -      6.71395
n=100,k=5  50     78.651  75.00    -    78.49 75.97  -
n=100,k=10 50     83.749  77.06    -    83.42 79.41  -
n=100,k=50 50     85.554  -        -    84.86 80.43  -
n=500,k=5  250    408.60  -        -    -     -      -
n=500,k=10 250    442.15  -        -    -     -      -
n=500,k=50 250    464.97  -        -    -     -      -
setting Random PSRL  UCRL2 BEB    Greedy Known_MDP
n=10    100    132.6 156.2 157.3  154.9  218.4
n=25    250    -     -     451.9  434.0  546.0
n=50    500    -     -     974.9  912.4  1092.1
n=75    750    -     -     1502.2 1395.4 1638.1
n=100   1000   -     -     2031.1 1887.8 2184.2
"""


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
    return BernoulliBandit(num_arms, num_episodes, num_tasks=num_tasks, seed=seed)


def make_mdp(num_episodes: int, *, num_tasks: int, seed: int) -> MetaEnv:
    """10 states, 5 actions, 10 steps."""
    return TabularMDP(10, 5, 10, num_episodes, num_tasks=num_tasks, seed=seed)


def settings(arguments: argparse.Namespace) -> Iterator[tuple[str, MakeEnv]]:
    """Name and environment of every setting asked for."""
    for setting in arguments.bandits:
        num_episodes, num_arms = map(int, setting.split(","))
        yield f"n={num_episodes},k={num_arms}", partial(make_bandit, num_arms, num_episodes)
    for num_episodes in arguments.mdps:
        yield f"n={num_episodes}", partial(make_mdp, num_episodes)


def measure(setting: str, make_env: MakeEnv, arguments: argparse.Namespace) -> None:
    """Print the return of every solver, and the bounds."""
    env = make_env(num_tasks=1, seed=0)
    agents, independent = env.baselines(), parse(INDEPENDENT)
    if isinstance(env, TabularMDP) and arguments.prior == "tabularl":
        agents, independent = mdp_solvers(env.size, "tabularl"), {}
    for solver, agent in agents.items():
        if solver in arguments.skip or solver not in (arguments.solvers or agents):
            continue
        start = time.perf_counter()
        result = evaluate(agent, make_env, num_tasks=arguments.tasks, seed=arguments.seed, tasks_at_once=1000)
        measured, seconds = f"{result.return_mean:.3f} ± {result.return_se:.3f}", time.perf_counter() - start
        print_row(setting, solver, measured, independent, f"{seconds:.0f}")
    for bound, value in ({} if arguments.solvers else env.bounds()).items():
        print_row(setting, bound, f"{value:.4f}", independent, "")


def print_row(setting: str, solver: str, measured: str, independent: dict, seconds: str) -> None:
    columns = [table.get((setting, solver), "") for table in (independent, parse(PUBLISHED))]
    print("|", " | ".join([setting, solver, measured, *columns, seconds]), "|", flush=True)


def search(setting: str, make_env: MakeEnv, arguments: argparse.Namespace) -> None:
    """Print every point of the grids, then the best."""
    env = make_env(num_tasks=1, seed=0)
    grid = mdp_grid(env.size, arguments.prior) if isinstance(env, TabularMDP) else env.baseline_grid()
    grid = {solver: points for solver, points in grid.items() if solver in (arguments.solvers or grid)}
    rows = tune(make_env, num_tasks=arguments.tasks, seed=arguments.seed, grid=grid)
    for row in rows:
        print(f"| {setting} | {row.solver} | {row.value:g} | {row.return_mean:.3f} ± {row.return_se:.3f} |")
    print(f"| {setting} | best | {best_values(rows)} | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandits", nargs="*", default=[], metavar="n,k")
    parser.add_argument("--mdps", nargs="*", type=int, default=[], metavar="n")
    parser.add_argument("--solvers", nargs="*", help="only these, and no bounds")
    parser.add_argument("--skip", nargs="*", default=[], help="not these")
    parser.add_argument("--prior", choices=["true", "tabularl"], default="true", help="of the MDP solvers")
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for setting, make_env in settings(arguments):
        (search if arguments.tune else measure)(setting, make_env, arguments)


if __name__ == "__main__":
    main()
