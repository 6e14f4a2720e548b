"""The agents of the zoo, and their page: ``docs/zoo.md``.

    python benchmarks/zoo.py add RUN NAME "one line"     exports the last checkpoint of a finished run to zoo/
    python benchmarks/zoo.py page                        writes the page of all agents

An agent replaces an earlier one of its name. Its score is that of the run's final evaluation, or with --num-tasks that
of a new one on so many held-out tasks.
"""

import argparse
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import metarl
from metarl.analysis.tables import duration, format_table
from metarl.analysis.task_notes import sentence
from metarl.errors import ConfigError
from metarl.runs.exported import SUFFIX, export
from metarl.runs.reader import check_evaluations, read_summary
from metarl.runs.zoo import ZOO, card, names
from metarl.seeding import stream_seed

PAGE = Path(__file__).resolve().parent.parent / "docs" / "zoo.md"
LONGEST_LINE = 80
SEED = 1  # of new evaluations
OF_THE_MACHINE = (
    "hydra.run.dir=",
    "hydra.sweep.dir=",
    "hydra.launcher",
    "cluster=",
    "num_threads=",
    "env.num_threads=",
)


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add")
    adding.add_argument("run", type=Path)
    adding.add_argument("name")
    adding.add_argument("about", metavar="ONE_LINE")
    adding.add_argument("--num-tasks", type=int, help="evaluate again, on so many tasks")
    commands.add_parser("page")
    options = parser.parse_args()
    if options.command == "add":
        add(options.run, options.name, options.about, num_tasks=options.num_tasks)
    PAGE.write_text(page())


def add(run: Path, name: str, about: str, folder: Path = ZOO, num_tasks: int | None = None) -> Path:
    """Export the last checkpoint of a finished run, and load what was written; returns its file.

    Args:
        run: run directory.
        name: of the agent: small letters, digits and ``_``.
        about: one line for the list.
        folder: of the zoo.
        num_tasks: held-out tasks of a new evaluation; None keeps that of the run.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"{name}: small letters, digits and _ alone name an agent")
    if not about or len(about) > LONGEST_LINE or "\n" in about:
        raise ConfigError(f"{name}: describe it in one line of at most {LONGEST_LINE} characters")
    summary = read_summary(run)
    if summary is None:
        raise ConfigError(f"{run}: has no summary.json; let the run finish")
    check_evaluations(run, summary)
    more: dict[str, Any] = {"name": name, "about": about, "licence": "MIT", "command": public(summary["command"])}
    if num_tasks:
        seed = stream_seed(SEED, "command_line")
        more |= {"evaluation": metarl.load(run).evaluate(num_tasks, seed=SEED), "evaluation_seed": seed}
        more["evaluation_command"] = f"metarl evaluate zoo:{name} --num-tasks {num_tasks} --seed {SEED}"
    file = folder / f"{name}{SUFFIX}"
    written = export(run, "latest", file, more)
    if "evaluation" not in written:
        raise ConfigError(f"{run}: its last checkpoint is not the one that was evaluated; run its command again")
    metarl.load(file)
    return file


def public(command: str) -> str:
    """The training command as anyone runs it, without places on the machine that ran it."""
    words = shlex.split(command)
    start = next((i + 1 for i, word in enumerate(words) if word.endswith("run.py") or word == "train"), 0)
    kept = [word for word in words[start:] if "=" in word and not word.startswith(OF_THE_MACHINE)]
    return " ".join(["python run.py", *map(_quoted, kept)])


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w=./+~,:-]+", word) else shlex.quote(word)


def page() -> str:
    """The page of all agents."""
    cards = {name: card(name) for name in names()}
    size = sum(found["size"] for found in cards.values()) / 1e6
    table = format_table([_row(name, found) for name, found in cards.items()], "markdown")
    sections = "\n".join(_section(name, found) for name, found in cards.items())
    return TEXT.format(table=table, size=f"{size:.1f}", sections=sections, example=next(iter(cards), "NAME"))


def _row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    scores = {kind: _score(found["evaluation"][kind]) for kind in ("sampled", "greedy")}
    best = _best_baseline(found)
    return {
        "name": f"[{name}](#{name})",
        "environment": found["env"],
        "method": f"{found['model']}/{found['algorithm']}",
        **scores,
        "best baseline, oracles included": best or "-",
        "MB": f"{found['size'] / 1e6:.2f}",
    }


def _score(evaluation: dict[str, Any]) -> str:
    mean, error = evaluation["return_mean"], evaluation["return_se"]
    digits = 3 if abs(mean) < 100 and error < 0.1 else 1
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def _best_baseline(found: dict[str, Any]) -> str | None:
    """Name and return of the best baseline that the run evaluated."""
    played = found.get("baselines") or {}
    best = max(played, key=lambda name: played[name]["return_mean"], default=None)
    return None if best is None else f"{best} {_score(played[best])}"


def _section(name: str, found: dict[str, Any]) -> str:
    evaluation = found["evaluation"]["sampled"]
    curve = ", ".join(f"{value:.4g}" for value in evaluation["adaptation_curve"])
    facts = [
        f"{sentence(evaluation)}; error over {evaluation.get('error_over', 'tasks')}",
        f"return of each episode (sampled): {curve}",
        f"{found['env_steps']:,} steps in {duration(found['wall_time'])} on {found['hardware']}; "
        f"{found['parameters']:,} weights",
        f"seed {found['seed']}, evaluation seed {found['evaluation_seed']}, commit {found['commit']}, "
        f"{found['versions']}, metarl {found['metarl']}",
    ]
    if "evaluation_command" in found:
        facts[0] += f", by `{found['evaluation_command']}`; baselines as in the run"
    if "success_rate" in evaluation:
        facts.insert(2, f"success in the last episode: {100 * evaluation['success_rate']:.1f} % (sampled)")
    wrapped = [textwrap.fill(f"- {fact}", 118, subsequent_indent="  ") for fact in facts]
    return "\n".join([f"### {name}\n", f"{found['about']}.\n", f"```\n{found['command']}\n```\n", *wrapped, ""])


TEXT = """# Trained agents

Written by `python benchmarks/zoo.py page`. These agents come with metarl, {size} MB in all, under its licence. Each is
a file that `metarl export` wrote ([checkpoints](checkpoints.md#exported-agents)) and a card of its origin and scores.
`zoo:NAME` stands for such a file.

```
metarl zoo                                           # list them
metarl zoo {example}                                # the card of one
metarl evaluate zoo:{example} --num-tasks 1000      # on held-out tasks
python run.py training.start_from=zoo:{example}     # train on from its weights
```

`metarl.load("zoo:{example}")` gives it to a program ([python](python.md)); `metarl watch zoo:NAME` renders a trial of
those whose environment can be drawn.

{table}

Return of a trial on held-out tasks, sampled and greedy actions, mean ± standard error; each is one run of one seed. The
sections have the number of tasks and the unit of the error. A test evaluates every agent again on other tasks and holds
the score of its card to three standard errors of the difference. Weights are those of the end of training, in float32;
optimisers are left out.

{sections}"""


if __name__ == "__main__":
    main()
