"""Sweeps of jobs that do not train, to test launchers quickly."""

import json
import sys
from pathlib import Path

from metarl.launching.cards import Slot
from metarl.launching.pool import Pool
from metarl.runs.sweep import Job, Sweep, quoted

TINY = (
    "training.total_steps=3000",
    "meta_batch_size=100",
    "eval.final_num_tasks=20",
    "eval.num_tasks=10",
    "eval.baselines=false",
    "model.hidden_size=8",
)

# A run as launchers see it: it holds its directory, notes where and when it ran, and leaves a summary.
FAKE = """
import fcntl, json, os, sys, time
from pathlib import Path
given = dict(text.split("=", 1) for text in sys.argv[1:])
folder = Path(given["hydra.run.dir"].strip("'"))
folder.mkdir(parents=True, exist_ok=True)
lock = open(folder / ".lock", "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.truncate(0)
lock.write(json.dumps({"gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}))
lock.flush()
started = time.time()
time.sleep(float(given["seconds"]))
with open(folder.parent / "notes.jsonl", "a") as notes:
    row = {"run": int(folder.name), "started": started, "ended": time.time()}
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS")
    notes.write(json.dumps(row | {name: os.environ.get(name) for name in names}) + "\\n")
if "crash" in given:
    (folder / "error.txt").write_text("Trace\\nValueError: as it was told\\n")
    sys.exit(1)
summary = {"env_steps": 1, "evaluation": {"sampled": {"return_mean": 1.0}}}
(folder / "summary.json").write_text(json.dumps(summary))
"""


def fake_sweep(path: Path, *jobs: str, script: str = FAKE) -> Sweep:
    (path / "fake.py").write_text(script)
    return Sweep.launched(path / "sweep", {"cluster": "local_pool"}, [job.split() for job in jobs], 0)


def fake_command(sweep: Sweep, job: Job) -> list[str]:
    script = sweep.path.parent / "fake.py"
    return [sys.executable, str(script), *job.overrides, f"hydra.run.dir={quoted(job.directory)}"]


def pool_of(sweep: Sweep, slots: list[Slot], **options) -> Pool:
    return Pool(sweep, slots, command=fake_command, **options)


def notes(sweep: Sweep) -> list[dict]:
    return [json.loads(line) for line in (sweep.path / "notes.jsonl").read_text().splitlines()]
