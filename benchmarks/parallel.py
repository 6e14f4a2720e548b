"""Two processes that train one agent, against one process with one or two threads."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import Row

REPOSITORY = Path(__file__).resolve().parent.parent
ITERATIONS = 4  # per run; the first one is a warm-up
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
SETTINGS = {
    "one process, one thread": ((), ("num_threads=1",)),
    "one process, two threads": ((), ("num_threads=2",)),
    "two processes, one thread each": (TORCHRUN, ("num_threads=1",)),
}
MODELS = {"GRU": "model=gru", "transformer": "model=transformer"}


def rows(turns: int = 3) -> list[Row]:
    """Iteration time of RL² on tabular MDPs with minibatches of 60 trials: least wall time, settings in turns."""
    found = []
    for name, model in MODELS.items():
        times: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
        for _ in range(turns):
            for setting, (start, threads) in SETTINGS.items():
                times[setting].append(seconds(start, model, *threads))
        alone, threaded, both = (min(times[setting]) for setting in SETTINGS)
        minimum = (1.3, 1.0) if name == "GRU" else (None, None)
        found.append(Row(f"{name}: one process of one thread / two processes", alone / both, minimum[0]))
        found.append(Row(f"{name}: one process of two threads / two processes", threaded / both, minimum[1]))
    return found


def seconds(start: tuple[str, ...], *overrides: str) -> float:
    """Least wall time of an iteration."""
    lanes = 240
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *start, "run.py", "env=tabular_mdp", f"meta_batch_size={lanes}", *overrides]
        command += ["algorithm.num_minibatches=4", f"training.total_steps={ITERATIONS * lanes * 100}"]
        command += ["eval.baselines=false", "eval.final_num_tasks=1", f"hydra.run.dir={folder}/run"]
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    return min(line["time/collect"] + line["time/update"] for line in lines[1:])
