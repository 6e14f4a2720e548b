"""Pages of documents as programs: their blocks of code, run in the order of the page.

A block is a file where its path and a colon stand before it, Python in one namespace per page, or commands. Commands
of metarl run in processes of their own or, where they are light, in this one; ``cd`` holds for the rest of the page,
and ``pip install -e .`` only has the configurations of the package there found. Blocks in other languages, such as
``text``, are not run. Comments that readers of the page do not see are for this runner:

    <!-- run with KEY=VALUE ... -->    settings of every training from here on, in place of those on the page; ~KEY
                                       leaves one out
    <!-- not run: REASON -->           the next block is shown only
    <!-- continues PAGE -->            in the directory of that page, with its files, without its runs
"""

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from processes import Forked, outcome, python, run_py

import metarl
from metarl.cli import main
from metarl.configuration import search_path

PART = re.compile(r"^<!-- (.*?) -->\n|^```(\w*)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
LIGHT = ("list", "describe", "status", "compare", "new")  # commands that load no code of the page, run in place
PREPARING = ("metarl new", "pip install -e")  # commands of a page that the next one depends on
FILE = re.compile(r"`([\w./]+\.\w+)`:[^`]*\Z")  # at the end of the prose before a block


class Block(NamedTuple):
    """A block of code.

    Attributes:
        file: path that the page gives it.
        settings: overrides of trainings in it; None where it is not run.
    """

    language: str
    text: str
    file: str | None
    settings: tuple[str, ...] | None


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page, in order; of the pages that it continues, those that prepare."""
    text, settings, shown_only, end = page.read_text(), (), False, 0
    for part in PART.finditer(text):
        comment, language, content = part.groups()
        if comment is None:
            found = FILE.search(text[end : part.start()])
            yield Block(language, content, found and found[1], None if shown_only else settings)
            shown_only, end = False, part.end()
        elif comment.startswith("run with "):
            settings = tuple(shlex.split(comment.removeprefix("run with ")))
        elif comment.startswith("continues "):
            yield from (block for block in blocks(page.parent / comment.split()[1]) if _prepares(block))
        else:
            assert comment.startswith("not run: "), f"{page}: <!-- {comment} --> is no comment of the runner"
            shown_only = True


def _prepares(block: Block) -> bool:
    return block.file is not None or any(command in block.text for command in PREPARING)


def files(page: Path) -> dict[str, str]:
    """Content of the files that a page shows whole, by their paths."""
    return {block.file: block.text for block in blocks(page) if block.file is not None}


def write_files(found: dict[str, str], directory: Path) -> None:
    """Write files of a page."""
    for name, content in found.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)


def run(page: Path, directory: Path) -> dict:
    """Run every block of a page in a directory; returns what its Python has defined."""
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(directory):
        for block in blocks(page):
            if block.settings is None:
                continue
            if block.file is not None:
                write_files({block.file: block.text}, Path.cwd())
            elif block.language == "python":
                _execute(block, names)
            elif block.language == "":
                for line in block.text.replace("\\\n", " ").splitlines():
                    _command_line(line, block.settings, patch)
    return names


def _execute(block: Block, names: dict) -> None:
    train = metarl.train

    def briefly(overrides: Sequence[str] = (), directory: str | Path | None = None):
        return train(replaced(overrides, block.settings), directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metarl, "train", briefly)
        exec(block.text, names)


def replaced(overrides: Sequence[str], settings: Sequence[str]) -> list[str]:
    """Overrides with other values of these keys, or with these keys in addition, and without keys after ``~``."""
    keys = {setting.lstrip("~").partition("=")[0] for setting in settings}
    kept = [word for word in overrides if word.partition("=")[0] not in keys]
    end = max((i for i, word in enumerate(kept, 1) if "=" in word), default=len(kept))  # flags may follow
    return [*kept[:end], *(setting for setting in settings if setting[0] != "~"), *kept[end:]]


def _command_line(line: str, settings: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word != "&&":
            words.append(word)
        elif words:
            _command(words, settings, patch)
            words = []


def _command(words: list[str], settings: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    here = Path.cwd()
    if words[0] == "cd":
        os.chdir(words[1])
    elif words == ["pip", "install", "-e", "."]:
        (conf,) = here.glob("*/conf")
        patch.setenv(search_path.VARIABLE, str(conf))
        patch.setattr(sys, "path", [str(here), *sys.path])
    elif words[0] == "metarl" and words[1] in LIGHT:
        main(words[1:])
    else:
        code, _, err = outcome(_process(words, settings, here))
        assert code == 0, f"{' '.join(words)}: {err}"


def _process(words: list[str], settings: Sequence[str], here: Path) -> Forked:
    if words[:2] == ["metarl", "train"]:
        return python("-m", "metarl", "train", *replaced(words[2:], settings), directory=here)
    if words[0] == "metarl":
        return python("-m", *words, directory=here, report=words[1] == "report")
    assert words[:2] == ["python", "run.py"], f"{' '.join(words)}: the runner has no such command"
    return run_py(*replaced(words[2:], settings), directory=here)
