"""Pages of the tutorial, and Python on others, run as they are, with short trainings."""

from pathlib import Path

import pages
import pytest
from processes import REPOSITORY

TUTORIAL = sorted((REPOSITORY / "docs" / "tutorial").glob("*.md"))


@pytest.mark.parametrize("page", TUTORIAL, ids=lambda page: page.stem)
def test_a_page_of_the_tutorial_runs(page, tmp_path):
    pages.run(page, tmp_path)
    assert any(tmp_path.rglob("summary.json"))  # something was trained


def test_the_page_of_vector_environments_runs(tmp_path):
    names = pages.run(REPOSITORY / "docs" / "howto" / "gymnasium_vector.md", tmp_path)
    assert names["observations"].shape[0] == names["lanes"].num_envs == 8


def page_of(text: str, tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(text)
    return path


def test_blocks_are_files_python_and_commands(tmp_path):
    text = "<!-- run with seed=3 -->\n`lab/one.py`: a file\nof two lines.\n\n```python\n1\n```\n\n"
    text += "Then:\n\n```python\n2\n```\n"
    text += "<!-- not run: slow -->\n\n```\nmetarl list\n```\n```text\nshown\n```\n"
    found = [(block.language, block.file, block.settings) for block in pages.blocks(page_of(text, tmp_path))]
    three = ("seed=3",)
    assert found == [("python", "lab/one.py", three), ("python", None, three), ("", None, None), ("text", None, three)]
    assert pages.replaced(["seed=0", "env=grid"], three) == ["env=grid", "seed=3"]


@pytest.mark.parametrize("command", ["metarl describe env=griid", "metarl evaluate nowhere", "sleep 1"])
def test_a_command_that_fails_is_a_failure(command, tmp_path):
    with pytest.raises((AssertionError, SystemExit)):
        pages.run(page_of(f"```\n{command}\n```\n", tmp_path), tmp_path)
