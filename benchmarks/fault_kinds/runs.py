"""Tiny runs of many configurations, and the comparison of two finished runs."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from fault_kinds.children import BENCHMARKS, MOST_SECONDS, REPOSITORY, Outcome
from fault_kinds.seams import is_temporary

SMALL = (
    "eval.num_tasks=6",
    "eval.final_num_tasks=24",
    "eval.batch_size=24",
    "training.eval_every=2",
    "num_threads=1",
)
SMALL_MODEL = "model.hidden_size=8"


def gymnasium_env(name: str, options: str = "{}", workers: int = 0) -> tuple[str, ...]:
    """Overrides that choose an environment of ``fault_kinds.worlds``."""
    return (
        "env=bandit",
        "~env.num_arms",
        "env._target_=metarl.envs.gymnasium_lanes.GymnasiumEnv",
        f"+env.make='fault_kinds.worlds:{name}'",
        f"+env.options={options}",
        "+env.horizon=4",
        "+env.ends_early=true",
        f"+env.num_workers={workers}",
        "env.num_episodes=2",
    )


# Environment, memory, algorithm and logger in many combinations; about ten iterations each.
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    "bandit gru rl2, TensorBoard": (
        *("env=bandit", "model=gru", "algorithm=rl2", "logger=tensorboard", SMALL_MODEL),
        *("meta_batch_size=8", "training.total_steps=800"),
    ),
    "tabular_mdp lstm a2c, W&B offline": (
        *("env=tabular_mdp", "model=lstm", "algorithm=a2c", "logger=wandb", SMALL_MODEL, "env.num_episodes=2"),
        *("meta_batch_size=8", "training.total_steps=1600", "env.num_states=4"),
    ),
    "point_navigation mlp maml": (
        *("env=point_navigation", "algorithm=maml", SMALL_MODEL, "env.horizon=10", "meta_batch_size=4"),
        *("lanes_per_task=3", "training.total_steps=2400"),
    ),
    "cheetah_vel gru rl2": (
        *("env=cheetah_vel", "model=gru", "algorithm=rl2", SMALL_MODEL, "env.horizon=10", "env.num_threads=1"),
        *("meta_batch_size=8", "training.total_steps=1600"),
    ),
    "workers transformer rl2, TensorBoard": (
        *gymnasium_env("Walk", workers=2),
        *("model=transformer", SMALL_MODEL, "model.num_heads=2", "algorithm=rl2", "logger=tensorboard"),
        *("meta_batch_size=8", "training.total_steps=400"),
    ),
    "grid gru varibad": (
        *("env=grid", "model=gru", "algorithm=varibad", SMALL_MODEL, "env.horizon=6", "env.num_episodes=2"),
        *("meta_batch_size=8", "algorithm.buffer_size=20", "algorithm.batch_size=5", "training.total_steps=960"),
    ),
    "tmaze amrl rl2, TensorBoard and W&B": (
        *("env=tmaze", "model=amrl", SMALL_MODEL, "env.length=3", "env.num_episodes=2", "meta_batch_size=8"),
        *("logger=[tensorboard,wandb]", "training.total_steps=700"),
    ),
    "point_goal mlp tesp": (
        *("env=point_goal", "algorithm=tesp", SMALL_MODEL, "env.horizon=8", "meta_batch_size=3", "lanes_per_task=2"),
        *("algorithm.encoder_hidden_size=8", "training.total_steps=2500"),
    ),
}

CLOCK = ("wall_time", "per_second", "seconds")
# Keys that depend on times, machine or shell.
INCIDENTAL = {"wall_time", "command", "hardware", "versions", "commit"}
UNCOMPARED = {"report.html", "run.log", ".lock", "trial.png", "stdout.txt", "stderr.txt"}
OF_LOGGERS = {"tensorboard", "wandb", "wandb_id"}


def train(configuration: tuple[str, ...], run_dir: Path) -> list[str]:
    """The command that trains or resumes the run."""
    return ["run.py", *SMALL, *configuration, f"hydra.run.dir={run_dir}"]


def in_an_interpreter(arguments: list[str], folder: Path) -> Outcome:
    """Run the command in a new interpreter, as users start it; one that does not end in time is killed."""
    import os

    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(REPOSITORY / arguments[0]), *arguments[1:]]
    settings: dict[str, Any] = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    try:
        ended = subprocess.run(line, timeout=MOST_SECONDS, **settings)
    except subprocess.TimeoutExpired:
        return Outcome(-signal.SIGKILL, "", f"not ended after {MOST_SECONDS:g} seconds", timed_out=True)
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def difference(found: Path, expected: Path) -> str | None:
    """First difference between two finished runs of one configuration, apart from times."""
    if not (found / "summary.json").is_file():
        return "no summary.json"
    for compare in (_rows, _checkpoints, summary_difference, _files, _points):
        if (wrong := compare(found, expected)) is not None:
            return wrong
    return None


def read_rows(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of metrics without times."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if not key.startswith("time/") and not key.endswith(CLOCK)}
        for row in rows
    ]


def _rows(found: Path, expected: Path) -> str | None:
    here, there = read_rows(found), read_rows(expected)
    if [row["iteration"] for row in here] != [row["iteration"] for row in there]:
        return f"rows of iterations {[row['iteration'] for row in here]}"
    for one, other in zip(here, there, strict=True):
        if json.dumps(one) != json.dumps(other):
            keys = [key for key in other if json.dumps(one.get(key)) != json.dumps(other[key])]
            return f"row of iteration {one['iteration']} differs in {keys[:3]}"
    return None


def _checkpoints(found: Path, expected: Path) -> str | None:
    from metarl.runs.checkpoint import Checkpoints, load

    for which in ("latest", "best"):
        paths = [Checkpoints(folder / "checkpoints").path(which) for folder in (found, expected)]
        if paths[0].name != paths[1].name:
            return f"the {which} checkpoint is {paths[0].name}"
        states = [load(path) for path in paths]
        for state in states:
            state["progress"].pop("wall_time")
        if not same(*states):
            return f"the {which} checkpoint differs"
    return None


def summary_difference(found: Path, expected: Path) -> str | None:
    """Keys in which two summaries differ, apart from times and machine."""
    here, there = (json.loads((folder / "summary.json").read_text()) for folder in (found, expected))
    keys = [key for key in here.keys() | there.keys() if key not in INCIDENTAL and here.get(key) != there.get(key)]
    return f"summary.json differs in {keys}" if keys else None


def _files(found: Path, expected: Path) -> str | None:
    here, there = files_of(found), files_of(expected)
    if here.keys() != there.keys():
        return f"files {sorted(here.keys() ^ there.keys())}, which only one of the runs has"
    trial = "trial.json"
    if trial in here and here[trial].read_bytes() != there[trial].read_bytes():
        return "trial.json differs"
    return None


def files_of(run_dir: Path) -> dict[str, Path]:
    """File names of a run directory without those of loggers; temporary files count under their final name."""
    found = {}
    for path in sorted(run_dir.rglob("*")):
        parts = path.relative_to(run_dir).parts
        if path.is_file() and parts[0] not in OF_LOGGERS:
            name = "/".join(parts)
            found["left over: " + name if is_temporary(path.name) else name] = path
    return found


def _points(found: Path, expected: Path) -> str | None:
    """Points that TensorBoard shows, each once."""
    if not (expected / "tensorboard").is_dir():
        return None
    here, there = points(found), points(expected)
    wrong = [tag for tag in there if here.get(tag) != there[tag]]
    return f"TensorBoard shows {len(here.get(wrong[0], []))} other points of {wrong[0]}" if wrong else None


def points(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values that TensorBoard shows, by tag, without times."""
    import logging

    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={SCALARS: 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/") and not tag.endswith(CLOCK)]
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


def same(left: Any, right: Any) -> bool:
    """Bitwise equality of nested containers of tensors and plain values."""
    import torch

    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and _same_bits(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def _same_bits(left: Any, right: Any) -> bool:
    import torch

    return (
        left.shape == right.shape
        and torch.equal(left.isnan(), right.isnan())
        and torch.equal(left.nan_to_num(), right.nan_to_num())
    )
