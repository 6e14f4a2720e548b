"""Beginning of processes that programs under test start by themselves, such as the runs of a sweep.

They draw neither report nor pictures, and leave out the compiler of torch: each would cost more seconds than training.

``processes.fresh_run_py`` starts a process as users do.
"""

import importlib
import sys
from types import ModuleType


class Compiler(ModuleType):
    """A stand-in for ``torch._dynamo``, which optimisers import in order to exclude themselves from it.

    Whatever else is asked of it comes from the module itself.
    """

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)

    def disable(self, function=None, *_, **__):
        """The function, which nothing compiles."""
        return function

    def graph_break(self) -> None:
        """Nothing: no graph is recorded."""


def replacement(name: str, **functions) -> ModuleType:
    """A module of metarl with some functions alone."""
    module = ModuleType(f"metarl.analysis.{name}")
    vars(module).update(functions)
    return module


def write_page(runs, path) -> None:
    """Write a report without figures."""
    path.write_text("<html>no figures</html>")


REPLACED = (
    Compiler("torch._dynamo"),
    replacement("report", write_page=write_page),
    replacement("figures", run_figures=lambda run: {}),
    replacement("video_recorder", record_final_trial=lambda agent, env, seed: None),
)
sys.modules |= {module.__name__: module for module in REPLACED}
