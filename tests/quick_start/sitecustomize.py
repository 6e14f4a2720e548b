"""Beginning of processes that programs under test start by themselves, such as the runs of a sweep.

They draw neither report nor pictures, and leave out the compiler of torch: each would cost more seconds than training.
``processes.fresh_run_py`` starts a process as users do.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class StandIn(ModuleType):
    """Some functions in the place of those of a module; whatever else is asked of it comes from the module itself."""

    def __init__(self, name: str, **functions: Callable):
        super().__init__(name)
        vars(self).update(functions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def same(function: Callable | None = None, *_: Any, **__: Any) -> Callable | None:
    """The function, which nothing compiles."""
    return function


def write_page(runs: Any, path: Any) -> None:
    """Write a report without figures."""
    path.write_text("<html>no figures</html>")


def record_nothing(agent: Any, env: Any, seed: int) -> Any:
    """Recording of no trial."""
    from metarl.analysis.trial_recording import TrialRecording

    return TrialRecording("none")


STAND_INS = (
    StandIn("torch._dynamo", disable=same, graph_break=same),  # optimisers import it to exclude themselves from it
    StandIn("metarl.analysis.report", write_page=write_page),
    StandIn("metarl.analysis.figures", run_figures=lambda run: {}),
    StandIn("metarl.analysis.video_recorder", record_final_trial=record_nothing),
)
sys.modules |= {module.__name__: module for module in STAND_INS}
