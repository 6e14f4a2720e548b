"""The figure of the README, drawn from the tables of ``results/rl2.md``: ``python benchmarks/overview.py``.

Writes ``results/overview.svg``: learned agents, one point per seed, among classical solvers and exact bounds.
"""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes

from metarl.analysis import style

RESULTS = Path(__file__).resolve().parent.parent / "results"
PANELS = {
    "Bernoulli bandit, 5 arms, 10 pulls": {"rl2/bandit_n10": "RL²"},
    "Tabular MDPs, 10 episodes": {
        "rl2/tabular_mdp_n10": "RL²",
        "rl2/tabular_mdp_n10_regret": "RL², trained with exact solutions",
    },
}
LEFT_OUT = ("Random", "Known MDP")  # far from all others

Table = list[dict[str, str]]


def main() -> None:
    """Draw a panel per environment and write the figure."""
    sections = tables_by_section((RESULTS / "rl2.md").read_text())
    figure, axes = style.new_figure(1, len(PANELS), size=(8.6, 2.9))
    for ax, (title, experiments) in zip(axes, PANELS.items(), strict=True):
        ax.set_title(title, loc="left", fontsize=style.NORMAL, color=style.INK)
        draw(ax, {name: sections[experiment] for experiment, name in experiments.items()})
    matplotlib.rcParams["svg.hashsalt"] = "overview"  # the same file from the same tables
    figure.savefig(RESULTS / "overview.svg", bbox_inches="tight", metadata={"Date": None})


def tables_by_section(page: str) -> dict[str, list[Table]]:
    """Markdown tables of each section of a page."""
    found: dict[str, list[Table]] = {}
    for section in page.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        blocks = [block.splitlines() for block in body.split("\n\n") if block.startswith("|")]
        found[title] = [as_table(lines) for lines in blocks]
    return found


def as_table(lines: list[str]) -> Table:
    """Rows of a Markdown table by the names of its columns."""
    names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(names, row, strict=True)) for row in rows]


def draw(ax: Axes, experiments: dict[str, list[Table]]) -> None:
    """Returns of a trial: seeds of each experiment, and the reference values of the first one; best on top."""
    learned = {name: [mean_of(row["sampled"]) for row in tables[0]] for name, tables in experiments.items()}
    references = [row for row in next(iter(experiments.values()))[-1] if row["kind"] != "agent"]
    shown = {row["name"]: [float(row["return"])] for row in references if row["name"] not in LEFT_OUT} | learned
    names = sorted(shown, key=lambda name: sum(shown[name]) / len(shown[name]))
    bounds = {row["name"] for row in references if row["kind"] == "bound"}
    for y, name in enumerate(names):
        color = style.PALETTE[list(learned).index(name)] if name in learned else style.MUTED
        marker = "D" if name in bounds else "o"
        ax.plot(shown[name], [y] * len(shown[name]), marker, color=color, markersize=5, alpha=0.85)
    ax.set_yticks(range(len(names)), names, fontsize=style.SMALL)
    for label in ax.get_yticklabels():
        if label.get_text() in learned:
            label.set(color=style.PALETTE[list(learned).index(label.get_text())], weight="bold")
    ax.grid(visible=True, axis="x", color=style.GRID, linewidth=0.6)
    ax.set_xlabel("held-out return of a trial", fontsize=style.NORMAL, color=style.INK)


def mean_of(cell: str) -> float:
    """The mean of a cell such as ``6.669 ± 0.016``."""
    return float(cell.split(" ")[0])


if __name__ == "__main__":
    main()
