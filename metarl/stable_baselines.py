"""Lanes of metarl for Stable-Baselines3, whose algorithms take a ``VecEnv`` of their own.

    env = gymnasium.make_vec("metarl/cheetah_vel-v0", num_envs=64)
    RecurrentPPO("MlpLstmPolicy", StableBaselinesLanes(env)).learn(1_000_000)

Needs the packages stable-baselines3 and, for ``RecurrentPPO``, sb3-contrib.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import VecEnv


class StableBaselinesLanes(VecEnv):
    """A vector environment of Gymnasium that resets in the same step, as a ``VecEnv``.

    Args:
        env: from ``gymnasium.make_vec("metarl/...")``.
    """

    def __init__(self, env: VectorEnv):
        self.env = env
        self.render_mode = env.render_mode
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        seed = self._seeds[0]
        self._reset_seeds()
        return self.env.reset(seed=seed)[0]

    def step_async(self, actions: Any) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Any, Any, Any, list[dict[str, Any]]]:
        observation, reward, terminated, truncated, found = self.env.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for lane in np.flatnonzero(terminated | truncated):
            infos[lane]["terminal_observation"] = found["final_obs"][lane]
            infos[lane]["TimeLimit.truncated"] = bool(truncated[lane])
        return observation, reward.astype(np.float32), terminated | truncated, infos

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.env, attr_name)] * len(self._lanes(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        found = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [found] * len(self._lanes(indices))

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        return [False] * len(self._lanes(indices))

    def get_images(self) -> Sequence[np.ndarray | None]:
        pictures: Any = self.env.render()
        return pictures or [None] * self.num_envs

    def _lanes(self, indices: Any) -> list[int]:
        chosen = range(self.num_envs) if indices is None else np.atleast_1d(indices)
        return [int(lane) for lane in chosen]
