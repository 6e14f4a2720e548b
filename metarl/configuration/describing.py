"""Keys of an option, each with its value, type and meaning, read from the constructor that takes them."""

import collections.abc
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from metarl.configuration.build import LANES, POLICY, RunSettings
from metarl.configuration.compose import compose, options
from metarl.configuration.descriptions import description
from metarl.configuration.schema import BUILT, Schema
from metarl.configuration.search_path import CONF, option_file
from metarl.errors import ConfigError
from metarl.plans import EvaluationPlan, TrainingPlan
from metarl.trust import TYPED, locate

# Group: the node that holds its keys, and arguments of that node which the program supplies.
NODES: dict[str, tuple[str, frozenset[str]]] = {
    "env": ("env", LANES),
    "model": ("model", POLICY),
    "algorithm": ("algorithm", frozenset()),
    "conditioning": ("model", POLICY),
    "meta_optimizer": ("algorithm.meta_optimizer", BUILT),
    "cluster": ("hydra.launcher", frozenset()),
    "logger": ("logger", frozenset()),
}
PLANS = {"training": TrainingPlan, "eval": EvaluationPlan}
TOP = "run"  # name of the keys at the top of a configuration
WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "null", Any: "any"}
LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def describe(name: str, overrides: Sequence[str] = ()) -> list[dict[str, str]]:
    """A row for each key of an option, such as ``env=cheetah_vel``, or of ``training``, ``eval`` or ``run``.

    Raises:
        ConfigError: there is no such option.
    """
    group, _, option = name.partition("=")
    if name in PLANS or name == TOP:
        node = _plain(compose(overrides))
        target: Callable = PLANS.get(name, RunSettings)
        inner = node[name] if name in PLANS else {key: node[key] for key in inspect.signature(RunSettings).parameters}
        return _rows(target, inner, "" if name == TOP else name, frozenset())
    if group not in NODES:
        choices = ", ".join([*(f"{key}=..." for key in NODES), *PLANS, TOP])
        raise ConfigError(f"{name}: nothing to describe; describe takes {choices}")
    if not option:
        raise ConfigError(f"{name}: of which option? {group} has {', '.join(options(group))}")
    if option not in options(group):
        compose([name])  # says which there are
    return _option_rows(group, option, [name, *(given for given in overrides if given != name)])


def heading(name: str) -> str:
    """Description of an option; empty for other names."""
    group, _, option = name.partition("=")
    return description(group, option) if option else ""


def _option_rows(group: str, option: str, overrides: Sequence[str]) -> list[dict[str, str]]:
    path, supplied = NODES[group]
    node = _plain(compose(overrides, hydra_node=group == "cluster"), path) or {}
    if group == "logger":
        return [row for name, logger in node.items() for row in _node_rows(logger, f"logger.{name}", supplied)]
    if group == "cluster":
        return _launcher_rows(node, path)
    if "_target_" not in node:  # meta_optimizer=none
        return []
    rows = _node_rows(node, path, supplied)
    if group == "conditioning":  # the keys that the choice brings; the others are those of the model
        text = option_file(group, option).read_text()
        own = {f"model.{key}" for key in re.findall(r"^(\w+):", text, re.MULTILINE)}
        rows = [row for row in rows if row["key"] in own or row["key"].rpartition(".")[0] in own]
    return rows


def _launcher_rows(node: Mapping, path: str) -> list[dict[str, str]]:
    """Rows of a launcher's keys, whose meanings stand in the files of launchers."""
    texts = [file.read_text() for file in sorted((CONF / "hydra" / "launcher").glob("*.yaml"))]
    said = dict(pair for text in texts for pair in re.findall(r"^(\w+): .*?# (.+)$", text, re.MULTILINE))
    keys = [(key, value) for key, value in node.items() if key != "_target_"]
    return [
        {
            "key": f"{path}.{key}",
            "value": value_text(value),
            "type": "" if value is None else WORDS.get(type(value), type(value).__name__),
            "meaning": said.get(key, ""),
        }
        for key, value in keys
    ]


def _node_rows(node: Mapping, path: str, supplied: frozenset[str]) -> list[dict[str, str]]:
    return _rows(locate(node["_target_"], "_target_", TYPED), node, path, supplied)


def _rows(target: Callable, node: Mapping, path: str, supplied: frozenset[str]) -> list[dict[str, str]]:
    """Rows of the keys of a node; an argument that names a class of its own is followed by the keys of that."""
    parameters, said = Schema(TYPED).parameters(target, node, path), meanings(target, node)
    rows = []
    for name in [*(key for key in node if key in parameters), *(key for key in parameters if key not in node)]:
        if name in supplied:
            continue
        value, key = node.get(name, parameters[name].default), f"{path}.{name}".lstrip(".")
        named = isinstance(value, Mapping) and "_target_" in value
        shown = value["_target_"].rpartition(".")[2] if named else "" if value is inspect.Parameter.empty else value
        kind = "class" if named else type_text(parameters[name].annotation)
        rows.append({"key": key, "value": value_text(shown), "type": kind, "meaning": said.get(name, "")})
        if named and len(value) > 2:
            rows += _node_rows(value, key, BUILT)
    return rows


def meanings(target: Callable, node: Mapping) -> dict[str, str]:
    """Meaning of each argument: from docstrings of the class, of its bases, and of classes whose keys stand beside."""
    found: dict[str, str] = {}
    for value in node.values():
        if isinstance(value, Mapping) and set(value) <= {"_target_", "_partial_"} and "_target_" in value:
            found = meanings(locate(value["_target_"], "_target_", TYPED), {}) | found
    for owner in reversed(target.__mro__ if inspect.isclass(target) else [target]):
        own = vars(owner).get("__init__") if inspect.isclass(owner) else None
        found |= arguments(owner.__doc__ or "") | arguments(getattr(own, "__doc__", None) or "")
    return found


def arguments(docstring: str) -> dict[str, str]:
    """The entries below ``Args:`` of a docstring."""
    block = re.search(r"^ *Args:\n(.*?)(?=\n *\n *\w+:\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    text = textwrap.dedent(block.group(1)) if block else ""
    entries = re.findall(r"^([\w, ]+): (.*(?:\n[ \n]+.*)*)", text, re.MULTILINE)
    return {
        name.strip(): " ".join(said.replace("``", "").split()).rstrip(".")
        for names, said in entries
        for name in names.split(",")
    }


def type_text(annotation: Any) -> str:
    """A type in words, such as ``whole number > 0``."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in WORDS:
        return WORDS[annotation]
    if origin is typing.Annotated:
        return " ".join([type_text(parts[0]), *_limits(parts[1:])])
    if origin is Literal:
        return " | ".join(value_text(part) for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_text(part) for part in parts))
    if origin in (list, tuple, collections.abc.Sequence):
        return f"list of {' or '.join(dict.fromkeys(type_text(part) for part in parts if part is not Ellipsis))}"
    if origin in (dict, collections.abc.Mapping):
        return "mapping"
    return "class" if origin in (type, collections.abc.Callable) else getattr(annotation, "__name__", str(annotation))


def value_text(value: Any) -> str:
    """A value as one writes it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(value_text, value))}]"
    return str(value)


def _limits(marks: Sequence[Any]) -> list[str]:
    marks = [inner for mark in marks for inner in getattr(mark, "metadata", [mark])]
    found = [(name, getattr(mark, name, None)) for mark in marks for name in LIMITS]
    return [f"{LIMITS[name]} {value}" for name, value in found if value is not None]


def _plain(config: Any, path: str = "") -> Any:
    """A node of a composed configuration as plain values, or None."""
    from omegaconf import OmegaConf

    node = OmegaConf.select(config, path) if path else config
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
