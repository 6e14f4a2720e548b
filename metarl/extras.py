"""Packages that only some options need, and the command that installs them. Imports nothing heavy."""

import importlib.metadata
import importlib.util
import re

from metarl.errors import ConfigError

EXTRA_OF = {
    "imageio_ffmpeg": "video",
    "metaworld": "metaworld",
    "optuna": "search",
    "sklearn": "analysis",
    "submitit": "slurm",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "wandb_workspaces": "wandb",
}


def require(module: str, option: str) -> None:
    """Refuse an option whose package is not installed.

    Args:
        module: a module of that package, one of ``EXTRA_OF``.
        option: what the user chose, as ``logger=wandb``.

    Raises:
        ConfigError: with the command that installs the package.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{option}: needs {module}, which is not installed; {installation(module)}")


def installation(module: str) -> str:
    """Advice how to install a module that is missing, as the end of a message."""
    if extra := EXTRA_OF.get(module):
        return f"run pip install {' '.join(_requirements(extra)) or module}"
    return f"install {module}, or add the folder that has it to PYTHONPATH"


def _requirements(extra: str) -> list[str]:
    """Requirements of an extra, quoted for a shell: of other packages alone, since metarl is here already."""
    try:
        listed = importlib.metadata.requires("metarl") or []
    except importlib.metadata.PackageNotFoundError:  # runs from its files, without an installation
        return []
    parted = (requirement.partition(";") for requirement in listed)
    return [f'"{name.strip()}"' for name, _, marker in parted if re.search(rf"""extra == ["']{extra}["']""", marker)]
