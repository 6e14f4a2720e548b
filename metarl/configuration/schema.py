"""The constructor is the schema: its signature and type hints say which keys a node may have, and their values.

A checked node is built by what was checked, never by looking its name up again.
"""

import collections.abc
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from metarl.configuration.compose import unknown_key
from metarl.configuration.renamed import present_value
from metarl.errors import ConfigError
from metarl.trust import NamesCode, Trust, check_gym_name, locate

BUILT = frozenset({"parameters", "observation_dim", "memory_dim", "num_outputs", "actor_gain"})  # by the program alone
MOST_INTEGER = 2**63 - 1  # of torch
MOST_FLOAT = 3.4028234663852886e38  # of float32


@dataclass(frozen=True)
class Kind:
    """Classes and functions that a node may name.

    Args:
        base: a class, whose subclasses are allowed.
        partial: the program calls it later with more arguments.
        methods: for kinds without a base class: methods that a class must have.
    """

    base: type | None = None
    partial: bool = True
    methods: tuple[str, ...] = ()

    def check(self, found: Any, name: str, key: str) -> None:
        """Raise ``ConfigError`` unless ``found``, called ``name``, is of this kind."""
        fits = all(hasattr(found, method) for method in self.methods)
        if self.base is not None and inspect.isclass(found):
            fits = issubclass(found, self.base) and not inspect.isabstract(found)
        if self.base is not None and not inspect.isclass(found):  # a function that makes one; metarl itself has none
            fits = inspect.isroutine(found) and not name.startswith("metarl.")
        if not fits:
            wanted = f"a {self.base.__name__}" if self.base else f"a class with {', '.join(self.methods)}"
            raise ConfigError(f"{key}={name}: must be {wanted}, as the files in conf/ name")


@dataclass(frozen=True)
class Node:
    """A class or function, its checked arguments, and whether the program gives more arguments later."""

    target: Callable
    arguments: dict[str, Any]
    partial: bool

    def build(self) -> Any:
        """Call it, or make it ready to be called with more arguments."""
        arguments = {name: _built(value) for name, value in self.arguments.items()}
        return partial(self.target, **arguments) if self.partial else self.target(**arguments)


def _built(value: Any) -> Any:
    if isinstance(value, Node):
        return value.build()
    if isinstance(value, Mapping):
        return {name: _built(part) for name, part in value.items()}
    return [_built(part) for part in value] if isinstance(value, list) else value


def _classes(node: Mapping, path: str) -> str:
    """Classes named below a node, whose arguments are keys of the node too."""
    named = [
        (name, part["_target_"]) for name, part in node.items() if isinstance(part, Mapping) and "_target_" in part
    ]
    return f" (with {', '.join(f'{path}.{name}._target_={target}' for name, target in named)})" if named else ""


@dataclass(frozen=True)
class Schema:
    """Checks nodes of a configuration, which may name code of ``trust`` alone.

    Attributes:
        whole: whole numbers that were written as floats, such as 1e6, by key.
    """

    trust: Trust
    whole: dict[str, int] = field(default_factory=dict)

    def check(self, node: Any, target: Callable, path: str, supplied: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The values of ``node``, which must be arguments of ``target`` and of the types it declares.

        Args:
            node: keys and values, without ``_target_`` and the like.
            target: what will be called with them.
            path: of the node in the configuration, for messages.
            supplied: arguments that the program gives and a user may not.

        Raises:
            ConfigError: an unknown or missing key, or a value that is not allowed.
        """
        if not isinstance(node, Mapping):
            allowed = [name for name in self.parameters(target, {}, path) if name not in supplied]
            raise ConfigError(f"{path}={node}: must hold the keys {', '.join(allowed)}")
        parameters = self.parameters(target, node, path)
        allowed = [name for name in parameters if name not in supplied]
        outside = _with_options_outside(target)
        values = {}
        for name, value in node.items():
            key = f"{path}.{name}" if path else str(name)
            if name not in allowed:
                raise ConfigError(unknown_key(key, value, allowed) + _classes(node, path))
            annotation = parameters[name].annotation
            value = self._bare(annotation, value, key) if name in outside else self._value(annotation, value, key)
            values[str(name)] = value
        for name in allowed:
            if parameters[name].default is inspect.Parameter.empty and name not in values:
                raise ConfigError(f"{path + '.' if path else ''}{name} is missing")
        return values

    def target(self, node: Any, path: str, kind: Kind | None, supplied: frozenset[str] = frozenset()) -> Any:
        """A node with a ``_target_``, checked against that.

        Raises:
            ConfigError: the target is not trusted, cannot be imported or is not of the kind, or a key is wrong.
        """
        _check_node(node, path)
        found, later = self._named(node, path, kind)
        return Node(found, self.check(_arguments(node), found, path, supplied), later)

    def _named(self, node: Mapping, path: str, kind: Kind | None) -> tuple[Callable, bool]:
        """Class or function that a node names as its ``_target_``, and whether it is called later."""
        found = self._locate(node["_target_"], f"{path}._target_", kind)
        later = node.get("_partial_", False)
        if not isinstance(later, bool) or (kind is not None and later is not kind.partial):
            wanted = "true or false" if kind is None else str(kind.partial).lower()
            given = f"={later}" if "_partial_" in node else " is missing"
            raise ConfigError(f"{path}._partial_{given}: must be {wanted} here")
        return found, later

    def _locate(self, name: Any, key: str, kind: Kind | None) -> Any:
        if kind is None and not self.trust.everything and str(name).startswith("metarl."):
            raise ConfigError(f"{key}={name}: no class is wanted here; remove the key")
        found = locate(name, key, self.trust)
        if kind is not None:
            kind.check(found, name, key)
        return found

    def parameters(self, target: Callable, node: Mapping, path: str) -> dict[str, inspect.Parameter]:
        """Named parameters of ``target``, annotations resolved.

        ``**x_options`` stands for the parameters of whatever the argument ``x`` names, ``**inherited`` for those of
        the constructor that ``super().__init__`` is, ``**lanes`` for what the program supplies to environments.
        """
        return self._parameters_of(_constructors(target), node, path)

    def _parameters_of(self, constructors: list[Callable], node: Mapping, path: str) -> dict[str, inspect.Parameter]:
        """Parameters of the first constructor, and of the others as far as each passes on what is inherited."""
        hints = _hints(constructors[0])
        found: dict[str, inspect.Parameter] = {}
        for name, parameter in inspect.signature(constructors[0]).parameters.items():
            if name == "self" or parameter.kind is parameter.VAR_POSITIONAL:
                continue
            if parameter.kind is not parameter.VAR_KEYWORD:
                found[name] = parameter.replace(annotation=hints.get(name, Any))
            elif name.endswith("_options"):
                for inner in _named_in(name):
                    value, kind = node.get(inner), _kind(found[inner].annotation)
                    if isinstance(value, Mapping) and "_target_" in value:  # else it is refused where it is checked
                        named, _ = self._named(value, f"{path}.{inner}", kind)
                        found = self.parameters(named, node, path) | found
            elif name == "inherited":
                found = self._parameters_of(constructors[1:], node, path) | found
            elif name != "lanes":
                raise ConfigError(_hidden_keys(constructors[0], name, path))
        return found

    def _bare(self, annotation: Any, node: Any, key: str) -> Node:
        """A node that names a class, whose options stand beside the node."""
        _check_node(node, key)
        for name in _arguments(node):
            raise ConfigError(f"{key}.{name}: must stand beside {key}; use {key.rpartition('.')[0]}.{name}")
        found, later = self._named(node, key, _kind(annotation))
        return Node(found, {}, later)

    def _value(self, annotation: Any, value: Any, key: str) -> Any:
        kind = _kind(annotation)
        if kind is not None and isinstance(value, Mapping) and "_target_" in value:
            return self.target(value, key, kind, BUILT)
        _check_size(value, key)
        strict = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
        try:
            adapter = TypeAdapter(annotation, config=strict)
        except Exception:  # a dataclass or model carries its own configuration
            adapter = TypeAdapter(annotation)
        try:
            checked = adapter.validate_python(value)
        except ValidationError as error:
            if isinstance(value, float) and value.is_integer():  # YAML reads 1e6 as a float
                self.whole[key] = self._value(annotation, int(value), key)
                return self.whole[key]
            if (present := present_value(key, value)) is not None:
                raise ConfigError(f"{key}={value}: is now called {present}") from None
            wanted = error.errors()[0]["msg"].removeprefix("Input should be ")
            raise ConfigError(f"{key}={value!r}: must be {wanted}") from None
        if any(isinstance(mark, NamesCode) for mark in getattr(annotation, "__metadata__", ())):
            check_gym_name(checked, key, self.trust)
        return self._nested(checked, key)

    def _nested(self, value: Any, key: str) -> Any:
        """Lists and mappings with their inner nodes checked, where no annotation gives a kind."""
        if isinstance(value, Mapping) and "_target_" in value:
            return self.target(value, key, None)
        if isinstance(value, Mapping):
            return {name: self._nested(part, f"{key}.{name}") for name, part in value.items()}
        return [self._nested(part, f"{key}.{i}") for i, part in enumerate(value)] if isinstance(value, list) else value


def _hidden_keys(constructor: Callable, name: str, path: str) -> str:
    """Message for a constructor with ``**`` of a name that does not say which keys it takes."""
    owner = getattr(constructor, "__qualname__", str(constructor)).removesuffix(".__init__")
    return (
        f"{path}._target_={constructor.__module__}.{owner}: **{name} hides which keys it takes; call it **inherited "
        "(the keys of super().__init__), **x_options (the keys of the class that argument x names) or **lanes (of an "
        "environment)"
    )


def _check_node(node: Any, path: str) -> None:
    """Refuse what is no node with a ``_target_``."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{path}={node}: must name a class as its _target_, as the files in conf/ do")


def _arguments(node: Mapping) -> dict[str, Any]:
    """Keys and values of a node without those of Hydra."""
    return {name: value for name, value in node.items() if name not in ("_target_", "_partial_")}


def _named_in(options: str) -> list[str]:
    """Arguments that ``x_options`` or ``x_and_y_options`` names."""
    return options.removesuffix("_options").split("_and_")


def _with_options_outside(target: Callable) -> set[str]:
    """Arguments of a constructor that name something whose options are arguments of this constructor, too."""
    return {
        inner
        for constructor in _constructors(target)
        for name, parameter in inspect.signature(constructor).parameters.items()
        if parameter.kind is parameter.VAR_KEYWORD and name.endswith("_options")
        for inner in _named_in(name)
    }


def _constructors(target: Callable) -> list[Callable]:
    """The constructor of a class and those of its bases, or a function itself."""
    if not inspect.isclass(target):
        return [target]
    return [vars(owner)["__init__"] for owner in target.__mro__[:-1] if "__init__" in vars(owner)] or [target]


def _hints(constructor: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(constructor, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        name = f"{constructor.__module__}.{getattr(constructor, '__qualname__', constructor)}"
        raise ConfigError(f"{name}: a type hint of its arguments cannot be read ({error}); correct it") from None


def _kind(annotation: Any) -> Kind | None:
    """Kind of the node for an argument with this annotation; None if the annotation says nothing."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return next((kind for part in parts if (kind := _kind(part)) is not None), None)
    if origin is collections.abc.Callable and inspect.isclass(parts[-1]):
        return Kind(parts[-1])
    if origin is type and inspect.isclass(parts[0]):
        return Kind(parts[0], partial=False)
    if inspect.isclass(annotation) and annotation.__module__ not in ("builtins", "typing", "types"):
        return Kind(annotation, partial=False)  # an object of that class
    return None


def _check_size(value: Any, key: str) -> None:
    """Refuse numbers, also in lists and mappings, that integers of torch or float32 cannot hold."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_size(part, f"{key}.{name}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _check_size(part, f"{key}.{index}")
    elif isinstance(value, int) and not -MOST_INTEGER <= value <= MOST_INTEGER:
        shown = f"{value:.4g}" if abs(value) < 10**300 else "10^" + str(round(math.log10(abs(value))))
        raise ConfigError(f"{key}={shown}: must be a whole number of at most 9.2e18; choose a smaller one")
    elif isinstance(value, float) and MOST_FLOAT < abs(value) < float("inf"):
        raise ConfigError(f"{key}={value:.4g}: must be a number of at most 3.4e38; choose a smaller one")
