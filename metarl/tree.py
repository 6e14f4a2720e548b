"""Structures of tensors: nested tuples and dictionaries, rollouts and tasks among them."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor


def tree_map(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """The structure of ``first``, with ``function`` of the tensors that stand at the same place in every structure.

    Tuples (named ones included), lists, dictionaries and dataclasses are entered; what is neither these nor a tensor
    is taken from ``first``.
    """
    if isinstance(first, Tensor):
        return function(first, *others)
    if isinstance(first, tuple | list):
        parts = [tree_map(function, *column) for column in zip(first, *others, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    if isinstance(first, dict):
        return {name: tree_map(function, part, *(other[name] for other in others)) for name, part in first.items()}
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first)]
        rows = zip(*([getattr(value, name) for name in names] for value in (first, *others)), strict=True)
        return replace(first, **{name: tree_map(function, *row) for name, row in zip(names, rows, strict=True)})
    return first


def tree_leaves(value: Any) -> list[Any]:
    """Tensors of a structure, and whatever else ``tree_map`` does not enter, from left to right."""
    if isinstance(value, tuple | list):
        return [leaf for part in value for leaf in tree_leaves(part)]
    if isinstance(value, dict):
        return tree_leaves(tuple(value.values()))
    if is_dataclass(value) and not isinstance(value, type):
        return tree_leaves(tuple(getattr(value, field.name) for field in fields(value)))
    return [value]
