"""Injects faults into runs and counts the cases that are handled correctly: ``python benchmarks/faults.py``.

    python benchmarks/faults.py --kinds kills damage --number 20 --seed 1
    python benchmarks/faults.py --short

Every case runs in its own folder and in forked processes. Cases that are not handled are listed, and the exit code is
then 1; the same seed gives the same cases.
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from random import Random

from fault_kinds.children import preload

# Number of cases of each kind: in full, and in the short form.
KINDS = {
    "kills": (160, 1),
    "damage": (100, 1),
    "machine": (40, 1),
    "hostile": (100, 2),
    "values": (10_000, 100),
    "nonfinite": (40, 1),
}
WORDS = {
    "kills": "kills at random moments over eight configurations",
    "damage": "damaged files",
    "machine": "faults of the machine",
    "hostile": "hostile run directories",
    "values": "fuzzed configuration values",
    "nonfinite": "non-finite numbers",
}


def main() -> None:
    """Print a row for each kind; failed cases go to stderr at once."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--number", type=int, help="cases of each kind (default: those of the full form)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="a few cases of each kind")
    parser.add_argument("--keep", type=Path, help="folder to work in, which is kept")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="metarl-faults-"))
    preload()
    try:
        sys.exit(try_all(options, folder.absolute()))
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def try_all(options: argparse.Namespace, folder: Path) -> int:
    """Try the chosen kinds and return the exit code."""
    failed = 0
    print(
        f"| {'what':<50} |  tried | handled  | CPU seconds |\n|{'-' * 52}|{'-' * 8}|{'-' * 10}|{'-' * 13}|", flush=True
    )
    for kind in options.kinds:
        started, tried, handled = cpu_seconds(), 0, 0
        module = importlib.import_module(f"fault_kinds.{kind}")
        number = options.number or KINDS[kind][options.short]
        for case in module.run(number, Random(options.seed), folder, options.short):
            tried += 1
            handled += case.problem is None
            if case.problem is not None:
                print(f"{kind}: {case.name}\n    {case.problem}", file=sys.stderr, flush=True)
        row = f"| {WORDS[kind]:<50} | {tried:>6,} | {handled:>8,} | {cpu_seconds() - started:>11.0f} |"
        print(row, flush=True)
        failed += tried - handled
    return int(failed > 0)


def cpu_seconds() -> float:
    """CPU time of this process and of the children it waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


if __name__ == "__main__":
    main()
