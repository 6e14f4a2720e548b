"""A run directory of somebody else is data: what it names is neither executed nor imported unless it is trusted."""

import copy
import json
import os
import subprocess
import sys

import pytest
import yaml
from helpers import config_of, small_config

from metarl.cli import main
from metarl.configuration.build import build_algorithm, build_env_factory
from metarl.errors import ConfigError
from metarl.trust import TYPED, VARIABLE, Trust, check_names, packages_of, trusted

SAVED = [
    "torch.utils.collect_env.run",
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "shutil.rmtree",
    "hydra.utils.call",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
    "hydra._internal.instantiate._instantiate2.instantiate",
    "functools.partial",
    "runpy.run_path",
    "this",  # a module, which prints when it is imported
    "marker",
    "marker.Environment",
    "metarl.cli.os.system",  # what metarl's modules import themselves
    "metarl.configuration.build.torch.utils.collect_env.run",
    "metarl.cli.main",
    "metarl.__main__.main",
    "metarl.runs.checkpoint.save",
    "metarl.experiment.run",
    "metarl.launching.slurm.Run",
    "metarl.envs.gymnasium_lanes.make_environment",
    "metarl.algorithms.policy_gradient.MemoryState",  # of another kind than every place below
    "metarlx.evil",
    "metarl..os",
    "",
    3,
    ["os.system"],
    None,
]
PLACES = [
    ("env", "_target_"),
    ("model", "_target_"),
    ("algorithm", "_target_"),
    ("model", "conditioning", "_target_"),
    ("model", "memory", "_target_"),
    ("logger", "x", "_target_"),
    ("env", "num_arms", "_target_"),
    ("algorithm", "deep", "list", 0, "_target_"),
    ("eval", "num_tasks", "_target_"),
    ("seed", "_target_"),
]


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A package of somebody else that leaves a file behind when it is imported, or when it is called."""
    written = tmp_path / "executed"
    (tmp_path / "marker.py").write_text(
        f"open({str(written)!r}, 'w').close()\n"
        "from metarl.envs.bandit import BernoulliBandit\n"
        "class Environment(BernoulliBandit):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "marker", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    return written


def with_target(place: tuple, name, **arguments) -> dict:
    """A small configuration that names something in some place."""
    config = small_config()
    *parents, leaf = place
    node = config
    for step, below in zip(parents, [*parents[1:], leaf], strict=True):
        found = node.get(step) if isinstance(node, dict) else node[step]
        if not isinstance(found, dict | list):
            found = [{}] if isinstance(below, int) else {}
            node[step] = found
        node = found
    node[leaf] = name
    node.update(arguments)
    return config


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
@pytest.mark.parametrize("name", SAVED, ids=repr)
def test_what_a_run_directory_names_is_not_executed(name, place, marker):
    config = with_target(place, name)
    with pytest.raises(ConfigError) as refusal:
        build_algorithm(config)
    assert not marker.exists() and "this" not in sys.modules
    assert ".".join(place[:2]).removesuffix("._target_") in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "path", ["os.system", "marker.Environment", "metarl.cli.main", "metarl.envs.bandit.BernoulliBandit"]
)
def test_the_memory_of_a_model_has_to_be_a_memory_of_metarl(path, marker):
    config = small_config()
    config["model"]["memory"] = {"_target_": path, "_partial_": True}
    with pytest.raises(ConfigError, match=f"model.memory._target_={path}"):
        build_algorithm(config)
    assert not marker.exists()


def test_the_refusal_names_target_and_remedy_and_the_remedy_works(marker, monkeypatch):
    config = with_target(("env", "_target_"), "marker.Environment")
    with pytest.raises(ConfigError, match=r"env._target_=marker.Environment: .*--trust marker or METARL_TRUST=marker"):
        build_env_factory(config)
    assert not marker.exists()
    assert type(build_env_factory(config, trust=trusted(["marker"]))(num_tasks=2, seed=0)).__name__ == "Environment"
    monkeypatch.setenv(VARIABLE, "other, marker")
    build_env_factory(config)(num_tasks=2, seed=0)
    build_env_factory(config, trust=TYPED)


def test_nodes_that_nobody_builds_are_looked_at_too():
    with pytest.raises(ConfigError, match=r"wandb.0.x._target_=os.system"):
        build_algorithm(small_config() | {"wandb": [{"x": {"_target_": "os.system"}}]})


def test_trust_in_a_package_is_no_trust_in_what_it_imports_or_is_called_like(marker):
    trust = Trust(frozenset({"marker"}))
    assert trust.covers("marker.deep") and not trust.covers("markers.x") and not trust.covers("mark")
    with pytest.raises(ConfigError, match="os"):
        build_env_factory(with_target(("env", "_target_"), "marker.os.system"), trust=trust)
    check_names(with_target(("env", "_target_"), "marker.x"), trust)


ODD = {"_target_": "metarl.envs.gymnasium_lanes.GymnasiumEnv", "_partial_": True, "options": {}, "horizon": 5}
ODD |= {"num_episodes": 2, "ends_early": False, "num_workers": 0}


@pytest.mark.parametrize(
    "make", ["marker:Environment", "marker:Some-v0", "os:system", "metarl.cli:main", "this:Env-v0"]
)
def test_environments_of_gymnasium_are_made_from_trusted_packages(make, marker):
    config = small_config() | {"env": ODD | {"make": make}}
    with pytest.raises(ConfigError, match=f"env.make={make.partition(':')[0]}"):
        build_env_factory(config)(num_tasks=2, seed=0)
    assert not marker.exists() and "this" not in sys.modules


def test_our_environments_take_no_overrides_from_their_options():
    options = {"num_arms=3 env._target_": "os.system", "_target_": "os.system"}
    for name, value in options.items():
        config = small_config() | {
            "env": ODD | {"make": "metarl.gymnasium_envs:metarl/bandit-v0", "options": {name: value}}
        }
        with pytest.raises((ConfigError, ValueError)):
            build_env_factory(config)(num_tasks=2, seed=0)


def test_interpolations_of_a_run_directory_are_not_resolved(monkeypatch):
    monkeypatch.setenv("SECRET", "7")
    config = small_config("logger=wandb")
    config["logger"]["wandb"]["project"] = "${oc.env:SECRET}"
    assert build_algorithm(config)[1].loggers.active["wandb"].project == "${oc.env:SECRET}"
    config["env"]["num_arms"] = "${oc.decode:${oc.env:SECRET}}"
    with pytest.raises(ConfigError, match=r"env.num_arms='\$\{oc.decode"):
        build_algorithm(config)


def test_packages_of_a_configuration_are_those_a_sweep_passes_on():
    config = copy.deepcopy(config_of())
    assert packages_of(config) == set()
    config["env"] = ODD | {"make": "my_envs.reach:Reach"}
    config["logger"] = {"own": {"_target_": "my_loggers.Own"}}
    config["model"]["memory"]["_target_"] = "my_models.Memory"
    assert packages_of(config) == {"my_envs", "my_loggers", "my_models"}


def test_a_whole_run_directory_of_somebody_else(tmp_path, marker, capsys):
    """Every command that builds an agent refuses; the others never look."""
    run = tmp_path / "run"
    run.mkdir()
    hostile = with_target(("env", "_target_"), "marker.Environment")
    (run / "config.yaml").write_text(yaml.safe_dump(hostile))
    (run / "metrics.jsonl").write_text(json.dumps({"iteration": 1, "env_steps": 10, "wall_time": 1.0}) + "\n")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "00000001.pt").write_bytes(b"nothing")
    for command in (["evaluate", str(run)], ["watch", str(run)], ["analyse", str(run)]):
        with pytest.raises(SystemExit):
            main(command)
        assert "--trust marker" in capsys.readouterr().err
    main(["report", str(run)])
    assert not marker.exists()


# ---------------------------------------------------------------- what a user's own code does wrong


def typed(tmp_path, monkeypatch, content: str) -> str:
    (tmp_path / "mine.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with pytest.raises(ConfigError) as refusal:
        build_env_factory(with_target(("env", "_target_"), "mine.Environment"), trust=TYPED)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ("\nimport nump\n", ["No module named 'nump'", "mine.py, line 2", "install nump", "PYTHONPATH"]),
        ("\n\nx = 1 +\n", ["SyntaxError", "mine.py, line 3"]),
        ("def f():\n    return numpi\nf()\n", ["NameError", "numpi", "mine.py, line 2", "correct that file"]),
        ("raise SystemExit(3)\n", ["SystemExit: 3", "mine.py, line 1"]),
        ("import numpy\nnumpy.zeros('x')\n", ["TypeError", "mine.py, line 2"]),
        ("class Environmant:\n    pass\n", ["mine has no Environment; did you mean Environmant?"]),
        ("Environment = 3\n", ["is a int", "package.module.Class"]),
        ("import json as Environment\n", ["is a module", "package.module.Class"]),
        ("class Environment:\n    pass\n", ["must be a MetaEnv"]),
        ("def Environment():\n    pass\n", ["env.num_arms", "no such key"]),
    ],
)
def test_the_cause_of_a_target_that_cannot_be_used_is_told(tmp_path, monkeypatch, content, fragments):
    message = typed(tmp_path, monkeypatch, content)
    assert not [fragment for fragment in fragments if fragment not in message], message


@pytest.mark.parametrize("backend", ["osmesa", "nonsense"])
def test_training_needs_no_renderer(backend, tmp_path):
    """The simulator is imported without its graphics where these cannot be loaded."""
    code = "import metarl.envs.half_cheetah, metarl.envs.rendering as p; print(p.os.environ['MUJOCO_GL'])"
    environment = os.environ | {"MUJOCO_GL": backend, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (backend, "disable")
