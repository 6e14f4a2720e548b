"""Pictures of simulations without a screen. Imports neither torch nor, before it is needed, MuJoCo."""

import atexit
import ctypes.util
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # [height, width, 3]
WIDTH, HEIGHT = 480, 360
# What MUJOCO_GL calls them, and the libraries they need, one of each group.
BACKENDS = {"egl": (("EGL",), ("OpenGL", "GL")), "osmesa": (("OSMesa",), ("OpenGL", "GL"))}
MARKER_SIZE = 0.05  # radius of what shows a goal, metres


class NoRendererError(RuntimeError):
    """Nothing here can draw."""

    def __str__(self) -> str:
        remedy = "Install libegl1 and libgl1, or libosmesa6, and set MUJOCO_GL=egl or MUJOCO_GL=osmesa"
        return f"no renderer: {self.args[0]}. {remedy}"


def choose_backend() -> None:
    """Without a screen MuJoCo draws by what is installed. It looks at MUJOCO_GL once, when it is imported.

    Half of an installation is none: importing MuJoCo fails where it is told to use what is incomplete.
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
    """Draws one body of a model, which it follows, or what a camera of the model sees.

    Args:
        model: as MuJoCo has it.
        view: metres from the first body, or the name of a camera.

    Raises:
        NoRendererError: MuJoCo cannot draw here.
    """

    def __init__(self, model: Any, view: float | str):
        import mujoco

        self._model = model
        _let_unfinished_ones_close()
        try:
            self._renderer = mujoco.Renderer(model, HEIGHT, WIDTH)
        except Exception as error:  # each backend has its own
            raise NoRendererError(str(error)) from error
        # While the graphics library can still take back what it gave: at exit it goes before what was there earlier.
        closing = weakref.finalize(self, self._renderer.close)
        closing.atexit = False
        atexit.register(closing)
        self._camera: Any = view
        if not isinstance(view, str):
            self._camera = mujoco.MjvCamera()
            self._camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
            self._camera.trackbodyid, self._camera.distance = 1, view
            self._camera.elevation, self._camera.azimuth = -25, 90

    def picture(self, data: Any, marker: NDArray | None = None) -> Picture:
        """Of a simulation's state, with a mark at a place ``[3]``."""
        import mujoco

        self._renderer.update_scene(data, self._camera)
        if marker is not None:
            scene = self._renderer.scene
            size, colour = np.full(3, MARKER_SIZE), np.array([0.9, 0.2, 0.2, 1.0], np.float32)
            kind = mujoco.mjtGeom.mjGEOM_SPHERE
            mujoco.mjv_initGeom(scene.geoms[scene.ngeom], kind, size, marker, np.eye(3).ravel(), colour)
            scene.ngeom += 1
        return self._renderer.render()
