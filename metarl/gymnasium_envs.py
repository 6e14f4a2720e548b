"""Environments of metarl for programs that use Gymnasium alone.

    import metarl.gymnasium_envs                                registers them, and imports nothing heavy
    gymnasium.make("metarl/cheetah_vel-v0")                     one lane
    gymnasium.make_vec("metarl/cheetah_vel-v0", num_envs=64)    many lanes stepped together

``gymnasium.make("metarl.gymnasium_envs:metarl/cheetah_vel-v0")`` imports this module by itself.
"""

from typing import Any

import gymnasium
import numpy as np

from metarl.configuration.compose import options

VERSION = 0
Task = dict[str, np.ndarray]  # parameters of one task by name


def register() -> None:
    """Register every option of ``conf/env`` with Gymnasium, once."""
    for option in options("env", own=()):
        name = f"metarl/{option}-v{VERSION}"
        if name not in gymnasium.registry:
            single, batched = f"{__name__}:SingleLane", "metarl.gymnasium_vector:BatchedLanes"
            gymnasium.register(name, single, vector_entry_point=batched, kwargs={"option": option})


class Lanes:
    """Lanes of a ``MetaEnv`` that play tasks of their own choice until they are given others.

    Args:
        option: of ``conf/env``.
        num_lanes: how many, each with its own task.
        render_mode: ``rgb_array``, or None.
        keys: those of the environment's YAML.

    Raises:
        ValueError: there is no such option.
        RenderError: the environment has no pictures, and ``render_mode`` asks for them.
    """

    def __init__(self, option: str, num_lanes: int, render_mode: str | None, keys: dict[str, Any]):
        from metarl.configuration.build import build_env_factory
        from metarl.configuration.compose import compose, resolved
        from metarl.envs.capabilities import Renderable
        from metarl.envs.rendering import RenderError

        if option not in (existing := options("env", own=())):
            raise ValueError(f"option={option}: no such option; env has {', '.join(existing)}")
        config = resolved(compose([f"env={option}"]), {})
        config["env"] |= keys  # which may come from somebody else's run: values, and no overrides of Hydra
        if num_lanes == 1 and "num_workers" in config["env"] and "num_workers" not in keys:
            config["env"]["num_workers"] = 0  # a single lane needs no process of its own
        self._make, self._num_lanes = build_env_factory(config), num_lanes
        self.open(0)
        self.renders = isinstance(self.env, Renderable)
        self.frames_per_second = self.env.steps_per_second if isinstance(self.env, Renderable) else None
        if render_mode is not None and not (self.renders and render_mode == "rgb_array"):
            remedy = "use render_mode=rgb_array" if self.renders else "make it without render_mode"
            raise RenderError(f"metarl/{option}-v{VERSION}: does not render as {render_mode}; {remedy}")

    def open(self, seed: int) -> None:
        """Start all randomness anew, with new tasks."""
        self.env = self._make(num_tasks=self._num_lanes, seed=seed)
        self.env.sample_tasks()

    def reseed(self, seed: int) -> None:
        """Start all randomness anew, and keep the tasks."""
        tasks = self.env.tasks
        self.open(seed)
        self.env.set_tasks(tasks)

    def draw(self, num_tasks: int, generator: np.random.Generator) -> list[Task]:
        """New tasks to train on."""
        self.env.task_generator.manual_seed(int(generator.integers(2**63)))
        parameters = self.env.draw_tasks(num_tasks, "train").parameters
        return [{name: value[row].cpu().numpy() for name, value in parameters.items()} for row in range(num_tasks)]

    def set_tasks(self, tasks: list[Task]) -> None:
        """Play these tasks, one per lane, from the next reset on."""
        import torch

        from metarl.types import Tasks

        columns = {name: np.stack([np.asarray(task[name]) for task in tasks]) for name in tasks[0]}
        self.env.set_tasks(Tasks({name: torch.as_tensor(column) for name, column in columns.items()}))

    def step(self, action: Any) -> Any:
        """The ``Step`` after actions ``[B, ...]``."""
        import torch

        return self.env.step(torch.as_tensor(action).to(self.env.device))

    def metadata(self, **further: Any) -> dict[str, Any]:
        """The ``metadata`` that Gymnasium asks of an environment."""
        pictures = {"render_modes": ["rgb_array"], "render_fps": self.frames_per_second}
        return (pictures if self.renders else {"render_modes": []}) | further


class SingleLane(gymnasium.Env):
    """One lane of a ``MetaEnv``, with the two methods by which meta-RL codes change tasks.

    Until ``set_task`` it plays one task of its own choice. Keyword arguments are those of the environment's YAML:
    ``gymnasium.make("metarl/cheetah_vel-v0", max_velocity=2.0)``.

    Args:
        option: of ``conf/env``.
        render_mode: ``rgb_array`` for environments with pictures, or None.
        keys: see above.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(self, option: str, render_mode: str | None = None, **keys: Any):
        self._lanes = Lanes(option, 1, render_mode, keys)
        self.render_mode, self.metadata = render_mode, self._lanes.metadata()
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space

    @property
    def _env(self) -> Any:
        return self._lanes.env

    def sample_tasks(self, num_tasks: int) -> list[Task]:
        """New tasks to train on, each a dictionary of its parameters, drawn by ``np_random``."""
        return self._lanes.draw(num_tasks, self.np_random)

    def set_task(self, task: Task) -> None:
        """Play this task from the next reset on."""
        self._lanes.set_tasks([task])

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """A fresh episode. A seed starts all randomness anew, and keeps the task."""
        super().reset(seed=seed)
        if seed is not None:
            self._lanes.reseed(seed)
        return self._seen(self._env.reset()), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """One step; ``info["success"]`` if the environment defines success."""
        step = self._lanes.step(np.asarray(action)[None])
        info = {} if step.success is None else {"success": bool(step.success)}
        return self._seen(step.final_observation), float(step.reward), bool(step.terminated), bool(step.truncated), info

    def render(self) -> Any:
        """Image of the present state, uint8 ``[height, width, 3]``; None unless ``render_mode="rgb_array"``."""
        return None if self.render_mode is None else self._env.render(0)

    def _seen(self, observation: Any) -> Any:
        """The observation of the lane: an array that nothing else holds, or a number where the space is discrete."""
        seen = observation[0].cpu().numpy()
        return seen.copy() if seen.ndim else seen[()]


register()
