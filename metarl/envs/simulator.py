"""MuJoCo, which everything here imports from this file: without its graphics where these cannot be loaded.

Simulating needs no renderer; MuJoCo itself refuses to be imported where ``MUJOCO_GL`` names what is broken or absent.
Imports no torch.
"""

import logging
import os

try:
    import mujoco
except Exception as error:  # whatever the graphics library raises
    asked = os.environ.get("MUJOCO_GL", "")
    os.environ["MUJOCO_GL"] = "disable"  # also for worker processes
    import mujoco

    logging.getLogger(__name__).warning("MUJOCO_GL=%s: no pictures of simulations (%s)", asked, error)

from mujoco.rollout import Rollout

__all__ = ["Rollout", "mujoco"]
