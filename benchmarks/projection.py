"""TESP's ant beside its published curve, and where as many updates as published would lead.

    python run.py experiment=adaptation/ant_target_tesp
    python benchmarks/projection.py RUN --output results/adaptation/ant_target-projection.svg

The projection takes our curve for the published one, run through at another pace: the pace that fits our evaluations
best in squares also says where 600 updates would lead.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar

from metarl.analysis import style
from metarl.analysis.runs import Run, load_run

# Lan et al. 2019, supplement, figure 1: returns pooled over episodes, without noise on the goals, by meta-updates.
UPDATES = np.array([50, 100, 200, 300, 400, 500, 600])
PUBLISHED = {
    "D": np.array([-56.1, -29.3, -16.5, -13.1, -12.8, -13.0, -13.2]),
    "D'": np.array([-57.6, -31.3, -18.1, -14.3, -13.5, -14.1, -14.6]),
    "D''": np.array([-129.8, -81.6, -55.3, -47.3, -44.8, -42.1, -42.5]),
}
HELD_OUT = "D'"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    run = load_run(options.run)
    updates, task_mean, pooled = evaluations(run)
    start = run.baselines["Random"]["adaptation_curve"][-1]
    pace, ahead = projection(updates, pooled, start)
    draw(run, updates, task_mean, pooled, pace, start, options.output)
    published = PUBLISHED[HELD_OUT][-1]
    print(f"pace {pace:.2f} of the published; {HELD_OUT} at {UPDATES[-1]} updates {ahead:.1f} (published {published})")


def evaluations(run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Updates, and the last episode's return on held-out goals there: as mean over tasks, and pooled over episodes."""
    rows = [row for row in run.history if "eval/sampled/return_mean" in row]
    updates = [row["iteration"] for row in rows]
    task_mean = [row["eval/sampled/adaptation_curve"][-1] for row in rows]
    return np.array(updates), np.array(task_mean), np.array([row["eval/sampled/pooled_return"] for row in rows])


def at(updates: np.ndarray | float, start: float) -> np.ndarray:
    """The published curve on held-out goals; before its first point, straight from ``start``."""
    return np.interp(updates, [0, *UPDATES], [start, *PUBLISHED[HELD_OUT]])


def projection(updates: np.ndarray, pooled: np.ndarray, start: float) -> tuple[float, float]:
    """The pace that fits, as a share of the published one, and the return after the last published update."""

    def squares(pace: float) -> float:
        return np.square(at(pace * updates, start) - pooled).sum()

    fit = minimize_scalar(squares, bounds=(0, 3), method="bounded")
    return fit.x, float(at(fit.x * UPDATES[-1], start))


def draw(
    run: Run, updates: np.ndarray, task_mean: np.ndarray, pooled: np.ndarray, pace: float, start: float, output: Path
) -> None:
    """Ours, the published curves and the projection."""
    figure, (ax,) = style.new_figure()
    ends = []
    for index, (name, returns) in enumerate(PUBLISHED.items()):
        look = style.line_style(index)
        style.draw_line(ax, UPDATES, returns, **look)
        ends.append(style.Label(returns[-1], f"{name} published", look["color"]))
    trained = [row for row in run.history if "train/return" in row]
    rollouts = len(run.evaluations["sampled"]["adaptation_curve"])
    each = np.array([row["train/return"] for row in trained]) / rollouts
    style.draw_line(ax, np.array([row["iteration"] for row in trained]), each, color=style.GRID)
    ends.append(style.Label(each[-1], "mean of all rollouts", style.MUTED))
    for index, values, name in ((3, task_mean, "D' mean of tasks"), (4, pooled, "D' pooled")):
        look = style.line_style(index)
        style.draw_line(ax, updates, values, **look)
        ends.append(style.Label(values[-1], name, look["color"]))
    ahead = np.arange(updates[-1], UPDATES[-1] + 1)
    style.draw_line(ax, ahead, at(pace * ahead, start), color=style.PALETTE[4], linestyle=":")
    ends.append(style.Label(float(at(pace * ahead[-1], start)), "D' projected", style.PALETTE[4]))
    style.label_ends(ax, ends)
    ax.set_xlabel("meta-updates", fontsize=style.NORMAL, color=style.INK)
    style.value_axis(ax, "return of the adapted policy (reward)")
    figure.savefig(output, bbox_inches="tight")


if __name__ == "__main__":
    main()
