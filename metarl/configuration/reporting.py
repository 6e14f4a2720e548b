"""Printing errors that a user can correct. Imports nothing heavy."""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from metarl.configuration.compose import explain
from metarl.errors import MetarlError, printable


def report(error: Exception, overrides: Sequence[str] = ()) -> bool:
    """Print an error that the user can correct; False, and nothing printed, for any other."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, (HydraException, OmegaConfBaseException)) or _raised_by_hydra(error):
        message = explain(error, overrides)
    elif isinstance(error, (MetarlError, OSError)):
        message = str(error)
    else:
        return False
    print(f"error: {printable(message)}", file=sys.stderr)
    return True


def _raised_by_hydra(error: Exception) -> bool:
    """Some overrides end in a bare ValueError of Hydra's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ValueError) and bool(frames) and "hydra" in Path(frames[-1].filename).parts
