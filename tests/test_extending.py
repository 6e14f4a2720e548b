"""The examples of docs/extending.md, in a copy of the project: one Python file and one YAML each, nothing edited."""

import json
import shutil
from pathlib import Path

import pages
import pytest
from processes import outcome, python, run_py

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the project with every file the page names."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("metarl", "conf"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "run.py", folder)
    examples = pages.files(PROJECT / "docs" / "extending.md")
    assert len(examples) == 15 and not any((folder / name).exists() for name in examples)
    pages.write_files(examples, folder)
    return folder


ALGORITHMS = ["algorithm=reinforce", "algorithm=decayed_rl2", "algorithm=anil", "algorithm=kl_warm_up"]


@pytest.mark.parametrize("choice", ["env=coin", "env=reach_1d", "model=trace", *ALGORITHMS])
def test_an_example_trains_and_is_evaluated(extended, choice):
    run_dir = extended / choice.replace("=", "_")
    small = ["training.total_steps=600", "meta_batch_size=20", "eval.num_tasks=20", "eval.final_num_tasks=40"]
    command = ("run.py", choice, *small, "eval.baselines=false", f"hydra.run.dir={run_dir}")
    code, _, err = outcome(python(*command, directory=extended, project=extended))
    assert code == 0, err
    summary = json.loads((run_dir / "summary.json").read_text())
    group, name = choice.split("=")
    assert summary[group] == name and summary["evaluation"]["sampled"]["num_tasks"] == 40


@pytest.mark.parametrize(
    ("choice", "value", "message"),
    [
        ("env=coin", "env.num_throws=-1", "must be greater than 0"),
        ("algorithm=decayed_rl2", "algorithm.discount=-1", "must be greater than or equal to 0"),
    ],
)
def test_a_value_an_example_cannot_take_is_refused(extended, choice, value, message):
    code, _, err = outcome(python("run.py", choice, value, directory=extended, project=extended))
    assert code == 1 and f"{value}: {message}" in err


def test_files_can_be_kept_outside_the_clone(extended, tmp_path):
    """The example of a model, with its package and its YAML in a folder of the user's own."""
    for name in ("my_models", "conf/model"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(extended / "metarl/models/trace.py", tmp_path / "my_models/trace.py")
    described = (extended / "conf/model/trace.yaml").read_text().replace("metarl.models", "my_models")
    (tmp_path / "conf/model/my_trace.yaml").write_text(described)
    environment = {"PYTHONPATH": str(tmp_path)}
    own = ("model=my_trace", f"hydra.searchpath=[{tmp_path / 'conf'}]")
    small = ("training.total_steps=600", "meta_batch_size=20", "eval.num_tasks=20", "eval.final_num_tasks=40")
    checked = python("-m", "metarl", "check", *own, directory=tmp_path, env=environment)
    trained = run_py(*own, *small, "eval.baselines=false", "hydra.run.dir=run", directory=tmp_path, env=environment)
    for process in (checked, trained):
        code, _, err = outcome(process)
        assert code == 0, err


def test_a_solver_and_a_bound_are_found_for_their_environment(extended):
    command = ("-m", "metarl", "baselines", "env=coin", "--num-tasks", "200", "--format", "csv")
    code, out, err = outcome(python(*command, directory=extended, project=extended))
    assert code == 0, err
    returns = {row[0]: float(row[1]) for row in (line.split(",") for line in out.splitlines()[1:])}
    assert list(returns) == ["Random", "Majority", "Known bias"] and returns["Known bias"] == 7.5
    assert returns["Random"] < returns["Majority"] - 0.5 and returns["Majority"] < 7.5
