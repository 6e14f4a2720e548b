"""Documents: links and anchors lead somewhere, and commands name options, keys and flags that exist."""

import re
import shlex
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pages
import pytest
import yaml
from processes import REPOSITORY

from metarl.cli import main, parsed
from metarl.configuration.compose import compose, options
from metarl.trust import TYPED, locate

CONF = REPOSITORY / "conf"
FOLDERS = (".", "docs", "docs/tutorial", "docs/howto", "docs/reference", "results", "launch")
PAGES = sorted(page for folder in FOLDERS for page in (REPOSITORY / folder).glob("*.md"))
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
GROUPS = tuple(group.name for group in CONF.iterdir() if group.is_dir() and group.name != "hydra")
UNFINISHED = re.compile(r"\.\.\.|NAME|[<>]")
EXAMPLES = re.findall(r"`[\w/]*conf/(\w+/\w+)\.yaml`:", "".join(page.read_text() for page in PAGES))
READERS_OWN = re.compile("=my_|^(" + "|".join(name.replace("/", "=") for name in EXAMPLES) + ")$")
STARTS = ("python run.py", "torchrun", "metarl ")


def ids(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as on GitHub."""
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {slug(re.sub(r"[`*]|\]\([^)]*\)|\[", "", title)) for title in titles}


def slug(title: str) -> str:
    kept = (c for c in title.lower() if c in " -_" or unicodedata.category(c)[0] in "LN")
    return "".join(kept).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_to_files_and_headings(page):
    for target in LINK.findall(prose(page)):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{ids(page)} links to {target}"
        assert not anchor or anchor in anchors(file), f"{ids(page)} links to {target}; there are {anchors(file)}"


def test_every_page_is_linked_from_another():
    linked = {
        (page.parent / target.partition("#")[0]).resolve() for page in PAGES for target in LINK.findall(prose(page))
    }
    assert {page for page in PAGES if page.parent != REPOSITORY} <= linked


def test_pictures_are_small():
    pictures = [*(REPOSITORY / "docs" / "images").iterdir(), *(REPOSITORY / "results").rglob("*.svg")]
    assert pictures and all(picture.stat().st_size < 1_500_000 for picture in pictures)


@pytest.mark.parametrize(("picture", "group"), [("memories", "model"), ("methods", "algorithm")])
def test_pictures_have_every_option(picture, group):
    drawn = (REPOSITORY / "docs" / "images" / f"{picture}.svg").read_text()
    missing = [name for name in options(group) if f">{name}<" not in drawn and name != "multitask"]
    assert not missing, f"python benchmarks/pictures.py {picture} draws {missing}"


# ---------------------------------------------------------------- commands


def commands(text: str) -> Iterator[list[str]]:
    """Words of the commands in code blocks and code spans, without comments."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    for line in [*text.replace("\\\n", " ").splitlines(), *(" ".join(span.split()) for span in spans)]:
        if (line := line.removeprefix("# ")).startswith(STARTS):
            yield shlex.split(re.sub(r"\s{3,}[^-#\s].*", "", line), comments=True)


def sources() -> list[Path]:
    return [*PAGES, *sorted(CONF.rglob("*.yaml"))]


@cache
def all_keys() -> frozenset[str]:
    """All keys of all YAML files, of every depth."""
    found: set[str] = set()
    for file in CONF.rglob("*.yaml"):
        found |= set(_keys(yaml.safe_load(file.read_text())))
    return frozenset(found)


def _keys(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from str(key).split(".")
            yield from _keys(value)


@cache
def flags(command: str) -> frozenset[str]:
    """Options in the help of a command of ``metarl``."""
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return frozenset(re.findall(r"--[a-z-]+", said.getvalue()))


def problem(word: str) -> str | None:
    """Problem with an override; None if its option or key exists."""
    key, _, value = word.lstrip("+~").partition("=")
    if key in GROUPS:
        names = [name.strip() for name in value.strip("[]").split(",")]
        missing = [name for name in names if not (CONF / key / f"{name}.yaml").exists()]
        return f"conf/{key} has no {', '.join(missing)}" if missing else None
    if key.startswith("hydra.") and not key.startswith(("hydra.launcher", "hydra.sweeper")):
        return None
    missing = [part for part in key.split(".") if part not in all_keys() and part not in ("hydra", "launcher")]
    return f"no key {'.'.join(missing)}" if missing else None


@pytest.mark.parametrize("source", sources(), ids=ids)
def test_commands_name_what_exists(source):
    for words in commands(source.read_text()):
        of_task = words.index("--task") + 1 if "--task" in words else len(words)
        overrides = [word for word in words[:of_task] if re.match(r"[+~]?[a-z_.]+=", word)]
        if any(READERS_OWN.search(word) for word in overrides):
            continue
        wrong = [said for word in overrides if not UNFINISHED.search(word) and (said := problem(word)) is not None]
        if words[0] == "metarl" and words[1].isalpha():
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            wrong += [f"metarl {words[1]} has no {flag}" for flag in given - flags(words[1])]
        assert not wrong, f"{' '.join(words)}: {'; '.join(wrong)}"


TAUGHT = [page for page in PAGES if page.parent.name in ("tutorial", "howto")]


@pytest.mark.parametrize("page", TAUGHT, ids=ids)
def test_commands_in_blocks_parse(page):
    """What stands in a block of the tutorial or of a how-to page is complete: it can be parsed and composed."""
    for words in commands("".join(block.text for block in pages.blocks(page) if block.language == "")):
        if words[0] == "metarl" and words[1] != "train":
            parsed(words[1 : words.index("&&") if "&&" in words else None])  # exits with the usage if it cannot
        elif not any(READERS_OWN.search(word) for word in words):
            overrides = [word for word in words if re.match(r"[+~]?[a-z_.]+=", word)]
            one_run = [re.sub(r"^((?!hydra)[\w.]+=[\w.-]+),.*", r"\1", word) for word in overrides]
            compose([word for word in one_run if "=interval(" not in word], hydra_node=True)


def test_the_page_of_models_lists_every_memory_as_its_class_describes_it():
    page, described = (REPOSITORY / "docs" / "models.md").read_text(), {}
    for file in sorted((CONF / "model").glob("[!_]*.yaml")):
        memory = locate(yaml.safe_load(file.read_text())["memory"]["_target_"], "model.memory", TYPED)
        described[file.stem] = memory.__doc__.strip().splitlines()[0]
    listed = dict(re.findall(r"^- \*\*(\w+)\*\*: (.*)$", page.partition("## The memories")[2], re.MULTILINE))
    assert listed == described
