"""metarl: meta-reinforcement learning in one loop. Start at ``run.py``, then read ``metarl/trainer.py``.

In a program of one's own: ``load`` a trained agent, ``play`` it in an environment, ``train`` one, ``make`` an
environment (see docs/python.md). Nothing heavy is imported until one of these is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from metarl.version import __version__

if TYPE_CHECKING:
    from metarl.api.agents import TrainedAgent, load
    from metarl.api.environments import make
    from metarl.api.playing import play
    from metarl.api.runs import Run, train
    from metarl.api.session import Session
    from metarl.errors import MetarlError

__all__ = ["MetarlError", "Run", "Session", "TrainedAgent", "__version__", "load", "make", "play", "train"]

MODULES = {
    "MetarlError": "metarl.errors",
    "Run": "metarl.api.runs",
    "Session": "metarl.api.session",
    "TrainedAgent": "metarl.api.agents",
    "load": "metarl.api.agents",
    "make": "metarl.api.environments",
    "play": "metarl.api.playing",
    "train": "metarl.api.runs",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module 'metarl' has no attribute {name!r}; it has {', '.join(MODULES)}")
    return getattr(import_module(MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES})
