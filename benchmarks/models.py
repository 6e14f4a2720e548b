"""The page that compares all memories: ``docs/models.md``.

    python benchmarks/models.py add RUN...      adds finished runs of experiment=memories/... to results/memories/
    python benchmarks/models.py measure [MODEL...]  measures size, speed and memory of models, by default of all
    python benchmarks/models.py page            writes the page from both

A run replaces an earlier one of the same environment, objective, model and seed, a measurement that of the same model.
"""

import argparse
import csv
import textwrap
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
PLAIN = "algorithm.objective=return algorithm.regret_coefficient=0 algorithm.gae_lambda=0.3"
LONGEST = "tabular_mdp"  # environment of the speed measurements and of the learning curves
FIGURE = RESULTS / f"{LONGEST}.svg"
EXACT = "tabular MDP, trained with exact solutions"
COLUMNS = {
    ("bandit", "return"): "bandit",
    ("gaussian_bandit", "return"): "Gaussian bandit",
    (LONGEST, "return"): "tabular MDP, plain RL²",
    (LONGEST, "regret"): EXACT,
}
LANES = 250
SPEEDS = ("acting", "learning")

Rows = list[dict[str, Any]]


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("add").add_argument("runs", type=Path, nargs="+")
    commands.add_parser("measure").add_argument("models", nargs="*", metavar="MODEL")
    commands.add_parser("page")
    chosen = parser.parse_args()
    if chosen.command == "add":
        add(load_runs(chosen.runs))
    elif chosen.command == "measure":
        measure_all(chosen.models or options("model"))
    else:
        curves(added_runs()).savefig(FIGURE, bbox_inches="tight", metadata={"Date": None})
        PAGE.write_text(page())


def add(runs: list[Run]) -> None:
    """Add runs to ``results/memories/runs.csv``, and write a learning curve for each."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    found = {_key(row): row for row in added_runs()}
    for run in runs:
        choices, objective = run.config["choices"], run.config["algorithm"]["objective"]
        row = {"environment": run.environment, "objective": objective, "model": str(choices["model"])} | run_row(run)
        row["experiment"] = str(choices["experiment"])
        found[_key(row)] = row
        write_curve(run, RESULTS / curve_file(row))
    rows = [found[key] for key in sorted(found)]
    (RESULTS / "runs.csv").write_text(format_table(rows, "csv") + "\n")


def added_runs() -> Rows:
    """Rows added so far, with cells as text."""
    return _read("runs.csv")


def _read(name: str) -> Rows:
    path = RESULTS / name
    return list(csv.DictReader(path.open())) if path.exists() else []


def _key(row: dict[str, Any]) -> tuple[str, str, str, int]:
    return row["environment"], row["objective"], row["model"], int(row["seed"])


def curve_file(row: dict[str, Any]) -> str:
    """Name of the learning curve of a run."""
    plain = "plain-" if (row["environment"], row["objective"]) == (LONGEST, "return") else ""
    return f"{row['environment']}-{plain}{row['model']}-seed{row['seed']}.csv"


def measure_all(models: list[str]) -> None:
    """Measure models, one after the other, and keep what is found in ``results/memories/measurements.csv``."""
    torch.set_num_threads(1)
    for model in models:
        found = {row["model"]: row for row in _read("measurements.csv")} | {model: {"model": model} | measure(model)}
        text = format_table([found[name] for name in sorted(found)], "csv")
        (RESULTS / "measurements.csv").write_text(text + "\n")


def page() -> str:
    """Text of the page, from the runs and measurements that are kept."""
    runs = added_runs()
    measured = {row.pop("model"): row for row in _read("measurements.csv")}
    rows = []
    for model in options("model"):
        cells = dict(measured.get(model, {}))
        reference = {of: cells.pop(f"gru_{of}", "-") for of in SPEEDS}
        rows.append({"model": model} | cells | returns(runs, model))
        if model == "gru":
            of_gru = reference
    rows.sort(key=lambda row: -_mean(row[EXACT]))
    missing = ", ".join(f"`{row['model']}`" for row in rows if row[COLUMNS[LONGEST, "return"]] == "-")
    return TEXT.format(
        table=format_table(rows, "markdown"),
        acting=of_gru["acting"],
        learning=of_gru["learning"],
        plain=PLAIN,
        missing=textwrap.fill(f"{missing}. A missing entry is", 120),
        models="\n".join(f"- **{model}**: {_summary(model)}" for model in options("model")),
        runs=format_table(_shown(runs), "markdown"),
        figure=f"../{FIGURE.relative_to(ROOT)}",
    )


def _mean(cell: str) -> float:
    """Mean of a cell such as ``6.6 ± 0.1``; below all others for a dash."""
    return float("-inf") if cell == "-" else float(cell.split(" ")[0])


def measure(model: str) -> dict[str, Any]:
    """Size, speed relative to the GRU, peak memory, and the GRU's own steps per second, in the model's experiment."""
    speeds = steps_per_second([model, "gru"])
    algorithm, _ = _learner(model)
    return {
        "parameters": sum(p.numel() for p in algorithm.policy.memory.parameters()),
        **{of: f"{speeds[model][of] / speeds['gru'][of]:.2f}" for of in SPEEDS},
        "memory (GiB)": f"{peak_memory(model):.2f}",
        **{f"gru_{of}": f"{speeds['gru'][of]:,.0f}" for of in SPEEDS},
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
    """Sampled return in each column, of the first available seed; a dash for a missing run."""
    found = {}
    for key, name in COLUMNS.items():
        of_model = [row for row in runs if row["model"] == model]
        seeds = [row["sampled"] for row in of_model if (row["environment"], row["objective"]) == key]
        found[name] = seeds[0] if seeds else "-"
    return found


def _summary(model: str) -> str:
    """First line of the memory's documentation."""
    memory = get_class(compose([f"model={model}"]).model.memory._target_)
    return (memory.__doc__ or "").strip().splitlines()[0]


def _shown(runs: Rows) -> Rows:
    """The runs, each with the command that repeats it."""
    shown = []
    for row in runs:
        command = f"python run.py experiment={row['experiment']} model={row['model']} seed={row['seed']}"
        if (row["environment"], row["objective"]) == (LONGEST, "return") and "memories/" in row["experiment"]:
            command += f" {PLAIN} training.total_steps={row['steps']}"
        rest = {key: value for key, value in row.items() if key not in ("experiment", "seed")}
        shown.append(rest | {"command": f"`{command}`"})
    return shown


def curves(runs: Rows) -> Figure:
    """Held-out return against minutes of training with exact solutions, a line per model."""
    figure, (ax,) = style.new_figure(size=(8.0, 4.6))
    labels = []
    chosen = [row for row in runs if (row["environment"], row["objective"]) == (LONGEST, "regret")]
    for index, row in enumerate(chosen):
        points = list(csv.DictReader((RESULTS / curve_file(row)).open()))
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
`model=NAME`. Returns are of one seed: differences of a few units between memories are not a ranking.

**The last column is not plain RL².** It is trained with exact solutions of the training tasks
(`algorithm.objective=regret algorithm.regret_coefficient=5`, see [methods](methods.md#training-with-exact-solutions));
acting and evaluation do not use them. Plain RL², on rewards only, has its own column; it has not been run yet for
{missing}

```
python run.py experiment=memories/tabular_mdp_n10_NAME training.total_steps=20_000_000 \\
    {plain}
```

{table}

- **parameters**: number of weights of the memory without heads, with the inputs of the tabular MDP.
- **acting** and **learning**: steps per CPU-second relative to the GRU, measured in turns on the tabular MDP of ten
  episodes with one thread: a whole trial in 250 lanes, and one epoch of PPO over it in eight minibatches. The GRU acts
  {acting} steps and learns from {learning} steps per second on the machine that wrote this page.
- **memory**: additional peak memory of one update from 60 trials of 1,000 steps in eight minibatches, with default
  settings.
- **returns** of a whole trial, sampled actions, mean and standard error over held-out tasks of one seed: bandits of
  five arms and ten pulls (rewards of 0 and 1: 3 M steps; Gaussian: 1.5 M) with the default settings, and the tabular
  MDP of ten episodes. Plain RL²: `experiment=rl2/tabular_mdp_n10`, 20 M steps. With exact solutions: one recipe for all
  memories (`experiment=memories/tabular_mdp_n10`), with as many steps as three parallel runs on two cores take in 60
  minutes. Minutes below are wall time, on a machine shared with other work. Reference values on the tabular MDP: PSRL
  133.9, greedy 154.6, BEB (planning with the true prior) 157.1.

![held-out return on the tabular MDP over the minutes of training with exact solutions]({figure})

## The memories

![Inputs that the output of each memory depends on](images/memories.svg)

What each output depends on: size of the gradient of the output at a step (rows) with respect to the input of every
earlier step (columns), relative to the largest of its row, on a square-root scale. The memories are untrained; a trial
has six episodes of eight steps (`python benchmarks/pictures.py memories`).

{models}

## Runs

{runs}
"""


if __name__ == "__main__":
    main()
