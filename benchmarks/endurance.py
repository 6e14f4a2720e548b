"""Two million steps of random actions and changing tasks: ``python benchmarks/endurance.py [env=ant_dir ...]``.

Prints resident memory ten times on the way. Exits with an error if the environment returns a NaN or an infinity.
"""

import sys
import time

import torch
from timing import configuration

from metarl.configuration.build import build_env_factory
from metarl.envs.base import MetaEnv
from metarl.seeding import make_generator

STEPS, LANES, REPORTS = 2_000_000, 250, 10


def main() -> None:
    """Step the environment and print a row for every tenth of the steps."""
    torch.set_num_threads(1)
    env = build_env_factory(configuration(*(sys.argv[1:] or ["env=ant_dir"])))(num_tasks=LANES, seed=0)
    generator = make_generator(1)
    trials = STEPS // (LANES * env.trial_length)
    print("| steps | resident memory (MiB) | diverged | seconds |\n|---|---|---|---|")
    started = time.perf_counter()
    for trial in range(1, trials + 1):
        play(env, generator)
        if trial % max(1, trials // REPORTS) == 0:
            steps, diverged = trial * LANES * env.trial_length, getattr(env, "num_unstable", 0)
            print(f"| {steps:,} | {resident():.0f} | {diverged} | {time.perf_counter() - started:.0f} |", flush=True)


def play(env: MetaEnv, generator: torch.Generator) -> None:
    """Play a trial on new tasks with random actions."""
    env.sample_tasks()
    env.reset()
    for _ in range(env.trial_length):
        action = 2 * torch.rand(env.num_lanes, *(env.action_space.shape or ()), generator=generator) - 1
        step = env.step(action)
        total = step.observation.sum() + step.final_observation.sum() + step.reward.sum()
        if not total.isfinite():
            raise SystemExit("the environment returned a NaN or an infinity")


def resident() -> float:
    """Current resident memory of this process, MiB."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
