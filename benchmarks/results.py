"""Writes a page of results from finished runs, with all that made them.

    python run.py experiment=rl2/bandit_n10 seed=0,1,2 -m
    python benchmarks/results.py multirun/*/* --output results/rl2

Writes ``<output>.md`` (tables) and, under ``<output>/``, a learning curve (CSV) per run and a figure per experiment.
``--by-task`` plays 1,000 more held-out tasks per run and tells returns by kind of task.
"""

import argparse
import contextlib
import io
from pathlib import Path
from typing import Any

from metarl.analysis.comparison import compare
from metarl.analysis.comparison_figures import adaptation_curves, learning_curves
from metarl.analysis.runs import Run, load_runs, require_finished
from metarl.analysis.tables import final_table, format_table
from metarl.cli import main as metarl

CURVE = ("env_steps", "wall_time", "eval/sampled/return_mean", "eval/sampled/return_se", "eval/greedy/return_mean")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--by-task", action="store_true")
    options = parser.parse_args()
    experiments: dict[str, list[Run]] = {}
    for run in load_runs(options.runs):
        experiments.setdefault(str(run.config["choices"]["experiment"]), []).append(run)
    options.output.mkdir(parents=True, exist_ok=True)
    pages = [
        _section(name, sorted(runs, key=lambda run: run.seed), options.output, options.by_task)
        for name, runs in experiments.items()
    ]
    options.output.with_suffix(".md").write_text("\n".join(["# Learned results\n", _HEAD, *pages]))


_HEAD = """Returns of a whole trial, mean and standard error over held-out tasks that no earlier evaluation met.
The latest weights, not the best. Minutes are of training alone, on machines shared with other work. Written by
`benchmarks/results.py`.
"""


def _section(name: str, runs: list[Run], folder: Path, by_task: bool) -> str:
    """Everything about one experiment; writes its curves and figure."""
    stem = name.rpartition("/")[2]
    for run in runs:
        write_curve(run, folder / f"{stem}-seed{run.seed}.csv")
    figure = folder / f"{stem}.svg"
    learning_curves(runs).savefig(figure, bbox_inches="tight")
    adaptation = folder / f"{stem}-adaptation.svg"
    adaptation_curves(runs).savefig(adaptation, bbox_inches="tight")
    complete = next((run for run in runs if run.baselines), runs[0])
    return "\n".join(
        [
            f"## {name}\n",
            f"`python run.py experiment={name} seed=...`\n",
            format_table([run_row(run) for run in runs], "markdown"),
            "",
            format_table(compare(runs).rows, "markdown"),
            f"\nSeed {complete.seed} beside the references, on the same tasks:\n",
            format_table(final_table(require_finished(complete)), "markdown"),
            *(kinds_of_tasks(run) for run in runs if by_task),
            f"\n![learning curves]({folder.name}/{figure.name})",
            f"![adaptation curves]({folder.name}/{adaptation.name})\n",
        ]
    )


def kinds_of_tasks(run: Run) -> str:
    """Returns by kind of task, on tasks that no evaluation of the run met."""
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        metarl(["evaluate", str(run.path), "--by-task", "--num-tasks", "1000", "--format", "markdown"])
    return f"\nSeed {run.seed} by kind of task, `metarl evaluate RUN --by-task --num-tasks 1000`:\n\n{table.getvalue()}"


def run_row(run: Run) -> dict[str, Any]:
    """One finished run, and all that made it."""
    summary = require_finished(run)
    sampled, greedy = summary["evaluation"]["sampled"], summary["evaluation"]["greedy"]
    return {
        "seed": run.seed,
        "sampled": f"{sampled['return_mean']:.3f} ± {sampled['return_se']:.3f}",
        "greedy": f"{greedy['return_mean']:.3f} ± {greedy['return_se']:.3f}",
        "tasks": summary["num_tasks"],
        "steps": summary["env_steps"],
        "minutes": round(summary["wall_time"] / 60, 1),
        "hardware": summary["hardware"],
        "commit": summary["commit"],
    }


def write_curve(run: Run, path: Path) -> None:
    """Held-out returns while training, as CSV."""
    rows = [{key: row[key] for key in CURVE} for row in run.history if CURVE[2] in row]
    path.write_text(format_table(rows, "csv") + "\n")


if __name__ == "__main__":
    main()
