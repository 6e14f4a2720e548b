"""Lanes of one MuJoCo system stepped together: their states are rows of one array."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from metarl.envs.simulator import Rollout, mujoco
from metarl.system import available_cores

Array = NDArray[np.float64]
DIVERGED = 1e10  # MuJoCo's own limit for a sane position or velocity (mjMAXVAL)
PIECES = 2  # of work per thread in one batch: more wake threads more often, fewer leave them waiting for each other


def _note(message: str) -> None:
    """Log a warning of MuJoCo, which otherwise writes a file into the working directory."""
    if "unstable" not in message:  # these are found, counted and reported by the environments
        logging.getLogger(__name__).warning("MuJoCo: %s", message)


mujoco.set_mju_user_warning(_note)


class Physics(ABC):
    """States of B lanes, one row each: time, positions, velocities, and what the kind of stepping adds.

    Args:
        models: one for all lanes, or one per lane with equal sizes. A diverging simulation is not reset silently: its
            state is kept, for ``unstable`` to detect.
        num_lanes: B.
        frame_skip: simulation steps per control step.
        num_threads: that share the lanes; None takes all cores. Results do not depend on it.
    """

    state_parts: int  # bits of mujoco.mjtState

    def __init__(
        self, models: Sequence[mujoco.MjModel], num_lanes: int, frame_skip: int, num_threads: int | None = None
    ):
        for model in models:
            model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        model = models[0]
        self.models = list(models) * (num_lanes if len(models) == 1 else 1)
        self.num_lanes, self.frame_skip = num_lanes, frame_skip
        self.observed: dict[str, Array] = {}  # further quantities of each lane, [B, ...]
        self.num_threads = min(num_threads or available_cores(), max(1, num_lanes // 2))
        self.control_interval = frame_skip * model.opt.timestep  # seconds
        self.state = np.zeros((num_lanes, mujoco.mj_stateSize(model, self.state_parts)))
        self.qpos = self.state[:, 1 : 1 + model.nq]
        self.qvel = self.state[:, 1 + model.nq : 1 + model.nq + model.nv]

    def place(self, lanes: NDArray[np.bool_], qpos: Array, qvel: Array) -> None:
        """Put the chosen lanes ``[B]`` at rest of everything but these positions and velocities, ``[chosen, ...]``."""
        self.state[lanes] = 0
        self.qpos[lanes], self.qvel[lanes] = qpos, qvel

    @abstractmethod
    def advance(self, control: Array) -> None:
        """One control step of every lane under constant controls ``[B, num_actuators]``."""

    def unstable(self) -> NDArray[np.bool_]:
        """Lanes whose simulation has diverged, ``[B]``."""
        sane = np.abs(self.state) < DIVERGED  # false where it is not a number
        return ~np.asarray(sane.all(axis=1))


class BatchedPhysics(Physics):
    """Stepped by MuJoCo's own batch interface, in C and without a loop in Python.

    Each control step starts its solver cold, which moves the solution by about 1e-13.
    """

    state_parts = mujoco.mjtState.mjSTATE_FULLPHYSICS.value

    def __init__(self, models, num_lanes, frame_skip, num_threads=None):
        super().__init__(models, num_lanes, frame_skip, num_threads)
        pool_size = self.num_threads if self.num_threads > 1 else 0  # 0: the calling thread
        self._pool = Rollout(nthread=pool_size)
        self._data = [mujoco.MjData(self.models[0]) for _ in range(self.num_threads)]
        self._control = np.zeros((num_lanes, frame_skip, self.models[0].nu))
        self._trajectory = np.zeros((num_lanes, frame_skip, self.state.shape[1]))
        self._piece = max(1, num_lanes // (PIECES * self.num_threads))

    def advance(self, control: Array) -> None:
        self._control[:] = control[:, None]
        self._pool.rollout(
            self.models,
            self._data,
            self.state,
            self._control,
            skip_checks=True,
            nstep=self.frame_skip,
            state=self._trajectory,
            chunk_size=self._piece,
        )
        self.state[:] = self._trajectory[:, -1]


class ObservedPhysics(Physics):
    """Stepped one lane after the other in each thread, so that quantities other than the state can be read.

    MuJoCo derives contact forces and positions of bodies at the last stage of its integrator. They are no function of
    the state that is left behind, and the batch interface does not return them.

    Args:
        observed: names of fields of ``mujoco.MjData`` to read after each control step.
    """

    state_parts = mujoco.mjtState.mjSTATE_FULLPHYSICS.value | mujoco.mjtState.mjSTATE_WARMSTART.value

    def __init__(self, models, num_lanes, frame_skip, num_threads=None, observed: Sequence[str] = ()):
        super().__init__(models, num_lanes, frame_skip, num_threads)
        self._data = [mujoco.MjData(self.models[0]) for _ in range(self.num_threads)]
        self._with_forces = any(name.startswith(("cfrc", "cacc")) for name in observed)
        self.observed = {name: np.zeros((num_lanes, *getattr(self._data[0], name).shape)) for name in observed}
        self._pool = ThreadPoolExecutor(self.num_threads) if self.num_threads > 1 else None

    def place(self, lanes, qpos, qvel):
        super().place(lanes, qpos, qvel)
        data = self._data[0]
        for lane in np.flatnonzero(lanes).tolist():
            mujoco.mj_resetData(self.models[lane], data)
            mujoco.mj_setState(self.models[lane], data, self.state[lane], self.state_parts)
            mujoco.mj_forward(self.models[lane], data)
            self._read(lane, data)

    def advance(self, control: Array) -> None:
        if self._pool is None:
            self._advance_lanes(0, self.num_lanes, control, self._data[0])
            return
        shares = np.linspace(0, self.num_lanes, self.num_threads + 1).astype(int)
        work = [
            self._pool.submit(self._advance_lanes, start, end, control, data)
            for start, end, data in zip(shares, shares[1:], self._data, strict=False)
        ]
        for share in work:
            share.result()

    def _advance_lanes(self, start: int, end: int, control: Array, data: mujoco.MjData) -> None:
        for lane in range(start, end):
            model = self.models[lane]
            mujoco.mj_setState(model, data, self.state[lane], self.state_parts)
            data.ctrl[:] = control[lane]
            mujoco.mj_step(model, data, self.frame_skip)
            if self._with_forces:
                mujoco.mj_rnePostConstraint(model, data)
            self._read(lane, data)

    def _read(self, lane: int, data: mujoco.MjData) -> None:
        mujoco.mj_getState(self.models[lane], data, self.state[lane], self.state_parts)
        for name, values in self.observed.items():
            values[lane] = getattr(data, name)
