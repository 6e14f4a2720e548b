"""Figures of many runs: one panel per environment, one colour per method."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from metarl.analysis import style
from metarl.analysis.comparison import AGGREGATE, Comparison, Groups, group_by_environment, mean_references
from metarl.analysis.runs import Actions, Run, Score
from metarl.analysis.statistics import FEW_SEEDS, spread_over_seeds, stratified_bootstrap
from metarl.analysis.style import INK, MUTED, Label
from metarl.analysis.tables import Row

OF = {"trial": "a trial", "last_episode": "the last episode"}
APART = 2.0  # a run that is as many times longer than all shorter ones is drawn in a panel of longer runs
REPLICATIONS = 2000  # of each point of a learning curve; a band needs no third digit


def comparison_figures(runs: Sequence[Run], comparison: Comparison | None = None) -> dict[str, Figure]:
    """All figures the runs have data for, by name; ``comparison`` adds that of its intervals."""
    figures = {"intervals": interval_plot(comparison)} if comparison else {}
    score = comparison.score if comparison else "trial"
    if any(len(run.curve().mean) for run in runs):
        figures["learning_curves"] = learning_curves(runs, score=score)
    if any(run.evaluations for run in runs):
        figures["adaptation_curves"] = adaptation_curves(runs, score=score)
    return figures


def learning_curves(runs: Sequence[Run], actions: Actions = "sampled", score: Score = "trial") -> Figure:
    """Interquartile mean over seeds of the held-out return.

    Bands are 95 % bootstrap intervals from ``FEW_SEEDS`` seeds on, else from the lowest to the highest seed. Runs of
    very different length have panels of their own.
    """
    whole = group_by_environment(runs, score=score)
    groups, names = _by_length(whole), _methods(whole)
    figure, axes = _panels(groups, names)
    for ax, (environment, methods) in zip(axes, groups.items(), strict=True):
        for method, those in methods.items():
            steps, returns = over_seeds(those, actions, score)
            if len(steps) == 0:
                continue
            columns = [stratified_bootstrap([column], replications=REPLICATIONS) for column in returns.T]
            mean = np.array([estimate.value for estimate in columns])
            low, high = (np.array([getattr(e, end) for e in columns], dtype=float) for end in ("low", "high"))
            band = (low, high) if len(returns) >= FEW_SEEDS else (returns.min(0), returns.max(0))
            style.draw_line(ax, steps, mean, band, label=method, **style.line_style(names.index(method)))
        style.title(ax, environment)
        style.count_axis(ax)
        style.value_axis(ax, f"held-out return of {OF[score]} (reward)")
        _draw_references(ax, [run for those in methods.values() for run in those], score)
    return figure


def adaptation_curves(runs: Sequence[Run], actions: Actions = "sampled", score: Score = "trial") -> Figure:
    """Held-out return by episode index within the trial: mean over seeds; bands as in ``Spread``."""
    groups = group_by_environment(runs, score=score)
    names = _methods(groups)
    figure, axes = _panels(groups, names)
    for ax, (environment, methods) in zip(axes, groups.items(), strict=True):
        most = 1
        for method, those in methods.items():
            curves = [run.evaluations[actions]["adaptation_curve"] for run in those if run.evaluations]
            if not curves:
                continue
            spreads = [spread_over_seeds(column) for column in zip(*curves, strict=True)]
            mean, low, high = np.array(
                [(e.mean, e.low, e.high) for e in spreads], dtype=float
            ).T  # None is nan: no band
            index = next(run.evaluations[actions]["episodes_met"] for run in those if run.evaluations)
            most = max(most, *index)
            look = style.line_style(names.index(method))
            style.draw_line(ax, np.array(index), mean, (low, high), label=method, **look)
        style.title(ax, environment)
        style.experience_axis(ax, most)
        style.value_axis(ax, "held-out return of the episode (reward)")
    return figure


def interval_plot(comparison: Comparison) -> Figure:
    """Interquartile means and their 95 % intervals; of few seeds a dot, and a line from the lowest to the highest."""
    environments = list(dict.fromkeys(row["environment"] for row in comparison.rows))
    names = list(dict.fromkeys(row["method"] for row in comparison.rows))
    figure, axes = style.panels(len(environments), height=0.75 + 0.3 * len(names))
    for i, (ax, environment) in enumerate(zip(axes, environments, strict=True)):
        for row in comparison.rows:
            if row["environment"] == environment:
                _draw_interval(ax, row, names.index(row["method"]))
        ax.use_sticky_edges = False  # bars otherwise end where the panel does
        style.title(ax, environment)
        score = "normalised score" if environment == AGGREGATE else f"return of {OF[comparison.score]} (reward)"
        ax.set_xlabel(f"IQM of the {score}", fontsize=style.NORMAL, color=INK)
        ax.xaxis.set_major_locator(style.MaxNLocator(5))
        ax.set_ylim(len(names) - 0.5, -0.5)
        first = i % 3 == 0
        ax.set_yticks(range(len(names)), names if first else [""] * len(names), color=INK, parse_math=False)
        ax.grid(visible=False, axis="y")
        ax.grid(axis="x", color=style.GRID, linewidth=0.7)
    return figure


def over_seeds(runs: Sequence[Run], actions: Actions, score: Score = "trial") -> tuple[np.ndarray, np.ndarray]:
    """Learning curves on the steps they have in common: env_steps ``[points]`` and returns ``[runs, points]``.

    Points are those of the first run, within the range that every run has reached; others are interpolated. Runs
    without an evaluation are left out.
    """
    curves = [curve for curve in (run.curve(actions, score) for run in runs) if len(curve.mean)]
    if not curves:
        return np.empty(0), np.empty((0, 0))
    start = max(curve.env_steps[0] for curve in curves)
    end = min(curve.env_steps[-1] for curve in curves)
    steps = curves[0].env_steps
    steps = steps[(steps >= start) & (steps <= end)]
    steps = steps[style.thin(len(steps))]
    return steps, np.array([np.interp(steps, curve.env_steps, curve.mean) for curve in curves])


def _by_length(groups: Groups) -> Groups:
    """Groups of runs of similar length, by environment; the name says how long where there are several."""
    found: Groups = {}
    for environment, methods in groups.items():
        lengths = {run.path: _length(run) for those in methods.values() for run in those}
        limits: list[int] = []  # the most steps of each group
        for length in sorted(lengths.values()):
            if limits and length <= APART * limits[-1]:
                limits[-1] = length
            else:
                limits.append(length)
        for low, high in zip([0, *limits], limits, strict=False):
            name = (
                environment if len(limits) == 1 else f"{environment}, runs of up to {EngFormatter(sep='')(high)} steps"
            )
            alike = {m: [run for run in those if low < lengths[run.path] <= high] for m, those in methods.items()}
            found[name] = {method: those for method, those in alike.items() if those}
    return found


def _length(run: Run) -> int:
    """Environment steps of the last evaluation while training; 1 before the first."""
    steps = run.curve().env_steps
    return max(int(steps[-1]), 1) if len(steps) else 1


def _methods(groups: Groups) -> list[str]:
    """Names of all methods, whose order gives the colours."""
    return list(dict.fromkeys(method for methods in groups.values() for method in methods))


def _panels(groups: Groups, names: list[str]) -> tuple[Figure, list[Axes]]:
    """A figure with a panel per group and a legend of all methods."""
    figure, axes = style.panels(len(groups), columns=2, width=15, height=3.4)
    style.legend_above(figure, names)
    return figure, axes


def _draw_interval(ax: Axes, row: Row, index: int) -> None:
    color = style.line_style(index)["color"]
    ends = [row["iqm_low"], row["iqm_high"]] if row["iqm_low"] is not None else [row["lowest"], row["highest"]]
    interval = "" if None in ends else " [{:.4g}, {:.4g}]".format(*ends)
    style.add_tips(ax, row["iqm"], index, [f"{row['method']}: {row['iqm']:.4g}{interval}"])
    if row["iqm_low"] is not None:
        ax.barh(index, row["iqm_high"] - row["iqm_low"], 0.5, row["iqm_low"], color=color, alpha=0.3, linewidth=0)
        ax.plot([row["iqm"]] * 2, [index - 0.25, index + 0.25], color=color, linewidth=2)
        return
    ax.plot([row["iqm"]], [index], "o", color=color, markersize=5)
    if row["lowest"] is not None:
        ax.plot([row["lowest"], row["highest"]], [index, index], color=color, linewidth=1.2)


def _draw_references(ax: Axes, runs: Sequence[Run], score: Score) -> None:
    """The bounds and, of the baselines, the best and the worst."""
    means = mean_references(runs, score)
    bounds = [name for name in means if any(name in run.bounds for run in runs)]
    ranked = sorted((name for name in means if name not in bounds), key=means.__getitem__)
    shown = list(dict.fromkeys(ranked[:1] + ranked[-1:] + bounds))
    for name in shown:
        style.draw_level(ax, means[name], dashed=name in bounds)
    style.label_ends(ax, [Label(means[name], name, INK if name in bounds else MUTED) for name in shown])
