"""Loggers of metrics besides ``metrics.jsonl``, which every run writes.

A logger must never hurt the run: ``Loggers`` turns a failing one off with a warning.
"""

import io
import logging
import os
import re
import secrets
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

from metarl.errors import RunDirectoryError
from metarl.extras import require
from metarl.runs.files import refuse_link, replace_file
from metarl.runs.reader import read_last_rows, read_text

Mode = Literal["offline", "online", "disabled"]

WANDB_ID = "wandb_id"  # file of a run directory
FINISH_TIMEOUT = 60.0  # seconds at the end of a run, for what W&B has not taken yet

log = logging.getLogger(__name__)


class Logger(Protocol):
    """One destination."""

    def start(self, run_dir: Path, config: dict, group: str | None) -> None:
        """Begin, or continue after a resume."""

    def log(self, row: dict[str, Any]) -> bool | None:
        """A row of metrics; ``row["env_steps"]`` is the axis. True where it was enough: a search gives the run up."""

    def finish(self, summary: dict | None, figures: dict[str, Any]) -> None:
        """End; ``summary`` is None and ``figures`` empty where the run only stopped."""


class TensorboardLogger:
    """Scalars and figures as TensorBoard events in ``<run>/tensorboard``."""

    def __init__(self) -> None:
        require("tensorboard", "logger=tensorboard")

    def start(self, run_dir: Path, config: dict, group: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        refuse_link(run_dir / "tensorboard")
        # What was shown after the iteration that a resumed run goes on from is shown again, and once.
        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=_last_step(run_dir) + 1)

    def log(self, row: dict[str, Any]) -> None:
        for name, value in scalars(row).items():
            self.writer.add_scalar(name, value, row["env_steps"])
        self.writer.flush()  # whatever is killed has been shown

    def finish(self, summary: dict | None, figures: dict[str, Any]) -> None:
        for name, figure in figures.items():
            self.writer.add_figure(name, figure)
        self.writer.close()


class WandbLogger:
    """Weights & Biases; offline by default.

    The run's id is kept in the run directory, so a resumed run continues the same W&B run.

    Args:
        mode: ``offline`` keeps everything in ``<run>/wandb``, ``online`` sends it, ``disabled`` does nothing; null is
            ``WANDB_MODE`` of the environment, or else offline.
        project, entity: where online runs go; entity null is the account's default.
        group: runs shown together; null is the sweep's name in a multirun.
        tags: labels of the run in W&B.
    """

    def __init__(
        self,
        mode: Mode | None = None,
        project: str = "metarl",
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
    ):
        require("wandb", "logger=wandb")
        self.mode = wandb_mode(mode)
        self.project, self.entity, self.group, self.tags = project, entity, group, tags or []

    def start(self, run_dir: Path, config: dict, group: str | None) -> None:
        import wandb

        options: dict[str, Any] = {
            "name": run_dir.name,
            "group": self.group or group,
            "job_type": "train",
            "project": self.project,
            "entity": self.entity,
            "tags": self.tags,
            "config": config,
        }
        if self.mode != "disabled":
            options |= wandb_identity(run_dir)
        try:
            self.run = wandb.init(mode=self.mode, **options)
        except (wandb.errors.CommError, wandb.errors.UsageError) as error:
            wandb.teardown()
            self.run, self.mode = wandb.init(mode="offline", **options), "offline"
            log.warning(
                "W&B online failed (%s); continuing offline, to be sent later by: %s",
                " ".join(str(error).split()),
                sync_command(Path(self.run.dir).parent),
            )
        self.directory = Path(self.run.dir).parent
        self.run.define_metric("env_steps")
        self.run.define_metric("*", step_metric="env_steps")

    def log(self, row: dict[str, Any]) -> None:
        self.run.log(scalars(row), step=row["iteration"])

    def finish(self, summary: dict | None, figures: dict[str, Any]) -> None:
        try:
            if figures:
                self.run.log({f"figures/{name}": as_image(figure) for name, figure in figures.items()})
            if summary is not None:
                self.run.summary.update(summary)
        finally:
            self._close()

    def _close(self) -> None:
        """End the run; what W&B did not take in time is still here, and can be sent later."""
        try:
            self.run.finish()
            why = "W&B refused some of it" if self.mode == "online" and _refused(self.directory) else None
        except TimeoutError:
            why = f"W&B did not take all of it within {FINISH_TIMEOUT:.0f} s"
        if why:
            log.warning("%s; nothing is lost, to send the run again: %s", why, sync_command(self.directory))


def wandb_mode(given: str | None) -> Mode:
    """The mode that is given, else that of the environment, else offline."""
    named = given or os.environ.get("WANDB_MODE") or "offline"
    mode = {"dryrun": "offline", "run": "online"}.get(named, named)  # older names, which W&B takes, too
    if mode not in ("offline", "online", "disabled"):
        log.warning("WANDB_MODE=%s: must be offline, online or disabled; continuing offline", named)
        return "offline"
    return mode  # type: ignore[return-value]


def sync_command(directory: Path) -> str:
    """The command that sends a run kept in W&B's directory of it; without the option W&B skips one that was online."""
    return f"wandb sync --no-skip-online {shlex.quote(str(directory))}"


def _refused(directory: Path) -> bool:
    """Whether W&B gave up sending, which it notes in a log of its own and nowhere else."""
    try:
        text = (directory / "logs" / "debug-internal.log").read_text(errors="replace")
    except OSError:
        return False
    return "filestream: fatal error" in text


def wandb_identity(directory: Path) -> dict[str, Any]:
    """Arguments of ``wandb.init`` by which a directory is one W&B run, however often it is begun."""
    import wandb

    refuse_link(directory / "wandb")
    return {
        "id": _wandb_id(directory),
        "resume": "allow",
        "dir": str(directory),
        # Non-interactive, with timeouts: without a network an online run continues offline.
        "settings": wandb.Settings(
            console="off",
            init_timeout=20,
            finish_timeout=FINISH_TIMEOUT,
            finish_timeout_raises=True,
            login_timeout=1,
        ),
    }


def _wandb_id(directory: Path) -> str:
    """Drawn once and kept in the directory: that of a moved one stays, that of one made anew is another."""
    path = directory / WANDB_ID
    try:
        found = (read_text(path) or "").strip()
    except RunDirectoryError:
        found = ""
    if not re.fullmatch("[0-9a-f]{16}", found):
        found = secrets.token_hex(8)
        replace_file(path, found + "\n")
    return found


def _last_step(run_dir: Path) -> int:
    """Environment steps of the last row of metrics; -1 where there is none."""
    try:
        rows = read_last_rows(run_dir).rows
        return int(rows[-1]["env_steps"]) if rows else -1
    except (RunDirectoryError, ValueError, KeyError, TypeError):
        return -1


def as_image(figure: Any) -> Any:
    """A matplotlib figure for W&B, without the global state of pyplot."""
    import wandb
    from PIL import Image

    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150, bbox_inches="tight")
    return wandb.Image(Image.open(picture))


class Loggers:
    """All loggers of a run, none of which can stop it."""

    def __init__(self, loggers: dict[str, Logger]):
        self.active = dict(loggers)

    def start(self, run_dir: Path, config: dict, group: str | None) -> None:
        self._each(lambda logger: logger.start(run_dir, config, group))

    def log(self, row: dict[str, Any]) -> bool:
        """Hand on a row; whether the run is given up."""
        return any(self._each(lambda logger: logger.log(row)))

    def finish(self, summary: dict | None, figures: dict[str, Any]) -> None:
        self._each(lambda logger: logger.finish(summary, figures))

    def _each(self, call: Callable[[Logger], Any]) -> list[Any]:
        answers = []
        for name, logger in list(self.active.items()):
            try:
                answers.append(call(logger))
            except Exception as error:  # training continues whatever a service does
                log.warning("logger %s failed and is off from here (%s: %s)", name, type(error).__name__, error)
                del self.active[name]
        return answers


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a row that change; an adaptation curve becomes its first and last episode."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if name.endswith("episodes_met") or isinstance(value, str):
            continue
        if isinstance(value, list):
            flat |= {f"{name}/first": value[0], f"{name}/last": value[-1]}
        else:
            flat[name] = value
    return flat
