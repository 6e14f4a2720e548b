"""The ``metarl`` command: what to do with runs once they are there. Heavy imports wait until a command needs them."""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.checking.command import add_check_command
from metarl.configuration.reporting import report
from metarl.errors import ConfigError
from metarl.runs.files import to_json

if TYPE_CHECKING:
    from metarl.evaluation import Which

FORMATS = ("text", "markdown", "csv", "json")


def main(arguments: list[str] | None = None) -> None:
    """Entry point; ends with exit code 1 and one message where the user has to mend something."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except BrokenPipeError:  # whoever read our table has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if not report(error, getattr(options, "overrides", [])):
            raise
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="metarl", description="Evaluate, compare and report runs of run.py.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    for add in (_playing_commands, _comparing_commands, _sweeping_commands, _watching_command, _analysing_command):
        add(commands)
    add_check_command(commands)
    return top


def _playing_commands(commands: Any) -> None:
    evaluating = _command(commands, "evaluate", evaluate, "play held-out tasks with a trained agent")
    evaluating.add_argument("run", type=Path, help="run directory")
    _evaluation_options(evaluating)
    evaluating.add_argument("--checkpoint", choices=("latest", "best"), default="latest")
    evaluating.add_argument(
        "--test-episodes",
        type=_positive,
        help="play this many episodes after each trial, each from the state it ended in, and score these instead",
    )
    _trust_option(evaluating)
    evaluating.add_argument("--by-task", action="store_true", help="returns by value or half of each task parameter")

    playing = _command(commands, "baselines", baselines, "classical solvers and bounds of an environment")
    playing.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for run.py: env=bandit ...")
    _evaluation_options(playing)
    playing.add_argument("--tune", action="store_true", help="grid search over the tunable solvers instead")


def _comparing_commands(commands: Any) -> None:
    comparing = _command(commands, "compare", compare, "methods side by side, with intervals over seeds")
    comparing.add_argument("runs", type=Path, nargs="+", help="run directories, or sweeps: their finished runs")
    comparing.add_argument("--actions", choices=("sampled", "greedy"), default="sampled")
    comparing.add_argument(
        "--score",
        choices=("trial", "last_episode"),
        help="which return; default: of the trial, where all have the same number of episodes",
    )
    _selecting_options(comparing)
    comparing.add_argument("--figures", type=Path, metavar="DIRECTORY", help="write the figures there, as SVG")

    reporting = _command(commands, "report", write_report, "a self-contained report.html", formats=False)
    reporting.add_argument("runs", type=Path, nargs="+", help="run directories, or sweeps")
    reporting.add_argument("--output", type=Path, help="default: report.html in the run, or here for several")
    _selecting_options(reporting)

    publishing = _command(commands, "dashboard", dashboard, "a sweep in Weights & Biases", formats=False)
    publishing.add_argument("sweep", type=Path, help="sweep directory")
    _selecting_options(publishing)
    publishing.add_argument("--mode", choices=("offline", "online"), help="default: WANDB_MODE, else offline")
    publishing.add_argument("--project", help="default: that of the runs, else metarl")
    publishing.add_argument("--entity", help="account or team; default: that of the runs, else of the account")
    publishing.add_argument("--workspace", action="store_true", help="online: make a view of the sweep's runs, too")

    listing = _command(commands, "list", list_options, "configuration options, and runs")
    listing.add_argument("directories", type=Path, nargs="*", help="where to look for runs", metavar="DIRECTORY")


def _selecting_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--best", metavar="KEY", help="a key that was swept: each method with its best value of it")
    parser.add_argument(
        "--by",
        choices=("final", "mean", "auc"),
        help="with --best: which held-out returns while training: the last (default), their mean, the area under them",
    )


def _sweeping_commands(commands: Any) -> None:
    telling = _command(commands, "status", status, "what became of the runs of a sweep")
    telling.add_argument("sweep", type=Path, help="sweep directory")

    resuming = _command(commands, "resume", resume, "go on with a sweep: what failed or stopped", formats=False)
    resuming.add_argument("sweep", type=Path, help="sweep directory")
    resuming.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="cluster=... and hydra.launcher.*")
    _trust_option(resuming)


def _watching_command(commands: Any) -> None:
    watching = _command(commands, "watch", watch, "a trial as a film, without a screen", formats=False)
    watching.add_argument("run", type=Path, help="run directory")
    _trust_option(watching)
    watching.add_argument("--video", type=Path, help="an .mp4 or .gif (default: watch.mp4 in the run)")
    watching.add_argument("--task", nargs="*", default=[], metavar="NAME=NUMBER,...", help="parameters of the task")
    watching.add_argument("--task-set", default="held_out", help="where the others are drawn from (default held_out)")
    watching.add_argument("--seed", type=_natural, default=0, help="of task and noise")
    watching.add_argument("--every", type=_positive, default=2, help="steps between pictures (default 2)")
    watching.add_argument(
        "--paths", action="store_true", help="draw the path of each episode instead of rendering (tasks in the plane)"
    )
    watching.add_argument("--fps", type=_positive, help="pictures per second (default: real time)")
    watching.add_argument("--greedy", action="store_true", help="the most likely actions instead of samples")
    watching.add_argument("--checkpoint", choices=("latest", "best"), default="latest")


def _analysing_command(commands: Any) -> None:
    analysing = _command(commands, "analyse", analyse, "what memories keep, where they look, and what they say")
    analysing.add_argument(
        "subjects", nargs="+", metavar="RUN or KEY=VALUE", help="runs, or model=gru,lstm env=... untrained"
    )
    analysing.add_argument(
        "--study",
        choices=("memory", "attention", "beliefs", "embeddings"),
        default="memory",
        help="gradients, order, signal and noise over a trial; attention maps; latent beliefs, what they cost and "
        "predict; outputs and their principal components",
    )
    analysing.add_argument(
        "--projection",
        choices=("pca", "tsne"),
        default="pca",
        help="embeddings: onto principal components, or by t-SNE",
    )
    analysing.add_argument("--repeats", type=_positive, default=3, help="memory: random inputs to average over")
    analysing.add_argument("--num-tasks", type=_positive, default=64, help="held-out tasks to play, for all but memory")
    analysing.add_argument("--seed", type=_natural, default=0, help="of inputs, of tasks and of untrained weights")
    _trust_option(analysing)
    analysing.add_argument("--output", type=Path, default=Path("analysis"), help="folder for tables and figures")


def _trust_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package outside metarl whose code the run may name; also METARL_TRUST=PACKAGE,...",
    )


def _command(commands: Any, name: str, function: Any, text: str, formats: bool = True) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(command=function)
    if formats:
        command.add_argument("--format", choices=FORMATS, default="text")
    return command


def _evaluation_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--num-tasks", type=_positive, default=20_000, help="held-out tasks (default 20000)")
    command.add_argument(
        "--seed", type=_natural, default=0, help="of the tasks: a new seed draws new tasks, where they have no end"
    )
    command.add_argument("--batch-size", type=_positive, default=2000, help="evaluation batch size (default 2000)")
    command.add_argument(
        "--task-set", nargs="+", default=["held_out"], metavar="NAME", help="sets of tasks (default held_out)"
    )
    command.add_argument("--device", help="default: the one of the run")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def evaluate(options: argparse.Namespace) -> None:
    """Sampled and greedy actions of a checkpoint on new held-out tasks."""
    from metarl.analysis import playing
    from metarl.configuration.trained import load_agent
    from metarl.runs.directory import RunDirectory

    directory = RunDirectory(options.run)
    config = directory.config()
    agent, parts = load_agent(directory, options.checkpoint, options.trust, options.device)
    env = parts.make_env(num_tasks=1, seed=0)
    sets = playing.chosen_tasks(options, env)
    if options.format == "json" and not options.test_episodes and not options.by_task:
        head = {"env": config["choices"]["env"], "seed": options.seed, "checkpoint": options.checkpoint}
        results = {name: playing.by_actions(agent, parts.make_env, which) for name, which in sets.items()}
        print(to_json(head | (results if len(sets) > 1 else next(iter(results.values()))), indent=2))
        return
    if options.checkpoint == "best":
        playing.warn_of_selection(env, sets, (config.get("eval") or {}).get("task_set", "held_out"))
    rows = partial(playing.action_rows, agent, parts.make_env)
    if options.test_episodes:
        rows = partial(playing.adapted_rows, agent, parts.make_env, env, options.test_episodes)
    elif options.by_task:
        rows = partial(playing.task_rows, agent, parts.make_env)
    _print(playing.labelled(sets, rows), options.format)


def watch(options: argparse.Namespace) -> None:
    """Film one trial of a trained agent."""
    from metarl.analysis.film import write_video
    from metarl.analysis.filming import film_trial, with_parameters
    from metarl.analysis.paths import with_path_frames
    from metarl.configuration.trained import load_agent
    from metarl.envs.pictures import NoRendererError
    from metarl.runs.directory import RunDirectory

    path = options.video or options.run / "watch.mp4"
    if path.suffix not in (".mp4", ".gif"):
        raise ConfigError(f"--video {path}: give a name that ends in .mp4 or .gif")
    directory = RunDirectory(options.run)
    agent, parts = load_agent(directory, options.checkpoint, options.trust, "cpu", lanes_per_task=1)
    env = parts.make_env(num_tasks=1, seed=options.seed)
    try:
        env.set_tasks(with_parameters(env.sample_tasks(options.task_set), options.task))
        film = film_trial(agent, env, options.seed, 0 if options.paths else options.every, options.greedy)
        film = with_path_frames(film, options.every) if options.paths else film
    except (ValueError, NotImplementedError, NoRendererError) as error:
        raise ConfigError(str(error)) from None
    write_video(film, path, options.fps or env.steps_per_second / options.every)
    for episode, earned in enumerate(film.returns, 1):
        print(f"episode {episode}: return {earned:.2f}   ({film.task})")
    print(path)


def baselines(options: argparse.Namespace) -> None:
    """Every classical solver of an environment on held-out tasks, and its bounds."""
    from metarl.analysis import playing
    from metarl.baselines import registry
    from metarl.configuration.build import build_env_factory
    from metarl.configuration.compose import compose, resolved
    from metarl.trust import TYPED

    if any(
        not override.lstrip("+~").startswith(("env=", "env.", "lanes_per_task", "device"))
        for override in options.overrides
    ):
        raise ConfigError(
            f"{' '.join(options.overrides)}: baselines take the keys env, env.*, lanes_per_task and device"
        )
    config = resolved(compose(options.overrides), {})
    make_env = build_env_factory(config, options.device, TYPED)
    env = make_env(num_tasks=1, seed=0)
    sets = playing.chosen_tasks(options, env)
    if options.tune:
        rows = playing.labelled(sets, lambda which: _tuned_rows(env, make_env, which))
    else:
        rows = playing.labelled(sets, partial(playing.solver_rows, registry.baselines(env), make_env))
        rows += [
            {"solver": name, "return": value, "standard error": 0.0} for name, value in registry.bounds(env).items()
        ]
    _print(rows, options.format)


def _tuned_rows(env: Any, make_env: Any, which: "Which") -> list[dict[str, Any]]:
    from metarl.analysis.playing import solver_rows
    from metarl.baselines.registry import baseline_grid

    return [
        {"solver": name, "value": value} | row
        for name, agents in baseline_grid(env).items()
        for value, agent in agents
        for row in solver_rows({name: agent}, make_env, which)
    ]


def analyse(options: argparse.Namespace) -> None:
    """Trained or untrained memories; the table is a summary, the files hold everything."""
    from metarl.analysis import studies

    subjects = list(_subjects(options))
    for subject in subjects:
        if subject.agent.policy.told_dim is not None:
            raise ConfigError(f"{subject.name}: it is told its task, and has no memory to study")
    if options.study == "memory":
        found = studies.memory_study(subjects, options.output, options.seed, options.repeats)
    else:
        of_trials: dict[str, Callable[..., studies.Findings]] = {
            "attention": studies.attention_study,
            "beliefs": studies.belief_study,
            "embeddings": partial(studies.embedding_study, method=options.projection),
        }
        found = of_trials[options.study](subjects, options.output, options.seed, options.num_tasks)
    _print(found.rows, options.format)
    print(*found.paths, sep="\n", file=sys.stderr)


def _subjects(options: argparse.Namespace) -> Any:
    """Every run and every untrained model that is asked for."""
    from metarl.analysis.studies import Subject
    from metarl.configuration.build import build_algorithm
    from metarl.configuration.compose import compose, resolved
    from metarl.configuration.trained import load_agent
    from metarl.runs.directory import RunDirectory
    from metarl.trust import TYPED

    overrides = [subject for subject in options.subjects if "=" in subject]
    for run in (Path(subject) for subject in options.subjects if "=" not in subject):
        agent, parts = load_agent(RunDirectory(run), "latest", options.trust, "cpu")
        yield Subject(str(run), agent, parts.make_env)
    models = [override.partition("=")[2] for override in overrides if override.startswith("model=")]
    others = [override for override in overrides if not override.startswith("model=")]
    if overrides and not models:
        raise ConfigError(f"{' '.join(overrides)}: which memories? Add model=gru, or several: model=gru,lstm")
    for model in ",".join(models).split(",") if models else []:
        config = resolved(compose([*others, f"model={model}", f"seed={options.seed}"]), choices={})
        agent, parts = build_algorithm(config, TYPED)
        yield Subject(model, agent, parts.make_env)


def compare(options: argparse.Namespace) -> None:
    """Methods side by side; remarks go to stderr, so that the table can be piped."""
    from metarl.analysis.comparison import compare as compare_runs
    from metarl.analysis.comparison_figures import comparison_figures
    from metarl.analysis.runs import load_runs
    from metarl.analysis.selection import selected
    from metarl.analysis.style import save_figures
    from metarl.analysis.tables import format_table
    from metarl.runs.sweep import run_directories

    runs = load_runs(run_directories(options.runs, finished=True))
    selection = selected(runs, options.best, options.by)
    if selection is not None:
        runs = selection.chosen
    comparison = compare_runs(runs, options.actions, options.score)
    _print(comparison.rows, options.format)
    print(*comparison.notes, sep="\n", file=sys.stderr)
    if selection is not None:
        print(format_table(selection.rows, "text"), selection.note, sep="\n", file=sys.stderr)
    if options.figures is not None:
        figures = comparison_figures(runs, comparison)
        for path in save_figures(figures | ({"selection": selection.figure()} if selection else {}), options.figures):
            print(path, file=sys.stderr)


def status(options: argparse.Namespace) -> None:
    """A row for each run; one line about all goes to stderr."""
    from metarl.launching.commands import status_rows
    from metarl.runs.sweep import Sweep

    rows, line = status_rows(Sweep(options.sweep))
    known = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    _print([{key: row[key] for key in known} for row in rows], options.format)
    print(line, file=sys.stderr)


def resume(options: argparse.Namespace) -> None:
    """Whatever runs or is finished is left alone."""
    from metarl.launching import commands
    from metarl.runs.sweep import Sweep
    from metarl.trust import extend_environment

    extend_environment(options.trust)  # for the runs
    commands.resume(Sweep(options.sweep), options.overrides)


def write_report(options: argparse.Namespace) -> None:
    """One page for one run or several."""
    from metarl.analysis.report import write_report as write
    from metarl.runs.sweep import run_directories

    single = len(options.runs) == 1
    output = options.output or (options.runs[0] / "report.html" if single else Path("report.html"))
    write(run_directories(options.runs, finished=False), output, options.best, options.by)
    print(output)


def dashboard(options: argparse.Namespace) -> None:
    """Tables and figures of a sweep as a W&B run of its group."""
    from metarl.analysis import dashboard as wandb_dashboard
    from metarl.runs.sweep import Sweep

    sweep, where = Sweep(options.sweep).path, (options.project, options.entity)
    for line in wandb_dashboard.show(sweep, options.mode, *where, options.best, options.by, options.workspace):
        print(line)


def list_options(options: argparse.Namespace) -> None:
    """Options of every configuration group, then the runs below some directories."""
    from metarl.configuration.compose import CONF
    from metarl.configuration.compose import options as group_options

    groups = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
    rows = [{"kind": group, "name": name} for group in groups for name in group_options(group)]
    places = options.directories or [Path("outputs"), Path("multirun")]
    runs = sorted(path.parent for place in places for path in place.rglob("config.yaml"))
    rows += [{"kind": "run", "name": str(run)} for run in runs]
    _print(rows, options.format)


def _print(rows: list[dict], form: Any) -> None:
    from metarl.analysis.tables import format_table

    print(format_table(rows, form))
