"""Commands that show runs: ``metarl compare``, ``report``, ``dashboard`` and ``list``."""

import argparse
import sys
from pathlib import Path
from typing import Any

from metarl.cli.options import add_command, add_selection, print_rows


def add_commands(commands: Any) -> None:
    """Add the four commands."""
    _add_compare(commands)
    _add_report(commands)
    _add_dashboard(commands)
    listing = add_command(commands, "list", list_options, "configuration options with a line on each, and runs")
    listing.add_argument("directories", type=Path, nargs="*", help="where to look for runs", metavar="DIRECTORY")


def _add_compare(commands: Any) -> None:
    comparing = add_command(commands, "compare", compare, "compare methods, with confidence intervals over seeds")
    comparing.add_argument("runs", type=Path, nargs="+", help="runs, or sweeps and directories: their finished runs")
    comparing.add_argument("--actions", choices=("sampled", "greedy"), default="sampled")
    comparing.add_argument(
        "--score",
        choices=("trial", "last_episode"),
        help="which return; default: of the trial, if all have the same number of episodes",
    )
    add_selection(comparing)
    comparing.add_argument("--figures", type=Path, metavar="DIRECTORY", help="write figures there, as SVG")


def _add_report(commands: Any) -> None:
    reporting = add_command(commands, "report", write_report, "write a self-contained report.html", formats=False)
    reporting.add_argument("runs", type=Path, nargs="+", help="runs, or sweeps and directories of runs")
    reporting.add_argument("--output", type=Path, help="default: report.html in the run, or here for several")
    add_selection(reporting)


def _add_dashboard(commands: Any) -> None:
    publishing = add_command(commands, "dashboard", dashboard, "show a sweep in Weights & Biases", formats=False)
    publishing.add_argument("sweep", type=Path, help="sweep directory")
    add_selection(publishing)
    publishing.add_argument("--mode", choices=("offline", "online"), help="default: WANDB_MODE, else offline")
    publishing.add_argument("--project", help="default: project of the runs, else metarl")
    publishing.add_argument("--entity", help="account or team; default: entity of the runs, else of the account")
    publishing.add_argument("--workspace", action="store_true", help="online: also make a view of the sweep's runs")


def compare(options: argparse.Namespace) -> None:
    """Print a table of methods, and remarks to stderr."""
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
    print_rows(comparison.rows, options.format)
    print(*comparison.notes, sep="\n", file=sys.stderr)
    if selection is not None:
        print(format_table(selection.rows, "text"), selection.note, sep="\n", file=sys.stderr)
    if options.figures is not None:
        figures = comparison_figures(runs, comparison)
        for path in save_figures(figures | ({"selection": selection.figure()} if selection else {}), options.figures):
            print(path, file=sys.stderr)


def write_report(options: argparse.Namespace) -> None:
    """Write one page about one or several runs."""
    from metarl.analysis.report import write_report as write
    from metarl.runs.sweep import run_directories

    single = len(options.runs) == 1
    output = options.output or (options.runs[0] / "report.html" if single else Path("report.html"))
    write(run_directories(options.runs, finished=False), output, options.best, options.by)
    print(output)


def dashboard(options: argparse.Namespace) -> None:
    """Publish tables and figures of a sweep as a W&B run of its group."""
    from metarl.analysis import dashboard as wandb_dashboard
    from metarl.runs.sweep import Sweep

    sweep, where = Sweep(options.sweep).path, (options.project, options.entity)
    for line in wandb_dashboard.show(sweep, options.mode, *where, options.best, options.by, options.workspace):
        print(line)


def list_options(options: argparse.Namespace) -> None:
    """Print the options of every configuration group, then the runs below some directories."""
    from metarl.configuration.descriptions import rows as described

    rows = described()
    places = options.directories or [Path("outputs"), Path("multirun")]
    runs = sorted(path.parent for place in places for path in place.rglob("config.yaml"))
    rows += [{"kind": "run", "name": str(run), "description": ""} for run in runs]
    print_rows(rows, options.format)
