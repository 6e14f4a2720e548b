"""Pictures of the documents, from the code itself: ``python benchmarks/pictures.py [NAME ...]`` writes ``docs/images``.

- ``curves``: learning and adaptation curve of the first agent of the tutorial, which it trains (half a minute)
"""

import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

import metarl
from metarl.analysis import style
from metarl.analysis.figures import adaptation_curve, learning_curve
from metarl.analysis.runs import load_runs

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
LIGHT = "svg{color:#1f2429;--muted:#6b747d;--grid:#d9dee3;--blue:#0072b2;--sky:#56b4e9}"
DARK = "svg{color:#e6e9ec;--muted:#9aa4ad;--grid:#343b42;--blue:#3f9fe6;--sky:#9bd8fa}"
THEME = f"<style>svg{{font-family:sans-serif}}{LIGHT}@media(prefers-color-scheme:dark){{{DARK}}}</style>"


def save(figure: Figure, name: str) -> None:
    """Write a figure as an SVG file whose colours follow the reader's light or dark mode."""
    opening, rest = style.to_svg(figure, name).split(">", 1)
    (IMAGES / f"{name}.svg").write_text(f"{opening}>{THEME}{rest}")


def curves() -> None:
    """Train the first agent of the tutorial, and draw it as its report does."""
    with tempfile.TemporaryDirectory() as folder:
        run = metarl.train(["env=bandit", "training.total_steps=600_000", "training.eval_every=5"], f"{folder}/run")
        (loaded,) = load_runs([run.path])
    save(learning_curve(loaded), "learning_curve")
    save(adaptation_curve(loaded), "adaptation_curve")


PICTURES = {"curves": curves}


def main(names: list[str]) -> None:
    """Draw the pictures with these names, or all."""
    for name in names or PICTURES:
        PICTURES[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
