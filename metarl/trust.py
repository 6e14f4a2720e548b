"""Code that a configuration may name, decided before anything is imported.

A run directory or a sweep of somebody else is data. It may name the environments, models, algorithms and loggers of
metarl, and code of packages that the user of the command trusts. A configuration that the user typed may name anything.
Imports nothing heavy.
"""

import difflib
import importlib
import inspect
import os
import re
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any

from metarl.errors import ConfigError
from metarl.extras import installation

VARIABLE = "METARL_TRUST"
MOST_TEXT = 200  # characters of a library's message
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


@dataclass(frozen=True)
class Trust:
    """Packages whose code a configuration may name.

    Args:
        packages: packages other than metarl.
        everything: any package, for a configuration that the user of the command typed.
    """

    packages: frozenset[str] = frozenset()
    everything: bool = False

    def covers(self, name: str) -> bool:
        """Whether ``name`` is a trusted package, or inside one."""
        return self.everything or any(name == top or name.startswith(f"{top}.") for top in ("metarl", *self.packages))

    def check(self, name: Any, key: str) -> None:
        """Raise ``ConfigError`` unless ``name``, the value of ``key``, is the name of trusted code."""
        if not isinstance(name, str):
            raise ConfigError(f"{key}={name!r}: must be the name of a class, as the files in conf/ have")
        if not self.covers(name):
            top = re.split(r"[.:]", name)[0]
            raise ConfigError(
                f"{key}={name}: is code outside metarl, which a run directory may not execute; if you trust the "
                f"package, say --trust {top} or {VARIABLE}={top}"
            )


TYPED = Trust(everything=True)  # for what run.py composes from overrides and from YAML files of the user


class NamesCode:
    """Marks a string argument of a constructor that names an environment of Gymnasium's kind, see ``GymName``."""


GymName = Annotated[str, NamesCode()]  # an id, ``module:id`` or ``package.module:Class``


def trusted(packages: Iterable[str] = ()) -> Trust:
    """Trust in ``packages`` and in those that the environment variable ``METARL_TRUST`` lists."""
    listed = re.split(r"[\s,:]+", os.environ.get(VARIABLE, ""))
    return Trust(frozenset(name for name in (*packages, *listed) if name))


def extend_environment(packages: Iterable[str]) -> None:
    """Have this process and those it starts trust ``packages``, too."""
    os.environ[VARIABLE] = ",".join(sorted(trusted(packages).packages))


def packages_of(config: Any) -> set[str]:
    """Packages outside metarl whose code a configuration names: for the runs of a sweep that its user typed.

    Their frozen configurations are data, so that whoever launches them passes this on by ``extend_environment``.
    """
    found = {name for _, name in names(config) if isinstance(name, str)}
    make = (config.get("env") or {}).get("make") if isinstance(config.get("env"), Mapping) else None
    found |= {make.partition(":")[0]} if isinstance(make, str) and ":" in make else set()
    return {name.partition(".")[0] for name in found} - {"metarl"}


def names(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Keys of a configuration that hold the name of a class or function, and these names, at any depth."""
    if isinstance(config, Mapping) and "_target_" in config:
        yield f"{key}._target_".lstrip("."), config["_target_"]
    parts = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for name, part in parts:
        yield from names(part, f"{key}.{name}".lstrip("."))


def check_names(config: Any, trust: Trust) -> None:
    """Refuse a configuration that names code outside the trusted packages; nothing is imported.

    Raises:
        ConfigError: naming the first such key, its value and the remedy.
    """
    for key, name in names(config):
        trust.check(name, key)


def check_gym_name(name: str, key: str, trust: Trust) -> None:
    """Refuse the name of an environment of Gymnasium's kind whose code is not trusted.

    A plain id is one of Gymnasium's own registry, whose code has to be Gymnasium's, metarl's or trusted.
    """
    if trust.everything or name.removeprefix("metarl.gymnasium_envs:").startswith("metarl/"):
        return
    module, colon, _ = name.partition(":")
    if colon and module.partition(".")[0] != "metarl":
        trust.check(module, key)
    elif colon:
        raise ConfigError(f"{key}={name}: is no environment of Gymnasium's kind; use env=... for those of metarl")
    else:
        from gymnasium import registry

        entry = getattr(registry.get(name), "entry_point", None)
        place = entry if isinstance(entry, str) else getattr(entry, "__module__", "gymnasium")
        if not place.startswith("gymnasium."):
            trust.check(place.partition(":")[0], key)


def locate(name: str, key: str, trust: Trust) -> Any:
    """The class or function called ``name``, the value of ``key``.

    Raises:
        ConfigError: it is not trusted, or cannot be imported; with the cause and the remedy.
    """
    trust.check(name, key)
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{key}={name}: must be written as package.module.Class")
    try:
        found: Any = importlib.import_module(parts[0])
        for depth, part in enumerate(parts[1:], 2):
            found = _member(found, part, ".".join(parts[:depth]), f"{key}={name}", trust)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{key}={name}: cannot be imported: {cause(error)}; {_remedy(error)}") from error
    if isinstance(found, ModuleType) or not callable(found):
        kind = "a module" if isinstance(found, ModuleType) else f"a {type(found).__name__}"
        raise ConfigError(f"{key}={name}: is {kind}; name a class, written as package.module.Class")
    if not trust.covers(getattr(found, "__module__", None) or ""):
        trust.check(f"{found.__module__}.{getattr(found, '__qualname__', parts[-1])}", key)
    return found


def _member(owner: Any, part: str, path: str, given: str, trust: Trust) -> Any:
    """An attribute of a module or class, or a submodule; nothing that a trusted module only imports from elsewhere."""
    if not trust.everything and part.startswith("_"):
        raise ConfigError(f"{given}: {part} is private; name a class, written as package.module.Class")
    if not hasattr(owner, part) and isinstance(owner, ModuleType):
        try:
            return importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path and not str(error).endswith("is not a package"):
                raise
    if not hasattr(owner, part):
        known = [name for name in vars(owner) if not name.startswith("_")]
        close = difflib.get_close_matches(part, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else "; correct the name"
        raise ConfigError(f"{given}: cannot be imported: {owner.__name__} has no {part}{hint}")
    found = getattr(owner, part)
    if isinstance(found, ModuleType):
        trust.check(found.__name__, given)
    return found


def cause(error: BaseException) -> str:
    """Message and place of an error: the last line of the user's own files, or of any file where none of theirs is."""
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    text = text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}..."
    what = f"{type(error).__name__}: {text}".removesuffix(": ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{what} ({error.filename}, line {error.lineno})"
    place = _place(error)
    return f"{what} ({place.filename}, line {place.lineno})" if place else what


def _place(error: BaseException) -> traceback.FrameSummary | None:
    machinery = (__file__, inspect.getfile(importlib))
    found = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in found if not frame.filename.startswith("<") and frame.filename not in machinery]
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    return own[-1] if own else frames[-1] if frames else None


def _remedy(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        return installation(top)
    place = _place(error)
    if place and place.filename.startswith(LIBRARIES):
        return "repair the installation of that library"
    return "correct that file"
