"""Frames of a video that draws the path of every episode of a trial in one row. Imports no torch."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metarl.analysis import style
from metarl.analysis.trial_recording import TrialRecording
from metarl.envs.rendering import Frame

COLUMNS = 4  # episodes drawn; of more the first ones and the last one
INCHES, DOTS_PER_INCH = 1.9, 100
MARGIN = 0.12  # share of the largest extent, around all paths
HOLD = 12  # repetitions of the last frame


def with_path_frames(recording: TrialRecording, every: int = 1) -> TrialRecording:
    """The recording with frames of its paths in place of rendered pictures.

    Args:
        recording: a trial with positions in the plane.
        every: steps between frames.

    Raises:
        ValueError: the environment has no positions in the plane.
    """
    if not any(recording.positions):
        raise ValueError("--paths: tasks of this environment have no positions in a plane; leave the option out")
    chosen = [*range(len(recording.positions))]
    chosen = chosen if len(chosen) <= COLUMNS else [*chosen[: COLUMNS - 1], chosen[-1]]
    return replace(recording, frames=list(_frames(recording, chosen, every)))


def _frames(recording: TrialRecording, chosen: list[int], every: int) -> Iterator[Frame]:
    paths = [np.array(recording.positions[episode]) for episode in chosen]
    figure = Figure(figsize=(INCHES * len(paths), INCHES + 0.2), dpi=DOTS_PER_INCH, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, len(paths), sharex=True, sharey=True))
    lines = [
        _panel(ax, f"episode {episode + 1}: return {recording.returns[episode]:.1f}", recording.goal)
        for ax, episode in zip(panels, chosen, strict=True)
    ]
    _set_limits(panels[0], np.concatenate(paths if recording.goal is None else [*paths, recording.goal[None]]))
    last = max(map(len, paths))
    shown = [*range(1, last, every), *[last] * HOLD]
    for count in shown:
        for (trail, head), path in zip(lines, paths, strict=True):
            trail.set_data(*path[:count].T)
            head.set_data(*path[:count][-1:].T)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _panel(ax: Axes, title: str, goal: np.ndarray | None) -> tuple[Line2D, Line2D]:
    """An empty trail and its head in a tidy panel."""
    ax.set_title(title, fontsize=style.NORMAL, color=style.INK)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.spines[:].set_color(style.GRID)
    if goal is not None:
        ax.plot(*goal, marker="*", markersize=13, color=style.PALETTE[2], linestyle="none")
    (trail,) = ax.plot([], [], color=style.PALETTE[5], linewidth=1.6, marker=".", markersize=5)
    (head,) = ax.plot([], [], color=style.PALETTE[0], marker="o", markersize=8, linestyle="none")
    return trail, head


def _set_limits(ax: Axes, points: np.ndarray) -> None:
    low, high = points.min(0), points.max(0)
    middle, half = (low + high) / 2, max((high - low).max() / 2, 1e-6) * (1 + 2 * MARGIN)
    ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
