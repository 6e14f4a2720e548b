"""Imports run one way: every module imports floors below its own, never above, and no circle anywhere."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import metarl

PACKAGE = Path(metarl.__file__).parent
# From the top floor down; the longest prefix of a module's name decides. Modules of a floor may import each other.
FLOORS = (
    ("metarl.__main__", "metarl.cli"),
    ("metarl", "metarl.api"),
    (
        "metarl.checking",
        "metarl.launching",
        "metarl.gymnasium_envs",
        "metarl.gymnasium_vector",
        "metarl.stable_baselines",
    ),
    ("metarl.experiment",),
    ("metarl.configuration",),
    ("metarl.analysis",),
    ("metarl.trainer", "metarl.periodic_evaluation", "metarl.plans"),
    ("metarl.baselines",),
    ("metarl.evaluation", "metarl.held_out"),
    ("metarl.algorithms",),
    ("metarl.rollout",),
    ("metarl.envs",),
    ("metarl.models",),
    ("metarl.configuration.compose", "metarl.configuration.reporting", "metarl.configuration.search_path"),
    ("metarl.runs",),
    ("metarl.finite", "metarl.parallel", "metarl.trust", "metarl.extras", "metarl.configuration.renamed"),
    ("metarl.types",),
    ("metarl.tree", "metarl.seeding", "metarl.system", "metarl.version", "metarl.errors", "metarl.progress"),
)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> Iterator[str]:
    """Names of the modules of metarl that a file imports, anywhere and for any purpose."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "metarl":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in FILES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "metarl")


def floor(module: str) -> int:
    """Number of a module's floor, from the top."""
    prefixes = [(len(name), number) for number, names in enumerate(FLOORS) for name in names if _within(module, name)]
    return max(prefixes)[1]


def _within(module: str, prefix: str) -> bool:
    return module == prefix or (prefix != "metarl" and module.startswith(f"{prefix}."))


@cache
def graph() -> dict[str, set[str]]:
    """What every module imports."""
    return {module: set(imported(path)) - {module} for module, path in FILES.items()}


def test_no_import_runs_up():
    upward = [(module, other) for module, others in graph().items() for other in others if floor(other) < floor(module)]
    assert not upward


def test_no_imports_form_a_circle():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' -> '.join(error.args[1])}") from None


def test_every_floor_is_needed():
    assert {floor(module) for module in FILES} == set(range(len(FLOORS)))
