"""Environments of metarl for programs that use Gymnasium alone: ``gymnasium.make("metarl/cheetah_vel-v0")``.

Gymnasium finds them by itself where metarl is installed (entry point ``gymnasium.envs``); importing this module
registers them, too, and imports nothing heavy.
"""

from typing import Any

import gymnasium
import numpy as np

from metarl.configuration.compose import options

VERSION = 0


def register() -> None:
    """Register every option of ``conf/env`` with Gymnasium, once."""
    for option in options("env"):
        name = f"metarl/{option}-v{VERSION}"
        if name not in gymnasium.registry:
            gymnasium.register(name, f"{__name__}:SingleLane", kwargs={"option": option})


class SingleLane(gymnasium.Env):
    """One lane of a ``MetaEnv``, with the two methods by which meta-RL codes change tasks.

    Until ``set_task`` it plays one task of its own choice. Keyword arguments are those of the environment's YAML:
    ``gymnasium.make("metarl/cheetah_vel-v0", max_velocity=2.0)``.

    Args:
        option: of ``conf/env``.
        render_mode: None; ``metarl watch`` shows trials.
        keys: see above.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(self, option: str, render_mode: None = None, **keys: Any):
        from metarl.configuration.build import build_env_factory
        from metarl.configuration.compose import compose, resolved

        if option not in options("env"):
            raise ValueError(f"option={option}: no such option; env has {', '.join(options('env'))}")
        config = resolved(compose([f"env={option}"]), {})
        config["env"] |= keys  # which may come from somebody else's run: values, and no overrides of Hydra
        if "num_workers" in config["env"] and "num_workers" not in keys:
            config["env"]["num_workers"] = 0  # a single lane needs no process of its own
        self._make = build_env_factory(config)
        self._open(0)
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space

    def _open(self, seed: int) -> None:
        self._env = self._make(num_tasks=1, seed=seed)
        self._env.sample_tasks()

    def sample_tasks(self, num_tasks: int) -> list[dict[str, np.ndarray]]:
        """New tasks to train on, each a dictionary of its parameters, drawn by ``np_random``."""
        self._env.task_generator.manual_seed(int(self.np_random.integers(2**63)))
        parameters = self._env.draw_tasks(num_tasks, "train").parameters
        return [{name: value[row].cpu().numpy() for name, value in parameters.items()} for row in range(num_tasks)]

    def set_task(self, task: dict[str, np.ndarray]) -> None:
        """Play this task from the next reset on."""
        import torch

        from metarl.types import Tasks

        self._env.set_tasks(Tasks({name: torch.as_tensor(value).unsqueeze(0) for name, value in task.items()}))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """A fresh episode. A seed starts all randomness anew, and keeps the task."""
        super().reset(seed=seed)
        if seed is not None:
            tasks = self._env.tasks
            self._open(seed)
            self._env.set_tasks(tasks)
        return self._seen(self._env.reset()), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """One step; ``info["success"]`` if the environment defines success."""
        import torch

        step = self._env.step(torch.as_tensor(action).unsqueeze(0).to(self._env.device))
        info = {} if step.success is None else {"success": bool(step.success)}
        return self._seen(step.final_observation), float(step.reward), bool(step.terminated), bool(step.truncated), info

    def _seen(self, observation: Any) -> Any:
        """The observation of the lane: an array that nothing else holds, or a number where the space is discrete."""
        seen = observation[0].cpu().numpy()
        return seen.copy() if seen.ndim else seen[()]


register()
