"""One set of defaults: what a constructor and the files in conf/ both state agrees."""

import inspect
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from helpers import config_of

from metarl.configuration.compose import options
from metarl.trust import TYPED, locate

# Group: the part of a configuration that its options fill, and what some of them need.
GROUPS = {
    "env": "env",
    "model": "model",
    "conditioning": "model",
    "algorithm": "algorithm",
    "meta_optimizer": "algorithm",
}
NEEDED = {"meta_optimizer": ("algorithm=maml",), "per_task": ("env=grid", "algorithm=multitask")}


def nodes(node: Any) -> Iterator[dict]:
    """Every node that names a class."""
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and "_target_" in node:
        yield node
    for part in parts:
        yield from nodes(part)


def owners(node: dict) -> Iterator[tuple[type, inspect.Parameter]]:
    """The parameters with a default of the classes that share a node, with the class that states it."""
    found = [locate(node["_target_"], "", TYPED)]
    bare = {"_target_", "_partial_"}  # keys of a node whose options stand beside it
    inner = [part for part in node.values() if isinstance(part, dict) and set(part) == bare]
    found += [locate(part["_target_"], "", TYPED) for part in inner]
    for cls in found:
        for owner in reversed(cls.__mro__):
            constructor = vars(owner).get("__init__")
            for parameter in (
                inspect.signature(constructor).parameters.values() if inspect.isfunction(constructor) else ()
            ):
                if parameter.default is not inspect.Parameter.empty:
                    yield owner, parameter


def stated() -> dict[tuple[str, str], tuple[Any, list]]:
    """By class and key: the default of the constructor, and the values that options state."""
    values: dict[tuple[str, str], tuple[Any, list]] = defaultdict(lambda: (None, []))
    for group, part in GROUPS.items():
        for option in options(group):
            needed = NEEDED.get(option, NEEDED.get(group, ()) if option != "none" else ())
            for node in nodes(config_of(*needed, f"{group}={option}")[part]):
                for owner, parameter in owners(node):
                    if parameter.name in node:
                        key = (owner.__qualname__, parameter.name)
                        values[key] = (parameter.default, [*values[key][1], plain(node[parameter.name])])
    return values


def plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def test_every_group_has_options():
    assert all(options(group) for group in GROUPS)


def test_a_default_of_a_constructor_is_that_of_an_option():
    """A default that no option has would be a second set of defaults; variants of a class may differ from it."""
    wrong = {key: found for key, found in stated().items() if plain(found[0]) not in found[1]}
    assert not wrong
