"""Record of one trial, as a file keeps it: what a figure of the trial shows. Imports no torch."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from metarl.envs.rendering import Frame
from metarl.runs import files as run_files
from metarl.runs.values import LARGEST, is_number, read_json

MOST_CELLS = 1_000_000  # along a side of a grid


@dataclass
class Rewards:
    """Reward of every step."""

    rewards: list[list[float]] = field(default_factory=list)  # by episode


@dataclass
class Path:
    """Positions in a plane, from the start of an episode on."""

    axes: tuple[str, str]  # name and unit of both coordinates
    positions: list[list[list[float]]] = field(default_factory=list)  # by episode, [2] each
    goal: list[float] | None = None


@dataclass
class Course:
    """Values of one quantity after every step; the last step of an episode may be missing."""

    name: str
    unit: str
    target: float | None
    seconds_per_step: float | None
    values: list[list[float]] = field(default_factory=list)  # by episode


@dataclass
class Visits:
    """Cells of a grid in the order of visits, from the start of an episode on."""

    shape: tuple[int, int]  # width, height
    goal: int | None
    cells: list[list[int]] = field(default_factory=list)  # by episode

    def __post_init__(self) -> None:
        if not all(isinstance(size, int) and 0 < size <= MOST_CELLS for size in self.shape):
            raise ValueError(f"the shape of a grid is {self.shape}")


@dataclass
class Pulls:
    """Arms that were pulled, and what they paid."""

    expected_rewards: list[float]  # by arm
    arms: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


View = Rewards | Path | Course | Visits | Pulls
VIEWS: dict[str, type[Any]] = {"rewards": Rewards, "path": Path, "quantity": Course, "cells": Visits, "arms": Pulls}


@dataclass
class TrialRecording:
    """Record of one trial in one lane.

    Attributes:
        task: its description in words.
        frames: images with captions, in order.
        frame_episodes: index of the episode of each frame.
        positions: per episode, the position of the agent at every step, ``[2]`` each; empty without positions.
        returns: of each episode.
        goal: of the task, ``[2]``, if it has one.
        view: content of the figure that suits the environment.
    """

    task: str
    frames: list[Frame] = field(default_factory=list)
    frame_episodes: list[int] = field(default_factory=list)
    positions: list[list[np.ndarray]] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    goal: np.ndarray | None = None
    view: View | None = None


def to_json(recording: TrialRecording) -> str:
    """JSON of a recording without its frames."""
    view = recording.view
    kind = next((name for name, known in VIEWS.items() if isinstance(view, known)), None)
    return run_files.to_json(
        {
            "task": recording.task,
            "returns": recording.returns,
            "places": [[position.tolist() for position in path] for path in recording.positions],
            "goal": None if recording.goal is None else recording.goal.tolist(),
            "view": None if view is None else {"kind": kind} | asdict(view),
        }
    )


def from_json(text: str) -> TrialRecording:
    """The recording that ``to_json`` wrote; one by an earlier version has the path alone."""
    held = read_json(text)
    _check_numbers(held)
    positions = [[np.array(position) for position in path] for path in held["places"]]
    goal = None if held["goal"] is None else np.array(held["goal"])
    view = held.get("view")
    return TrialRecording(
        held["task"],
        positions=positions,
        returns=held["returns"],
        goal=goal,
        view=_path(held) if view is None else VIEWS[view.pop("kind")](**view),
    )


def _check_numbers(part: Any) -> None:
    """Raise ``ValueError`` for a number that no figure can have an axis for."""
    match part:
        case dict() | list():
            for value in part.values() if isinstance(part, dict) else part:
                _check_numbers(value)
        case int() | float() if not (isinstance(part, bool) or is_number(part)):
            raise ValueError(f"a number is larger than {LARGEST:g}")


def _path(held: dict[str, Any]) -> Path | None:
    return Path(("x", "y"), held["places"], held["goal"]) if any(held["places"]) else None
