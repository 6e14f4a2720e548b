"""A film of one trial: pictures with captions, and where the agent went in each episode. Imports no torch."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from metarl.analysis import style
from metarl.envs.pictures import Picture
from metarl.runs import files as run_files

BAND, MARGIN = 26, 6  # pixels of the caption, and beside it
STRIP = 5  # pictures of each episode in a strip
STRIP_WIDTH = 240  # pixels of each


@dataclass
class Film:
    """What was seen of one lane.

    Attributes:
        task: its description in words.
        pictures: with captions, in order.
        picture_episodes: the episode of each.
        places: of each episode, where the agent was, ``[steps, 2]``; empty where places say nothing.
        returns: of each episode.
        goal: of the task, ``[2]``, if it has one.
    """

    task: str
    pictures: list[Picture] = field(default_factory=list)
    picture_episodes: list[int] = field(default_factory=list)
    places: list[list[np.ndarray]] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    goal: np.ndarray | None = None


def to_json(film: Film) -> str:
    """All but the pictures."""
    return run_files.to_json(
        {
            "task": film.task,
            "returns": film.returns,
            "places": [[place.tolist() for place in places] for places in film.places],
            "goal": None if film.goal is None else film.goal.tolist(),
        }
    )


def from_json(text: str) -> Film:
    """What ``to_json`` wrote."""
    held = json.loads(text)
    places = [[np.array(place) for place in places] for places in held["places"]]
    goal = None if held["goal"] is None else np.array(held["goal"])
    return Film(held["task"], places=places, returns=held["returns"], goal=goal)


def to_png(image: Image.Image) -> bytes:
    """The picture as a file."""
    room = io.BytesIO()
    image.save(room, "PNG", optimize=True)
    return room.getvalue()


def captioned(picture: Picture, text: str, more: str = "") -> Picture:
    """With a line of text above it, and what ``more`` there is to say where there is room; small ones enlarged."""
    times = -(-STRIP_WIDTH // picture.shape[1])
    picture = picture.repeat(times, 0).repeat(times, 1)
    height, width = picture.shape[:2]
    canvas = Image.new("RGB", (width, height + BAND), "white")
    canvas.paste(Image.fromarray(picture), (0, BAND))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    fits = draw.textlength(text + more, font) <= width - 2 * MARGIN
    draw.text((MARGIN, 5), text + more * fits, fill="black", font=font)
    return np.asarray(canvas)


def write_video(film: Film, path: Path, frames_per_second: float) -> None:
    """As ``.mp4`` or ``.gif``.

    Raises:
        ValueError: another ending.
    """
    if path.suffix == ".gif":
        first, *others = (Image.fromarray(picture) for picture in film.pictures)
        with run_files.replacing(path) as file:
            first.save(file, "GIF", save_all=True, append_images=others, duration=1000 / frames_per_second, loop=0)
    elif path.suffix == ".mp4":
        import imageio.v3 as imageio  # only films need it

        pictures = np.stack(film.pictures)
        video = imageio.imwrite("<bytes>", pictures, extension=".mp4", fps=frames_per_second, macro_block_size=2)
        run_files.replace_file(path, video)
    else:
        raise ValueError(f"--video {path}: give a name that ends in .mp4 or .gif")


def strip(film: Film) -> Image.Image | None:
    """A row of pictures per episode, from its start to its end; None where there are none."""
    rows = [
        _spread([p for p, e in zip(film.pictures, film.picture_episodes, strict=True) if e == episode])
        for episode in sorted(set(film.picture_episodes))
    ]
    if not rows:
        return None
    height = round(STRIP_WIDTH * rows[0][0].shape[0] / rows[0][0].shape[1])
    canvas = Image.new("RGB", (max(map(len, rows)) * STRIP_WIDTH, len(rows) * height), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            canvas.paste(Image.fromarray(picture).resize((STRIP_WIDTH, height)), (x * STRIP_WIDTH, y * height))
    return canvas


def _spread(pictures: Sequence[Picture]) -> list[Picture]:
    chosen = np.linspace(0, len(pictures) - 1, min(STRIP, len(pictures))).round().astype(int)
    return [pictures[index] for index in chosen]


def trajectories(film: Film) -> Figure | None:
    """Where the agent went in each episode; None where places say nothing."""
    paths = [np.array(places) for places in film.places if places]
    if not paths:
        return None
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, path in enumerate(paths):
        line = style.line_style(index) | {"linewidth": 1.5 * (len(paths) - index)}  # where they overlap all are seen
        axes.plot(*path.T, **line, label=f"episode {index + 1}: return {film.returns[index]:.1f}")
        axes.plot(*path[-1], marker="o", markersize=4, color=line["color"])
    if film.goal is not None:
        axes.plot(*film.goal, marker="*", markersize=14, color="black", linestyle="none", label="goal")
    axes.set_title(film.task, parse_math=False)
    axes.set(xlabel="x", ylabel="y", aspect="equal")
    axes.set_adjustable("datalim")
    axes.legend(fontsize="small")
    return figure
