"""Untrusted run directories and sweeps: nothing in them is executed, written elsewhere, embedded or disclosed."""

import json
import os
import pickle
import shutil
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
    *("metrics.jsonl", "summary.json", "error.txt", "config.yaml", "checkpoints/best.pt"),
    *("checkpoints/00000001.partial", "tensorboard", "wandb", "checkpoints"),
    *("summary.json.partial", "report.html.partial"),
)
Try = Callable[["Stranger", Random], str | None]


class Stranger:
    """A stage with maliciously changed files, and files outside it that must not change."""

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
        """Restore the original files."""
        self.stage.restore()
        self.canary.write_text("untouched")
        self.victim.write_text(HIDDEN)
        shutil.rmtree(self.outside / "folder", ignore_errors=True)
        (self.outside / "folder").mkdir()

    def config(self, number: int = FINISHED) -> dict[str, Any]:
        """Configuration of the run."""
        return yaml.safe_load((self.stage.run(number) / "config.yaml").read_text())

    def write(self, config: dict[str, Any], number: int = FINISHED) -> None:
        """Write a changed configuration of the run."""
        (self.stage.run(number) / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))

    def call(self, arguments: list[str]) -> Outcome:
        """Run a command under the audit hook."""
        allowed = [self.stage.folder / name for name in ("sweep", "io", "out")]
        environment = {"METARL_FAULTS_CANARY": str(self.canary), SECRET: HIDDEN, "PYTHONPATH": str(BENCHMARKS)}
        environment["TMPDIR"] = str(self.stage.folder / "io")
        return call(arguments, self.stage.folder / "io", partial(watch, self.log, allowed), environment)

    def harmed(self, outcome: Outcome) -> str | None:
        """Forbidden actions of a command."""
        if not self.canary.exists() or self.canary.read_text() != "untouched":
            return "the canary was touched: something was executed"
        if not self.victim.exists() or self.victim.read_text() != HIDDEN:
            return "a file outside was changed"
        if extra := {path.name for path in self.outside.rglob("*")} - OUTSIDE:
            return f"files were made outside: {sorted(extra)}"
        if events := seen(self.log):
            return f"it did: {events[0]}"
        if HIDDEN in outcome.out + outcome.err or _told(self.stage):
            return "a secret is disclosed"
        return untidy(outcome)


OUTSIDE = {"canary", "id_rsa", "evil.py", "pickle.pt", "folder", "__pycache__"}


class Bomb:
    """A pickle that runs a command."""

    def __init__(self, canary: str):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"echo executed >> '{self.canary}'",)


def _told(stage: Stage) -> bool:
    pages = [*stage.sweep.rglob("report.html"), *(stage.folder / "out").glob("sweep.html"), *stage.sweep.rglob("*.log")]
    import base64

    codes = [HIDDEN.encode(), *(base64.b64encode(b" " * shift + HIDDEN.encode())[4:-4] for shift in range(3))]
    return any(code in page.read_bytes() for page in pages if not page.is_symlink() for code in codes)


def run(number: int, dice: Random, folder: Path, short: bool = False) -> Iterator[Case]:
    """Try ``number`` hostile targets, and all other attacks once."""
    stranger = Stranger(stage_in(folder))
    named = list(nodes(stranger.canary))
    places = [place for place in PLACES for _ in range(2)]
    others = list(_others())
    if short:
        dice.shuffle(others)
        others = others[: number // 2]
    for index in range(number):
        stranger.restore()
        name, place = named[index % len(named)], places[(index + index // len(named)) % len(places)]
        yield Case(f"{place}: {name}", _target(stranger, name, place, PLAYING[index % len(PLAYING)], index))
    for name, attempt in others:
        stranger.restore()
        yield Case(name, attempt(stranger, dice))


def _target(stranger: Stranger, name: str, place: str, command: str, index: int) -> str | None:
    """Try a hostile target: commands that would build it must refuse it, others must ignore it."""
    config = stranger.config()
    node = nodes(stranger.canary)[name]
    insert(config, place, node)
    stranger.write(config)
    looking = LOOKING[index % len(LOOKING)]
    for chosen in (command, looking):
        outcome = stranger.call(stranger.stage.command(chosen))
        if (wrong := stranger.harmed(outcome)) is not None:
            return f"{chosen}: {wrong}"
        if chosen == command and outcome.code == 0 and place not in ("choices", "everything"):
            return f"{chosen}: accepted"
    return None


def _others() -> Iterator[tuple[str, Try]]:
    for index in range(6):
        yield f"interpolation {index}", _interpolation
    for name in ("latest", "best"):
        yield f"pickled {name} checkpoint", partial(_pickled, name)
    for name in LINKS:
        yield f"symbolic link {name}", partial(_link, name)
    for where in ("choices.env", "choices.model", "env key", "summary command", "baseline", "metric", "trial", "sweep"):
        yield f"XSS in {where}", partial(_xss, where)
    yield "sweep.json command: a script", partial(_command, False)
    yield "sweep.json command: the interpreter's options", partial(_command, True)
    yield "sweep.json jobs: paths", _paths
    yield "yaml with Python objects", _yaml_objects


def _interpolation(stranger: Stranger, dice: Random) -> str | None:
    config = stranger.config()
    shown = interpolated(config, dice)
    stranger.write(config)
    for command in (*PLAYING, "report", "status"):
        if (wrong := stranger.harmed(stranger.call(stranger.stage.command(command)))) is not None:
            return f"{shown}: {command}: {wrong}"
    return None


def _pickled(which: str, stranger: Stranger, dice: Random) -> str | None:
    store = stranger.stage.run(FINISHED) / "checkpoints"
    for path in store.glob("*.pt"):
        if (path.stem == "best") == (which == "best"):
            path.write_bytes((stranger.outside / "pickle.pt").read_bytes())
    outcome = stranger.call(stranger.stage.command("evaluate best" if which == "best" else "evaluate"))
    return stranger.harmed(outcome) or (None if outcome.code else "accepted")


def _link(name: str, stranger: Stranger, dice: Random) -> str | None:
    """Try a run file that is a symbolic link to a file outside."""
    for number, commands in ((FINISHED, (*LOOKING, *PLAYING)), (KILLED, ("status", "train"))):
        path = stranger.stage.run(number) / name
        _remove(path)
        folder = "." not in Path(name).name
        path.symlink_to(stranger.outside / "folder" if folder else stranger.victim)
        for command in commands:
            arguments = stranger.stage.train(number) if command == "train" else stranger.stage.command(command)
            if command == "watch":
                arguments = ["metarl", "watch", str(stranger.stage.run(number))]
            outcome = stranger.call(arguments)
            if (wrong := _harmed_by_link(stranger, outcome, command)) is not None:
                return f"{command}: {wrong}"
    return None


def _harmed_by_link(stranger: Stranger, outcome: Outcome, command: str) -> str | None:
    if command == "train":  # training records its commit and calls git
        stranger.log.write_text("\n".join(line for line in seen(stranger.log) if "git" not in line))
    return stranger.harmed(outcome)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _xss(where: str, stranger: Stranger, dice: Random) -> str | None:
    run_dir, hostile = stranger.stage.run(FINISHED), SCRIPT + IMAGE
    config = stranger.config()
    summary = json.loads((run_dir / "summary.json").read_text())
    if where.startswith("choices."):
        config["choices"][where.partition(".")[2]] = hostile
    elif where == "env key":
        config["env"][hostile] = hostile
    elif where == "summary command":
        summary |= {"command": hostile, "hardware": hostile, "versions": hostile, "commit": hostile}
    elif where == "baseline":
        summary["baselines"][hostile] = summary["evaluation"]["sampled"]
        summary["bounds"] = {hostile: 1.0}
    elif where == "metric":
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        text = "".join(json.dumps(row | {f"update/{hostile}": 1.0 + i}) + "\n" for i, row in enumerate(rows))
        (run_dir / "metrics.jsonl").write_text(text)
    elif where == "trial":
        text = (run_dir / "trial.json").read_text()
        (run_dir / "trial.json").write_text(text.replace('"goal', f'"{json.dumps(hostile)[1:-1]}goal'))
    elif where == "sweep":
        record = json.loads((stranger.stage.sweep / "sweep.json").read_text())
        record["jobs"]["0"]["overrides"] = [hostile]
        (stranger.stage.sweep / "sweep.json").write_text(json.dumps(record))
    stranger.write(config)
    (run_dir / "summary.json").write_text(json.dumps(summary))
    for command in ("report", "report sweep", "status"):
        if (wrong := stranger.harmed(stranger.call(stranger.stage.command(command)))) is not None:
            return f"{command}: {wrong}"
    pages = [path for path in (run_dir / "report.html", stranger.stage.folder / "out" / "sweep.html") if path.exists()]
    written = any(tag in page.read_text() for page in pages for tag in ("<script>alert(", "<img src=x"))
    return "the page has the script" if written else None


def _command(options: bool, stranger: Stranger, dice: Random) -> str | None:
    """Try a sweep record with a hostile launch command, which must not be executed."""
    path = stranger.stage.sweep / "sweep.json"
    record = json.loads(path.read_text())
    script = str(stranger.outside / "evil.py")
    record["command"] = ["-c", Path(script).read_text()] if options else [script]
    record["directory"] = str(stranger.outside)
    path.write_text(json.dumps(record))
    outcome = stranger.call(stranger.stage.command("resume sweep"))
    return None if _only_itself(stranger) and untidy(outcome) is None else stranger.harmed(outcome)


def _only_itself(stranger: Stranger) -> bool:
    """Problem if anything outside changed; a resumed sweep may start processes of metarl."""
    return stranger.canary.read_text() == "untouched" and stranger.victim.read_text() == HIDDEN


def _paths(stranger: Stranger, dice: Random) -> str | None:
    """Try jobs whose numbers or directories point elsewhere."""
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
