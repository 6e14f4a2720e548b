"""Writes a page of results from finished runs, with the commands, commits and hardware behind them.

    python run.py experiment=rl2/bandit_n10 seed=0,1,2 -m
    python benchmarks/results.py multirun/*/* --output results/rl2

Writes ``<output>.md`` (tables, a section per environment) and, under ``<output>/``, a learning curve (CSV) per run and
figures per environment.
``--by-task`` evaluates on more held-out tasks of the named environments and lists returns by kind of task;
``--task-set`` evaluates on the named task sets, in environments that have them.
"""

import argparse
import contextlib
import io
from pathlib import Path
from typing import Any

from hydra.utils import get_class

from metarl.analysis.comparison import compare, group_by_environment
from metarl.analysis.comparison_figures import comparison_figures
from metarl.analysis.runs import SCORES, Run, Score, load_runs, require_finished
from metarl.analysis.tables import final_table, format_table
from metarl.analysis.task_notes import sentence
from metarl.cli import main as metarl

CURVE = ("env_steps", "wall_time", "eval/sampled/return_mean", "eval/sampled/return_se", "eval/greedy/return_mean")


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--title", default="Learned results")
    parser.add_argument("--by-task", nargs="+", metavar="ENVIRONMENT", default=[])
    parser.add_argument("--task-set", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--score", choices=SCORES, help="score to compare; default: trial if all have one length")
    parser.add_argument("--num-tasks", default="1000", help="tasks of these evaluations (default 1000)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    groups = group_by_environment(load_runs(options.runs), score=options.score or "trial")
    pages = [
        _section(environment, [run for runs in methods.values() for run in runs], options)
        for environment, methods in groups.items()
    ]
    options.output.with_suffix(".md").write_text("\n".join([f"# {options.title}\n", _HEAD, *pages]))


_HEAD = """Returns on held-out tasks, mean ± standard error of one run: over tasks, or over trials if a finite set of
tasks was played as a whole. Each section names its tasks. Evaluations use the latest weights, not the best ones.
Minutes are training time only, on machines shared with other work. Written by `benchmarks/results.py`.
"""


def _section(environment: str, runs: list[Run], options: argparse.Namespace) -> str:
    """Page section of one environment; writes its learning curves and figures too."""
    runs = sorted(runs, key=lambda run: (experiment_of(run), run.seed))
    for run in runs:
        write_curve(run, options.output / f"{experiment_of(run).rpartition('/')[2]}-seed{run.seed}.csv")
    comparison = compare(runs, score=options.score)
    figures = comparison_figures(runs, comparison)
    stem = environment.replace(" ", "-")
    for name, figure in figures.items():
        figure.savefig(options.output / f"{stem}-{name}.svg", bbox_inches="tight")
    tables = [
        format_table([run_row(run, comparison.score) | adaptation(run) for run in runs], "markdown"),
        format_table(comparison.rows, "markdown") + "\n\n" + "\n".join(comparison.notes),
        *(references(run) for run in most_complete(runs) if comparison.score == "trial"),
        *evaluations(environment, runs, options),
    ]
    played = dict.fromkeys(sentence(run.evaluations["sampled"], run.selected_on) for run in runs)
    tasks = "\n".join(f"Tasks: {text}." for text in played)
    commands = [f"- `python run.py -m experiment={name} seed=...`" for name in sorted(set(map(experiment_of, runs)))]
    images = [f"![{name.replace('_', ' ')}]({options.output.name}/{stem}-{name}.svg)" for name in figures]
    return "\n\n".join([f"## {environment}", "\n".join(commands), tasks, *tables, "\n".join(images)]) + "\n"


def evaluations(environment: str, runs: list[Run], options: argparse.Namespace) -> list[str]:
    """Tables of the additional evaluations that the options request."""
    asked = [("--by-task",)] if environment in options.by_task else []
    if has_task_sets(runs[0], options.task_set):
        asked.append(("--task-set", *options.task_set))
    return [evaluated(run, *which, "--num-tasks", options.num_tasks) for which in asked for run in runs]


def experiment_of(run: Run) -> str:
    """Value of ``experiment=`` of the run."""
    return str(run.config["choices"]["experiment"])


def most_complete(runs: list[Run]) -> list[Run]:
    """The run with the most baselines of every experiment that has any."""
    best = {experiment_of(run): run for run in sorted(runs, key=lambda run: (len(run.baselines), -run.seed))}
    return [run for run in best.values() if run.baselines]


def references(run: Run) -> str:
    """Table of a run and of the classical solvers on the same tasks."""
    table = format_table(final_table(require_finished(run)), "markdown")
    return f"`{experiment_of(run)}`, seed {run.seed}, with reference values on the same tasks:\n\n{table}"


def has_task_sets(run: Run, task_sets: list[str]) -> bool:
    """Whether ``task_sets`` is not empty and the run's environment has all of them."""
    return bool(task_sets) and set(task_sets) <= set(get_class(run.config["env"]["_target_"]).task_sets)


def evaluated(run: Run, *options: str) -> str:
    """The table of ``metarl evaluate``, on new tasks if the environment draws them from a distribution."""
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        metarl(["evaluate", str(run.path), *options, "--format", "markdown"])
    head = f"`{experiment_of(run)}`, seed {run.seed}, `metarl evaluate RUN {' '.join(options)}`:"
    return f"{head}\n\n{table.getvalue().strip()}"


def run_row(run: Run, score: Score = "trial") -> dict[str, Any]:
    """Row of one finished run: returns of trials (if these are the score), tasks, cost, hardware and commit."""
    summary = require_finished(run)
    trials = {name: f"{e['return_mean']:.3f} ± {e['return_se']:.3f}" for name, e in run.evaluations.items()}
    return {
        "experiment": experiment_of(run),
        "seed": run.seed,
        **(trials if score == "trial" else {}),
        "tasks": summary["num_tasks"],
        "steps": summary["env_steps"],
        "minutes": round(summary["wall_time"] / 60, 1),
        "hardware": summary["hardware"],
        "commit": summary["commit"],
    }


def adaptation(run: Run) -> dict[str, str]:
    """Returns of the first and the last episode, and of the last one with random actions; empty for one episode."""
    sampled, random = run.evaluations["sampled"], run.baselines.get("Random")
    episodes = {"first episode": (sampled, 0), "last episode": (sampled, -1)}
    episodes |= {"random": (random, -1)} if random else {}
    if len(sampled["adaptation_curve"]) == 1:
        return {}
    return {
        name: f"{e['adaptation_curve'][index]:.3f} ± {e['adaptation_se'][index]:.3f}"
        for name, (e, index) in episodes.items()
    }


def write_curve(run: Run, path: Path) -> None:
    """Write the held-out returns during training as CSV."""
    rows = [{key: row[key] for key in CURVE} for row in run.history if CURVE[2] in row]
    path.write_text(format_table(rows, "csv") + "\n")


if __name__ == "__main__":
    main()
