"""The page that compares all memories: ``docs/models.md``.

    python benchmarks/models.py add RUN...      adds finished runs of experiment=memories/... to results/memories/
    python benchmarks/models.py page            measures every model and writes the page

A run replaces an earlier one of the same environment, objective, model and seed.
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
LONGEST = "tabular_mdp"  # environment of the speed measurements and of the learning curves
EXACT = "tabular MDP, trained with exact solutions"
COLUMNS = {
    ("bandit", "return"): "bandit",
    ("gaussian_bandit", "return"): "Gaussian bandit",
    (LONGEST, "return"): "tabular MDP, plain RL²",
    (LONGEST, "regret"): EXACT,
}
LANES = 250

Rows = list[dict[str, Any]]


def main() -> None:
    """Entry point of the command line."""
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
    path = RESULTS / "runs.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def _key(row: dict[str, Any]) -> tuple[str, str, str, int]:
    return row["environment"], row["objective"], row["model"], int(row["seed"])


def curve_file(row: dict[str, Any]) -> str:
    """Name of the learning curve of a run."""
    plain = "plain-" if (row["environment"], row["objective"]) == (LONGEST, "return") else ""
    return f"{row['environment']}-{plain}{row['model']}-seed{row['seed']}.csv"


def page() -> None:
    """Measure all models, and write the page and its figure."""
    torch.set_num_threads(1)
    runs, models = added_runs(), options("model")
    reference = steps_per_second(["gru"])["gru"]
    rows = [{"model": model} | measure(model) | returns(runs, model) for model in models]
    rows.sort(key=lambda row: -float(str(row[EXACT]).split(" ")[0] or 0))
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
acting and evaluation do not use them. Plain RL², on rewards only, has so far been run for the GRU. The missing entries
of that column are:

```
python run.py experiment=memories/tabular_mdp_n10_NAME \\
    algorithm.objective=return algorithm.regret_coefficient=0 algorithm.gae_lambda=0.3
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
