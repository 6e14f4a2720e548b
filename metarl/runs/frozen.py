"""Configurations of the jobs of a sweep, resolved and written down when it is launched: a job runs what stands here.

configs/0.yaml ...    the configuration of each job
configs/search.yaml   of a search: its settings, and the configurations that its proposals change

Whatever happens to the files of ``conf/`` afterwards changes no job that waits.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metarl.configuration.renamed import present
from metarl.errors import RunDirectoryError
from metarl.runs.files import refuse_link, replace_file
from metarl.runs.reader import parsed, read_text
from metarl.runs.values import bounded

CONFIGS = "configs"
HERE = Path(__file__).resolve().parents[2]  # the repository, where metarl runs from one


def path_of(sweep: Path, name: int | str) -> Path:
    """File of the frozen configuration of a job, or of ``search``."""
    return sweep / CONFIGS / f"{name}.yaml"


def freeze(sweep: Path, name: int | str, config: Mapping[str, Any]) -> None:
    """Write a configuration, whole or not at all.

    Raises:
        RunDirectoryError: the directory cannot be written.
    """
    refuse_link(path_of(sweep, name).parent)
    try:
        replace_file(path_of(sweep, name), yaml.safe_dump(dict(config), sort_keys=False))
    except OSError as error:
        raise RunDirectoryError(f"hydra.sweep.dir={sweep}: cannot be written ({error.strerror})") from None


def frozen(sweep: Path, name: int | str) -> dict[str, Any]:
    """The configuration that a job was launched with, under present names where an earlier version wrote it.

    Raises:
        RunDirectoryError: there is none, or its file is damaged.
    """
    path = path_of(sweep, name)
    try:
        text = read_text(path)
        config = None if text is None else parsed(path, "YAML", lambda: bounded(yaml.safe_load(text or "")))
    except RunDirectoryError:
        text, config = "", None
    if text is None:
        raise RunDirectoryError(
            f"{path} is missing: run {name} has no frozen configuration; launch the sweep again with its own command, "
            "python run.py -m ..., which writes it"
        )
    if not isinstance(config, dict):
        raise RunDirectoryError(
            f"{path} is damaged; delete it and launch the sweep again with its own command, python run.py -m ..."
        )
    return present(config)


def commit() -> dict[str, Any]:
    """The commit of this metarl, and whether files differ from it; None if it is no checkout, but installed.

    An installation may lie inside a repository of the user, which is not asked.
    """
    if (top := _git("rev-parse", "--show-toplevel")) is None or Path(top).resolve() != HERE.resolve():
        return {"commit": None, "dirty": None}
    revision, changes = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": revision or None, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def first_difference(old: Any, new: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first key at which two configurations differ, with both values; None where they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}, key=str):
            if old.get(name) != new.get(name):
                return first_difference(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
        return None
    return None if old == new else (key, old, new)


def changes(sweep: Path, configs: Mapping[int, Mapping[str, Any]]) -> str | None:
    """First difference between configurations as composed now and as frozen, in a line; None if there is none."""
    for number, config in configs.items():
        before = frozen(sweep, number)
        found = first_difference(_compared(before), _compared(config))
        if found is not None:
            key, old, new = found
            return (
                f"run {number} goes on as it was launched, with {key}={old}; conf/ now says {new}, which takes another "
                "hydra.sweep.dir"
            )
    return None


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the names of choices: where a job runs is no part of what it is."""
    return {key: value for key, value in config.items() if key != "choices"}


def parsed_overrides(overrides: Sequence[str]) -> list[tuple[str, Any, bool]]:
    """Key, value and whether it may be new, of overrides of single values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    found = OverridesParser.create().parse_overrides(list(overrides))
    return [(override.key_or_group, override.value(), override.is_add()) for override in found]
