"""Pictures that are readable in light and dark, and untrained agents to draw."""

import re
from pathlib import Path

from matplotlib.figure import Figure

from metarl.algorithms.base import Algorithm
from metarl.analysis import style
from metarl.analysis.style import PALETTE
from metarl.configuration.build import build_algorithm
from metarl.configuration.compose import compose, resolved

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
BLUE, ORANGE, GREEN, SKY = PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[5]
TEMPLATE = Path(style.__file__).with_name("report.html.j2")
TIPS = re.compile(r'<g class="tips">.*?</g>', re.DOTALL)  # pages show them under the pointer, images do not


def save(figure: Figure, name: str) -> None:
    """Write a figure as an SVG file whose colours, those of reports, follow the reader's light or dark mode."""
    light, dark = re.findall(r":root \{(.*?)\}", TEMPLATE.read_text())
    theme = f"svg{{color:var(--ink);font-family:sans-serif;{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}"
    opening, rest = TIPS.sub("", style.to_svg(figure, name)).split(">", 1)
    (IMAGES / f"{name}.svg").write_text(f"{opening}><style>{theme}</style>{rest}")


def untrained(*overrides: str) -> Algorithm:
    """The agent of a configuration, before training."""
    return build_algorithm(resolved(compose([*overrides, "meta_batch_size=10"]), {}))[0]
