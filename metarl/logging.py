"""Where metrics go besides ``metrics.jsonl``, which every run writes.

A logger must never hurt the run: ``Loggers`` turns a failing one off with a warning.
"""

import hashlib
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

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

    def start(self, run_dir: Path, config: dict, group: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run_dir / "tensorboard"))

    def log(self, row: dict[str, Any]) -> None:
        for name, value in scalars(row).items():
            self.writer.add_scalar(name, value, row["env_steps"])

    def finish(self, summary: dict | None, figures: dict[str, Any]) -> None:
        for name, figure in figures.items():
            self.writer.add_figure(name, figure)
        self.writer.close()


class WandbLogger:
    """Weights & Biases; offline unless told otherwise.

    The run's id comes from the run directory, so a resumed run continues the same W&B run.

    Args:
        mode: ``offline`` keeps everything in ``<run>/wandb``, ``online`` sends it, ``disabled`` does nothing.
        project, entity: where online runs go; entity null is the account's default.
        group: runs shown together; null is the sweep's name in a multirun.
        tags: labels.
    """

    def __init__(
        self,
        mode: Literal["offline", "online", "disabled"] = "offline",
        project: str = "metarl",
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
    ):
        self.mode, self.project, self.entity, self.group, self.tags = mode, project, entity, group, tags or []

    def start(self, run_dir: Path, config: dict, group: str | None) -> None:
        import wandb

        options: dict[str, Any] = wandb_identity(run_dir) | {
            "name": run_dir.name,
            "group": self.group or group,
            "job_type": "train",
            "project": self.project,
            "entity": self.entity,
            "tags": self.tags,
            "config": config,
        }
        try:
            self.run = wandb.init(mode=self.mode, **options)
        except (wandb.errors.CommError, wandb.errors.UsageError) as error:
            log.warning("wandb.mode=%s failed (%s); continuing offline", self.mode, " ".join(str(error).split()))
            wandb.teardown()
            self.run = wandb.init(mode="offline", **options)
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
            self.run.finish()


def wandb_identity(directory: Path) -> dict[str, Any]:
    """Arguments of ``wandb.init`` by which a directory is one W&B run, however often it is begun."""
    import wandb

    return {
        "id": hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16],
        "resume": "allow",
        "dir": str(directory),
        # No question asked and no endless wait: without a network an online run goes on offline.
        "settings": wandb.Settings(console="off", init_timeout=20, finish_timeout=300, login_timeout=1),
    }


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
            except Exception as error:  # whatever a service does, training goes on
                log.warning("logger %s failed and is off from here (%s: %s)", name, type(error).__name__, error)
                del self.active[name]
        return answers


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a row that change; an adaptation curve becomes its first and last episode."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if name.endswith("episodes_met"):
            continue
        if isinstance(value, list):
            flat |= {f"{name}/first": value[0], f"{name}/last": value[-1]}
        else:
            flat[name] = value
    return flat
