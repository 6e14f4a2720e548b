"""Stepping speed of environments alone, with random actions drawn beforehand."""

import os
import time

import torch
from timing import Row, configuration

from metarl.configuration.build import build_env_factory
from metarl.seeding import make_generator

LANES, STEPS = 1024, 1000


def rows() -> list[Row]:
    """Steps per second of wall time, all cores; the best of five, because other processes may use the machine."""
    torch.set_num_threads(os.cpu_count() or 1)
    targets = {"bandit": 5e6, "tabular_mdp": 2e6}
    targets |= dict.fromkeys(("grid", "hall", "tmaze", "tmaze_copying", "planning_game"), 1e6)
    return [Row(f"environment {name}, {LANES} lanes: steps/s", speed(name), least) for name, least in targets.items()]


@torch.no_grad()
def speed(name: str) -> float:
    """Environment steps per second of one environment."""
    env = build_env_factory(configuration(f"env={name}"))(num_tasks=LANES, seed=0)
    actions = torch.randint(int(env.action_space.n), (STEPS, LANES), generator=make_generator(1))
    env.sample_tasks()
    times = []
    for _ in range(5):
        env.reset()
        started = time.perf_counter()
        for action in actions:
            env.step(action)
        times.append(time.perf_counter() - started)
    return STEPS * LANES / min(times)
