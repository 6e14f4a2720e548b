"""``metarl analyse``: studies of memories."""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.cli.options import add_command, add_trust, natural, positive, print_rows
from metarl.errors import ConfigError

if TYPE_CHECKING:
    from metarl.analysis.studies import Subject


def add_commands(commands: Any) -> None:
    """Add the command."""
    analysing = add_command(
        commands, "analyse", analyse, "analyse memories: gradients, attention maps, embeddings, beliefs"
    )
    analysing.add_argument(
        "subjects", nargs="+", metavar="RUN or KEY=VALUE", help="runs, or untrained: model=gru,lstm env=..."
    )
    analysing.add_argument(
        "--study",
        choices=("memory", "attention", "beliefs", "embeddings"),
        default="memory",
        help="gradients, order, signal and noise over a trial; attention maps; latent beliefs: KL and predictions; "
        "outputs and their principal components",
    )
    analysing.add_argument(
        "--projection", choices=("pca", "tsne"), default="pca", help="embeddings: principal components or t-SNE"
    )
    analysing.add_argument("--repeats", type=positive, default=3, help="memory: random inputs to average over")
    analysing.add_argument("--num-tasks", type=positive, default=64, help="held-out tasks to play, for all but memory")
    analysing.add_argument("--seed", type=natural, default=0, help="seed of inputs, tasks and untrained weights")
    add_trust(analysing)
    analysing.add_argument("--output", type=Path, default=Path("analysis"), help="folder for tables and figures")


def analyse(options: argparse.Namespace) -> None:
    """Print a summary of the study; its files contain everything."""
    from metarl.analysis import studies

    subjects = list(_subjects(options))
    for subject in subjects:
        if subject.agent.policy.context_dim is not None:
            raise ConfigError(f"{subject.name}: an oracle agent has no memory to analyse")
    if options.study == "memory":
        found = studies.memory_study(subjects, options.output, options.seed, options.repeats)
    else:
        of_trials: dict[str, Callable[..., studies.Findings]] = {
            "attention": studies.attention_study,
            "beliefs": studies.belief_study,
            "embeddings": partial(studies.embedding_study, method=options.projection),
        }
        found = of_trials[options.study](subjects, options.output, options.seed, options.num_tasks)
    print_rows(found.rows, options.format)
    print(*found.paths, sep="\n", file=sys.stderr)


def _subjects(options: argparse.Namespace) -> "Iterator[Subject]":
    """Runs and untrained models named on the command line."""
    from metarl.analysis.studies import Subject
    from metarl.configuration.build import build_algorithm
    from metarl.configuration.compose import compose, resolved
    from metarl.configuration.trained import load_source
    from metarl.trust import TYPED

    overrides = [subject for subject in options.subjects if "=" in subject]
    for run in (Path(subject) for subject in options.subjects if "=" not in subject):
        agent, parts, _ = load_source(run, "latest", options.trust, "cpu")
        yield Subject(str(run), agent, parts.make_env)
    models = [override.partition("=")[2] for override in overrides if override.startswith("model=")]
    others = [override for override in overrides if not override.startswith("model=")]
    if overrides and not models:
        raise ConfigError(f"{' '.join(overrides)}: name at least one model, such as model=gru,lstm")
    for model in ",".join(models).split(",") if models else []:
        config = resolved(compose([*others, f"model={model}", f"seed={options.seed}"]), choices={})
        agent, parts = build_algorithm(config, TYPED)
        yield Subject(model, agent, parts.make_env)
