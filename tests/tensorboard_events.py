"""Scalars and pictures that TensorBoard shows of a run."""

from pathlib import Path

import pytest

from metarl.runs.loggers import scalars


def stored(values: list[float]):
    """Equal in single precision, which is what TensorBoard keeps."""
    return pytest.approx(values, rel=1e-6, abs=1e-9)


def events(run_dir: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def assert_events_are(rows: list[dict], run_dir: Path) -> None:
    accumulator = events(run_dir)
    shown = [scalars(row) for row in rows]
    assert set(accumulator.Tags()["scalars"]) == {name for row in shown for name in row}
    for name in accumulator.Tags()["scalars"]:
        found = [(event.step, event.value) for event in accumulator.Scalars(name)]
        expected = [(row["env_steps"], row[name]) for row in shown if name in row]
        assert [step for step, _ in found] == [step for step, _ in expected], name
        assert [value for _, value in found] == stored([value for _, value in expected])
