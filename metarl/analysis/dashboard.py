"""A sweep in Weights & Biases: one run that summarises the sweep's runs, and a workspace to view them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from metarl.analysis.comparison import compare
from metarl.analysis.comparison_figures import comparison_figures
from metarl.analysis.report import listing
from metarl.analysis.runs import Run, load_runs
from metarl.analysis.selection import Criterion, Selection, selected
from metarl.analysis.tables import Row
from metarl.errors import ConfigError, RunDirectoryError
from metarl.runs.loggers import Mode, as_image, sync_command, wandb_identity, wandb_mode
from metarl.runs.sweep import run_directories


def show(
    sweep: Path,
    mode: str | None,
    project: str | None = None,
    entity: str | None = None,
    best: str | None = None,
    by: Criterion | None = None,
    view: bool = False,
) -> list[str]:
    """``publish`` a sweep, by default where its runs are, and make its ``workspace`` if a ``view`` is wanted.

    The mode is the given one, or else that of ``WANDB_MODE``.

    Returns:
        Where they are.

    Raises:
        ConfigError: a view without an entity, or offline; or W&B cannot be reached.
        RunDirectoryError: no run is finished, or has begun.
    """
    chosen = wandb_mode(mode)
    if chosen == "disabled":
        raise ConfigError("WANDB_MODE=disabled: a dashboard is kept or sent; say --mode offline or --mode online")
    runs = load_runs(run_directories([sweep], finished=False))
    of_runs = runs[0].config.get("wandb") or {}
    project, entity = project or of_runs.get("project") or "metarl", entity or of_runs.get("entity")
    if view and (chosen != "online" or entity is None):
        raise ConfigError("--workspace: is made in W&B itself; say --mode online and --entity")
    selection = selected([run for run in runs if run.finished], best, by)
    found = [str(publish(runs, sweep, project, entity, chosen, selection))]
    return [*found, workspace(sweep.name, project, entity).save().url] if view and entity else found


def publish(
    runs: Sequence[Run], sweep: Path, project: str, entity: str | None, mode: Mode, selection: Selection | None
) -> Path:
    """Write tables (runs, methods, settings) and figures (with intervals) of a sweep as a run of its group.

    Called again, it goes on with the same W&B run. Its job type is ``sweep``, that of the runs ``train``.

    Args:
        runs: finished ones are compared, all are listed.
        sweep: its directory, where the files go and whose name is the group.
        project, entity: in W&B; entity None is the account's default.
        mode: ``offline`` keeps it in ``<sweep>/wandb``.
        selection: of the best settings, whose runs are then compared.

    Returns:
        Where W&B keeps it.

    Raises:
        RunDirectoryError: no run is finished.
        ConfigError: W&B cannot be reached.
    """
    compared = selection.chosen if selection is not None else [run for run in runs if run.finished]
    if not compared:
        raise RunDirectoryError(f"{sweep}: no run is finished yet")
    comparison = compare(compared)
    tables = {"runs": listing(runs), "methods": comparison.rows}
    figures: dict[str, Figure] = comparison_figures(compared, comparison)
    if selection is not None:
        tables["settings"] = selection.rows
        figures["selection"] = selection.figure()
    run = _begin(sweep, project, entity, mode)
    content: dict[str, Any] = {f"tables/{key}": _table(rows) for key, rows in tables.items() if rows}
    run.log(content | {f"figures/{key}": as_image(figure) for key, figure in figures.items()})
    run.summary.update({f"best/{row['environment']}": row["method"] for row in _best(comparison.rows)})
    directory = Path(run.dir).parent
    try:
        run.finish()
    except TimeoutError:
        raise ConfigError(f"W&B did not take all in time; to send it again: {sync_command(directory)}") from None
    return directory


def _begin(sweep: Path, project: str, entity: str | None, mode: Mode) -> Any:
    """The W&B run of a sweep, begun or continued."""
    import wandb

    try:
        return wandb.init(
            mode=mode, **wandb_identity(sweep), name=f"{sweep.name} (sweep)", group=sweep.name,
            job_type="sweep", project=project, entity=entity,
        )  # fmt: skip
    except (wandb.errors.CommError, wandb.errors.UsageError) as error:
        raise ConfigError(f"--mode {mode}: {' '.join(str(error).split())}") from None


def workspace(sweep: str, project: str, entity: str) -> Any:
    """A view of the runs of a sweep, grouped by method: ``save()`` makes it in W&B."""
    from wandb_workspaces import workspaces as views
    from wandb_workspaces.reports.v2 import (
        LinePlot,
        MediaBrowser,
        ParallelCoordinatesPlot,
        ParallelCoordinatesPlotColumn,
    )

    def curves(*names: str) -> list[Any]:
        return [
            LinePlot(title=name, x="env_steps", y=[name], groupby_aggfunc="mean", groupby_rangefunc="stderr")
            for name in names
        ]

    held_out = [
        f"eval/{actions}/{what}"
        for actions in ("sampled", "greedy")
        for what in ("return_mean", "adaptation_curve/last")
    ]
    learning = [
        "train/return",
        *(f"update/{name}" for name in ("approx_kl", "entropy", "explained_variance", "value_loss")),
    ]
    settings = [f"c::{key}" for key in ("choices.model", "algorithm.learning_rate", "algorithm.gae_lambda")]
    best = ParallelCoordinatesPlot(
        columns=[ParallelCoordinatesPlotColumn(metric=key) for key in (*settings, "eval/sampled/return_mean")]
    )
    return views.Workspace(
        entity=entity,
        project=project,
        name=f"metarl: {sweep}",
        sections=[
            views.Section(name="Held-out tasks", panels=curves(*held_out), is_open=True),
            views.Section(name="Sweep", panels=[MediaBrowser(media_keys=["figures/*"]), best], is_open=True),
            views.Section(name="Learning", panels=curves(*learning)),
            views.Section(name="Speed", panels=curves("train/steps_per_second")),
        ],
        settings=views.WorkspaceSettings(x_axis="env_steps"),
        runset_settings=views.RunsetSettings(
            filters=f"Metric('group') == '{sweep}'",
            groupby=[views.Config("choices.env"), views.Config("choices.model"), views.Config("choices.algorithm")],
        ),
    )


def _best(rows: Sequence[Row]) -> list[Row]:
    """The row with the highest return of each environment."""
    environments = dict.fromkeys(row["environment"] for row in rows)
    return [max((row for row in rows if row["environment"] == e), key=lambda row: row["return"]) for e in environments]


def _table(rows: Sequence[Row]) -> Any:
    import wandb

    return wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
