"""Frames of a trial with captions, as a video and as a strip of pictures. Imports no torch."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metarl.analysis.trial_recording import TrialRecording
from metarl.envs.rendering import Frame
from metarl.runs import files as run_files

LETTERS = 20  # a caption is as many times narrower than its frame is wide, so that it stays legible in a strip
STRIP = 5  # frames per episode in a strip
STRIP_WIDTH = 240  # width of a frame in a strip, pixels


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
    size, band = width // LETTERS, caption_height(width)
    canvas = Image.new("RGB", (width, height + band), "white")
    canvas.paste(Image.fromarray(frame), (0, band))
    draw, font, margin = ImageDraw.Draw(canvas), ImageFont.load_default(size), size // 3
    fits = draw.textlength(text + more, font) <= width - 2 * margin
    draw.text((margin, band // 2), text + more * fits, fill="black", font=font, anchor="lm")
    return np.asarray(canvas)


def caption_height(width: int) -> int:
    """Height of the caption of a frame of this width, pixels; even, as codecs want it."""
    return width // LETTERS // 2 * 4


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
