"""Runs as they lie on disk, and how to name and group them."""

import json
import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from metarl.errors import RunDirectoryError
from metarl.runs.reader import ACTIONS, Actions, check_evaluations, read_config, read_rows, read_summary, task_sets
from metarl.runs.values import is_number

Score = Literal["trial", "last_episode"]  # the return of which of them
SCORES: tuple[Score, ...] = ("trial", "last_episode")

# Keys that may differ between runs of one method: they change where and how it ran, not what was learnt.
IRRELEVANT = frozenset(
    {"seed", "device", "num_threads", "eval", "logger", "wandb", "group", "cluster", "hydra", "choices"}
    | {"training.eval_every", "training.checkpoint_every", "training.keep_checkpoints"}
    | {"env.num_threads", "env.num_workers"}
)
BUDGET = "env.num_episodes"  # of a trial or, for methods that adapt between rollouts, of a rollout
# Groups that fill a part of the configuration: their option implies its keys.
PARTS = {"conditioning": "model.conditioning", "meta_optimizer": "algorithm.meta_optimizer"}


class Curve(NamedTuple):
    """Held-out return while training, arrays ``[evaluations]``."""

    env_steps: np.ndarray
    mean: np.ndarray
    standard_error: np.ndarray  # over held-out tasks, or the trials on all there are


@dataclass(frozen=True, eq=False)
class Run:
    """One run directory.

    Attributes:
        path: the directory.
        config: resolved configuration.
        history: rows of ``metrics.jsonl``, in order, one per iteration.
        summary: ``summary.json``; None while the run is unfinished.
    """

    path: Path
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any] | None

    @property
    def environment(self) -> str:
        """Chosen option of the group ``env``."""
        return str(self.config["choices"]["env"])

    @property
    def method(self) -> str:
        """Chosen model and algorithm, as in ``gru/rl2``."""
        choices = self.config["choices"]
        return "/".join(str(choices[group]) for group in ("model", "algorithm") if choices.get(group))

    @property
    def seed(self) -> int:
        """Seed of everything in the run."""
        return int(self.config["seed"])

    @property
    def finished(self) -> bool:
        """Trained to the end and evaluated."""
        return self.summary is not None

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Held-out evaluation by kind of actions: the final one, or else the latest while training."""
        if self.summary is not None:
            return self.summary["evaluation"]
        latest: dict[str, Any] = next((row for row in reversed(self.history) if "eval/sampled/return_mean" in row), {})
        found = {actions: _under(latest, f"eval/{actions}/") for actions in ACTIONS}
        return {actions: evaluation for actions, evaluation in found.items() if evaluation}

    @property
    def selected_on(self) -> str:
        """Task set of the evaluations during training that select ``best.pt``."""
        return self.task_sets[0]

    @property
    def baselines(self) -> dict[str, dict[str, Any]]:
        """Evaluation of each classical baseline; empty while the run is unfinished."""
        return (self.summary or {}).get("baselines") or {}

    @property
    def bounds(self) -> dict[str, float]:
        """Upper bounds on the return of a trial; empty while the run is unfinished."""
        return (self.summary or {}).get("bounds") or {}

    @property
    def task_sets(self) -> list[str]:
        """Task sets of the evaluations during training; the first is ``selected_on``."""
        return task_sets(self.config)

    def curve(self, actions: Actions = "sampled", score: Score = "trial", task_set: str | None = None) -> Curve:
        """Return while training on one of ``task_sets``, by default the first; of length 0 without evaluations."""
        prefix = f"eval/{actions}/" if task_set in (None, self.selected_on) else f"eval/{task_set}/{actions}/"
        rows = [row for row in self.history if f"{prefix}return_mean" in row]
        if score == "trial":
            names = [f"{prefix}return_mean", f"{prefix}return_se"]
            columns = [[row.get(name, math.nan) for row in rows] for name in names]
        else:
            names = [f"{prefix}adaptation_curve", f"{prefix}adaptation_se"]
            columns = [[row[name][-1] for row in rows] for name in names]
        steps = [row["env_steps"] for row in rows]
        return Curve(*(np.array(column, dtype=float) for column in (steps, *columns)))

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Environment steps and the values of a metric, both ``[rows]``; rows without a finite value are left out."""
        points = [(row["env_steps"], row[key]) for row in self.history if _is_finite(row.get(key))]
        steps, values = np.array(points, dtype=float).reshape(-1, 2).T
        return steps, values


def load_run(path: str | Path) -> Run:
    """Read a run directory, finished or not.

    Raises:
        RunDirectoryError: it is not a run directory, or a file of it is damaged.
    """
    path = Path(path)
    config, summary = read_config(path), read_summary(path)
    if summary is not None:
        check_evaluations(path, summary)
    return Run(path, config, _history(path), summary)


def load_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Read several run directories, in the order given; a directory given twice counts once.

    Raises:
        RunDirectoryError: none is given, or one of them cannot be read.
    """
    unique = list(dict.fromkeys(Path(path).resolve() for path in paths))
    if not unique:
        raise RunDirectoryError("no run directory given; name at least one")
    return [load_run(path) for path in unique]


def require_finished(run: Run) -> dict[str, Any]:
    """The summary of a finished run.

    Raises:
        RunDirectoryError: the run has none yet.
    """
    if run.summary is None:
        raise RunDirectoryError(f"{run.path} is unfinished (no summary.json); the command that started it resumes it")
    return run.summary


class RunName(NamedTuple):
    """Settings that distinguish a run from the others it is shown with, the seed aside."""

    environment: str
    method: str
    label: str


def name_runs(runs: Sequence[Run], ignored: Collection[str] = (), score: Score = "trial") -> list[RunName]:
    """A name for each run: its choices, and those settings that differ among runs of the same choices.

    Runs that get the same name differ at most in the seed, in keys that change nothing learnt and in those ``ignored``.
    Where the last episode is the score, how many come before it is the method's, else the environment's.
    """
    settings = [{key: value for key, value in settings_of(run).items() if key not in ignored} for run in runs]
    in_env = _varying(settings, [run.environment for run in runs])
    shown = [
        _show({key for key in in_env[run.environment] if _is_environment(key, score)}, setting)
        for run, setting in zip(runs, settings, strict=True)
    ]
    environments = [" ".join([run.environment, *pairs]) for run, pairs in zip(runs, shown, strict=True)]
    # A method's setting counts where it varies within one environment: environments may each need their own.
    choices = [(environment, run.method) for environment, run in zip(environments, runs, strict=True)]
    in_choices = _varying(settings, choices)
    names = []
    for run, setting, environment, of_env in zip(runs, settings, environments, shown, strict=True):
        keys = set().union(*(keys for (_, method), keys in in_choices.items() if method == run.method))
        alike = [other for other, peer in zip(settings, runs, strict=True) if peer.method == run.method]
        of_method = _show(keys - _implied_by_options(keys, alike), setting)
        label = " ".join([f"{run.environment}/{run.method}", *of_env, *of_method])
        names.append(RunName(environment, " ".join([run.method, *of_method]), label))
    return names


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that are equal but for the seed, by label, in order of first appearance."""
    groups: dict[str, list[Run]] = {}
    for run, name in zip(runs, name_runs(runs), strict=True):
        groups.setdefault(name.label, []).append(run)
    return groups


def settings_of(run: Run) -> dict[str, str]:
    """Dotted keys that matter, and their values as shown; of ``PARTS`` also the options chosen."""
    chosen = {group: str(run.config["choices"].get(group) or "none") for group in PARTS}
    return _settings(run.config) | chosen


def _is_environment(key: str, score: Score) -> bool:
    return key.startswith("env.") and not (key == BUDGET and score == "last_episode")


def _implied_by_options(keys: set[str], settings: Sequence[dict[str, str]]) -> set[str]:
    """Keys that are implied by the option of their group: with one value wherever the option is the same."""
    implied = set()
    for group, prefix in PARTS.items():
        for key in keys:
            if (key == prefix or key.startswith(prefix + ".")) and group in keys:
                values = {(setting.get(group), setting.get(key)) for setting in settings}
                if len(values) == len({option for option, _ in values}):
                    implied.add(key)
    return implied


def _settings(config: dict[str, Any], path: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in config.items():
        key = f"{path}{name}"
        if key in IRRELEVANT:
            continue
        if isinstance(value, dict):
            flat |= _settings(value, f"{key}.")
        else:
            whole = isinstance(value, float) and value.is_integer()  # 1e3 and 1000 are one value
            flat[key] = value if isinstance(value, str) else json.dumps(int(value) if whole else value)
    return flat


def _varying(settings: Sequence[dict[str, str]], groups: Sequence[Hashable]) -> dict[Any, set[str]]:
    """The keys that have more than one value within each group."""
    members: dict[Hashable, list[dict[str, str]]] = {}
    for setting, group in zip(settings, groups, strict=True):
        members.setdefault(group, []).append(setting)
    return {
        group: {key for key in set().union(*those) if len({setting.get(key) for setting in those}) > 1}
        for group, those in members.items()
    }


def _show(keys: set[str], setting: dict[str, str]) -> list[str]:
    """``key=value`` with the last part of the key, or all of it where that is ambiguous."""
    leaves = Counter(key.rpartition(".")[2] for key in keys)
    shown = []
    for key in sorted(keys):
        leaf = key.rpartition(".")[2]
        shown.append(f"{leaf if leaves[leaf] == 1 else key}={setting.get(key, 'absent')}")
    return shown


def _history(path: Path) -> list[dict[str, Any]]:
    """One row per iteration; a row written again after a resume replaces the first."""
    found = read_rows(path)
    if found.problems:
        raise RunDirectoryError(found.problems[0])
    rows: dict[int, dict[str, Any]] = {}
    for row in found.rows:
        rows[row["iteration"]] = rows.get(row["iteration"], {}) | row
    return [rows[iteration] for iteration in sorted(rows)]


def _under(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}


def _is_finite(value: Any) -> bool:
    return is_number(value) and math.isfinite(value)
