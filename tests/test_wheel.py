"""The wheel, unpacked elsewhere: everything that the checkout has, and every command."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from processes import REPOSITORY, outcome, python
from run_directories import BRIEF

from metarl import extras
from metarl.errors import ConfigError
from metarl.extras import EXTRA_OF, require


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the contents of the wheel, which is built from a copy of the project."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site-packages")
    for name in ("metarl", "conf", "launch", "zoo"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "run.py"):
        shutil.copy(REPOSITORY / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", source, source]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = source.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    return target


def files(folder: Path, *kinds: str) -> set[str]:
    return {str(path.relative_to(folder)) for kind in kinds for path in folder.rglob(f"*{kind}")}


def test_the_wheel_has_all_code_configurations_launchers_bodies_and_agents(installed):
    kinds = (".py", ".xml", ".j2", ".typed", ".txt")
    assert files(installed / "metarl", *kinds) == files(REPOSITORY / "metarl", *kinds)
    assert files(installed / "metarl" / "conf", ".yaml") == files(REPOSITORY / "conf", ".yaml")
    assert files(installed / "hydra_plugins", ".py") == files(REPOSITORY / "launch" / "hydra_plugins", ".py")
    assert (installed / "metarl" / "launch" / "lumi" / "python").is_file()
    assert files(installed / "metarl" / "zoo", "") == files(REPOSITORY / "zoo", "") != set()


def test_an_installation_trains_sweeps_and_shows_runs_from_anywhere(installed, tmp_path):
    environment = {"PYTHONPATH": str(installed)}  # also for the runs of a sweep

    def metarl(*arguments: str) -> str:
        options = {"project": installed, "env": environment, "report": arguments[0] == "report"}
        process = python("-m", "metarl", *arguments, directory=tmp_path, **options)
        code, out, err = outcome(process)
        assert code == 0, err
        return out

    metarl("train", *BRIEF, "hydra.run.dir=run")
    assert '"command": "metarl train training.total_steps=120' in (tmp_path / "run" / "summary.json").read_text()
    metarl("train", "-m", *BRIEF, "seed=0,1", "cluster=local_pool", "hydra.sweep.dir=sweep")
    assert metarl("status", "sweep").count("finished") == 2
    assert "sampled" in metarl("evaluate", "sweep/1", "--num-tasks", "4")
    assert "sampled" in metarl("evaluate", "zoo:bandit_gru", "--num-tasks", "4")
    metarl("report", "run")
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("module", EXTRA_OF)
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(module, monkeypatch):
    require(module, "option=value")
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"^option=value: needs {module}, .*; run pip install ") as said:
        require(module, "option=value")
    assert PACKAGES[EXTRA_OF[module]] in str(said.value) and "metarl[" not in str(said.value)


PACKAGES = {  # a package of each extra, as the command names it
    "video": '"imageio[ffmpeg]',
    "metaworld": '"metaworld',
    "search": '"optuna',
    "analysis": '"scikit-learn',
    "slurm": '"submitit',
    "tensorboard": '"tensorboard',
    "wandb": '"wandb',
}
