"""A small sweep to try faults on: one finished run, one killed half-way, and one failed."""

import json
import shutil
from functools import cache, partial
from pathlib import Path

from fault_kinds.children import Outcome, call
from fault_kinds.runs import SMALL, SMALL_MODEL
from fault_kinds.seams import Moment

CONFIGURATION = (
    *("env=grid", "model=gru", "algorithm=rl2", SMALL_MODEL, "env.horizon=6", "env.num_episodes=2"),
    *("meta_batch_size=8", "training.total_steps=960"),
)
FINISHED, KILLED, FAILED = 0, 1, 2
KILLED_AT = 5  # iteration whose checkpoint was not saved any more


class Stage:
    """The sweep, and the expected output of the commands on it.

    The killed run is resumed once, to know its final state (``kills`` tests that it equals an undisturbed run).

    Args:
        folder: folder for the sweep.

    Raises:
        RuntimeError: the sweep cannot be built.
    """

    def __init__(self, folder: Path):
        self.folder, self.sweep = folder, folder / "sweep"
        (folder / "out").mkdir(parents=True)
        for path in (folder, folder.parent):
            path.chmod(0o755)  # readable by children that change their user
        moment = Moment(f"rename {KILLED_AT:08d}.pt", 2, None)
        launched = call(self.launch(), folder / "io", partial(moment.prepare, self.sweep))
        if not (self.run(FINISHED) / "summary.json").exists() or (self.run(KILLED) / "summary.json").exists():
            raise RuntimeError(f"{self.sweep} is not as it should be: {launched.last_line()}")
        (self.run(FAILED)).mkdir(exist_ok=True)
        (self.run(FAILED) / "error.txt").write_text("ConfigError: something was wrong\n")
        shutil.copytree(self.sweep, folder / "snapshot", symlinks=True)
        self.expected = {name: self.tell(name) for name in ("status", "compare", "evaluate")}
        if (finished := call(self.train(KILLED), folder / "io")).code:
            raise RuntimeError(f"{self.run(KILLED)} cannot be resumed: {finished.last_line()}")
        shutil.copytree(self.sweep, folder / "whole", symlinks=True)

    def launch(self) -> list[str]:
        """The command that launches the sweep."""
        return ["run.py", "-m", *SMALL, *CONFIGURATION, "seed=0,1,2", f"hydra.sweep.dir={self.sweep}"]

    def train(self, number: int) -> list[str]:
        """The command that resumes one run."""
        return ["run.py", *SMALL, *CONFIGURATION, f"seed={number}", f"hydra.run.dir={self.run(number)}"]

    def run(self, number: int) -> Path:
        """A run directory of the sweep."""
        return self.sweep / str(number)

    def whole(self, number: int) -> Path:
        """The undisturbed copy of a run."""
        return self.folder / "whole" / str(number)

    def restore(self) -> None:
        """Restore the original files."""
        shutil.rmtree(self.sweep)
        shutil.copytree(self.folder / "snapshot", self.sweep, symlinks=True)

    def command(self, name: str, number: int = FINISHED) -> list[str]:
        """A command of ``metarl`` on the sweep, or on one of its runs."""
        sizes = ["--num-tasks", "20", "--batch-size", "20"]
        return {
            "status": ["metarl", "status", str(self.sweep), "--format", "json"],
            "compare": ["metarl", "compare", str(self.sweep), "--format", "json"],
            "evaluate": ["metarl", "evaluate", str(self.run(number)), *sizes, "--format", "json"],
            "evaluate best": ["metarl", "evaluate", str(self.run(number)), *sizes, "--checkpoint", "best"],
            "report": ["metarl", "report", str(self.run(number))],
            "report sweep": ["metarl", "report", str(self.sweep), "--output", str(self.folder / "out" / "sweep.html")],
            "watch": ["metarl", "watch", str(self.run(number)), "--video", str(self.folder / "out" / "watch.gif")],
            "analyse": ["metarl", "analyse", str(self.run(number)), "--output", str(self.folder / "out" / "analysis")],
            "resume sweep": ["metarl", "resume", str(self.sweep)],
        }[name]

    def tell(self, name: str, number: int = FINISHED) -> Outcome:
        """Outcome of a command of ``metarl``."""
        return call(self.command(name, number), self.folder / "io")

    def status(self) -> dict[int, dict]:
        """Rows that ``metarl status`` prints now."""
        return rows(self.tell("status"))


@cache
def stage_in(folder: Path) -> Stage:
    """Stage of a folder, shared by all kinds of faults."""
    return Stage(folder / "stage")


def rows(outcome: Outcome) -> dict[int, dict]:
    """Rows of ``metarl status --format json``, by number of the run."""
    return {int(row["run"]): row for row in json.loads(outcome.out)} if outcome.code == 0 else {}
