"""One line about every option of the configuration groups, read from files alone: imports neither torch nor Hydra."""

import ast
import re
import textwrap

from metarl.configuration.compose import options
from metarl.configuration.search_path import CONF, option_file
from metarl.system import PACKAGE

HIDDEN = {"hydra"}  # groups of Hydra itself, which clusters choose from
COMMAND = "python run.py"
WIDTH = 100  # characters of a description
OVERRIDE = re.compile(r"^ *- override /(\w+): ([\w/]+)", re.MULTILINE)
TARGET = re.compile(r"^ *_target_: (metarl\.[\w.]+)", re.MULTILINE)
BASE = re.compile(r"^ *- (?!_self_)([\w/]+) *$", re.MULTILINE)


def groups() -> list[str]:
    """Names of the groups that users choose from, sorted."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in HIDDEN)


def rows() -> list[dict[str, str]]:
    """A row for each option of each group, with its description."""
    return [
        {"kind": group, "name": name, "description": description(group, name)}
        for group in groups()
        for name in options(group)
    ]


def description(group: str, option: str) -> str:
    """First sentence about an option: of its file's comment, else of its class's docstring, else what it chooses."""
    text = option_file(group, option).read_text()
    said = _comment(text) or _docstring(text) or ", ".join(f"{key}={name}" for key, name in _choices(group, option))
    sentence = re.split(r"(?<! al)[.](?= +[A-Z(]|$)", said.replace("``", ""))[0]
    return textwrap.shorten(sentence, WIDTH, placeholder=" ...")


def _comment(text: str) -> str:
    """Comment at the head of a file, without commands; else the remark behind the first command."""
    head = re.match(r"(?:#.*\n)*", text)
    lines = [line.lstrip("# ") for line in head.group().splitlines()] if head else []
    said = [line for line in lines if not line.startswith(("@package", COMMAND))]
    remarks = [line.split("   ", 1)[1].strip() for line in lines if line.startswith(COMMAND) and "   " in line]
    return " ".join(said) or (remarks[0] if remarks else "")


def _docstring(text: str) -> str:
    """First paragraph of the docstring of the first class that a file names."""
    named = TARGET.search(text)
    if named is None:
        return ""
    module, _, name = named.group(1).rpartition(".")
    source = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    found = [node for node in ast.parse(source.read_text()).body if getattr(node, "name", None) == name]
    docstring = ast.get_docstring(found[0]) if found and isinstance(found[0], ast.ClassDef) else None
    return " ".join((docstring or "").split("\n\n")[0].split())


def _choices(group: str, option: str) -> list[tuple[str, str]]:
    """Options of other groups that an option chooses, also through the files that it builds on."""
    text = option_file(group, option).read_text()
    chosen = dict(choice for base in BASE.findall(text) for choice in _choices(group, base))
    return list((chosen | dict(OVERRIDE.findall(text))).items())
