"""Tries what can go wrong around a run and counts what survives: ``python benchmarks/faults.py``.

    python benchmarks/faults.py --kinds kills damage --number 20 --seed 1
    python benchmarks/faults.py --short

Every case works in a folder of its own and in forked processes. Ends with an error where anything did not survive, and
lists it; the same seed tries the same cases again.
"""

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from fault_kinds.children import preload

# What a kind tries in full, and in the short form.
KINDS = {
    "kills": (160, 4),
    "damage": (100, 6),
    "machine": (40, 6),
    "hostile": (100, 12),
    "values": (10_000, 300),
    "nonfinite": (30, 4),
}
WORDS = {
    "kills": "kills at random moments over eight configurations",
    "damage": "damaged files",
    "machine": "faults of the machine",
    "hostile": "hostile run directories",
    "values": "fuzzed configuration values",
    "nonfinite": "numbers that are not finite",
}


def main() -> None:
    """A row for each kind, then the cases that did not survive."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--number", type=int, help="cases of each kind (default: as many as the full form has)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="a few cases of each kind")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it there")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="metarl-faults-"))
    preload()
    try:
        sys.exit(try_all(options, folder.absolute()))
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


def try_all(options: argparse.Namespace, folder: Path) -> int:
    """Try the kinds that are chosen; the exit code."""
    lost = []
    print(f"| {'what':<50} |  tried | survived | seconds |\n|{'-' * 52}|{'-' * 8}|{'-' * 10}|{'-' * 9}|", flush=True)
    for kind in options.kinds:
        number = options.number or KINDS[kind][options.short]
        started = time.monotonic()
        module = importlib.import_module(f"fault_kinds.{kind}")
        cases = list(module.run(number, Random(options.seed), folder, options.short))
        failed = [case for case in cases if case.problem is not None]
        lost += [(kind, case) for case in failed]
        seconds = time.monotonic() - started
        print(
            f"| {WORDS[kind]:<50} | {len(cases):>6,} | {len(cases) - len(failed):>8,} | {seconds:>7.0f} |", flush=True
        )
    for kind, case in lost:
        print(f"\n{kind}: {case.name}\n    {case.problem}")
    return int(bool(lost))


if __name__ == "__main__":
    main()
