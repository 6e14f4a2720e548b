"""Start-up cost of the commands."""

import importlib.util
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

from timing import Row

REPOSITORY = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "gymnasium", "mujoco", "metaworld", "wandb")
METARL = ("-c", "from metarl.cli import main; main()")  # code of the installed command
COMMANDS = {
    "run.py --cfg job": ("run.py", "--cfg", "job"),
    "run.py --help": ("run.py", "--help"),
    "metarl --help": (*METARL, "--help"),
}


def rows() -> list[Row]:
    """CPU time of each command, relative to a process that imports the heavy dependencies."""
    present = [name for name in HEAVY if importlib.util.find_spec(name)]
    imports = ("-c", f"import {', '.join(present)}; print('done')")
    heavy = cpu_seconds(imports)
    found = [Row(f"start-up: importing {', '.join(present)}", f"{heavy:.2f} CPU-s")]
    # Guards the checks below: here torch must be detected.
    found.append(Row("start-up: torch is detected among those imports", float(imports_torch(imports)), 1))
    for name, arguments in COMMANDS.items():
        found.append(Row(f"start-up: {name} / those imports", cpu_seconds(arguments) / heavy, 0.2, most=True))
        found.append(Row(f"start-up: {name} imports torch", float(imports_torch(arguments)), 0, most=True))
    return found


def run(*arguments: str) -> str:
    """Standard error of ``python`` with these arguments.

    Raises:
        RuntimeError: the command fails or prints nothing, so there is nothing to measure.
    """
    result = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    if result.returncode or not result.stdout.strip():
        raise RuntimeError(f"python {' '.join(arguments)} did nothing: {result.stderr[-500:]}")
    return result.stderr


def cpu_seconds(arguments: tuple[str, ...], repeats: int = 5) -> float:
    """Median CPU time of ``python`` with these arguments, with a warm page cache."""
    times = []
    for _ in range(repeats + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(times[1:])


def imports_torch(arguments: tuple[str, ...]) -> bool:
    """Whether a command imports torch."""
    lines = run("-X", "importtime", *arguments).splitlines()
    return any(line.rpartition("|")[2].strip() == "torch" for line in lines)
