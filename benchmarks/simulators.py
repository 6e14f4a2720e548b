"""Stepping speed of simulated environments, against MuJoCo's open-loop rollout and Gymnasium's vector environments."""

import time
from collections.abc import Callable, Iterator

import gymnasium
import metaworld  # noqa: F401 (registers its environments)
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from mujoco.rollout import Rollout
from timing import Row, configuration, learner, wall_seconds
from torch import Tensor

from metarl.configuration.build import build_env_factory
from metarl.envs.base import MetaEnv
from metarl.envs.mujoco_env import MujocoEnv
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from metarl.types import Step

THREADS = 2
STEPS = 20  # control steps of one measurement


def rows() -> Iterator[Row]:
    """Wall time with two threads or processes; meant for an idle machine."""
    torch.set_num_threads(1)
    for part in (against_the_limit, against_gymnasium, metaworlds, whole_loop):
        yield from part()


def made(*overrides: str, lanes: int) -> MetaEnv:
    """An environment with tasks, at the start of a trial."""
    env = build_env_factory(configuration(*overrides))(num_tasks=lanes, seed=0)
    env.sample_tasks()
    env.reset()
    return env


def actions(env: MetaEnv) -> list[Tensor]:
    """Random actions, identical in every call."""
    generator = make_generator(0)
    return [2 * torch.rand(env.num_lanes, *env.action_space.shape, generator=generator) - 1 for _ in range(STEPS)]


def stepping(env: MetaEnv) -> Callable[[], None]:
    """A call of ``STEPS`` steps of all lanes, with observations and rewards."""
    given = actions(env)

    def work() -> None:
        for action in given:
            env.step(action)

    return work


def open_loop(env: MujocoEnv) -> Callable[[], None]:
    """A call of as many steps of the same bodies in one rollout of MuJoCo: physics only."""
    pool, physics = Rollout(nthread=THREADS), env.physics
    data = [physics._data[0].__copy__() for _ in range(THREADS)]
    control = np.stack([env.control(action.double().numpy()) for action in actions(env)], axis=1)
    control = np.repeat(control, physics.frame_skip, axis=1)
    width = 1 + env.model.nq + env.model.nv + env.model.na
    start = np.ascontiguousarray(physics.state[:, :width])
    room = np.zeros((*control.shape[:2], width))
    piece = max(1, env.num_lanes // (2 * THREADS))

    def work() -> None:
        steps = control.shape[1]
        pool.rollout(physics.models, data, start, control, skip_checks=True, nstep=steps, state=room, chunk_size=piece)

    return work


def against_the_limit() -> Iterator[Row]:
    """Speed of the closed loop with observations and rewards, relative to the open loop."""
    cases = [("cheetah_vel", 256, 0.85), ("cheetah_vel", 64, 0.7), ("ant_dir", 256, 0.85), ("ant_dir", 64, 0.7)]
    for option, lanes, target in [*cases, ("walker_params", 256, 0.7)]:
        env = made(f"env={option}", f"env.num_threads={THREADS}", lanes=lanes)
        assert isinstance(env, MujocoEnv)
        seconds = wall_seconds({"limit": open_loop(env), "env": stepping(env)}, repeats=25)
        title = f"stepping, {option}, {lanes} lanes, {THREADS} threads"
        yield Row(f"{title}: of the open-loop limit", seconds["limit"] / seconds["env"], target)
        yield Row(f"{title}: control steps/s", f"{lanes * STEPS / seconds['env']:,.0f}")


def against_gymnasium() -> Iterator[Row]:
    """Speed relative to the vector environments of Gymnasium with the same number of lanes."""
    for option, name, target in (("cheetah_vel", "HalfCheetah-v5", 3), ("ant_dir", "Ant-v5", 2.5)):
        lanes = 64
        env = made(f"env={option}", f"env.num_threads={THREADS}", lanes=lanes)
        makes = [lambda name=name: gymnasium.make(name)] * lanes
        vectors = {"sync": SyncVectorEnv(makes), "async": AsyncVectorEnv(makes)}
        work = {"ours": stepping(env)} | {kind: vector_stepping(vector) for kind, vector in vectors.items()}
        seconds = wall_seconds(work, repeats=7)
        for vector in vectors.values():
            vector.close()
        better = min(seconds["sync"], seconds["async"])
        title = f"stepping, {option}, {lanes} lanes: better of SyncVectorEnv and AsyncVectorEnv / ours"
        yield Row(title, better / seconds["ours"], target)


def vector_stepping(vector: gymnasium.vector.VectorEnv) -> Callable[[], None]:
    """A call of ``STEPS`` steps of all lanes of a vector environment."""
    vector.reset(seed=0)
    vector.action_space.seed(0)
    given = [vector.action_space.sample() for _ in range(STEPS)]

    def work() -> None:
        for action in given:
            vector.step(action)

    return work


def library_lanes(env: MetaEnv, task: str) -> Callable[[], gymnasium.Env]:
    """Constructor of the library's environment of a task, with one of our goals."""
    name = f"{task}-v3"

    def make() -> gymnasium.Env:
        inner = ALL_V3_ENVIRONMENTS[name]()
        inner._set_task_called, inner._partially_observable = True, True
        inner._last_rand_vec = env.goals["train"][name][0]  # type: ignore[attr-defined]
        return inner

    return make


def metaworlds() -> Iterator[Row]:
    """Two workers against the library's environments in one process; starting time with cached goals."""
    for task in ("reach", "pick-place"):
        env = made("env=ml1", f"env.task={task}", f"env.num_workers={THREADS}", lanes=10)
        vector = SyncVectorEnv([library_lanes(env, task)] * 10)
        seconds = wall_seconds({"ours": stepping(env), "sync": vector_stepping(vector)}, repeats=11)
        yield Row(f"stepping, ml1 {task}, 10 lanes: SyncVectorEnv / ours", seconds["sync"] / seconds["ours"], 1.5)
        yield Row(f"stepping, ml1 {task}, 10 lanes: steps/s", f"{10 * STEPS / seconds['ours']:,.0f}")
    for option, lanes in (("ml10", 20), ("ml45", 45)):
        made(f"env={option}", f"env.num_workers={THREADS}", lanes=1)  # caches its goals
        started = time.perf_counter()
        made(f"env={option}", f"env.num_workers={THREADS}", lanes=lanes)
        yield Row(f"starting, {option}, {lanes} lanes (s)", time.perf_counter() - started, 5, most=True)


def whole_loop() -> Iterator[Row]:
    """Shares of an iteration of RL², and the time of a complete run."""
    workers = f"env.num_threads={THREADS}", f"env.num_workers={THREADS}"
    for option, threads in (("cheetah_vel", workers[0]), ("ml1", workers[1]), ("ml10", workers[1])):
        config = configuration(f"env={option}", threads)
        algorithm, env = learner(f"env={option}", threads)
        env.sample_tasks()
        stepped = time_spent(env)
        started = time.perf_counter()
        trial = collect_trial(env, algorithm, make_generator(0))
        collected = time.perf_counter()
        algorithm.update(trial, 0.0, make_generator(1))
        whole = time.perf_counter() - started
        title = f"RL² on {option}, one iteration"
        yield Row(f"{title}: share of the environment", stepped[0] / whole)
        yield Row(f"{title}: share of acting", (collected - started - stepped[0]) / whole)
        minutes = whole / 60 * 1e6 / (env.num_lanes * env.trial_length)
        yield Row(f"{title}: minutes for a million steps", minutes)
        total = config["training"]["total_steps"]
        yield Row(f"{title}: hours for all {total:,} steps", minutes / 60 * total / 1e6)


def time_spent(env: MetaEnv) -> list[float]:
    """Seconds spent inside ``env.step`` from now on, in a list of length one."""
    seconds, original = [0.0], env.step

    def timed(action: Tensor) -> Step:
        started = time.perf_counter()
        step = original(action)
        seconds[0] += time.perf_counter() - started
        return step

    env.step = timed  # type: ignore[method-assign]
    return seconds
