"""Composing configurations and explaining what is wrong with them; imports neither torch nor any environment."""

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.configuration.renamed import ELSEWHERE, OPTIONS_ELSEWHERE, present_name, present_value, replacement
from metarl.configuration.search_path import CONF, folders
from metarl.errors import ConfigError

RECIPE = "recipe"  # node of what environments propose
MAX_LISTED = 20  # options that fit a message


def compose(overrides: Sequence[str], hydra_node: bool = False) -> Any:
    """The configuration ``run.py`` would use with these overrides.

    Args:
        overrides: as on the command line.
        hydra_node: whether Hydra's own settings are wanted, under ``hydra``.

    Raises:
        ConfigError: an override fits nothing.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("config", list(overrides), return_hydra_config=hydra_node)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(explain(error, overrides)) from None


def resolved(config: Any, choices: Mapping[str, str]) -> dict:
    """A composed configuration as plain values, with the names of the chosen options under ``choices``.

    Raises:
        ConfigError: the configuration has ``choices`` already.
    """
    from omegaconf import OmegaConf

    if "choices" in config:
        values = OmegaConf.to_container(config.choices)
        key, value = next(iter(values.items())) if isinstance(values, dict) else ("", values)
        known = ", ".join(sorted(str(name) for name in config if name != "choices"))
        raise ConfigError(
            f"choices.{key}={value}: no such key; metarl writes choices itself; the top level has {known}"
        )
    plain: Any = OmegaConf.to_container(config, resolve=True)
    plain.pop(RECIPE, None)  # what of it is taken stands where it is used
    return plain | {"choices": {name: choice for name, choice in choices.items() if "hydra/" not in name}}


def resolved_job(config: Any, number: int, directory: Path) -> dict[str, Any]:
    """The plain configuration of a job that Hydra composed, with the names of its choices.

    Args:
        config: with its ``hydra`` node, whose values the rest may refer to.
        number: of the job.
        directory: of its run.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict, read_write

    config = copy.deepcopy(config)
    with read_write(config), open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
        config.hydra.runtime.output_dir = str(directory)
        HydraConfig.instance().set_config(config)
        choices = OmegaConf.to_container(config.hydra.runtime.choices)
        del config["hydra"]
    return resolved(config, choices)  # type: ignore[arg-type]


def run_directory(config: Any) -> str:
    """The run directory that a configuration composed with its ``hydra`` node proposes."""
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().set_config(copy.deepcopy(config))  # which it makes read-only
    return str(HydraConfig.get().run.dir)


def options(group: str, own: Sequence[Path] | None = None) -> list[str]:
    """Names of a configuration group, sorted; those of subfolders as ``folder/name``.

    Args:
        group: name of the group.
        own: folders of the user's own configurations; None looks into all that are on the search path.
    """
    places = [folder / group for folder in (CONF, *(folders() if own is None else own))]
    names = {str(file.relative_to(place).with_suffix("")) for place in places for file in place.rglob("*.yaml")}
    return sorted(name for name in names if not name.rpartition("/")[2].startswith("_"))


def unknown_key(key: str, value: Any, allowed: Sequence[str]) -> str:
    """Message for a key that does not exist where it was given."""
    present = present_name(key, allowed)
    if present is not None:
        return f"{key}: is now called {present}"
    if (choice := replacement(key, value)) is not None:
        return f"{key}={value}: is now a choice of the model; use {choice}"
    parent, _, name = key.rpartition(".")
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {parent + '.' if parent else ''}{close[0]}?" if close else ""
    if choices := _options_with(parent, name):
        hint = f"; it comes with {' or '.join(choices)}"
    if (not hint or not parent) and (meant := _elsewhere(key, allowed)):
        hint = f"; did you mean {meant}?"
    where = parent or "the top level"
    if parent and not allowed:
        return f"{key}={value}: no such key; {parent} names a class, whose keys stand beside {parent}{hint}"
    return f"{key}={value}: no such key; {where} has {', '.join(sorted(allowed))}{hint}"


def _elsewhere(key: str, allowed: Sequence[str]) -> str | None:
    """The key that other codes call so; or, for a name without its node, a key of that name in a node."""
    parent, _, name = key.rpartition(".")
    meant = ELSEWHERE.get(name) or (None if parent else _below_a_node(name))
    gone = meant is not None and meant.rpartition(".")[0] == parent and meant.rpartition(".")[2] not in allowed
    return None if gone or meant == key else meant


def _below_a_node(name: str) -> str | None:
    """A key of this name of the training, the evaluations or an option of a group."""
    nodes = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", (CONF / "config.yaml").read_text(), re.MULTILINE))
    texts = {node: nodes[node] for node in ("training", "eval")}
    for group in ("algorithm", "model", "env"):
        texts[group] = "\n".join(file.read_text() for file in sorted((CONF / group).glob("*.yaml")))
    found = re.compile(rf"^ *{re.escape(name)}:", re.MULTILINE)
    return next((f"{node}.{name}" for node, text in texts.items() if found.search(text)), None)


def _options_with(parent: str, name: str) -> list[str]:
    """Choices of groups that put a key of this name under another group's node, such as ``conditioning=none``."""
    files = [file for file in sorted(CONF.glob("*/*.yaml")) if file.parent.name != parent]
    texts = {f"{file.parent.name}={file.stem}": file.read_text() for file in files}
    head, key = f"# @package {parent}\n", re.compile(rf"^{re.escape(name)}:", re.MULTILINE)
    return [choice for choice, text in texts.items() if text.startswith(head) and key.search(text)]


def _shortlist(choice: str, allowed: Sequence[str]) -> str:
    """All options; if there are many, the ones closest to the given choice."""
    if len(allowed) <= MAX_LISTED:
        return ", ".join(allowed)
    close = difflib.get_close_matches(choice, allowed, n=5, cutoff=0.4) or list(allowed[:5])
    return f"{len(allowed)} (metarl list shows them), such as {', '.join(close)}"


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """One message for an error of composition, with what is allowed."""
    given = _given(overrides)
    own = [*folders(), *_hydra_search_path(given)]
    for group, choice in given.items():
        if (present := _present_option(group, choice, own)) is not None:
            return f"{group}={choice}: is now called {present}"
        if (CONF / group).is_dir() and not set(choice.strip("[]").split(",")) <= {*options(group, own), ""}:
            return f"{group}={choice}: no such option; {_remark(group, choice)}"
    text = " ".join(str(part) for part in (error, error.__cause__ or "") if str(part))
    named = re.search(r"full_key: (\S+)", text) or re.search(r"(?:Could not override|Key) '([^']+)'", text)
    if named and ("is not in struct" in text or "Could not override" in text):
        return _unknown_override(named.group(1), given, overrides)
    message = re.sub(r"\s+", " ", text).strip()
    return message if any(key in message for key in given) else f"{' '.join(overrides)}: {message}"


def _remark(group: str, choice: str) -> str:
    """Answer to an option that does not exist: a remark on a name of other codes, the closest option, or all."""
    allowed = options(group)
    listed = f"{group} has {_shortlist(choice, allowed)}"
    elsewhere = OPTIONS_ELSEWHERE.get(group, {}).get(choice.lower())
    if elsewhere is not None:
        return f"{elsewhere}; {listed}"
    close = difflib.get_close_matches(choice.lower(), allowed, n=1)
    return f"{listed}; did you mean {group}={close[0]}?" if close else listed


def _hydra_search_path(given: Mapping[str, str]) -> list[Path]:
    """Folders that overrides add to Hydra's search path."""
    names = given.get("hydra.searchpath", "").strip("[]").split(",")
    return [Path(name.strip(" '\"").removeprefix("file://")) for name in names if name]


def _present_option(group: str, choice: str, own: Sequence[Path]) -> str | None:
    """The present group or option of ``group=choice``, if one of the two names is a former one."""
    if (CONF / group).is_dir():
        return None if choice in options(group, own) else present_value(group, choice)
    present = None if "." in group else present_name(group)
    return present if present is not None and (CONF / present).is_dir() else None


def _unknown_override(key: str, given: dict[str, str], overrides: Sequence[str]) -> str:
    root = key.partition(".")[0]
    key = next((name for name in given if name.startswith(f"{key}.")), key)
    for group in (folder.name for folder in CONF.iterdir() if folder.is_dir()):
        if root in options(group) and root != group and root not in given.get(group, ""):
            return f"{key}={given.get(key, '')}: no such key; it comes with {group}={root}"
    siblings = _siblings(key, overrides)
    if not siblings and key.count(".") <= 1 and (CONF / root).is_dir():
        siblings = options(root)
    return unknown_key(key, given.get(key, ""), siblings)


def _given(overrides: Sequence[str]) -> dict[str, str]:
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs}


def _siblings(key: str, overrides: Sequence[str]) -> list[str]:
    """Keys of the same parent as ``key``, with the groups that the user chose."""
    import hydra
    from omegaconf import OmegaConf

    searched = [override for override in overrides if override.startswith("hydra.searchpath=")]
    groups = [*searched, *(override for override in overrides if (CONF / override.partition("=")[0]).is_dir())]
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose("config", groups, return_hydra_config=key.startswith("hydra."))
    except Exception:
        return []
    parent = key.rpartition(".")[0]
    node = OmegaConf.select(config, parent) if parent else config
    return [str(name) for name in node if not str(name).startswith("_")] if hasattr(node, "keys") else []
