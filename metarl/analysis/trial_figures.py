"""Figures of one trial, as suits its environment: a quantity over time, arms, cells, a path, or rewards."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from metarl.analysis import style
from metarl.analysis.trial_recording import Course, Path, Pulls, Rewards, TrialRecording, Visits

MOST_EPISODES = 6  # drawn; of more, evenly spread ones with the first and the last
MOST_ARMS = 20  # with a label each
MOST_SHADES = 1000  # visited cells that are shaded, those of the most steps
MOST_LINES = 60  # between cells; of a larger grid they would hide the cells


def draw_trial(recording: TrialRecording) -> tuple[Figure, str] | None:
    """Figure of a trial and its caption; None for a recording of nothing."""
    match recording.view:
        case Course() as view:
            drawn = _course(view, recording)
        case Pulls() as view:
            drawn = _pulls(view)
        case Visits() as view:
            drawn = _visits(view, recording)
        case Path() as view:
            drawn = _path(view, recording)
        case Rewards() as view:
            drawn = _rewards(view, recording)
        case _:
            return None
    figure, text = drawn
    return figure, f"One held-out trial ({recording.task}): {text}"


def _course(view: Course, recording: TrialRecording) -> tuple[Figure, str]:
    figure, (ax,) = style.new_figure()
    clock = view.seconds_per_step
    handles = _lines(ax, view.values, recording, clock or 1.0)
    if view.target is not None:
        style.draw_level(ax, view.target, dashed=True)
        handles.append(_handle(f"target {view.target:.3g} {view.unit}", color=style.INK, linestyle="--", linewidth=0.9))
    ax.set_xlabel("step of the episode" if clock is None else "time in the episode (s)", **style.AXIS)
    style.value_axis(ax, f"{view.name} ({view.unit})")
    style.legend_right(figure, handles)
    wanted = "" if view.target is None else " against the target"
    return figure, f"{view.name}{wanted} over {_some(view.values)}."


def _rewards(view: Rewards, recording: TrialRecording) -> tuple[Figure, str]:
    figure, (ax,) = style.new_figure()
    style.legend_right(figure, _lines(ax, view.rewards, recording, 1.0))
    ax.set_xlabel("step of the episode", **style.AXIS)
    style.integer_ticks(ax, 1, max(map(len, view.rewards), default=1))
    style.value_axis(ax, "reward of the step")
    return figure, f"reward of every step in {_some(view.rewards)}."


def _lines(ax: Axes, values: Sequence[Sequence[float]], recording: TrialRecording, scale: float) -> list[Line2D]:
    """A line for each chosen episode, from its first step on, and the entries of their legend."""
    handles = []
    for index, episode in enumerate(chosen(values)):
        look, name = style.line_style(index), f"episode {episode + 1}"
        steps = scale * np.arange(1, len(values[episode]) + 1)
        points = style.thin(len(steps))
        style.draw_line(ax, steps[points], np.array(values[episode])[points], label=name, **look | {"linewidth": 1.3})
        handles.append(_handle(f"{name}: return {recording.returns[episode]:.1f}", linewidth=2, **look))
    return handles


def _pulls(view: Pulls) -> tuple[Figure, str]:
    """Arms upwards by their expected reward, pulls to the right."""
    expected = np.array(view.expected_rewards)
    rank = expected.argsort(kind="stable").argsort(kind="stable")  # the best arm is on top
    height = max(2.4, min(0.24 * len(expected) + 1.0, 5.0))
    figure, (ax,) = style.new_figure(size=(7.0, height))
    pulls, heights = np.arange(1, len(view.arms) + 1), rank[view.arms]
    ax.plot(pulls, heights, linestyle="none", marker="|", markersize=7, markeredgewidth=1.6, color=style.PALETTE[0])
    texts = [
        f"pull {pull}: arm {arm}, expected reward {expected[arm]:.3g}, paid {reward:.3g}"
        for pull, arm, reward in zip(pulls, view.arms, view.rewards, strict=True)
    ]
    style.add_tips(ax, pulls, heights, texts)
    style.episode_axis(ax, len(pulls))
    ax.set_xlabel("pull (episode of the trial)", **style.AXIS)
    labels = {int(rank[arm]): f"arm {arm} ({expected[arm]:.2f})" for arm in range(len(expected))}
    shown = np.linspace(0, len(expected) - 1, min(len(expected), MOST_ARMS)).round().astype(int)
    ax.set_yticks(shown, [labels[int(place)] for place in shown])
    ax.set_ylim(-0.6, len(expected) - 0.4)
    style.value_axis(ax, "arm (expected reward)")
    share = np.mean(heights == len(expected) - 1) if len(heights) else 0.0
    return figure, f"the arm of every pull, best arm on top; it was pulled in {100 * share:.0f} % of them."


def _visits(view: Visits, recording: TrialRecording) -> tuple[Figure, str]:
    width, height = view.shape
    shown = chosen(view.cells)
    columns = 1 if width > 3 * height else 3
    figure, axes = style.panels(
        len(shown), columns=columns, height=max(1.3, min(9.0 / columns * height / width + 0.7, 4.0))
    )
    for number, (ax, episode) in enumerate(zip(axes, shown, strict=True)):
        _draw_visits(ax, view, view.cells[episode])
        style.title(ax, f"episode {episode + 1}: return {recording.returns[episode]:.1f}")
        ax.set_xlabel("x (cells)", **style.AXIS)
        style.value_axis(ax, "y (cells)" if number % columns == 0 else "")
    goal = "" if view.goal is None else "The star is the goal. "
    text = f"cells visited in {_some(view.cells)}, to the dot at its end. {goal}The stronger a shade, the more steps."
    return figure, text


def _draw_visits(ax: Axes, view: Visits, cells: Sequence[int]) -> None:
    width, height = view.shape
    numbers, counts = np.unique(cells, return_counts=True)
    most = np.sort(counts.argsort(kind="stable")[-MOST_SHADES:])
    numbers, counts = numbers[most], counts[most]
    for number, count in zip(numbers, counts, strict=True):
        corner = (number % width - 0.5, number // width - 0.5)
        shade = 0.15 + 0.45 * count / counts.max()
        ax.add_patch(Rectangle(corner, 1, 1, color=style.PALETTE[0], alpha=shade, linewidth=0))
    x, y = np.array(cells) % width, np.array(cells) // width
    ax.plot(x, y, color=style.PALETTE[0], linewidth=1.5, solid_joinstyle="round")
    ax.plot(x[-1:], y[-1:], color=style.PALETTE[0], marker="o", markersize=5, linestyle="none")
    if view.goal is not None:
        _draw_goal(ax, view.goal % width, view.goal // width)
    texts = [
        f"cell ({n % width}, {n // width}): {count} of {len(cells)} steps"
        for n, count in zip(numbers, counts, strict=True)
    ]
    style.add_tips(ax, numbers % width, numbers // width, texts)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(-0.5, height - 0.5), aspect="equal")
    for axis, size in ((ax.xaxis, width), (ax.yaxis, height)):
        axis.set_major_locator(style.MaxNLocator(min(size, 8), integer=True, min_n_ticks=1))
        lines = np.arange(size + 1 if size <= MOST_LINES else 0) - 0.5
        axis.set_minor_locator(style.FixedLocator(list(lines)))
    ax.grid(visible=False, which="major")
    ax.grid(which="minor", color=style.GRID, linewidth=0.7)
    ax.tick_params(which="minor", length=0)


def _path(view: Path, recording: TrialRecording) -> tuple[Figure, str]:
    figure, (ax,) = style.new_figure(size=(7.0, 4.2))
    handles = []
    for index, episode in enumerate(shown := chosen(view.positions)):
        look, name = style.line_style(index), f"episode {episode + 1}"
        x, y = np.array(view.positions[episode], dtype=float).T
        width = 1.2 + 0.8 * (len(shown) - 1 - index)  # overlapping paths stay visible
        style.draw_line(ax, x, y, label=name, **look | {"linewidth": width, "marker": None})
        ax.plot(x[-1:], y[-1:], marker="o", markersize=5, color=look["color"])
        handles.append(_handle(f"{name}: return {recording.returns[episode]:.1f}", linewidth=2, **look))
    if view.goal is not None:
        _draw_goal(ax, *view.goal)
        handles.append(_handle("goal", **_STAR))
    ax.set(aspect="equal", adjustable="datalim")
    ax.grid(visible=True, color=style.GRID, linewidth=0.7)
    ax.set_xlabel(view.axes[0], parse_math=False, **style.AXIS)
    style.value_axis(ax, view.axes[1])
    style.legend_right(figure, handles)
    return figure, f"path of the agent in {_some(view.positions)}, to the dot at its end."


_STAR: dict[str, Any] = {"marker": "*", "markersize": 13, "linestyle": "none", "color": style.INK}


def _draw_goal(ax: Axes, x: float, y: float) -> None:
    ax.plot([x], [y], zorder=4, **_STAR)
    style.add_tips(ax, [x], [y], [f"goal: {x:.3g}, {y:.3g}"])


def _handle(text: str, **look: Any) -> Line2D:
    return Line2D([], [], label=text, **look)


def chosen(episodes: Sequence[Sequence[Any]]) -> list[int]:
    """Indices of the episodes that are drawn, those without content left out."""
    full = [index for index, values in enumerate(episodes) if len(values)]
    kept = np.linspace(0, len(full) - 1, min(len(full), MOST_EPISODES)).round().astype(int)
    return [full[index] for index in kept]


def _some(episodes: Sequence[Sequence[Any]]) -> str:
    drawn, all_of_them = len(chosen(episodes)), len(episodes)
    return "each episode" if drawn >= all_of_them else f"{drawn} of {all_of_them} episodes"
