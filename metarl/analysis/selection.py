"""The best setting of each method, as a learning rate, of those a sweep tried."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from metarl.analysis import style
from metarl.analysis.comparison import group_by_environment
from metarl.analysis.runs import Curve, Run, settings_of
from metarl.analysis.statistics import spread_over_seeds
from metarl.analysis.tables import Row
from metarl.analysis.task_notes import selected_on_the_same
from metarl.configuration.renamed import present_name
from metarl.errors import ConfigError, RunDirectoryError

Criterion = Literal["final", "mean", "auc"]
WORDS = {"final": "last held-out return", "mean": "mean held-out return", "auc": "area under the held-out returns"}


class Candidate(NamedTuple):
    """The runs of a method with one setting, and their scores ``[runs]``."""

    value: str
    runs: list[Run]
    scores: np.ndarray


@dataclass(frozen=True)
class Selection:
    """Best setting of a key for every method, by held-out evaluations during training.

    Where tasks are drawn afresh, those played other ones than the final evaluation, so the choice makes that one no
    better than it is. Tasks of a finite number are the same in both, so the choice favours what it chose: ``note``.

    Attributes:
        key: that was swept.
        by: ``final``, the last evaluation while training; ``mean`` of all; or ``auc``, the area under them over
            environment steps, divided by their range.
        candidates: by environment, method and value; of equal means the first is chosen.
    """

    key: str
    by: Criterion
    candidates: dict[str, dict[str, list[Candidate]]]

    @property
    def chosen(self) -> list[Run]:
        """The runs with the best setting of each method."""
        return [
            run
            for methods in self.candidates.values()
            for candidates in methods.values()
            for run in best(candidates).runs
        ]

    @property
    def rows(self) -> list[Row]:
        """A row for every setting of every method."""
        rows: list[Row] = []
        for environment, methods in self.candidates.items():
            for method, candidates in methods.items():
                for candidate in candidates:
                    spread = spread_over_seeds(candidate.scores)
                    row: Row = {"environment": environment, "method": method, self.key: candidate.value}
                    row |= {"seeds": len(candidate.runs), self.by: spread.mean, "error_over_seeds": spread.error}
                    row |= {"lowest": spread.lowest, "highest": spread.highest}
                    rows.append(row | {"chosen": "*" if candidate is best(candidates) else ""})
        return rows

    @property
    def note(self) -> str:
        """Whether the choice was made on the tasks that are compared."""
        same_tasks = {selected_on_the_same(run.evaluations["sampled"], run.selected_on) for run in self.chosen}
        if True in same_tasks:
            return (
                "The evaluations that chose and those compared played the same tasks, so what is chosen looks better "
                "than it is; for a fixed held-out set, eval.task_sets=train chooses by the training tasks."
            )
        if None in same_tasks:
            return "These runs do not record whether the evaluations that chose played the tasks that are compared."
        return "The evaluations that chose played other tasks than those compared."

    def figure(self) -> Figure:
        """Mean score by setting; bands as ``Spread`` has them."""
        names = list(dict.fromkeys(method for methods in self.candidates.values() for method in methods))
        figure, axes = style.panels(len(self.candidates), columns=2, width=15, height=3.4)
        style.legend_above(figure, names)
        for ax, (environment, methods) in zip(axes, self.candidates.items(), strict=True):
            values = _ordered({candidate.value for those in methods.values() for candidate in those})
            for method, candidates in methods.items():
                at = {candidate.value: spread_over_seeds(candidate.scores) for candidate in candidates}
                shown = [value for value in values if value in at]
                mean, low, high = np.array([(at[v].mean, at[v].low, at[v].high) for v in shown], dtype=float).T
                x = np.array([values.index(value) for value in shown], dtype=float)
                look = style.line_style(names.index(method)) | {"marker": "o"}
                style.draw_line(ax, x, mean, (low, high), **look)
            ax.set_xticks(range(len(values)), values)
            ax.set_xlabel(self.key, fontsize=style.NORMAL, color=style.INK)
            style.title(ax, environment)
            style.value_axis(ax, f"{WORDS[self.by]} (reward)")
        return figure


def select(runs: Sequence[Run], key: str, by: Criterion = "final") -> Selection:
    """Sort runs into settings of ``key``.

    Raises:
        RunDirectoryError: there are no runs, they do not differ in it, or one has no evaluation while training.
        ConfigError: the key is a former name.
    """
    if not runs:
        raise RunDirectoryError(f"--best {key}: no run is finished yet")
    _check_present(key, runs)
    values = {run.path: settings_of(run).get(key, "absent") for run in runs}
    if len(set(values.values())) < 2:
        raise RunDirectoryError(
            f"--best {key}: these runs do not differ in it (all have {next(iter(values.values()))})"
        )
    candidates: dict[str, dict[str, list[Candidate]]] = {}
    for environment, methods in group_by_environment(runs, {key}).items():
        for method, those in methods.items():
            by_value: dict[str, list[Run]] = {}
            for run in those:
                by_value.setdefault(values[run.path], []).append(run)
            candidates.setdefault(environment, {})[method] = [
                Candidate(value, by_value[value], np.array([score(run, by) for run in by_value[value]]))
                for value in _ordered(by_value)
            ]
    return Selection(key, by, candidates)


def _check_present(key: str, runs: Sequence[Run]) -> None:
    """Refuse a former name of a key."""
    present = present_name(key)
    if present is not None and not any(key in settings_of(run) for run in runs):
        raise ConfigError(f"--best {key}: is now called {present}")


def selected(runs: Sequence[Run], key: str | None, by: Criterion | None) -> Selection | None:
    """``select``, where a key is named.

    Raises:
        ConfigError: a criterion without a key.
        RunDirectoryError: see ``select``.
    """
    if key is None and by is not None:
        raise ConfigError(f"--by {by}: says how --best chooses; name a key with --best")
    return None if key is None else select(runs, key, by or "final")


def score(run: Run, by: Criterion) -> float:
    """Score of a run by its evaluations during training.

    Raises:
        RunDirectoryError: there were none.
    """
    curve = run.curve()
    curve = Curve(*(column[curve.env_steps > 0] for column in curve))  # without the untrained agent
    if len(curve.mean) == 0:
        raise RunDirectoryError(
            f"{run.path} was not evaluated while it trained; train with training.eval_every above 0 "
            "and at most the number of iterations"
        )
    if by == "auc" and len(curve.mean) > 1:
        return float(np.trapezoid(curve.mean, curve.env_steps) / (curve.env_steps[-1] - curve.env_steps[0]))
    return float(curve.mean[-1] if by == "final" else curve.mean.mean())


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The setting with the highest mean over seeds."""
    return max(candidates, key=lambda candidate: np.nan_to_num(candidate.scores.mean(), nan=-np.inf))


def _ordered(values: set[str] | dict[str, list[Run]]) -> list[str]:
    """Numbers by size, words by name."""
    try:
        return sorted(values, key=float)
    except ValueError:
        return sorted(values)
