"""Configurations as Hydra composes them, at a fraction of its time.

A composition takes Hydra a tenth of a second, and tests need thousands. Here each choice of options is composed once,
by Hydra, and kept for both processes of a run and for later runs, until a file in ``conf/`` changes; values are then
set in it by Hydra's own function.
"""

import copy
import hashlib
import os
import pickle
import shutil
import tempfile
from functools import cache
from pathlib import Path

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metarl.configuration import compose as composing
from metarl.configuration.compose import CONF, RECIPE, compose
from metarl.errors import ConfigError

KEPT = Path(__file__).resolve().parent.parent / ".pytest_cache" / "compositions"


def plain(overrides: tuple[str, ...]) -> dict:
    """The resolved configuration of these overrides, for the caller to change."""
    return copy.deepcopy(_composed(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> dict:
    values = [override for override in overrides if not chooses_option(override)]
    try:
        config = copy.deepcopy(_chosen(tuple(override for override in overrides if chooses_option(override))))
        ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), config)
    except (HydraException, OmegaConfBaseException, ConfigError):
        config = compose(overrides)  # raises the error that users see
    found = OmegaConf.to_container(config, resolve=True)
    found.pop(RECIPE, None)  # as a run does, once values refer to it no more
    return found


def chooses_option(override: str) -> bool:
    """Whether an override is part of the composition, rather than a value set in what was composed."""
    key = override.partition("=")[0].lstrip("+~")
    return override.startswith("~") or (CONF / key.partition("@")[0]).is_dir()


@cache
def _chosen(choices: tuple[str, ...]) -> DictConfig:
    file = KEPT / _version() / hashlib.sha256(repr(choices).encode()).hexdigest()
    if not file.exists():
        _write(file, pickle.dumps(compose(choices)))
    return pickle.loads(file.read_bytes())


@cache
def _version() -> str:
    """Hash of everything a composition depends on."""
    files = [*sorted(CONF.rglob("*.yaml")), Path(composing.__file__)]
    parts = [part for file in files for part in (str(file.relative_to(CONF.parent)).encode(), file.read_bytes())]
    return hashlib.sha256(repr((hydra.__version__, parts)).encode()).hexdigest()[:16]


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all, as another process may write or read it now; what other versions left is removed."""
    for other in KEPT.glob("*"):
        if other != file.parent:
            shutil.rmtree(other, ignore_errors=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(handle, "wb") as opened:
        opened.write(content)
    os.replace(name, file)
