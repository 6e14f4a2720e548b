"""Run directories and sweeps of a stranger: nothing in them is executed, written elsewhere, embedded or told."""

import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import yaml

from fault_kinds.cases import Case, untidy
from fault_kinds.children import BENCHMARKS, Outcome, call
from fault_kinds.guard import seen, watch
from fault_kinds.stage import FINISHED, KILLED, Stage, stage_in
from fault_kinds.targets import PLACES, SECRET, insert, interpolated, nodes

HIDDEN = "a-secret-of-this-machine-8135"
SCRIPT = "<script>alert(8135)</script>"
IMAGE = '"><img src=x onerror=alert(8135)>'
PLAYING = ("evaluate", "watch", "analyse")
LOOKING = ("status", "compare", "report", "report sweep")
LINKS = (
    *("config.yaml.partial", "run.log", "trial.png", "trial.json", "watch.mp4", "report.html", ".lock"),
    *(
        "metrics.jsonl",
        "summary.json",
        "error.txt",
        "config.yaml",
        "checkpoints/best.pt",
        "checkpoints/00000001.partial",
    ),
    *("tensorboard", "wandb", "checkpoints", "summary.json.partial", "report.html.partial"),
)
Try = Callable[["Stranger", Random], str | None]


class Stranger:
    """A stage on which a stranger changed files, and things outside it that must stay as they are."""

    def __init__(self, stage: Stage):
        self.stage, folder = stage, stage.folder
        self.outside, self.log = folder / "outside", folder / "seen.txt"
        self.outside.mkdir()
        self.canary = self.outside / "canary"
        self.victim = self.outside / "id_rsa"
        (self.outside / "evil.py").write_text(f"open({str(self.canary)!r}, 'a').write('executed')")
        (self.outside / "pickle.pt").write_bytes(pickle.dumps(Bomb(str(self.canary))))
        sys.path.append(str(self.outside))

    def restore(self) -> None:
        """Everything as it was."""
        self.stage.restore()
        self.canary.write_text("untouched")
        self.victim.write_text(HIDDEN)
        (self.outside / "folder").mkdir(exist_ok=True)

    def config(self, number: int = FINISHED) -> dict[str, Any]:
        """The configuration of a run."""
        return yaml.safe_load((self.stage.run(number) / "config.yaml").read_text())

    def write(self, config: dict[str, Any], number: int = FINISHED) -> None:
        """Change it."""
        (self.stage.run(number) / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def call(self, arguments: list[str]) -> Outcome:
        """Run a command under guard."""
        allowed = [self.stage.folder / name for name in ("sweep", "io", "sweep.html", "analysis", "watch.gif")]
        environment = {"METARL_FAULTS_CANARY": str(self.canary), SECRET: HIDDEN, "PYTHONPATH": str(BENCHMARKS)}
        return call(arguments, self.stage.folder / "io", partial(watch, self.log, allowed), environment)

    def harmed(self, outcome: Outcome) -> str | None:
        """What a command did that it must not."""
        if not self.canary.exists() or self.canary.read_text() != "untouched":
            return "the canary was touched: something was executed"
        if not self.victim.exists() or self.victim.read_text() != HIDDEN:
            return "a file outside was changed"
        if extra := {path.name for path in self.outside.rglob("*")} - OUTSIDE:
            return f"files were made outside: {sorted(extra)}"
        if events := seen(self.log):
            return f"it did: {events[0]}"
        if HIDDEN in outcome.out + outcome.err or _told(self.stage):
            return "a secret is told"
        return untidy(outcome)


OUTSIDE = {"canary", "id_rsa", "evil.py", "pickle.pt", "folder", "__pycache__"}


class Bomb:
    """A pickle that runs a command."""

    def __init__(self, canary: str):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"echo executed >> '{self.canary}'",)


def _told(stage: Stage) -> bool:
    pages = [path for path in (run_dir / "report.html", stranger.stage.folder / "sweep.html") if path.exists()]
    written = any(tag in page.read_text() for page in pages for tag in ("<script>alert(", "<img src=x"))
    return "the page has the script" if written else None


def _command(options: bool, stranger: Stranger, dice: Random) -> str | None:
    """What a sweep says it was launched by is no command to execute."""
    path = stranger.stage.sweep / "sweep.json"
    record = json.loads(path.read_text())
    script = str(stranger.outside / "evil.py")
    record["command"] = ["-c", Path(script).read_text()] if options else [script]
    record["directory"] = str(stranger.outside)
    path.write_text(json.dumps(record))
    outcome = stranger.call(stranger.stage.command("resume sweep"))
    return None if _only_itself(stranger) and untidy(outcome) is None else stranger.harmed(outcome)


def _only_itself(stranger: Stranger) -> bool:
    """Nothing outside changed; a sweep that goes on starts processes of metarl."""
    return stranger.canary.read_text() == "untouched" and stranger.victim.read_text() == HIDDEN


def _paths(stranger: Stranger, dice: Random) -> str | None:
    """Jobs whose numbers or directories lie elsewhere."""
    path = stranger.stage.sweep / "sweep.json"
    record = json.loads(path.read_text())
    record["jobs"]["../../outside/folder"] = record["jobs"]["0"]
    path.write_text(json.dumps(record))
    for command in ("status", "compare", "report sweep"):
        if (wrong := stranger.harmed(stranger.call(stranger.stage.command(command)))) is not None:
            return f"{command}: {wrong}"
    return None


def _yaml_objects(stranger: Stranger, dice: Random) -> str | None:
    path = stranger.stage.run(FINISHED) / "config.yaml"
    bomb = f"seed: !!python/object/apply:os.system ['echo executed >> {stranger.canary}']\n"
    path.write_text(path.read_text().replace("seed: 0\n", bomb))
    for command in (*PLAYING, *LOOKING):
        if (wrong := stranger.harmed(stranger.call(stranger.stage.command(command)))) is not None:
            return f"{command}: {wrong}"
    return None
