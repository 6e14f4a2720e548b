"""Lanes of metarl, stepped together, as a vector environment of Gymnasium.

gymnasium.make_vec("metarl/cheetah_vel-v0", num_envs=64, vectorization_mode="vector_entry_point")
"""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metarl.gymnasium_envs import Lanes, Task

Infos = dict[str, Any]


class BatchedLanes(VectorEnv):
    """Lanes of a ``MetaEnv``, each with its own task, which lasts until ``set_tasks``.

    A lane whose episode ends starts the next one in the same step: the observation is the first of the next episode,
    ``infos["final_obs"]`` has the last of the one that ended, and ``infos["final_info"]`` its information.

    Args:
        num_envs: lanes.
        option: of ``conf/env``.
        render_mode: ``rgb_array`` for environments with pictures, or None.
        keys: those of the environment's YAML.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as Gymnasium has it)
        "render_modes": ["rgb_array"],
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(self, num_envs: int, option: str, render_mode: str | None = None, **keys: Any):
        self._lanes = Lanes(option, num_envs, render_mode, keys)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.metadata = self._lanes.metadata(autoreset_mode=AutoresetMode.SAME_STEP)
        env = self._lanes.env
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def sample_tasks(self, num_tasks: int) -> list[Task]:
        """New tasks to train on, each a dictionary of its parameters, drawn by ``np_random``."""
        return self._lanes.draw(num_tasks, self.np_random)

    def set_tasks(self, tasks: list[Task]) -> None:
        """Play these tasks, one per lane, from the next reset on.

        Raises:
            ValueError: their number is another than ``num_envs``.
        """
        self._lanes.set_tasks(tasks)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray, Infos]:
        """A fresh episode in every lane. A seed starts all randomness anew, and keeps the tasks.

        Raises:
            ValueError: ``seed`` has one number per lane, or ``options`` asks for a reset of some lanes alone.
        """
        if seed is not None and not isinstance(seed, int | np.integer):
            raise ValueError("seed is a list: the lanes of metarl share one stream; give one number")
        if "reset_mask" in (options or {}):
            raise ValueError("options['reset_mask']: lanes reset by themselves; leave it out to reset all of them")
        super().reset(seed=seed)
        if seed is not None:
            self._lanes.reseed(int(seed))
        return _copied(self._lanes.env.reset()), {}

    def step(self, actions: Any) -> tuple[NDArray, NDArray, NDArray, NDArray, Infos]:
        """Step all lanes; ``infos["success"]`` if the environment defines success."""
        step = self._lanes.step(np.asarray(actions))
        terminated, truncated = _copied(step.terminated), _copied(step.truncated)
        done = terminated | truncated
        infos: Infos = {}
        if step.success is not None and not done.all():
            infos |= {"success": _copied(step.success) & ~done, "_success": ~done}
        if done.any():
            infos |= _final_infos(step, done)
        return _copied(step.observation), _copied(step.reward).astype(np.float64), terminated, truncated, infos

    def render(self) -> tuple[NDArray, ...] | None:
        """Images of all lanes; None unless ``render_mode="rgb_array"``."""
        if self.render_mode is None:
            return None
        return tuple(self._lanes.env.render(lane) for lane in range(self.num_envs))  # type: ignore[attr-defined]


def _final_infos(step: Any, done: NDArray) -> Infos:
    """Last observations and information of the episodes that ended, as Gymnasium's own vector environments have."""
    last, final = _copied(step.final_observation), np.full(len(done), None, dtype=object)
    for lane in np.flatnonzero(done):
        final[lane] = last[lane]
    success = {} if step.success is None else {"success": _copied(step.success) & done, "_success": done.copy()}
    return {"final_obs": final, "_final_obs": done.copy(), "final_info": success, "_final_info": done.copy()}


def _copied(part: Any) -> NDArray:
    """Values of a tensor as an array that nothing else holds."""
    copied: NDArray = np.array(part.cpu().numpy())
    return copied
