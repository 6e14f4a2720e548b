"""Composing configurations and explaining what is wrong with them; imports neither torch nor any environment."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metarl.errors import ConfigError

CONF = Path(__file__).resolve().parent.parent / "conf"


def compose(overrides: Sequence[str]) -> Any:
    """The configuration ``run.py`` would use with these overrides.

    Raises:
        ConfigError: an override fits nothing.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("config", list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, overrides)) from None


def options(group: str) -> list[str]:
    """Names of a configuration group, sorted; those of subfolders as ``folder/name``."""
    files = sorted((CONF / group).rglob("*.yaml"))
    names = [str(file.relative_to(CONF / group).with_suffix("")) for file in files]
    return [name for name in names if not name.startswith("_")]


def unknown_key(key: str, value: Any, allowed: Sequence[str]) -> str:
    """Message for a key that does not exist where it was given."""
    parent, _, name = key.rpartition(".")
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {parent + '.' if parent else ''}{close[0]}?" if close else ""
    where = parent or "the top level"
    return f"{key}={value}: no such key; {where} has {', '.join(sorted(allowed))}{hint}"


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """One message for an error of composition, with what is allowed."""
    text = " ".join(str(part) for part in (error, error.__cause__ or "") if str(part))
    given = _given(overrides)
    group = re.search(r"Could not find '([^']+)'|Could not override '([^']+)'|Key '([^']+)' is not in struct", text)
    name = next((part for part in group.groups() if part), "") if group else ""
    folder = name.split("/")[0]
    if group and group.group(1) and (CONF / folder).is_dir():
        return f"{folder}={name.partition('/')[2]}: no such option; {folder} has {', '.join(options(folder))}"
    full_key = re.search(r"full_key: (\S+)", text)
    key = full_key.group(1) if full_key else name
    if "is not in struct" in text or "Could not override" in text:
        return unknown_key(key, given.get(key, ""), _siblings(key, overrides))
    return re.sub(r"\s+", " ", text).strip()


def _given(overrides: Sequence[str]) -> dict[str, str]:
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs}


def _siblings(key: str, overrides: Sequence[str]) -> list[str]:
    """Keys that stand beside ``key``, with the groups the user chose."""
    import hydra
    from omegaconf import OmegaConf

    groups = [override for override in overrides if (CONF / override.partition("=")[0]).is_dir()]
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose("config", groups)
    except Exception:
        return []
    parent = key.rpartition(".")[0]
    node = OmegaConf.select(config, parent) if parent else config
    return [str(name) for name in node if name != "_target_"] if hasattr(node, "keys") else []
