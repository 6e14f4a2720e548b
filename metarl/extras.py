"""Packages that only some options need, and the command that installs them. Imports nothing heavy."""

import importlib.util

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
        return f'run pip install "metarl[{extra}]", or pip install -e ".[{extra}]" in a checkout'
    return f"install {module}, or add the folder that has it to PYTHONPATH"
