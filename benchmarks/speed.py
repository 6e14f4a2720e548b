"""Speed as ratios measured in one run: ``python benchmarks/speed.py``, or selected parts by name.

    python benchmarks/speed.py acting environments

Single-thread figures are CPU time, measured in turns, so that they are valid on a busy machine. Missing a target is no
error: the last column shows whether it is met. docs/performance.md discusses the results.
"""

import argparse
import importlib

PARTS = (
    "acting",
    "learning",
    "environments",
    "startup",
    "overhead",
    "finite",
    "memories",
    "hypernetworks",
    "adaptation",
    "simulators",
    "gymnasium_vector",
    "parallel",
    "sweeps",
)


def main() -> None:
    """Print one table, row by row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    chosen = parser.parse_args().parts or PARTS
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    line("what", "measured", "target", "met")
    line("-" * 80, "-" * 26, "-" * 8, "---")
    for part in chosen:
        for row in importlib.import_module(part).rows():
            line(*row.cells())


def line(what: str, measured: str, target: str, met: str) -> None:
    """A row of a Markdown table."""
    print(f"| {what:<80} | {measured:>26} | {target:<8} | {met:<3} |", flush=True)


if __name__ == "__main__":
    main()
