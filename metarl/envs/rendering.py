"""Headless rendering of simulations. Imports neither torch nor, before it is needed, MuJoCo."""

import atexit
import ctypes.util
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # [height, width, 3]
WIDTH, HEIGHT = 480, 360
# Values of MUJOCO_GL, and groups of libraries of which each backend needs one per group.
BACKENDS = {"egl": (("EGL",), ("OpenGL", "GL")), "osmesa": (("OSMesa",), ("OpenGL", "GL"))}
MARKER_SIZE = 0.05  # radius of the sphere at a goal, metres


class RenderError(RuntimeError):
    """An environment cannot be rendered."""


class NoRendererError(RenderError):
    """No OpenGL backend is available."""

    def __str__(self) -> str:
        remedy = "Install libegl1 and libgl1, or libosmesa6, and set MUJOCO_GL=egl or MUJOCO_GL=osmesa"
        return f"no renderer: {self.args[0]}. {remedy}"


def choose_backend() -> None:
    """Without a screen, select an installed backend for MuJoCo, which reads MUJOCO_GL once, when it is imported.

    A partial installation counts as absent: importing MuJoCo with an incomplete backend fails.
    """
    if any(os.environ.get(name) for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY")):
        return
    for name, libraries in BACKENDS.items():
        if all(any(map(ctypes.util.find_library, options)) for options in libraries):
            os.environ["MUJOCO_GL"] = name
            return


def _let_unfinished_ones_close() -> None:
    """Give MuJoCo's renderers what their finalizers read; otherwise one that fails half-way prints a traceback."""
    import mujoco
    from mujoco import gl_context

    for name in ("_gl_context", "_mjr_context"):
        setattr(mujoco.Renderer, name, None)
    if (context := getattr(gl_context, "GLContext", None)) is not None:  # there is none where MUJOCO_GL=disable
        context._context = None


class Camera:
    """Camera that tracks one body of a model, or a camera that the model defines.

    Args:
        model: an ``MjModel``.
        view: distance from the first body in metres, or the name of a camera.

    Raises:
        NoRendererError: MuJoCo cannot draw here.
    """

    def __init__(self, model: Any, view: float | str):
        import mujoco

        self._model = model
        _let_unfinished_ones_close()
        try:
            self._renderer = mujoco.Renderer(model, HEIGHT, WIDTH)
        except Exception as error:  # each backend raises its own
            raise NoRendererError(str(error)) from error
        # Close before the graphics library shuts down: exit handlers run in reverse order of registration.
        closing = weakref.finalize(self, self._renderer.close)
        closing.atexit = False
        atexit.register(closing)
        self._camera: Any = view
        if not isinstance(view, str):
            self._camera = mujoco.MjvCamera()
            self._camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
            self._camera.trackbodyid, self._camera.distance = 1, view
            self._camera.elevation, self._camera.azimuth = -25, 90

    def render(self, data: Any, marker: NDArray | None = None) -> Frame:
        """Image of a simulation state, with a sphere at the position ``marker [3]``."""
        import mujoco

        self._renderer.update_scene(data, self._camera)
        if marker is not None:
            scene = self._renderer.scene
            size, colour = np.full(3, MARKER_SIZE), np.array([0.9, 0.2, 0.2, 1.0], np.float32)
            kind = mujoco.mjtGeom.mjGEOM_SPHERE
            mujoco.mjv_initGeom(scene.geoms[scene.ngeom], kind, size, marker, np.eye(3).ravel(), colour)
            scene.ngeom += 1
        return self._renderer.render()
