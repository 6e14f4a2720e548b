"""Launcher of a sweep, from its record, which is data: nothing in it is executed.

The launcher is one of this metarl's own ``conf/``. Of the record come its name and options that are numbers and plain
words; shell commands, paths of programs and all others must be given again when the sweep is resumed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from metarl.configuration.compose import compose, options
from metarl.configuration.search_path import option_file
from metarl.errors import ConfigError
from metarl.runs.frozen import frozen
from metarl.runs.sweep import Sweep

PLAIN = (
    *("shuffle", "first", "slots", "gpus", "jobs_per_gpu", "min_free_memory", "threads", "wait"),
    *("partition", "account", "timeout_min", "signal_delay_s", "max_num_timeout", "array_parallelism"),
    *("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb"),
)
OPTION = "hydra.launcher."
WORD = re.compile(r"[\w.,:=/+-]*", re.ASCII)


def launcher(sweep: Sweep, overrides: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Launcher of a sweep, as recorded or as the overrides name it, and a record of it for the sweep.

    Raises:
        ConfigError: there is no such cluster or launcher, or an option must be given again.
    """
    from hydra.utils import instantiate

    typed = [text for text in overrides if text.lstrip("+~").startswith(OPTION)]
    given = [text for text in overrides if text not in typed]
    record = sweep.record
    if not given:  # where it was; the options of one launcher mean nothing to another
        given = [f"cluster={_own_option('cluster', record)}", f"hydra/launcher={_own_option('launcher', record)}"]
        given += _options(sweep, given, typed)
    config = compose([*given, *typed], hydra_node=True)
    _check_device(sweep, given, config)
    choices, node = config.hydra.runtime.choices, config.hydra.launcher
    found = instantiate(node, _convert_="all")
    found.sweep_dir = sweep.path
    chosen = {name: value for name, value in _plain(node).items() if name != "_target_"}
    found.origin = {
        **{name: value for name, value in record.items() if name != "jobs"},
        **{"cluster": choices["cluster"], "launcher": choices["hydra/launcher"], "options": chosen},
    }
    return found, found.origin


def _plain(node: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def _own_option(key: str, record: Mapping[str, Any]) -> str:
    """Name of a cluster or launcher in the record, which must be one of metarl's."""
    name, existing = record.get(key), options({"launcher": "hydra/launcher"}.get(key, key))
    if name not in existing:
        raise ConfigError(f"the sweep was launched with {key}={name!r}; use cluster=..., one of {', '.join(existing)}")
    return str(name)


def _options(sweep: Sweep, where: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Overrides with the recorded plain options of this launcher."""
    recorded, usual = sweep.record.get("options"), _plain(compose(where, hydra_node=True).hydra.launcher)
    said = {text.lstrip("+~").removeprefix(OPTION).partition("=")[0].partition(".")[0] for text in typed}
    changed = {
        name: value
        for name, value in (recorded if isinstance(recorded, dict) else {}).items()
        if name not in said and (name not in usual or value != usual[name])
    }
    for name, value in changed.items():
        if name not in PLAIN or not _is_plain(value):
            raise ConfigError(
                f"{sweep.path} was launched with hydra.launcher.{name}={json.dumps(value)}; that is not repeated "
                f"from a file: add 'hydra.launcher.{name}=...' to metarl resume"
            )
    return [f"++hydra.launcher.{name}={_said(value)}" for name, value in changed.items()]


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(not isinstance(item, list) and _is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and _is_word(value))


def _is_word(text: str) -> bool:
    return WORD.fullmatch(text) is not None


def _said(value: Any) -> str:
    """A plain value in the syntax of an override on the command line."""
    if isinstance(value, list):
        return f"[{','.join(_said(item) for item in value)}]"
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)


def _check_device(sweep: Sweep, where: Sequence[str], config: Any) -> None:
    """Refuse GPUs for runs that were frozen for a CPU, and the reverse.

    Raises:
        ConfigError: the cluster runs on another device.
    """
    chosen = yaml.safe_load(option_file("cluster", config.hydra.runtime.choices["cluster"]).read_text())
    if "device" not in chosen or not sweep.jobs:
        return
    device = frozen(sweep.path, sweep.jobs[0].number)["device"]
    if device != config.device:
        raise ConfigError(
            f"{' '.join(where)}: its runs have device={config.device}, those of {sweep.path} were launched with "
            f"device={device}; choose another cluster, or launch a sweep of its own there"
        )
