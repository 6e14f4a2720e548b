"""Frozen base configurations of a search, so that later proposals do not depend on changed files.

A proposal that names another option of a group, as ``model=lstm``, has a configuration of its own to start from.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from metarl.configuration.compose import resolved, unknown_key
from metarl.configuration.renamed import present
from metarl.configuration.search_path import CONF
from metarl.errors import ConfigError, RunDirectoryError
from metarl.runs.frozen import first_difference, freeze, frozen, path_of

SEARCH = "search"
RESOLVER = re.compile(r"\$\{\s*[^${}]*:")  # as ${oc.env:


def is_search(sweep: Path) -> bool:
    """Whether the jobs of a sweep are proposed by a search."""
    return path_of(sweep, SEARCH).exists()


@dataclass(frozen=True)
class Proposals:
    """Frozen settings and configurations of a search.

    Attributes:
        settings: settings of the search: its space, sampler and counts.
        fixed: overrides of every run.
        bases: for each combination of options of the groups that are searched: that, the names of all choices, and
            the configuration, whose references to other keys are not resolved.
    """

    settings: dict[str, Any]
    fixed: list[str]
    bases: list[dict[str, Any]]

    @classmethod
    def composed(
        cls, settings: dict[str, Any], fixed: Sequence[str], compose: Callable[[list[str]], Any]
    ) -> "Proposals":
        """Compose the configurations from the current files of ``conf/``; ``compose`` is Hydra's, for overrides."""
        groups = {key: found for key, found in settings["space"].items() if (CONF / key).is_dir()}
        bases = []
        for names in itertools.product(*groups.values()):
            given = dict(zip(groups, map(str, names), strict=True))
            bases.append(_base(given, compose([*fixed, *(f"{key}={name}" for key, name in given.items())])))
        return cls(settings, list(fixed), bases)

    @classmethod
    def of(cls, sweep: Path, typed: bool = False) -> "Proposals":
        """Read the frozen configurations.

        Args:
            sweep: directory of the search.
            typed: whether the user of this command composed them; else they may refer to their own keys alone, not
                to the environment of this process.

        Raises:
            RunDirectoryError: there are none, or the file is damaged.
        """
        content = frozen(sweep, SEARCH)
        if not typed and (named := RESOLVER.search(yaml.safe_dump(content))):
            raise RunDirectoryError(
                f"{path_of(sweep, SEARCH)} refers to {named[0]}...}}, which a search can only where it is launched "
                "by its own command, python run.py -m ..."
            )
        try:
            found = cls(content["settings"], content["fixed"], content["bases"])
            _check(found)
            return found.present()
        except (KeyError, TypeError, ValueError):
            raise RunDirectoryError(f"{path_of(sweep, SEARCH)} is damaged; start the search again elsewhere") from None

    def present(self) -> "Proposals":
        """Settings and configurations of an earlier version, with current names of keys."""
        settings = present({"hydra": {"sweeper": self.settings}})["hydra"]["sweeper"]
        return Proposals(settings, self.fixed, [_present_base(base) for base in self.bases])

    def freeze(self, sweep: Path) -> str | None:
        """Write them, or only the settings where the search had begun; what differs from then, in a line."""
        if not is_search(sweep):
            freeze(sweep, SEARCH, vars(self))
            return None
        before = Proposals.of(sweep, typed=True)
        freeze(sweep, SEARCH, vars(before) | {"settings": self.settings})
        for old, new in zip(before.bases, self.bases, strict=False):
            found = first_difference(old["config"], new["config"])
            if found is not None:
                return (
                    f"the search goes on as it began, with {found[0]}={found[1]}; conf/ or the command now says "
                    f"{found[2]}, which takes another hydra.sweep.dir"
                )
        return None

    def config(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The resolved configuration of a proposal.

        Raises:
            ConfigError: it names something that does not exist.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        parsed = OverridesParser.create().parse_overrides(list(overrides))
        values = {override.key_or_group: override for override in parsed}
        base = next((base for base in self.bases if _fits(base["given"], values)), None)
        if base is None:
            raise ConfigError(f"{' '.join(overrides)}: the search began without these; start another one")
        config = OmegaConf.create(base["config"])
        OmegaConf.set_struct(config, True)
        for key, override in values.items():
            if key not in base["given"]:
                try:
                    OmegaConf.update(config, key, override.value(), force_add=override.is_add())
                except OmegaConfBaseException:
                    raise ConfigError(unknown_key(key, override.value(), _siblings(config, key))) from None
        return resolved(config, base["choices"])


def _siblings(config: Any, key: str) -> list[str]:
    """Names of the same parent as a dotted key."""
    from omegaconf import OmegaConf

    parent = key.rpartition(".")[0]
    node = OmegaConf.select(config, parent) if parent else config
    return [str(name) for name in node] if hasattr(node, "keys") else []


def _fits(given: Mapping[str, str], values: Mapping[str, Any]) -> bool:
    return all(key in values and str(values[key].value()) == name for key, name in given.items())


def _base(given: dict[str, str], composed: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(composed, resolve=False)
    choices = content.pop("hydra")["runtime"]["choices"]
    return {"given": given, "choices": choices, "config": content}


def _present_base(base: dict[str, Any]) -> dict[str, Any]:
    config = present(base["config"] | {"choices": base["choices"]})
    return base | {"choices": config.pop("choices"), "config": config}


def _check(found: Proposals) -> None:
    """Raise an error if the parts have wrong types."""
    for base in found.bases:
        if not isinstance(base["config"], dict) or not isinstance(base["choices"], dict):
            raise TypeError
        dict(base["given"])
    if not isinstance(found.settings["space"], dict) or not all(isinstance(text, str) for text in found.fixed):
        raise TypeError
