"""Several Gymnasium environments, stepped one after the other in this process or in a few worker processes.

Imports no torch: a worker starts in the time its environments take.
"""

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.wrappers import FlattenObservation, TimeLimit
from numpy.typing import NDArray

from metarl.envs.gymnasium_contract import fitting, is_plain, number, observation_in, success_in, with_own_spaces
from metarl.envs.rendering import RenderError
from metarl.envs.streams import GlobalStreams, program_streams
from metarl.errors import MetarlError

Make = Callable[[], gymnasium.Env]
Shapes = Sequence[tuple[tuple[int, ...], str]]
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
WORKER_DIED = "a worker process of the environments died (out of memory?); lower meta_batch_size or env.num_workers"


class SharedBuffers(NamedTuple):
    """Inputs and outputs of lanes, one row each; shared memory if there are several processes."""

    action: NDArray
    observation: NDArray
    final_observation: NDArray
    reward: NDArray
    terminated: NDArray
    truncated: NDArray
    success: NDArray

    def rows(self, start: int, end: int) -> "SharedBuffers":
        """Buffers of a range of lanes."""
        return SharedBuffers._make(array[start:end] for array in self)


class SyncVector:
    """Environments of this process. An episode that ends is followed by a reset at once.

    Each has global random generators of its own, and draws from its own spaces.

    Args:
        makes: constructors of the environments, one per lane.
        buffers: buffers of these lanes.
        seeds: seeds of the random numbers that constructors draw, one per lane.

    Raises:
        ContractError: an environment breaks the contract of Gymnasium.
    """

    def __init__(self, makes: Sequence[Make], buffers: SharedBuffers, seeds: Sequence[int]):
        self.buffers = buffers
        self.streams = [GlobalStreams(seed) for seed in seeds]
        self.envs: list[gymnasium.Env] = []
        with program_streams():
            for stream, make in zip(self.streams, makes, strict=True):
                stream.enter()
                self.envs.append(with_own_spaces(make()))
                stream.leave()

    def call(self, lane: int, name: str, *given: Any) -> Any:
        """A method of one environment under its wrappers."""
        with program_streams():
            self.streams[lane].enter()
            answer = getattr(self.envs[lane].unwrapped, name)(*given)
            self.streams[lane].leave()
        return answer

    def set_tasks(self, tasks: Sequence[Any], seeds: Sequence[int]) -> None:
        """One per lane, by ``set_task``; what this draws at random depends on the seed of the lane."""
        with program_streams():
            for env, stream, task, seed in zip(self.envs, self.streams, tasks, seeds, strict=True):
                stream.seed(seed)
                stream.enter()
                inner: Any = env.unwrapped
                inner.np_random = np.random.default_rng(seed)
                inner.set_task(task)
                stream.leave()

    def reset(self, seeds: Sequence[int]) -> None:
        """A fresh episode everywhere, each with the seed of its lane."""
        with program_streams():
            for lane, (env, stream, seed) in enumerate(zip(self.envs, self.streams, seeds, strict=True)):
                stream.seed(seed)
                stream.enter()
                env.unwrapped.action_space.seed(seed)
                env.unwrapped.observation_space.seed(seed)
                self.buffers.observation[lane] = observation_in(
                    env.reset(seed=seed), env, self.buffers.observation[lane]
                )
                stream.leave()

    def step(self) -> None:
        """The actions in the buffers."""
        with program_streams():
            for lane, (env, stream) in enumerate(zip(self.envs, self.streams, strict=True)):
                stream.enter()
                self._step(lane, env)
                stream.leave()

    def _step(self, lane: int, env: gymnasium.Env) -> None:
        buffers = self.buffers
        seen, reward, terminated, truncated, info = env.step(buffers.action[lane].copy())  # which it may keep
        observation = fitting(seen, env, buffers.observation[lane])
        buffers.final_observation[lane] = buffers.observation[lane] = observation
        buffers.reward[lane] = reward if isinstance(reward, float) else number(reward, env)
        buffers.terminated[lane], buffers.truncated[lane] = terminated, truncated and not terminated
        buffers.success[lane] = success_in(info, env)
        if terminated or truncated:
            buffers.observation[lane] = observation_in(env.reset(), env, buffers.observation[lane])


class AsyncVector:
    """Environments in worker processes, whose results do not depend on the number of workers.

    Workers hold no randomness of their own and ignore the signals by which clusters and terminals ask a program to
    stop: they end when this process closes them or is gone.

    Args:
        makes: one per lane; must be picklable.
        shapes: of the buffers, one array's shape and type each.
        seeds: see ``SyncVector``.
        num_workers: processes.

    Raises:
        RuntimeError: in a worker something failed; its traceback is the message.
        ContractError: see ``SyncVector``.
    """

    def __init__(self, makes: Sequence[Make], shapes: Shapes, seeds: Sequence[int], num_workers: int):
        context = multiprocessing.get_context("spawn")
        memory = [
            context.RawArray("b", max(1, int(np.prod(shape)) * np.dtype(kind).itemsize)) for shape, kind in shapes
        ]
        self.buffers = _shared_buffers(memory, shapes)
        bounds = np.linspace(0, len(makes), num_workers + 1).astype(int)
        self._shares = [slice(start, end) for start, end in pairwise(bounds)]
        self._pipes: list[Connection] = []
        processes = []
        for share in self._shares:
            ours, theirs = context.Pipe()
            given = (theirs, list(makes[share]), memory, list(shapes), list(seeds[share]), share)
            process = context.Process(target=_work, args=given, daemon=True)
            with _signals_blocked():
                process.start()
            theirs.close()
            self._pipes.append(ours)
            processes.append(process)
        # Before the daemons' own end at exit, which would wait for them forever.
        self.close = Finalize(self, _close, (self._pipes, processes), exitpriority=10)
        self._answers()  # that all environments are there

    def call(self, lane: int, name: str, *given: Any) -> Any:
        """A method of one environment under its wrappers."""
        worker = next(i for i, share in enumerate(self._shares) if share.start <= lane < share.stop)
        self._ask(self._pipes[worker], "call", (lane - self._shares[worker].start, name, *given))
        return self._answer(self._pipes[worker])

    def set_tasks(self, tasks: Sequence[Any], seeds: Sequence[int]) -> None:
        """One per lane, by ``set_task``; what this draws at random depends on the seed of the lane."""
        self._share_out("set_tasks", [(tasks[share], seeds[share]) for share in self._shares])

    def reset(self, seeds: Sequence[int]) -> None:
        """A fresh episode everywhere, each with the seed of its lane."""
        self._share_out("reset", [(seeds[share],) for share in self._shares])

    def step(self) -> None:
        """The actions in the buffers."""
        self._share_out("step", [() for _ in self._pipes])

    def _share_out(self, name: str, given: Sequence[tuple]) -> None:
        """All at work at once."""
        for pipe, part in zip(self._pipes, given, strict=True):
            self._ask(pipe, name, part)
        self._answers()

    def _ask(self, pipe: Connection, name: str, given: tuple) -> None:
        try:
            pipe.send((name, given))
        except OSError:
            raise RuntimeError(WORKER_DIED) from None

    def _answers(self) -> None:
        for pipe in self._pipes:
            self._answer(pipe)

    def _answer(self, pipe: Connection) -> Any:
        try:
            failed, answer = pipe.recv()
        except (EOFError, ConnectionResetError):
            raise RuntimeError(WORKER_DIED) from None
        if failed and isinstance(answer, Exception):
            raise answer
        if failed:
            raise RuntimeError(f"in a worker process of the environments:\n{answer}")
        return answer


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process started in here is deaf to requests to stop from its first moment; this one hears them afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def limited(make: Make, horizon: int) -> gymnasium.Env:
    """The environment with episodes of ``horizon`` steps at most, and observations that are one array or number."""
    env = TimeLimit(make(), horizon)
    return env if is_plain(env.observation_space) else FlattenObservation(env)


def local_buffers(shapes: Shapes) -> SharedBuffers:
    """Buffers of a single process."""
    return SharedBuffers._make(np.zeros(shape, kind) for shape, kind in shapes)


def _shared_buffers(memory: Sequence[Any], shapes: Shapes) -> SharedBuffers:
    arrays = (
        np.frombuffer(part, kind)[: int(np.prod(shape))] for part, (shape, kind) in zip(memory, shapes, strict=True)
    )
    return SharedBuffers._make(array.reshape(shape) for array, (shape, _) in zip(arrays, shapes, strict=True))


def _work(
    pipe: Connection,
    makes: Sequence[Make],
    memory: Sequence[Any],
    shapes: Shapes,
    seeds: Sequence[int],
    share: slice,
) -> None:
    """Main loop of a worker process."""
    for name in STOPPING:
        signal.signal(name, signal.SIG_IGN)
    lanes: SyncVector | None = None
    try:
        lanes = SyncVector(makes, _shared_buffers(memory, shapes).rows(share.start, share.stop), seeds)
        pipe.send((False, None))
        while True:
            name, given = pipe.recv()
            try:
                pipe.send((False, getattr(lanes, name)(*given)))
            except (NotImplementedError, RenderError) as error:  # cannot be rendered: the lanes stay usable
                pipe.send((True, error))
    except (EOFError, BrokenPipeError):
        pass
    except MetarlError as error:  # a mistake of the user, whom a traceback does not help
        pipe.send((True, error))
    except Exception:
        pipe.send((True, traceback.format_exc()))


def _close(pipes: Sequence[Connection], processes: Sequence[Any]) -> None:
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.join(timeout=5)
        if process.is_alive():
            process.kill()
