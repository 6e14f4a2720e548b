"""Diagrams of the training loop, and of a trial of every algorithm, for ``pictures.py``."""

from drawing import BLUE, GREEN, ORANGE, SKY, save, untrained
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from metarl.algorithms.base import Algorithm
from metarl.analysis import style
from metarl.analysis.style import INK, MUTED, NORMAL, SMALL
from metarl.configuration.compose import options
from metarl.envs.base import MetaEnv
from metarl.evaluation import evaluate
from metarl.types import Agent


def methods() -> None:
    """Rollouts of a trial of every algorithm, of two episodes each, and gradient steps between them."""
    names = [name for name in options("algorithm") if name != "multitask"]
    made = {name: untrained(f"algorithm={name}", "env=point_navigation", "env.num_episodes=2") for name in names}
    names.sort(key=lambda name: len(made[name].rollouts))
    figure, (ax,) = style.new_figure(size=(8.0, 0.3 * len(names) + 0.6))
    for row, name in enumerate(names):
        _timeline(ax, -row, made[name])
        ax.text(-0.4, -row, name, ha="right", va="center", fontsize=NORMAL, color=INK)
    ax.set(xticks=[], yticks=[], xlim=(-3.8, 20), ylim=(-len(names) + 0.3, 1.6))
    ax.spines["bottom"].set_visible(False)
    ax.grid(visible=False)
    for x, (color, text) in zip((0, 5.6, 10.9, 15), LEGEND.items(), strict=True):
        ax.text(x, 1.1, text, fontsize=NORMAL, color=color, fontweight="bold")
    save(figure, "methods")


LEGEND = {SKY: "episodes of support", BLUE: "episodes scored", ORANGE: "gradient step", GREEN: "memory runs through"}


def _timeline(ax: Axes, y: float, algorithm: Algorithm) -> None:
    """Squares for episodes, a bar for every adaptation between rollouts, a line for a memory that runs through."""
    adapts = type(algorithm).adapt is not Algorithm.adapt
    x = 0.0
    for number, episodes in enumerate(algorithm.rollouts):
        last = number == len(algorithm.rollouts) - 1
        for _ in range(episodes):
            ax.add_patch(Rectangle((x, y - 0.3), 0.85, 0.6, color=BLUE if last else SKY, linewidth=0))
            x += 1
        if not last and adapts:
            ax.plot([x + 0.1, x + 0.1], [y - 0.38, y + 0.38], color=ORANGE, linewidth=4, solid_capstyle="butt")
            x += 0.35
    if not adapts:
        ax.plot([0, x - 0.15], [y - 0.4] * 2, color=GREEN, linewidth=2)
    says = (type(algorithm).__doc__ or "").splitlines()[0].split(",")[0].split(";")[0].rstrip(".")
    ax.text(x + 0.2, y, says, va="center", fontsize=SMALL, color=MUTED)


def loop() -> None:
    """Training loop: boxes of one iteration in their order, with the function that does each."""
    boxes = (
        ("new tasks", MetaEnv.sample_tasks, MUTED),
        ("support episodes", Agent.act, SKY),
        ("adaptation", Agent.adapt, ORANGE),
        ("scored episodes", Agent.act, BLUE),
        ("meta-update", Algorithm.update, GREEN),
        ("held-out tasks", evaluate, MUTED),
    )
    figure, (ax,) = style.new_figure(size=(9.0, 2.2))
    for x, (text, function, color) in enumerate(boxes):
        look = dict(boxstyle="round,pad=0.02", facecolor="none", edgecolor=color, linewidth=2)
        ax.add_patch(FancyBboxPatch((x + 0.06, 0), 0.76, 0.6, **look))
        ax.text(x + 0.44, 0.39, text, ha="center", va="center", fontsize=SMALL + 0.5, color=INK)
        ax.text(x + 0.44, 0.17, function.__qualname__, ha="center", va="center", fontsize=SMALL - 1, color=MUTED)
        if x:
            _arrow(ax, (x - 0.14, 0.3), (x + 0.02, 0.3), 0)
    _arrow(ax, (2.44, 0.66), (1.44, 0.66), 0.5)
    ax.text(1.94, 1.2, "further support rollouts", ha="center", fontsize=SMALL, color=MUTED)
    _arrow(ax, (4.44, -0.06), (0.44, -0.06), -0.16)
    ax.text(
        2.44,
        -0.8,
        "next iteration; the state of an agent is new in every trial",
        ha="center",
        fontsize=SMALL,
        color=MUTED,
    )
    ax.text(5.44, -0.26, "at intervals", ha="center", fontsize=SMALL, color=MUTED)
    ax.set(xticks=[], yticks=[], xlim=(-0.05, 5.95), ylim=(-0.9, 1.4))
    ax.spines["bottom"].set_visible(False)
    ax.grid(visible=False)
    save(figure, "loop")


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], bend: float) -> None:
    look = dict(arrowstyle="-|>", color=MUTED, linewidth=1.2, connectionstyle=f"arc3,rad={bend}")
    ax.annotate("", end, start, arrowprops=look)
