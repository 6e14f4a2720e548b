"""Meta-World's robot in a lane: its tasks by name and goal, its contacts counted at once, its models compiled once.

Imports no torch, see ``metarl.envs.vector``.
"""

import pickle
from copy import copy
from functools import cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from metarl.envs.simulator import mujoco  # first: it copes with broken graphics

# isort: split
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.types import Task
from numpy.typing import NDArray

from metarl.envs.rendering import Camera

HORIZON = 500  # steps after which the library wants a reset
GOAL_DIM = 6  # numbers of the longest goal; shorter ones are padded with zeros
OBSERVATION = spaces.Box(-np.inf, np.inf, (39,), np.float64)
ACTION = spaces.Box(-1.0, 1.0, (4,), np.float32)


class MetaWorldLane(gymnasium.Env):
    """One lane of Meta-World: the environment class of its task.

    Observation: the library's 39 numbers, the last three, the goal, zero. Reward: the library's. An episode never ends
    at a success; ``info["success"]`` reports it.
    """

    observation_space, action_space = OBSERVATION, ACTION

    def __init__(self):
        self._name = ""
        self._present: Any = None
        self._camera: Camera | None = None

    def set_task(self, task: tuple[str, NDArray]) -> None:
        """The name of an environment class, and the vector that places its objects and goal."""
        name, goal = task
        if name != self._name:  # one at a time: each takes 20 MB
            self._name, self._present, self._camera = name, _quick(name)(), None
        data = {"rand_vec": goal, "env_cls": ALL_V3_ENVIRONMENTS[name], "partially_observable": True}
        self._present.set_task(Task(env_name=name, data=pickle.dumps(data)))

    def reset(self, *, seed=None, options=None):
        """Reset to the start state of the task, which is deterministic."""
        return self._present.reset()

    def step(self, action):
        """Step of ``gymnasium.Env``."""
        return self._present.step(action)

    def render(self):
        """Image of the present state, see ``metarl.envs.rendering``."""
        if self._camera is None:
            self._camera = Camera(self._present.model, "corner")
        upside_down = self._camera.render(self._present.data)  # as the library's cameras stand
        return np.ascontiguousarray(upside_down[::-1, ::-1])


@cache
def _quick(name: str) -> type:
    """A class of the library with two methods that cost less and do the same."""
    return type(name, (_Quick, ALL_V3_ENVIRONMENTS[name]), {})


class _Quick:
    fullpath: str
    width: int
    height: int
    data: Any

    def _initialize_simulation(self):
        model = copy(_compiled(self.fullpath))
        view = model.vis.global_
        view.offwidth, view.offheight = max(view.offwidth, self.width), max(view.offheight, self.height)
        return model, mujoco.MjData(model)

    def touching_object(self, object_geom_id: int) -> bool:
        """Whether both fingers touch the object, in one query; many, as in the library, take a third of a step."""
        pairs, force = self.data.contact.geom, self.data.efc_force
        touched = (pairs == object_geom_id).any(axis=1)
        for pad in ("leftpad_geom", "rightpad_geom"):
            contacts = touched & (pairs == self.data.geom(pad).id).any(axis=1)
            if not force[self.data.contact.efc_address[contacts]].sum() > 0:
                return False
        return True


@cache
def _compiled(path: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(path)
