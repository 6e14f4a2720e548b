"""Classical solvers and bounds, found for an environment: no environment imports them.

A module of ``metarl.baselines`` registers functions for the class of an environment, and its subclasses:

    @solvers.register
    def _(env: Coin) -> dict[str, Agent]:
        return {"Counting": CountingGuesser(env.num_episodes)}

All modules of the package are imported at the first look-up. A module elsewhere registers in the same way; it has to be
imported by then, for example by the module of its environment.
"""

import importlib
import pkgutil
from functools import cache, singledispatch

import metarl.baselines
from metarl.baselines.base import Random
from metarl.envs.base import MetaEnv
from metarl.types import Agent

Grid = dict[str, list[tuple[float, Agent]]]  # by solver: values of its tunable parameter, and the solvers they make


@singledispatch
def solvers(env: MetaEnv) -> dict[str, Agent]:
    """Solvers registered for the class of an environment, by name."""
    return {}


@singledispatch
def solver_grid(env: MetaEnv) -> Grid:
    """Tunable solvers registered for the class of an environment, over their grids."""
    return {}


@singledispatch
def return_bounds(env: MetaEnv) -> dict[str, float]:
    """Bounds registered for the class of an environment, by name."""
    return {}


def baselines(env: MetaEnv) -> dict[str, Agent]:
    """Agents that need no training, by name: uniformly random actions, and the solvers of the environment."""
    _import_solvers()
    return {"Random": Random(env.action_space, env.num_episodes)} | solvers(env)


def baseline_grid(env: MetaEnv) -> Grid:
    """For each baseline with a tunable parameter, the values to try and the solvers they make."""
    _import_solvers()
    return solver_grid(env)


def bounds(env: MetaEnv) -> dict[str, float]:
    """Returns of a trial that no agent exceeds in expectation, by name."""
    _import_solvers()
    return return_bounds(env)


@cache
def _import_solvers() -> None:
    for module in pkgutil.iter_modules(metarl.baselines.__path__):
        importlib.import_module(f"metarl.baselines.{module.name}")
