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
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, ScalarFormatter
from matplotlib.transforms import Transform
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from metarl.runs.files import replacing

INK, MUTED, GRID = "#1f2429", "#6b747d", "#d9dee3"
# Okabe & Ito 2008, without its yellow; pink, orange and sky are darker, for a contrast of 3 to 1 on white.
PALETTE = ("#0072b2", "#d55e00", "#008a65", "#bf5f95", "#b87a00", "#3797d3")
DASHES = ("-", "--", ":")  # once the colours are used up

SMALL, NORMAL = 8.0, 9.0  # points
AXIS: dict[str, Any] = {"fontsize": NORMAL, "color": INK}  # look of the name of an axis
LEAST_SHARE = 0.85  # of the size of a figure in a page; narrower windows scroll it, so that its texts stay legible
MOST_TIPS = 40  # places of a line that show their values under the pointer
MOST_POINTS = 400  # more cannot be seen and make a page heavy
FEW_POINTS = 15  # a line through so few carries markers

# In a page the colours that depend on light or dark mode are the page's to set.
THEMED = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    **dict(zip(PALETTE, map("var(--{})".format, ("blue", "vermilion", "green", "pink", "orange", "sky")), strict=True)),
}


class Tips(Line2D):
    """Places in a figure that show a text each under the pointer, in a page; nothing is drawn."""

    def __init__(self, x: ArrayLike, y: ArrayLike, texts: Sequence[str], transform: Transform):
        super().__init__(np.atleast_1d(x), np.atleast_1d(y), linestyle="none", transform=transform)
        self.texts = list(texts)


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
    """A line with its band (low, high), all arrays ``[points]``; with a ``label`` a page shows values at its points."""
    marker = "o" if len(x) <= FEW_POINTS else None
    style = {"linewidth": 1.8, "marker": marker, "markersize": 3.5, "solid_capstyle": "round"} | style
    ax.plot(x, y, **style)
    if band is not None:
        ax.fill_between(x, *band, color=style["color"], alpha=0.18, linewidth=0)


def add_tips(ax: Axes, x: ArrayLike, y: ArrayLike, texts: Sequence[str]) -> None:
    """Let a page show a text at each of these places under the pointer."""
    ax.add_artist(Tips(x, y, texts, ax.transData))


def draw_level(ax: Axes, y: float, *, dashed: bool) -> None:
    """A horizontal line for a baseline, or dashed for a bound."""
    ax.axhline(y, color=INK if dashed else MUTED, linewidth=0.9, linestyle="--" if dashed else "-", zorder=1)


def draw_map(ax: Axes, values: np.ndarray, name: str) -> None:
    """A matrix as shades with their named scale, row 0 on top."""
    shades = ax.imshow(values, cmap="Blues", aspect="auto", interpolation="nearest", vmin=0)
    ax.grid(visible=False)
    add_scale(ax, shades, name)


def draw_points(ax: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, name: str) -> None:
    """A point per entry of three flat arrays, coloured by ``values``, with their named scale."""
    add_scale(ax, ax.scatter(x, y, c=values, cmap="viridis", s=4, linewidths=0, rasterized=True), name)


def add_scale(ax: Axes, shades: Any, name: str) -> None:
    """A colour bar with the name and unit of what it measures."""
    bar = ax.figure.colorbar(shades, ax=ax, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(name, fontsize=SMALL, color=INK)
    bar.ax.tick_params(labelsize=SMALL, labelcolor=MUTED, length=0)


def thin(points: int, most: int = MOST_POINTS) -> np.ndarray:
    """Indices of evenly spread points, at most ``most``, with the first and the last."""
    return np.linspace(0, points - 1, min(points, most)).round().astype(int)


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
        integer_ticks(ax, 0, most)
        ax.set_xlim(-0.02 * (most + 1), most + 0.02 * (most + 1))


def episode_axis(ax: Axes, episodes: int) -> None:
    """Episodes of a trial, counted from one."""
    ax.set_xlabel("episode of the trial", fontsize=NORMAL, color=INK)
    integer_ticks(ax, 1, episodes)
    ax.set_xlim(1 - 0.02 * episodes, episodes * 1.02)


def integer_ticks(ax: Axes, first: int, last: int) -> None:
    """Ticks at whole numbers: at all of them if they are few."""
    few = last - first <= 10
    ax.xaxis.set_major_locator(FixedLocator(list(range(first, last + 1))) if few else MaxNLocator(10, integer=True))


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
        ax.add_artist(Tips(1.005, start, [f"{label.text}: {label.y:.4g}"], ax.transAxes))


def legend_above(figure: Figure, names: Sequence[str]) -> None:
    """One legend for all panels, over them: line number i is drawn in ``line_style(i)``."""
    handles = [Line2D([], [], linewidth=2, **line_style(i)) for i in range(len(names))]
    inches = 0.065 * max(map(len, names)) + 0.6  # of one entry
    columns = min(len(names), max(1, int(figure.get_figwidth() / inches)))
    look: dict[str, Any] = {"ncols": columns, "frameon": False, "fontsize": SMALL, "labelcolor": INK}
    legend = figure.legend(handles, names, loc="outside upper left", **look)
    for text in legend.get_texts():
        text.set_parse_math(False)


def legend_right(figure: Figure, handles: Sequence[Line2D]) -> None:
    """A legend of these entries beside the panels."""
    look: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "labelcolor": INK}
    legend = figure.legend(handles=handles, loc="outside right upper", **look)
    for text in legend.get_texts():
        text.set_parse_math(False)


def to_svg(figure: Figure, prefix: str) -> str:
    """The figure as an ``<svg>`` element for a page that sets the variables of ``THEMED``.

    Labelled lines show the values of their points under the pointer, without a script.

    Args:
        prefix: of all ids inside, so that several figures can stand in one page.
    """
    dpi = figure.dpi
    figure.set_dpi(72)  # that of an SVG file, so that the tips are where its points are
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
    # What is drawn in plain black names no colour and takes that of its parent.
    least = f"min-width: {LEAST_SHARE * 72 * figure.get_figwidth():.0f}pt"
    svg = svg.replace("<svg", f'<svg fill="currentColor" style="{least}"', 1)
    svg = svg.replace("</svg>", f"{_tips(figure)}</svg>")
    figure.set_dpi(dpi)
    return svg


def _tips(figure: Figure) -> str:
    """Invisible circles with the texts of all ``Tips`` and the values of all labelled lines."""
    height, circles = figure.bbox.height, []
    for ax in figure.axes:
        for line in (artist for artist in (*ax.lines, *ax.artists) if isinstance(artist, Line2D)):
            data = np.asarray(line.get_xydata(), dtype=float)
            shown = thin(len(data), MOST_TIPS)
            places = line.get_transform().transform(data[shown])
            for (x, y), text in zip(places, _texts(ax, line, data, shown), strict=False):
                if np.isfinite(y) and ax.bbox.padded(1).contains(x, y):
                    at = f'cx="{x:.1f}" cy="{height - y:.1f}" r="5"'
                    circles.append(f"<circle {at}><title>{escape(text)}</title></circle>")
    return f'<g class="tips">{"".join(circles)}</g>' if circles else ""


def _texts(ax: Axes, line: Line2D, data: np.ndarray, shown: np.ndarray) -> list[str]:
    """Texts of these places of a line; none for a line without a label."""
    if isinstance(line, Tips):
        return [line.texts[index] for index in shown]
    name = str(line.get_label())
    x_name, y_name = ax.get_xlabel() or "x", ax.get_ylabel() or "value"
    values = [] if name.startswith("_") else data[shown]
    return [f"{name}\n{x_name}: {x:.6g}\n{y_name}: {y:.4g}" for x, y in values]


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
