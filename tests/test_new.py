"""A package of the user's own, as ``metarl new`` writes it: every command and launcher takes its options."""

import json
from pathlib import Path

import pytest
from processes import outcome, python
from run_directories import BRIEF

from metarl.cli import main
from metarl.configuration import search_path
from metarl.configuration.compose import options
from metarl.errors import ConfigError

CHOICES = ("env=lab_numbers", "model=lab_averages", "algorithm=lab_rl2")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "lab"
    main(["new", str(folder)])
    return folder


@pytest.fixture(scope="module")
def metarl(project):
    """A command of metarl in the folder of the project, by default with its configurations; its output."""

    def run(*arguments: str, where=("--config-dir", "lab/conf"), code: int = 0, env=None) -> str:
        given, out, err = outcome(python("-m", "metarl", *arguments, *where, directory=project, env=env))
        assert given == code, err
        return out if code == 0 else err

    return run


def test_its_own_tests_pass(project):
    code, out, _ = outcome(python("-m", "pytest", "-q", directory=project))
    assert code == 0 and "4 passed" in out, out


def test_every_launcher_trains_it_and_a_sweep_is_resumed(metarl, project):
    for cluster in ("local", "local_pool"):
        sweep = f"hydra.sweep.dir={cluster}"
        metarl("train", "-m", *CHOICES, *BRIEF, "seed=0,1", f"cluster={cluster}", sweep)
        rows = json.loads(metarl("status", cluster, "--format", "json"))
        assert [row["state"] for row in rows] == ["finished", "finished"]
    (project / "local_pool" / "1" / "summary.json").unlink()
    assert "--trust lab" in metarl("resume", "local_pool", code=1)
    metarl("resume", "local_pool", "--trust", "lab")
    assert (project / "local_pool" / "1" / "summary.json").is_file()


def test_a_search_proposes_its_values(metarl, project):
    metarl(
        *("train", "-m", "experiment=search/policy_gradient", *CHOICES, *BRIEF, "cluster=local_pool"),
        *("hydra.sweeper.num_trials=2", "hydra.sweeper.batch_size=2", "hydra.sweep.dir=search"),
        "+hydra.sweeper.space={algorithm.weight_decay: [0.1, 0.2]}",
    )
    assert len(list((project / "search").glob("*/summary.json"))) == 2


def test_other_commands_take_it(metarl):
    variable = {search_path.VARIABLE: "lab/conf"}
    metarl("train", *CHOICES, *BRIEF, "hydra.run.dir=run", where=(), env=variable)
    assert "sampled" in metarl("evaluate", "run", "--num-tasks", "4", "--trust", "lab", where=(), env=variable)
    assert "Random" in metarl("baselines", "env=lab_numbers", "--num-tasks", "10")
    assert "lab_averages" in metarl("list", where=(), env=variable)
    assert "numbers to guess from" in metarl("describe", "env=lab_numbers")


def test_messages_know_its_options(metarl):
    said = metarl("train", "env=lab_numbers", "env.num_number=3", code=1)
    assert "env.num_number=3: no such key" in said and "did you mean env.num_numbers?" in said
    assert "did you mean env=lab_numbers?" in metarl("train", "env=lab_number", code=1)
    assert "env=lab_numbers: no such option" in metarl("train", "env=lab_numbers", where=(), code=1)
    assert "no such folder" in metarl("train", where=("--config-dir", "nowhere"), code=1)


def test_an_installed_package_names_its_configurations(project, monkeypatch):
    class Point:
        value = "lab.conf"

    monkeypatch.setattr(search_path, "entry_points", lambda group: [Point] if group == "metarl.configs" else [])
    monkeypatch.syspath_prepend(project)
    search_path._installed.cache_clear()
    try:
        assert search_path.folders() == [project / "lab" / "conf"] and "lab_numbers" in options("env")
    finally:
        search_path._installed.cache_clear()


def test_a_name_that_metarl_has_is_refused(tmp_path, monkeypatch):
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "bandit.yaml").write_text("horizon: 3\n")
    monkeypatch.setenv(search_path.VARIABLE, str(tmp_path))
    with pytest.raises(ConfigError, match=r"bandit.yaml: metarl has a env/bandit.yaml of its own"):
        search_path.folders()


@pytest.mark.parametrize("name", ["my-lab", "1lab", "metarl", "class"])
def test_a_name_that_no_package_can_have_is_refused(name, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["new", str(tmp_path / name)])
    assert "cannot be the name of a package" in capsys.readouterr().err and not (tmp_path / name).exists()


def test_a_folder_that_is_there_is_not_overwritten(project, capsys):
    with pytest.raises(SystemExit):
        main(["new", str(project)])
    assert "is there already" in capsys.readouterr().err


def test_code_is_found_around_a_folder_and_beside_it(project, tmp_path, monkeypatch):
    monkeypatch.setattr(search_path.sys, "path", [])
    names = [str(project / "lab" / "conf"), str(tmp_path / "conf")]
    monkeypatch.setenv(search_path.VARIABLE, search_path.os.pathsep.join(names))
    search_path.find_code()
    assert search_path.sys.path == [str(project), str(tmp_path)]
