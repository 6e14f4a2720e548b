"""Non-finite numbers: the run ends with one message, keeps its last good checkpoint and counts as failed."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from fault_kinds.cases import Case, refusal, untidy
from fault_kinds.children import Outcome, call
from fault_kinds.runs import CONFIGURATIONS, SMALL, SMALL_MODEL, gymnasium_env, train

STEP = "algorithm.learning_rate=1e20"
SIZE = ("meta_batch_size=8", "training.total_steps=600")
POISONED = {
    "gru rl2": ("model=gru", "algorithm=rl2", SMALL_MODEL, *SIZE),
    "gru varibad": ("model=gru", "algorithm=varibad", SMALL_MODEL, *SIZE, "algorithm.buffer_size=20"),
    "mlp maml": ("algorithm=maml", SMALL_MODEL, "meta_batch_size=4", "lanes_per_task=3", "training.total_steps=900"),
    "mlp promp": ("algorithm=promp", SMALL_MODEL, "meta_batch_size=4", "lanes_per_task=3", "training.total_steps=900"),
}
SOURCES = ("reward", "observation", "loss", "gradient", "parameter")


def run(number: int, dice: Random, folder: Path, short: bool = False) -> Iterator[Case]:
    """Try at most ``number`` cases: too large learning rates and rewards, and poisoned environments."""
    cases = list(_cases())
    if short:
        dice.shuffle(cases)
    for index, (name, overrides, sound) in enumerate(cases[:number]):
        yield Case(name, _problem(overrides, folder / f"nonfinite{index}", sound))


def _cases() -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Name and overrides of each case, and whether its first iteration is finite."""
    for name, overrides in CONFIGURATIONS.items():
        if "maml" not in name and "tesp" not in name:
            yield f"{STEP}: {name}", (*overrides, STEP), False
    for method, overrides in POISONED.items():
        for poison in ("undefined", "infinite", "none", "huge"):
            yield f"reward {poison}: {method}", (*_poisoned("reward", poison), *overrides), True
        yield f"observation nan: {method}", (*_poisoned("observation", "undefined"), *overrides), True
    workers = _poisoned("reward", "undefined", workers=2)
    yield "reward nan in a worker process: gru rl2", (*workers, *POISONED["gru rl2"]), True
    spread = ("env=gaussian_bandit", "env.reward_std=1e25")
    for method in ("gru rl2", "gru varibad", "mlp promp"):
        yield f"env.reward_std=1e25: {method}", (*spread, *POISONED[method]), False


def _poisoned(what: str, poison: str, workers: int = 0) -> tuple[str, ...]:
    return gymnasium_env("Poisoned", f"{{what:{what},poison:{poison},after:24}}", workers)


def _problem(overrides: tuple[str, ...], folder: Path, sound: bool) -> str | None:
    """Problem of a single run, and of the same run as a sweep of one."""
    alone = call(train(overrides, folder / "alone"), folder / "io")
    if (wrong := _ended_well(alone) or _kept(folder / "alone", sound)) is not None:
        return wrong
    sweep = folder / "sweep"
    launched = call(["run.py", "-m", *SMALL, *overrides, "seed=0", f"hydra.sweep.dir={sweep}"], folder / "io")
    if launched.code == 0 or "Traceback" in launched.err:
        return f"as a sweep: {launched.last_line()}"
    status = call(["metarl", "status", str(sweep), "--format", "json"], folder / "io")
    if (wrong := untidy(status)) is not None:
        return f"metarl status: {wrong}"
    (row,) = json.loads(status.out)
    return None if row["state"] == "failed" and row["error"] else f"metarl status: {row['state']}, {row['error']}"


def _ended_well(outcome: Outcome) -> str | None:
    if (wrong := refusal(outcome, "iteration")) is not None:
        return wrong
    message = outcome.errors()[0]
    return None if any(source in message for source in SOURCES) else f"the message names no source: {message}"


def _kept(run_dir: Path, sound: bool) -> str | None:
    """Problem with the remaining files: checkpoints must be finite, JSON must be strict."""
    from metarl.runs.checkpoint import Checkpoints, load

    store = Checkpoints(run_dir / "checkpoints")
    for path in sorted((run_dir / "checkpoints").glob("*.pt")):
        if not _finite(load(path)["algorithm"]):
            return f"{path.name} holds weights that are not finite"
    if sound and not store.numbered():
        return "no good checkpoint is left"
    if (run_dir / "summary.json").exists():
        return "there is a summary.json"
    metrics = run_dir / "metrics.jsonl"
    for line in metrics.read_text().splitlines() if metrics.exists() else ():
        json.loads(line, parse_constant=_refuse)
    return None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} in a file of JSON")


def _finite(state: Any) -> bool:
    import torch

    if isinstance(state, torch.Tensor):
        return not state.is_floating_point() or bool(state.isfinite().all())
    if isinstance(state, dict | list | tuple):
        return all(map(_finite, state.values() if isinstance(state, dict) else state))
    return True
