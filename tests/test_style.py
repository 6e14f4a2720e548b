"""Docstrings that can be read without the name beside them, short functions, short files."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    ROOT / "run.py",
    *(file for name in ("metarl", "launch", "benchmarks") for file in (ROOT / name).rglob("*.py")),
]
FRAGMENT = re.compile(
    r"(Of|What|Those|The same|How|That|Whose|Which|Where|With|To|By|In|From|As|It|All that|Step by step|See above)\b"
)
MOST_LINES = 350


def definitions(file: Path) -> Iterator[ast.AST]:
    """The module of a file, its classes and its functions, at any depth."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_docstring_is_a_fragment(file):
    texts = [ast.get_docstring(node) or "" for node in definitions(file)]
    assert not [text.splitlines()[0] for text in texts if FRAGMENT.match(text)]


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of the body without the docstring, from its first statement to its last."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short():
    functions = [(body_lines(node), node.name) for file in FILES for node in definitions(file) if _is_function(node)]
    lengths = sorted(length for length, _ in functions)
    assert statistics.median(lengths) <= 5 and statistics.quantiles(lengths, n=10)[-1] <= 16
    assert not [found for found in functions if found[0] > 45]


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def test_files_are_short():
    files = [*FILES, *(ROOT / "tests").glob("*.py")]
    assert not [(file, count) for file in files if (count := len(file.read_text().splitlines())) > MOST_LINES]
