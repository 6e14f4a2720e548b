"""One HTML page about one run or several: no request leaves it, so it can be mailed, archived or opened offline."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from metarl.analysis.comparison import compare
from metarl.analysis.comparison_figures import comparison_figures
from metarl.analysis.embedding import picture
from metarl.analysis.figures import run_figures
from metarl.analysis.runs import Run, load_runs, name_runs
from metarl.analysis.selection import WORDS, Criterion, selected
from metarl.analysis.statistics import FEW_SEEDS
from metarl.analysis.style import to_svg
from metarl.analysis.tables import Row, display, duration, error_over, final_table
from metarl.analysis.task_notes import gaps, sentence
from metarl.analysis.trial_figures import draw_trial
from metarl.analysis.trial_recording import from_json
from metarl.runs.files import replace_file
from metarl.runs.reader import parsed, read_text
from metarl.runs.values import is_number

TEMPLATE, SCRIPT = "report.html.j2", "report.js"  # the only script that the page may run

CAPTIONS = {
    "learning_curve": "Learning curve: return of a trial during training, on held-out tasks unless a line says "
    "otherwise; bands are ±1 standard error over the unit named in the table. Horizontal lines are the final returns "
    "of baselines and, dashed, bounds.",
    "adaptation_curve": "Adaptation curve: return on held-out tasks by episode index within the trial (0 = first); "
    "bands are ±1 standard error over the unit named in the table.",
    "regret": "Cumulative regret within the trial. A bound on the return of the whole trial is spread evenly over its "
    "episodes, so the end of a line is its regret in the table.",
    "diagnostics": "Training: each panel shows one metric, averaged over neighbouring iterations where there are many.",
    "selection": "Settings: mean over seeds of held-out evaluations during training; bands are ±1 standard error over "
    f"seeds from {FEW_SEEDS} on, else from the lowest to the highest seed.",
    "intervals": f"Interquartile mean over seeds with its 95 % stratified bootstrap interval from {FEW_SEEDS} seeds "
    "on; a dot is the mean of fewer, its line goes from the lowest to the highest.",
    "learning_curves": "Learning curves: interquartile mean over seeds of the return on held-out tasks, of a trial or, "
    f"where trials differ in length, of its last episode; sampled actions. Bands are 95 % bootstrap intervals from "
    f"{FEW_SEEDS} seeds on, else from the lowest to the highest seed. Runs that are more than twice as long as others "
    "have a panel of their own.",
    "adaptation_curves": "Adaptation curves: return on held-out tasks by episode index within the trial (0 = first), "
    "at the end of training, sampled actions; mean over seeds. Bands are ±1 standard error over seeds from "
    f"{FEW_SEEDS} on, else from the lowest to the highest seed.",
}


class Table(NamedTuple):
    """A table as the template draws it."""

    caption: str
    header: list[str]
    body: list[tuple[bool, list[tuple[str, str | None]]]]  # stands out; texts of cells, and the number to sort them by
    numeric: list[bool]


class Section(NamedTuple):
    """A figure and what it shows."""

    svg: Markup  # or an <img> with its data
    caption: str


def write_report(
    run_dirs: Sequence[str | Path], path: str | Path, best: str | None = None, by: Criterion | None = None
) -> Path:
    """Write the report of one run, or the comparison of several, and return its path.

    Of a key named by ``best`` it shows how methods do with each of its values, and compares them with their best.
    Unfinished runs are shown as far as they are, and said to be unfinished. The file appears complete or not at all.

    Raises:
        RunDirectoryError: no directory is given, one is not of a run, or two hold the same run.
    """
    return write_page(load_runs(run_dirs), path, best, by)


def write_page(runs: Sequence[Run], path: str | Path, best: str | None = None, by: Criterion | None = None) -> Path:
    """``write_report`` of runs that have been read already."""
    selection = selected([run for run in runs if run.finished], best, by)
    if selection is None:
        page = _one_run(runs[0]) if len(runs) == 1 else _several_runs(runs)
    else:
        page = _several_runs(selection.chosen)
        page["sections"] = _sections({"selection": selection.figure()}) + page["sections"]
        page["notes"] = [_progress(run) for run in runs if not run.finished]
        page["listing"] = _table(
            selection.rows, f"Settings of {best}, by {WORDS[selection.by]} over seeds; * is compared. {selection.note}"
        )
    folder, script = FileSystemLoader(Path(__file__).parent), (Path(__file__).parent / SCRIPT).read_text()
    templates = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    path = Path(path)
    code = {
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    replace_file(path, templates.get_template(TEMPLATE).render(page | code))
    return path


def _one_run(run: Run) -> dict[str, Any]:
    summary = run.summary or {}
    notes = [] if run.finished else [_progress(run)]
    results = None
    if run.evaluations:
        choices = {group: run.config["choices"].get(group) for group in ("model", "algorithm")}
        caption = f"Return of a trial: {sentence(run.evaluations['sampled'], run.selected_on)}."
        results = _table(final_table(summary or choices | {"evaluation": run.evaluations}), caption)
    return {
        "title": f"{run.method} on {run.environment}, seed {run.seed}",
        "command": summary.get("command"),
        "notes": notes,
        "facts": _facts(run),
        "results": results,
        "listing": None,
        "sections": _sections(run_figures(run)) + _trial(run),
        "remarks": [],
        "configs": [("Resolved configuration", _yaml(run.config))],
    }


def _several_runs(runs: Sequence[Run]) -> dict[str, Any]:
    finished = [run for run in runs if run.finished]
    comparison = compare(finished) if finished else None
    names = name_runs(runs)
    methods = list(dict.fromkeys(name.method for name in names))
    environments = list(dict.fromkeys(name.environment for name in names))
    examples = {name.label: run for run, name in zip(reversed(runs), reversed(names), strict=True)}
    return {
        "title": f"{_enumerate(methods, 'methods')} on {_enumerate(environments, 'environments')}",
        "command": None,
        "notes": [_progress(run) for run in runs if not run.finished],
        "facts": {"runs": str(len(runs)), "finished": str(len(finished))},
        "results": _table(comparison.rows, "Methods, finished runs only.") if comparison else None,
        "listing": _table(listing(runs), "Return of a trial on held-out tasks, sampled actions."),
        "sections": _sections(comparison_figures(runs, comparison)),
        "remarks": comparison.notes if comparison else [],
        "configs": [
            (f"Resolved configuration of {label}, seed {run.seed}", _yaml(run.config))
            for label, run in reversed(examples.items())
        ],
    }


def listing(runs: Sequence[Run]) -> list[Row]:
    """A row for each run, finished or not."""
    rows = []
    for run, name in zip(runs, name_runs(runs), strict=True):
        evaluation = run.evaluations.get("sampled", {})
        rows.append(
            {
                "run": name.label,
                "seed": run.seed,
                "environment_steps": _latest(run).get("env_steps"),
                "return": evaluation.get("return_mean"),
                "standard_error": evaluation.get("return_se"),
                "error_over": error_over(evaluation),
                "state": "finished" if run.finished else "unfinished",
                "directory": str(run.path),
            }
        )
    return rows


def _facts(run: Run) -> dict[str, str]:
    """Key numbers of a run, most important first; unknown ones are left out."""
    summary, latest = run.summary or {}, _latest(run)
    choices = {group: option for group, option in run.config["choices"].items() if option is not None}
    shown = {
        **choices,
        "seed": run.seed,
        "environment steps": _thousands(latest.get("env_steps")),
        "iterations": _thousands(latest.get("iteration")),
        "training time": duration(latest.get("wall_time")),
        "parameters": _thousands(summary.get("parameters")),
        "held-out tasks": _thousands(summary.get("num_tasks")),
        **gaps(summary.get("generalization_gap")),
        **{name: summary.get(name) for name in ("hardware", "versions", "commit")},
        "directory": run.path,
    }
    return {name: str(value) for name, value in shown.items() if value is not None}


def _latest(run: Run) -> dict[str, Any]:
    """Counters where the run now is."""
    return run.summary or (run.history[-1] if run.history else {})


def _progress(run: Run) -> str:
    steps = _latest(run).get("env_steps")
    if steps is None:
        return f"Unfinished: {run.path} has no metrics yet."
    total = (run.config.get("training") or {}).get("total_steps")
    of = f" of {_thousands(total)}" if is_number(total) else ""
    return (
        f"Unfinished: {run.path} has done {_thousands(steps)}{of} environment steps; "
        "its returns are those of the latest evaluation while training, without baselines."
    )


def _sections(figures: dict[str, Figure]) -> list[Section]:
    return [Section(Markup(to_svg(figure, name)), CAPTIONS[name]) for name, figure in figures.items()]


def _trial(run: Run) -> list[Section]:
    """The trial that was kept to look at."""
    sections = []
    if (text := read_text(run.path / "trial.json")) is not None:
        sections += parsed(run.path / "trial.json", "recording", lambda: _drawn(text))
    if (image := picture(run.path / "trial.png")) is not None:
        element = Markup('<img alt="pictures of a trial" src="data:image/png;base64,{}">')
        sections.append(
            Section(element.format(base64.b64encode(image).decode()), "One held-out trial, an episode in each row.")
        )
    return sections


def _drawn(text: str) -> list[Section]:
    """The figure of a trial that a file keeps; empty for a recording of nothing."""
    drawn = draw_trial(from_json(text))
    return [] if drawn is None else [Section(Markup(to_svg(drawn[0], "trial")), drawn[1])]


def _table(rows: Sequence[Row], caption: str) -> Table:
    cells = display(rows)
    body = []
    for row, texts, values in zip(rows, cells.body, cells.values, strict=True):
        keys = [_sorting_key(value) if numeric else None for value, numeric in zip(values, cells.numeric, strict=True)]
        body.append((row.get("kind") == "agent", list(zip(texts, keys, strict=True))))
    return Table(caption, cells.header, body, cells.numeric)


def _sorting_key(value: Any) -> str:
    """Digits of a number; empty without one."""
    return "" if value is None else repr(float(value))


def _enumerate(names: Sequence[str], kind: str) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} {kind}"


def _yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _thousands(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"
