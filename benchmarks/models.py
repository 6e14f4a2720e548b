"""The page that compares all memories: ``docs/models.md``.

    python benchmarks/models.py add RUN...      takes finished runs of experiment=memories/... into results/memories/
    python benchmarks/models.py page            measures every model and writes the page from what is there

A run replaces an earlier one of the same environment, model and seed.
"""

import argparse
import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import get_class
from matplotlib.figure import Figure
from memories import peak_memory
from timing import Work, cpu_seconds, learner, trial_of

from metarl.analysis import style
from metarl.analysis.runs import Run, load_runs
from metarl.analysis.style import Label
from metarl.analysis.tables import format_table
from metarl.configuration.compose import compose, options
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from results import run_row, write_curve

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "results" / "memories", ROOT / "docs" / "models.md"
ENVIRONMENTS = {"bandit": "bandit", "gaussian_bandit": "Gaussian bandit", "tabular_mdp": "tabular MDP"}
LONGEST = "tabular_mdp"  # environment of the speed measurements and of the learning curves
LANES = 250

Rows = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("add").add_argument("runs", type=Path, nargs="+")
    commands.add_parser("page")
    chosen = parser.parse_args()
    if chosen.command == "add":
        add(load_runs(chosen.runs))
    else:
        page()


def add(runs: list[Run]) -> None:
    """Add runs to ``results/memories/runs.csv``, and write a learning curve for each."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    found = {_key(row): row for row in known_runs()}
    for run in runs:
        row = {"environment": run.environment, "model": str(run.config["choices"]["model"])} | run_row(run)
        row["experiment"] = str(run.config["choices"]["experiment"])
        found[_key(row)] = row
        write_curve(run, RESULTS / f"{row['environment']}-{row['model']}-seed{run.seed}.csv")
    rows = [found[key] for key in sorted(found)]
    (RESULTS / "runs.csv").write_text(format_table(rows, "csv") + "\n")


def known_runs() -> Rows:
    """Rows added so far, with cells as text."""
    path = RESULTS / "runs.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def _key(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["environment"], row["model"], int(row["seed"])


def page() -> None:
    """Measure all models, and write the page and its figure."""
    torch.set_num_threads(1)
    runs, models = known_runs(), options("model")
    reference = steps_per_second(["gru"])["gru"]
    rows = [{"model": model} | measure(model) | returns(runs, model) for model in models]
    rows.sort(key=lambda row: -float(str(row[ENVIRONMENTS[LONGEST]]).split(" ")[0] or 0))
    figure = RESULTS / f"{LONGEST}.svg"
    curves(runs).savefig(figure, bbox_inches="tight", metadata={"Date": None})
    PAGE.write_text(
        TEXT.format(
            table=format_table(rows, "markdown"),
            acting=f"{reference['acting']:,.0f}",
            learning=f"{reference['learning']:,.0f}",
            models="\n".join(f"- **{model}**: {_summary(model)}" for model in models),
            runs=format_table(_shown(runs), "markdown"),
            figure=f"../{figure.relative_to(ROOT)}",
        )
    )


def measure(model: str) -> dict[str, Any]:
    """Size, speed relative to the GRU, and peak memory, with the settings of the model's experiment."""
    speeds = steps_per_second([model, "gru"])
    algorithm, _ = _learner(model)
    return {
        "parameters": sum(p.numel() for p in algorithm.policy.memory.parameters()),
        **{of: f"{speeds[model][of] / speeds['gru'][of]:.2f}" for of in ("acting", "learning")},
        "memory (GiB)": f"{peak_memory(model):.2f}",
    }


def steps_per_second(models: list[str]) -> dict[str, dict[str, float]]:
    """Steps per CPU-second of acting and of learning for each model, measured in turns."""
    work: dict[str, dict[str, Work]] = {"acting": {}, "learning": {}}
    for model in models:
        algorithm, env = _learner(model)
        steps = LANES * env.trial_length
        trial = trial_of(algorithm, env)
        work["acting"][model] = partial(collect_trial, env, algorithm, make_generator(0))
        work["learning"][model] = partial(algorithm.update, trial, 0.0, make_generator(0))
    seconds = {of: cpu_seconds(calls, repeats=3) for of, calls in work.items()}
    return {model: {of: steps / seconds[of][model] for of in work} for model in models}


def _learner(model: str) -> tuple[Any, Any]:
    overrides = [*experiment(LONGEST, model), f"meta_batch_size={LANES}"]
    return learner(*overrides, "algorithm.num_epochs=1", "algorithm.num_minibatches=8")


def experiment(env: str, model: str) -> list[str]:
    """Overrides of the experiment of a model in an environment."""
    shared = f"memories/{env}_n10"
    own = f"{shared}_{model}"
    return [f"experiment={own}"] if own in options("experiment") else [f"experiment={shared}", f"model={model}"]


def returns(runs: Rows, model: str) -> dict[str, str]:
    """Sampled return in each environment, of the first seed there is."""
    found = {}
    for env, name in ENVIRONMENTS.items():
        seeds = [row["sampled"] for row in runs if (row["environment"], row["model"]) == (env, model)]
        found[name] = seeds[0] if seeds else ""
    return found


def _summary(model: str) -> str:
    """First line of the memory's documentation."""
    memory = get_class(compose([f"model={model}"]).model.memory.path)
    return (memory.__doc__ or "").strip().splitlines()[0]


def _shown(runs: Rows) -> Rows:
    """The runs, each with the command that repeats it."""
    shown = []
    for row in runs:
        command = f"python run.py experiment={row['experiment']} model={row['model']} seed={row['seed']}"
        rest = {key: value for key, value in row.items() if key not in ("experiment", "seed")}
        shown.append(rest | {"command": f"`{command}`"})
    return shown


def curves(runs: Rows) -> Figure:
    """Held-out return against minutes of training, a line per model."""
    figure, (ax,) = style.new_figure(size=(8.0, 4.6))
    labels = []
    chosen = [row for row in runs if row["environment"] == LONGEST]
    for index, row in enumerate(chosen):
        path = RESULTS / f"{LONGEST}-{row['model']}-seed{row['seed']}.csv"
        points = list(csv.DictReader(path.open()))
        minutes = np.array([float(point["wall_time"]) / 60 for point in points])
        mean = np.array([float(point["eval/sampled/return_mean"]) for point in points])
        look = style.line_style(index)
        style.draw_line(ax, minutes, mean, **look)
        labels.append(Label(mean[-1], row["model"], look["color"]))
    ax.set_xlabel("minutes of training", fontsize=style.NORMAL, color=style.INK)
    style.value_axis(ax, "held-out return of a trial (reward)")
    style.label_ends(ax, labels)
    return figure


TEXT = """# Choosing a memory

Written by `python benchmarks/models.py page`. Every memory obeys the same law, so each runs in every environment with
`model=NAME`; what differs is speed and what it learns.

{table}

- **parameters**: of the memory alone, fed the tabular MDP.
- **acting** and **learning**: steps per CPU-second against the GRU's, in turns, on the tabular MDP of ten
  episodes, one thread: a whole trial in 250 lanes, and one epoch of PPO over it in eight minibatches. The GRU acts
  {acting} steps and learns from {learning} per second on the machine that wrote this page.
- **memory**: peak of one update from 60 trials of 1,000 steps in eight minibatches, above that of the process
  before it, with the defaults.
- **returns** of a whole trial, sampled actions, mean and standard error over held-out tasks: bandits of five arms
  and ten pulls (rewards of 0 and 1: 3 M steps; Gaussian ones: 1.5 M) with the defaults, and the tabular MDP of ten
  episodes with one recipe for all (`experiment=memories/tabular_mdp_n10`) after as many steps as three runs side by
  side on two cores take in 60 minutes. The minutes below are of wall time, beside whatever else the machine did.

![held-out return on the tabular MDP over the minutes of training]({figure})

## What they are

{models}

## Runs

{runs}
"""


if __name__ == "__main__":
    main()
