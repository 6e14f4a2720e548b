"""Recording of one trial: captioned frames and the positions of the agent, as video and figures. Imports no torch."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from metarl.analysis import style
from metarl.envs.rendering import Frame
from metarl.runs import files as run_files

BAND, MARGIN = 26, 6  # height of a caption and its margin, pixels
STRIP = 5  # frames per episode in a strip
STRIP_WIDTH = 240  # width of a frame in a strip, pixels


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
    """

    task: str
    frames: list[Frame] = field(default_factory=list)
    frame_episodes: list[int] = field(default_factory=list)
    positions: list[list[np.ndarray]] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    goal: np.ndarray | None = None


def to_json(recording: TrialRecording) -> str:
    """JSON of a recording without its frames."""
    return run_files.to_json(
        {
            "task": recording.task,
            "returns": recording.returns,
            "places": [[position.tolist() for position in path] for path in recording.positions],
            "goal": None if recording.goal is None else recording.goal.tolist(),
        }
    )


def from_json(text: str) -> TrialRecording:
    """The recording that ``to_json`` wrote."""
    held = json.loads(text)
    positions = [[np.array(position) for position in path] for path in held["places"]]
    goal = None if held["goal"] is None else np.array(held["goal"])
    return TrialRecording(held["task"], positions=positions, returns=held["returns"], goal=goal)


def to_png(image: Image.Image) -> bytes:
    """Bytes of an image in PNG format."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def captioned(frame: Frame, text: str, more: str = "") -> Frame:
    """A frame, enlarged if small, below a line of text, followed by ``more`` if the line is wide enough."""
    times = -(-STRIP_WIDTH // frame.shape[1])
    frame = frame.repeat(times, 0).repeat(times, 1)
    height, width = frame.shape[:2]
    canvas = Image.new("RGB", (width, height + BAND), "white")
    canvas.paste(Image.fromarray(frame), (0, BAND))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    fits = draw.textlength(text + more, font) <= width - 2 * MARGIN
    draw.text((MARGIN, 5), text + more * fits, fill="black", font=font)
    return np.asarray(canvas)


def write_video(recording: TrialRecording, path: Path, frames_per_second: float) -> None:
    """Write the frames as ``.mp4`` or ``.gif``.

    Raises:
        ValueError: the path has another suffix.
    """
    if path.suffix == ".gif":
        first, *others = (Image.fromarray(frame) for frame in recording.frames)
        with run_files.replacing(path) as file:
            first.save(file, "GIF", save_all=True, append_images=others, duration=1000 / frames_per_second, loop=0)
    elif path.suffix == ".mp4":
        import imageio.v3 as imageio  # only videos need it

        frames = np.stack(recording.frames)
        video = imageio.imwrite("<bytes>", frames, extension=".mp4", fps=frames_per_second, macro_block_size=2)
        run_files.replace_file(path, video)
    else:
        raise ValueError(f"--video {path}: give a name that ends in .mp4 or .gif")


def strip(recording: TrialRecording) -> Image.Image | None:
    """A row of frames per episode, from its start to its end; None without frames."""
    rows = [
        _spread([f for f, e in zip(recording.frames, recording.frame_episodes, strict=True) if e == episode])
        for episode in sorted(set(recording.frame_episodes))
    ]
    if not rows:
        return None
    height = round(STRIP_WIDTH * rows[0][0].shape[0] / rows[0][0].shape[1])
    canvas = Image.new("RGB", (max(map(len, rows)) * STRIP_WIDTH, len(rows) * height), "white")
    for y, row in enumerate(rows):
        for x, frame in enumerate(row):
            canvas.paste(Image.fromarray(frame).resize((STRIP_WIDTH, height)), (x * STRIP_WIDTH, y * height))
    return canvas


def _spread(frames: Sequence[Frame]) -> list[Frame]:
    chosen = np.linspace(0, len(frames) - 1, min(STRIP, len(frames))).round().astype(int)
    return [frames[index] for index in chosen]


def trajectories(recording: TrialRecording) -> Figure | None:
    """Path of the agent in each episode; None without positions."""
    paths = [np.array(path) for path in recording.positions if path]
    if not paths:
        return None
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, path in enumerate(paths):
        line = style.line_style(index) | {"linewidth": 1.5 * (len(paths) - index)}  # overlapping paths stay visible
        axes.plot(*path.T, **line, label=f"episode {index + 1}: return {recording.returns[index]:.1f}")
        axes.plot(*path[-1], marker="o", markersize=4, color=line["color"])
    if recording.goal is not None:
        axes.plot(*recording.goal, marker="*", markersize=14, color="black", linestyle="none", label="goal")
    axes.set_title(recording.task, parse_math=False)
    axes.set(xlabel="x", ylabel="y", aspect="equal")
    axes.set_adjustable("datalim")
    axes.legend(fontsize="small")
    return figure
