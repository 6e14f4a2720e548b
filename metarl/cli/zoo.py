"""``metarl zoo``: the trained agents that come with metarl."""

import argparse
import shutil
import sys
import textwrap
from typing import Any

from metarl.cli.options import add_command, print_rows

CARD = ("env", "model", "algorithm", "seed", "env_steps", "parameters", "hardware", "versions", "commit", "metarl")
SCORED = "sampled"  # kind of actions whose return the list has


def add_commands(commands: Any) -> None:
    """Add the command."""
    command = add_command(commands, "zoo", zoo, "trained agents that come with metarl, and their cards")
    command.add_argument("name", nargs="?", metavar="NAME", help="agent whose card to show (default: list all)")


def zoo(options: argparse.Namespace) -> None:
    """List all agents, or print the card of one."""
    from metarl.runs.files import to_json
    from metarl.runs.zoo import PREFIX, card, names

    if options.name is None:
        rows = [row(name, card(name)) for name in names()]
        print(as_list(rows)) if options.format == "text" else print_rows(rows, options.format)
        note = f"return of a trial on held-out tasks, {SCORED} actions, ± standard error; metarl zoo NAME shows a card"
        print(note, file=sys.stderr)
        return
    name = options.name.removeprefix(PREFIX)
    found = card(name)
    print(to_json(found, indent=2) if options.format == "json" else as_text(name, found, options.format))


def row(name: str, card: dict[str, Any]) -> dict[str, Any]:
    """An agent in the list: the return of a trial with sampled actions on held-out tasks, and its standard error."""
    evaluation = card["evaluation"][SCORED]
    return {
        "name": name,
        **{key: card[key] for key in ("env", "model", "algorithm")},
        "return": evaluation["return_mean"],
        "standard_error": evaluation["return_se"],
        "size": f"{card['size'] / 1e6:.2f} MB",
        "about": card.get("about", ""),
    }


def as_list(rows: list[dict[str, Any]]) -> str:
    """Two lines for each agent: what it is with its score, and the line about it."""
    from metarl.analysis.tables import display

    if not rows:
        return "no agents are there"
    found = []
    for name, env, model, algorithm, mean, error, size, _ in display(rows).body:
        found.append([name, env, f"{model}/{algorithm}", f"{mean} ± {error}", size])
    widths = [max(map(len, column)) for column in zip(*found, strict=True)]
    heads = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in found]
    return "\n".join(f"{head}\n    {shown['about']}" for head, shown in zip(heads, rows, strict=True))


def as_text(name: str, card: dict[str, Any], form: Any) -> str:
    """A card for people: what the agent is, its scores, and how to use it."""
    from metarl.analysis.tables import duration, final_table, format_table
    from metarl.analysis.task_notes import sentence

    cost = {"training": duration(card.get("wall_time")), "command": card.get("command")}
    cost |= {"evaluation": card.get("evaluation_command"), "licence": card.get("licence")}
    facts = {key: card.get(key) for key in CARD} | cost
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = [_fact(key, value, width) for key, value in facts.items() if value is not None]
    note = f"return of a trial on {sentence(card['evaluation'][SCORED])}; evaluation seed {card.get('evaluation_seed')}"
    use = [f"metarl evaluate zoo:{name} --num-tasks 1000", f'agent = metarl.load("zoo:{name}")']
    table = format_table(final_table(card), form)
    return "\n".join(
        [f"zoo:{name}: {card.get('about', '')}", "", *lines, "", table, "", textwrap.fill(note, width), "", *use]
    )


def _fact(key: str, value: Any, width: int) -> str:
    shown = f"{value:,}" if isinstance(value, int) and key != "seed" else str(value)
    head = f"  {key.replace('_', ' '):<12}"
    return textwrap.fill(
        shown, width, initial_indent=head, subsequent_indent=" " * 14, break_long_words=False, break_on_hyphens=False
    )
