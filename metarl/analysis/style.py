"""Style of all figures: quiet axes, colours for colour-blind readers, labels next to the lines.

Figures are plain matplotlib objects; pyplot and its global state stay untouched.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, ScalarFormatter
from scipy.optimize import isotonic_regression

from metarl.runs.files import replacing

INK, MUTED, GRID = "#1f2429", "#6b747d", "#d9dee3"
# Okabe & Ito 2008, without its yellow, which is too light for lines.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", ":")  # once the colours are used up

SMALL, NORMAL = 8.0, 9.0  # points
MOST_POINTS = 400  # more cannot be seen and make a page heavy
FEW_POINTS = 15  # a line through so few carries markers

# In a page the colours that depend on light or dark mode are the page's to set.
THEMED = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PALETTE[0]: "var(--blue)",
    PALETTE[5]: "var(--sky)",
}


class Label(NamedTuple):
    """Text next to the right end of a line."""

    y: float
    text: str
    color: str


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (7.0, 3.6)) -> tuple[Figure, list[Axes]]:
    """A figure of ``size`` inches and its axes, row by row."""
    figure = Figure(figsize=size, dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in axes:
        _tidy(ax)
    return figure, axes


def panels(count: int, *, columns: int = 3, width: float = 10.0, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels, at most ``columns`` in a row, each row ``height`` inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = new_figure(rows, columns, (max(7.0, width * columns / 3), height * rows))
    for ax in axes[count:]:
        ax.remove()
    return figure, axes[:count]


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the line with this number."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "linestyle": DASHES[index // len(PALETTE) % len(DASHES)],
    }


def draw_line(
    ax: Axes, x: np.ndarray, y: np.ndarray, band: tuple[np.ndarray, np.ndarray] | None = None, **style
) -> None:
    """A line with its band (low, high), all arrays ``[points]``."""
    marker = "o" if len(x) <= FEW_POINTS else None
    style = {"linewidth": 1.8, "marker": marker, "markersize": 3.5, "solid_capstyle": "round"} | style
    ax.plot(x, y, **style)
    if band is not None:
        ax.fill_between(x, *band, color=style["color"], alpha=0.18, linewidth=0)


def draw_level(ax: Axes, y: float, *, dashed: bool) -> None:
    """A horizontal line for a baseline, or dashed for a bound."""
    ax.axhline(y, color=INK if dashed else MUTED, linewidth=0.9, linestyle="--" if dashed else "-", zorder=1)


def draw_map(ax: Axes, values: np.ndarray) -> None:
    """A matrix as shades with their scale, row 0 on top."""
    shades = ax.imshow(values, cmap="Blues", aspect="auto", interpolation="nearest", vmin=0)
    ax.grid(visible=False)
    _scale(ax, shades)


def draw_points(ax: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray) -> None:
    """A point per entry of three flat arrays, coloured by ``values``, with their scale."""
    _scale(ax, ax.scatter(x, y, c=values, cmap="viridis", s=4, linewidths=0, rasterized=True))


def _scale(ax: Axes, shades: Any) -> None:
    bar = ax.figure.colorbar(shades, ax=ax, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=SMALL, labelcolor=MUTED, length=0)


def thin(points: int) -> np.ndarray:
    """Indices of evenly spread points, at most ``MOST_POINTS``, with the first and the last."""
    return np.linspace(0, points - 1, min(points, MOST_POINTS)).round().astype(int)


def count_axis(ax: Axes) -> None:
    """Environment steps, as in 500k and 2M."""
    ax.set_xlabel("environment steps", fontsize=NORMAL, color=INK)
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlim(left=0)


def experience_axis(ax: Axes, most: int) -> None:
    """Axis of the episode index within the trial; logarithmic if there are many, so that short trials stay visible."""
    ax.set_xlabel("episode index within the trial (0 = first)", fontsize=NORMAL, color=INK)
    if most > 20:
        ax.set_xscale("symlog", linthresh=2)
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.set_xticks([x for x in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if x <= most])
        ax.set_xlim(-0.1, most * 1.1)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(min(10, max(most, 1)), integer=True, min_n_ticks=1))
        ax.set_xlim(-0.02 * (most + 1), most + 0.02 * (most + 1))


def episode_axis(ax: Axes, episodes: int) -> None:
    """Episodes of a trial, counted from one."""
    ax.set_xlabel("episode of the trial", fontsize=NORMAL, color=INK)
    ax.xaxis.set_major_locator(MaxNLocator(min(10, max(episodes, 2)), integer=True, min_n_ticks=1))
    ax.set_xlim(1 - 0.02 * episodes, episodes * 1.02)


def value_axis(ax: Axes, text: str) -> None:
    """Name and unit of what is drawn upwards."""
    ax.set_ylabel(text, fontsize=NORMAL, color=INK, parse_math=False)


def title(ax: Axes, text: str) -> None:
    """A small title over one panel."""
    ax.set_title(text, fontsize=NORMAL, color=INK, loc="left", parse_math=False)


def label_ends(ax: Axes, labels: Sequence[Label]) -> None:
    """Write labels outside the right edge, at their heights but never over one another."""
    if not labels:
        return
    ax.figure.canvas.figure.draw_without_rendering()  # settles the size of the axes
    low, high = ax.get_ylim()
    ax.set_ylim(low, high)
    height = ax.bbox.height / ax.figure.dpi * 72  # points
    wanted = np.array([(label.y - low) / (high - low) for label in labels])
    placed = _apart(wanted, 1.3 * SMALL / height)
    for label, start, y in zip(labels, wanted, placed, strict=True):
        ax.plot([1.005, 1.025], [start, y], color=label.color, linewidth=0.7, transform=ax.transAxes, clip_on=False)
        place: dict[str, Any] = {"transform": ax.transAxes, "va": "center", "parse_math": False}
        ax.text(1.035, y, label.text, color=label.color, fontsize=SMALL, **place)


def legend_above(figure: Figure, names: Sequence[str]) -> None:
    """One legend for all panels, over them: line number i is drawn in ``line_style(i)``."""
    handles = [Line2D([], [], linewidth=2, **line_style(i)) for i in range(len(names))]
    inches = 0.065 * max(map(len, names)) + 0.6  # of one entry
    columns = min(len(names), max(1, int(figure.get_figwidth() / inches)))
    look: dict[str, Any] = {"ncols": columns, "frameon": False, "fontsize": SMALL, "labelcolor": INK}
    legend = figure.legend(handles, names, loc="outside upper left", **look)
    for text in legend.get_texts():
        text.set_parse_math(False)


def to_svg(figure: Figure, prefix: str) -> str:
    """The figure as an ``<svg>`` element for a page that sets the variables of ``THEMED``.

    Args:
        prefix: of all ids inside, so that several figures can stand in one page.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)
    for color, themed in THEMED.items():
        svg = svg.replace(color, themed)
    return svg


def save_figures(figures: Mapping[str, Figure], directory: Path) -> list[Path]:
    """Each as an SVG file of its name; the same figure gives the same bytes."""
    paths = [directory / f"{name}.svg" for name in figures]
    for figure, path in zip(figures.values(), paths, strict=True):
        with matplotlib.rc_context({"svg.hashsalt": path.stem}):
            save_figure(figure, path, metadata={"Date": None})
    return paths


def save_figure(figure: Figure, path: Path, **options: Any) -> None:
    """One figure as an SVG file; the folder is made if it is missing."""
    with replacing(path) as file:
        figure.savefig(file, format="svg", bbox_inches="tight", **options)


def _tidy(ax: Axes) -> None:
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(MUTED)
    ax.grid(axis="y", color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=SMALL, labelcolor=MUTED, color=MUTED, length=3)
    ax.tick_params(axis="y", length=0)


def _apart(wanted: np.ndarray, gap: float) -> np.ndarray:
    """The heights closest to ``wanted``, in [0, 1], that keep ``gap`` between neighbours: an isotonic regression."""
    order = np.argsort(wanted, kind="stable")
    gap = min(gap, 1 / max(len(wanted) - 1, 1))
    steps = gap * np.arange(len(wanted))
    placed = np.empty(len(wanted))
    placed[order] = np.clip(isotonic_regression(wanted[order] - steps).x, 0, 1 - steps[-1]) + steps
    return placed
