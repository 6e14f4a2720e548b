"""Measure every classical solver on the settings of Duan et al. 2016, or search its parameter.

    python benchmarks/baselines.py --bandits 10,5 100,5 --tasks 20000
    python benchmarks/baselines.py --mdps 10 25 --tasks 4000
    python benchmarks/baselines.py --mdps 10 --tasks 4000 --prior tabularl     # what the published solvers believed
    python benchmarks/baselines.py --bandits 100,5 --tasks 20000 --tune

Prints a table row as soon as it is known: mean return, standard error, seconds.
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


def make_bandit(num_arms: int, num_episodes: int, *, num_tasks: int, seed: int) -> MetaEnv:
    return BernoulliBandit(num_arms, num_episodes, num_tasks=num_tasks, seed=seed)


def make_mdp(num_episodes: int, *, num_tasks: int, seed: int) -> MetaEnv:
    """10 states, 5 actions, 10 steps."""
    return TabularMDP(10, 5, 10, num_episodes, num_tasks=num_tasks, seed=seed)


def settings(arguments: argparse.Namespace) -> Iterator[tuple[str, MakeEnv]]:
    """Name and environment of every setting asked for."""
    for setting in arguments.bandits:
        num_episodes, num_arms = map(int, setting.split(","))
        yield f"n={num_episodes}, k={num_arms}", partial(make_bandit, num_arms, num_episodes)
    for num_episodes in arguments.mdps:
        yield f"n={num_episodes}", partial(make_mdp, num_episodes)


def measure(name: str, make_env: MakeEnv, arguments: argparse.Namespace) -> None:
    """Print the return of every solver, and the bounds."""
    env = make_env(num_tasks=1, seed=0)
    agents = env.baselines()
    if isinstance(env, TabularMDP) and arguments.prior == "tabularl":
        agents = mdp_solvers(env.size, "tabularl")
    for solver, agent in agents.items():
        if arguments.solvers and solver not in arguments.solvers:
            continue
        start = time.perf_counter()
        result = evaluate(agent, make_env, num_tasks=arguments.tasks, seed=arguments.seed, tasks_at_once=1000)
        seconds = time.perf_counter() - start
        print(f"| {name} | {solver} | {result.return_mean:.3f} ± {result.return_se:.3f} | {seconds:.0f} |", flush=True)
    for bound, value in env.bounds().items():
        print(f"| {name} | {bound} | {value:.4f} | |", flush=True)


def search(name: str, make_env: MakeEnv, arguments: argparse.Namespace) -> None:
    """Print every point of the grids, then the best."""
    env = make_env(num_tasks=1, seed=0)
    grid = mdp_grid(env.size, arguments.prior) if isinstance(env, TabularMDP) else env.baseline_grid()
    grid = {solver: points for solver, points in grid.items() if not arguments.solvers or solver in arguments.solvers}
    rows = tune(make_env, num_tasks=arguments.tasks, seed=arguments.seed, grid=grid)
    for row in rows:
        print(f"| {name} | {row.solver} | {row.value:g} | {row.return_mean:.3f} ± {row.return_se:.3f} |")
    print(f"| {name} | best | {best_values(rows)} | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandits", nargs="*", default=[], metavar="n,k")
    parser.add_argument("--mdps", nargs="*", type=int, default=[], metavar="n")
    parser.add_argument("--solvers", nargs="*", help="only these")
    parser.add_argument("--prior", choices=["true", "tabularl"], default="true", help="of the MDP solvers")
    parser.add_argument("--tasks", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, make_env in settings(arguments):
        (search if arguments.tune else measure)(name, make_env, arguments)


if __name__ == "__main__":
    main()
