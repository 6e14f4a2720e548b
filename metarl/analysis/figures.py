"""Figures of one run. Each function returns a matplotlib figure, ready for a page, a file or a logger."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from metarl.analysis import style
from metarl.analysis.runs import ACTIONS, Run
from metarl.analysis.style import MUTED, PALETTE, Label

RANDOM = "Random"  # baseline that solves nothing
MOST_PANELS = 60  # metrics of training that are drawn; hundreds of panels take minutes
COLORS: dict[str, str] = dict(zip(ACTIONS, PALETTE, strict=False))


class EpisodeCurve(NamedTuple):
    """Returns of the episodes of a trial, ``[episodes]``."""

    name: str
    color: str
    episode: np.ndarray  # index within the trial, from 0
    mean: np.ndarray
    standard_error: np.ndarray | None
    is_agent: bool


def run_figures(run: Run) -> dict[str, Figure]:
    """All figures the run has data for, by name."""
    evaluated = bool(run.evaluations)
    available: dict[str, tuple[Callable[[Run], Figure], bool]] = {
        "learning_curve": (learning_curve, len(run.curve().env_steps) > 0),
        "adaptation_curve": (adaptation_curve, evaluated),
        "regret": (regret_curve, evaluated and regret_reference(run) is not None),
        "diagnostics": (training_diagnostics, bool(_diagnostics(run))),
    }
    return {name: draw(run) for name, (draw, has_data) in available.items() if has_data}


def learning_curve(run: Run) -> Figure:
    """Return against environment steps on each task set, with the final returns of baselines and bounds.

    Actions on the set that selects ``best.pt`` are sampled and greedy, on others sampled.

    Raises:
        ValueError: the run has no evaluation yet.
    """
    first, *others = run.task_sets
    where = "" if run.task_sets == ["held_out"] else f", {_words(first)}"
    drawn = [(f"agent, {actions}{where}", COLORS[actions], run.curve(actions)) for actions in ACTIONS]
    spare = (*PALETTE[len(ACTIONS) :], MUTED)
    drawn += [
        (f"agent, sampled, {_words(name)}", spare[min(index, len(spare) - 1)], run.curve("sampled", task_set=name))
        for index, name in enumerate(others)
    ]
    curves = [(name, color, curve) for name, color, curve in drawn if len(curve.mean)]
    if not curves:
        raise ValueError(f"{run.path} has no evaluation while training; see training.eval_every")
    figure, (ax,) = style.new_figure()
    labels = []
    for name, evaluation in run.baselines.items():
        style.draw_level(ax, evaluation["return_mean"], dashed=False)
        labels.append(Label(evaluation["return_mean"], name, MUTED))
    for name, bound in run.bounds.items():
        style.draw_level(ax, bound, dashed=True)
        labels.append(Label(bound, name, style.INK))
    for name, color, curve in curves:
        steps, mean, error = (column[style.thin(len(curve.mean))] for column in curve)
        style.draw_line(ax, steps, mean, (mean - error, mean + error), color=color, zorder=3, label=name)
        labels.append(Label(mean[-1], name, color))
    style.count_axis(ax)
    style.value_axis(ax, f"{'held-out ' if not where else ''}return of a trial (reward)")
    style.label_ends(ax, labels)
    return figure


def _words(task_set: str) -> str:
    return task_set.replace("_", "-") + " tasks"


def adaptation_curve(run: Run) -> Figure:
    """Held-out return by episode index, of the agent and of baselines; bands are standard errors over tasks.

    Raises:
        ValueError: the run has no evaluation yet.
    """
    figure, (ax,) = style.new_figure()
    curves = _episode_curves(run)
    labels = []
    for curve in curves:
        band = None
        if curve.standard_error is not None:
            band = (curve.mean - curve.standard_error, curve.mean + curve.standard_error)
        style.draw_line(ax, curve.episode, curve.mean, band, label=curve.name, **_emphasis(curve))
        labels.append(Label(curve.mean[-1], curve.name, curve.color))
    style.experience_axis(ax, max(curve.episode[-1] for curve in curves))
    style.value_axis(ax, "held-out return of the episode (reward)")
    style.label_ends(ax, labels)
    return figure


def regret_curve(run: Run) -> Figure:
    """Cumulative regret within the trial, against ``regret_reference``; its last value is the regret of the trial.

    Raises:
        ValueError: the run has no evaluation, or neither a bound nor a baseline.
    """
    reference = regret_reference(run)
    curves = _episode_curves(run)
    if reference is None:
        raise ValueError(f"{run.path} has neither a bound nor a baseline to measure regret against")
    name, returns = reference
    figure, (ax,) = style.new_figure()
    ax.axhline(0, color=style.INK, linewidth=0.9, linestyle="--", zorder=1)
    labels = []
    for curve in curves:
        regret = np.cumsum(returns - curve.mean)
        episodes = np.arange(1, len(regret) + 1)
        style.draw_line(ax, episodes, regret, label=curve.name, **_emphasis(curve))
        labels.append(Label(regret[-1], curve.name, curve.color))
    style.episode_axis(ax, len(returns))
    style.value_axis(ax, f"cumulative regret to {name} (reward)")
    style.label_ends(ax, labels)
    return figure


def regret_reference(run: Run) -> tuple[str, np.ndarray] | None:
    """Reference of the regret: a name, and its return in each episode ``[episodes]``.

    The tightest bound, which is of the whole trial and so spread evenly over the episodes; without one the best
    baseline but random actions, episode by episode; None without either.
    """
    if run.bounds:
        name = min(run.bounds, key=run.bounds.__getitem__)
        episodes = len(run.evaluations["sampled"]["adaptation_curve"])
        return name, np.full(episodes, run.bounds[name] / episodes)
    solvers = {name: found for name, found in run.baselines.items() if name != RANDOM}
    if solvers:
        name = max(solvers, key=lambda name: solvers[name]["return_mean"])
        return name, np.array(solvers[name]["adaptation_curve"])
    return None


def training_diagnostics(run: Run) -> Figure:
    """Every training metric against environment steps, in small panels.

    Raises:
        ValueError: the run has no training metrics.
    """
    series = _diagnostics(run)
    if not series:
        raise ValueError(f"{run.path} has no training metrics yet")
    figure, axes = style.panels(len(series), height=1.9)
    for ax, (key, (steps, values)) in zip(axes, series.items(), strict=True):
        group, _, name = key.partition("/")
        text = name.replace("_", " ") if group == "update" else f"{group} {name.replace('_', ' ')}"
        look: dict[str, Any] = {"color": PALETTE[0], "linewidth": 1.2, "marker": None}
        style.draw_line(ax, _binned(steps), _binned(values), label=text, **look)
        style.title(ax, text)
        style.count_axis(ax)
        ax.xaxis.set_major_locator(style.MaxNLocator(4))
        if ax not in axes[-3:]:
            ax.set_xlabel("")
    return figure


def _episode_curves(run: Run) -> list[EpisodeCurve]:
    """Baselines from best to worst, then the agent, which is drawn over them."""
    if not run.evaluations:
        raise ValueError(f"{run.path} has no evaluation yet; see training.eval_every")
    found = []
    ranked = sorted(run.baselines.items(), key=lambda item: -item[1]["return_mean"])
    for i, (name, evaluation) in enumerate(ranked):
        found.append((name, (*PALETTE[2:], MUTED)[min(i, 4)], evaluation, False))
    for actions, evaluation in run.evaluations.items():
        found.append((f"agent, {actions}", COLORS[actions], evaluation, True))
    curves = []
    for name, color, evaluation, is_agent in found:
        error = evaluation.get("adaptation_se")
        mean = np.array(evaluation["adaptation_curve"], dtype=float)
        episode = np.array(evaluation["episodes_met"])
        curves.append(EpisodeCurve(name, color, episode, mean, None if error is None else np.array(error), is_agent))
    return curves


def _emphasis(curve: EpisodeCurve) -> dict[str, Any]:
    """Style of a curve: agents are drawn in front of baselines."""
    if curve.is_agent:
        return {"color": curve.color, "zorder": 3}
    return {"color": curve.color, "linewidth": 1.1, "marker": None}


def _diagnostics(run: Run) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Series of the metrics of collecting and updating that are worth a look."""
    keys = dict.fromkeys(key for row in run.history for key in row if key.startswith(("train/", "update/")))
    series = {key: run.series(key) for key in keys}
    found = [(key, points) for key, points in series.items() if len(points[0]) > 1]
    return dict(found[:MOST_PANELS])


def _binned(values: np.ndarray) -> np.ndarray:
    """Means over neighbours, so that at most ``style.MOST_POINTS`` are left."""
    parts = np.array_split(values, min(len(values), style.MOST_POINTS))
    return np.array([part.mean() for part in parts])
