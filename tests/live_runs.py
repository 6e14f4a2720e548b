"""Small runs with loggers, and what W&B keeps of them."""

from pathlib import Path

import pytest
from helpers import read_rows, small_config
from wandb_records import by_key, records

from metarl.configuration.build import build
from metarl.experiment import run
from metarl.runs.loggers import scalars

SIZE = ("training.eval_every=2", "eval.num_tasks=8", "eval.final_num_tasks=8", "eval.baselines=false")
STEPS_OF_AN_ITERATION = 6 * 3  # lanes, pulls


def live(run_dir: Path, *overrides: str, iterations: int = 3, sweep: str | None = None) -> list[dict]:
    """A whole run with these loggers; its rows."""
    total = f"training.total_steps={iterations * STEPS_OF_AN_ITERATION}"
    config = small_config(*SIZE, total, *overrides)
    run(build(config, run_dir), config, sweep)
    rows = read_rows(run_dir / "metrics.jsonl")
    assert len(rows) == 1 + iterations  # the first is that of the untrained agent
    return rows


def of_kind(path: Path, kind: str) -> list:
    return [getattr(record, kind) for record in records(path) if record.WhichOneof("record_type") == kind]


def history(path: Path) -> list[dict]:
    return [by_key(record.item) for record in of_kind(path, "history")]


def assert_history_is(rows: list[dict], found: list[dict]) -> None:
    assert len(found) >= len(rows)
    for row, seen in zip(rows, found, strict=False):
        assert seen["_step"] == row["iteration"]
        expected = scalars(row)
        assert {name: seen[name] for name in expected} == pytest.approx(expected)
