"""The short form of ``benchmarks/faults.py``: a few faults of every kind, all of which runs must survive."""

import os
import subprocess
import sys

import pytest
from processes import QUICK_START, REPOSITORY


@pytest.mark.timeout(1800)
def test_a_few_faults_of_every_kind_are_survived(tmp_path):
    script = REPOSITORY / "benchmarks" / "faults.py"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(QUICK_START)}
    line = [sys.executable, str(script), "--short", "--keep", str(tmp_path / "faults")]
    ended = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    rows = [row.split("|") for row in ended.stdout.splitlines()[2:]]
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(rows) == 6 and all(int(row[2]) == int(row[3]) > 0 for row in rows)


def test_a_fault_that_is_not_survived_is_told(tmp_path):
    """The harness itself: a case with a problem ends it with an error."""
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import faults, fault_kinds.nonfinite as kind; "
        "from fault_kinds.cases import Case; "
        "kind.run = lambda *_: iter([Case('fine'), Case('bad', 'it burnt')]); faults.preload = lambda: None; "
        "faults.main()"
    )
    line = [sys.executable, "-c", code, str(REPOSITORY / "benchmarks"), "--kinds", "nonfinite"]
    ended = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1 and "it burnt" in ended.stderr
    assert ended.stdout.splitlines()[-1].split("|")[2:4] == ["      2 ", "        1 "]
