"""``metarl export``: a trained agent in one file."""

import argparse
from pathlib import Path
from typing import Any

from metarl.cli.options import add_checkpoint, add_command


def add_commands(commands: Any) -> None:
    """Add the command."""
    text = "write a trained agent into one file of safetensors, with a card beside it"
    exporting = add_command(commands, "export", export_agent, text, formats=False)
    exporting.add_argument("run", type=Path, help="run directory")
    exporting.add_argument("file", type=Path, help="file to write, NAME.safetensors; the card is NAME.json")
    add_checkpoint(exporting)


def export_agent(options: argparse.Namespace) -> None:
    """Export an agent; ``metarl.load`` and ``metarl evaluate`` read the file."""
    from metarl.runs.exported import export

    card = export(options.run, options.checkpoint, options.file)
    size = options.file.stat().st_size / 1e6
    print(f"{options.file}: {card['env']}, {card['model']}/{card['algorithm']}, {size:.2f} MB")
