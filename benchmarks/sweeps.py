"""Cost of launching a sweep of many jobs that only write a finished run."""

import resource
import sys
import tempfile
import time
from pathlib import Path

from timing import Row

from metarl.launching.cards import cpu_slots
from metarl.launching.commands import status_rows
from metarl.launching.pool import Pool
from metarl.runs.sweep import Job, Sweep

FAKE = """
import json, pathlib, sys
run = pathlib.Path(sys.argv[1])
run.mkdir()
(run / "config.yaml").write_text("training: {total_steps: 1}")
(run / "summary.json").write_text(json.dumps({"env_steps": 1, "evaluation": {"sampled": {"return_mean": 0.0}}}))
"""
OF_A_JOB = {"config.yaml", "summary.json"}  # files written by the job itself
SIZES = (250, 1000)


def rows() -> list[Row]:
    """CPU time, files and memory per job of a local pool, and their growth with the number of jobs."""
    found, times, looks = [], {}, {}
    before = memory()
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            times[size], looks[size], files = cost(Path(folder), size)
            found.append(Row(f"sweep of {size} jobs: launcher's CPU ms per job", 1000 * times[size], 50, most=True))
            found.append(Row(f"sweep of {size} jobs: files of the launcher per job", files, 20, most=True))
    small, large = SIZES
    found.append(Row(f"sweep: time per job, {large} jobs / {small}", times[large] / times[small], 1.5, most=True))
    found.append(Row(f"sweep of {large} jobs: metarl status, CPU ms per job", 1000 * looks[large], 50, most=True))
    found.append(Row(f"sweep of {large} jobs: added memory, MiB", memory() - before))
    return found


def cost(folder: Path, size: int) -> tuple[float, float, float]:
    """CPU seconds per job of launching and of ``metarl status``, and files per job."""
    script = folder / "job.py"
    script.write_text(FAKE)
    started = time.process_time()
    jobs = [[f"seed={number}"] for number in range(size)]
    sweep = Sweep.launched(folder / "sweep", {}, jobs, 0)

    def command(sweep: Sweep, job: Job) -> list[str]:
        return [sys.executable, str(script), str(job.directory)]

    Pool(sweep, cpu_slots(None), command=command).run(sweep.jobs, lambda line: None)
    launched = time.process_time()
    found, _ = status_rows(Sweep(sweep.path))
    listed = time.process_time()
    assert all(row["state"] == "finished" for row in found)
    files = [path for path in sweep.path.rglob("*") if path.is_file() and path.name not in OF_A_JOB]
    return (launched - started) / size, (listed - launched) / size, len(files) / size


def memory() -> float:
    """Peak memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)
