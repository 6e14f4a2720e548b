"""A sweep runs what it was launched with, its record is data, and a process that dies is a failed run."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from fake_sweeps import TINY, fake_sweep, pool_of
from helpers import config_of
from processes import REPOSITORY, outcome, python

from metarl.configuration.compose import compose
from metarl.errors import ConfigError, MetarlError, RunDirectoryError
from metarl.launching import origin, pool
from metarl.launching.cards import cpu_slots
from metarl.launching.commands import resume
from metarl.launching.job import run_frozen
from metarl.launching.proposals import Proposals
from metarl.runs import frozen
from metarl.runs.sweep import Sweep

DEATHS = {
    "killed": ("import os; print('so far', flush=True); os.kill(os.getpid(), 9)", "killed by SIGKILL", "so far"),
    "a crash of a library": ("import os; print('so far', flush=True); os.abort()", "killed by SIGABRT", "so far"),
    "an error before the run began": ("raise ValueError('too early')", "exit code 1", "ValueError: too early"),
    "an end without a word": ("import os; os._exit(0)", "exit code 0, without a result; no output in", ""),
}


@pytest.mark.parametrize("case", DEATHS)
def test_a_run_whose_process_dies_has_failed_with_the_end_of_its_log(tmp_path, case):
    script, ending, said = DEATHS[case]
    sweep = fake_sweep(tmp_path, "seed=0", script=script)
    lines = []
    pool_of(sweep, cpu_slots(1)).run(sweep.jobs, lines.append)
    status = sweep.status(sweep.jobs[0])
    assert status.state == "failed" and status.error.startswith(f"ProcessDied: {ending}"), status
    assert status.error.endswith(said) and lines[-1] == f"0: failed ({status.error})"
    tail = (sweep.jobs[0].directory / "error.txt").read_text().splitlines()[:-1]
    assert (tail == []) if said == "" else tail[-1] == said
    assert pool.died(status) == ("killed" in ending)


# ---------------------------------------------------------------- what was launched is what runs


SMALL_SWEEP = ("-m", "seed=3", *TINY, "training.total_steps=1000", "cluster=local_pool", "hydra.sweep.dir=sweep")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the program, whose configurations can be edited."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("metarl", "conf", "launch"):
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(REPOSITORY / "run.py", folder)
    return folder


def run_copy(checkout: Path, *line: str, directory: Path) -> tuple[int, str, str]:
    paths = os.pathsep.join([str(checkout), str(checkout / "launch")])  # also for the runs of a sweep
    return outcome(python(*line, directory=directory, project=checkout, env={"PYTHONPATH": paths}))


def test_edited_yaml_changes_nothing_of_a_sweep_that_waits(checkout, tmp_path):
    run = str(checkout / "run.py")
    code, _, err = run_copy(checkout, run, *SMALL_SWEEP, directory=tmp_path)
    assert code == 0, err
    sweep = Sweep(tmp_path / "sweep")
    before = (sweep.path / "configs" / "0.yaml").read_text()
    shutil.rmtree(sweep.path / "0")
    default = checkout / "conf" / "algorithm" / "rl2.yaml"
    default.write_text(default.read_text() + "\nclip: 0.31\n")
    code, _, err = run_copy(checkout, "-m", "metarl", "resume", "sweep", directory=tmp_path)
    assert code == 0, err
    code, out, err = run_copy(checkout, run, *SMALL_SWEEP, directory=tmp_path)
    assert code == 0 and "note: run 0 goes on as it was launched, with algorithm.clip=0.2" in out, err
    assert (sweep.path / "configs" / "0.yaml").read_text() == before
    ran = yaml.safe_load((sweep.path / "0" / "config.yaml").read_text())
    assert ran["algorithm"]["clip"] == 0.2 and ran == yaml.safe_load(before)


def test_the_commit_of_a_launch_is_recorded(tmp_path, monkeypatch):
    git = tmp_path / "git"
    git.mkdir()
    monkeypatch.setattr(frozen, "HERE", git)
    assert frozen.commit() == {"commit": None, "dirty": None}
    for line in ("init -q", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m first"):
        subprocess.run(["git", *line.split()], cwd=git, check=True)
    found = frozen.commit()
    assert found["dirty"] is False and len(found["commit"]) >= 7
    (git / "site-packages").mkdir()
    with monkeypatch.context() as inside:  # installed within a repository of the user
        inside.setattr(frozen, "HERE", git / "site-packages")
        assert frozen.commit() == {"commit": None, "dirty": None}
    (git / "file").touch()
    subprocess.run(["git", "add", "file"], cwd=git, check=True)
    assert frozen.commit() == found | {"dirty": True}
    row = fake_sweep(tmp_path, "a=1").record["jobs"]["0"]
    assert row == found | {"dirty": True, "overrides": ["a=1"]}


def test_a_job_without_a_frozen_configuration_is_refused_and_says_so_to_its_sweep(tmp_path):
    sweep = fake_sweep(tmp_path, "seed=0")
    with pytest.raises(RunDirectoryError, match="runs 0 of 1 failed"):
        resume(Sweep(sweep.path), ["cluster=local_pool"])
    assert "run 0 has no frozen configuration; launch the sweep again" in sweep.status(sweep.jobs[0]).error


def test_the_record_of_a_sweep_is_never_executed(tmp_path):
    trap, evil = tmp_path / "trap", tmp_path / "evil.py"
    evil.write_text(f"open({str(trap)!r}, 'w')")
    sweep = fake_sweep(tmp_path, "seed=0")
    record = json.loads((sweep.path / "sweep.json").read_text())
    commands = {"command": [str(evil)], "directory": str(tmp_path), "launcher": "pool", "options": {"slots": 1}}
    hostile = [
        {"command": [str(evil), "-m"]},
        {"launcher": "../../evil"},
        {"cluster": "local_pool,hydra.launcher._target_=os.system"},
        {"options": {"python": str(evil)}},
        {"options": {"setup": [f"touch {trap}"]}},
        {"options": {"partition": f"a\n touch {trap}"}},
        {"options": {"_target_": "os.system"}},
        {"options": ["os.system"]},
    ]
    for change in hostile:
        (sweep.path / "sweep.json").write_text(json.dumps(record | commands | change))
        with pytest.raises(MetarlError) as raised:
            resume(Sweep(sweep.path))
        assert "\n" not in str(raised.value) and not trap.exists(), change
    said = r"was launched with hydra.launcher.setup=.* not repeated from a file: add 'hydra.launcher.setup=...'"
    (sweep.path / "sweep.json").write_text(json.dumps(record | commands | hostile[4]))
    with pytest.raises(ConfigError, match=said):
        resume(Sweep(sweep.path))


def test_a_sweep_goes_on_with_the_options_it_was_launched_with(tmp_path):
    launch = {"cluster": "local_pool", "launcher": "pool", "directory": str(tmp_path)}
    launch["options"] = {"slots": 3, "first": ["seed=0"], "threads": 2, "shuffle": True, "gpus": None}
    sweep = Sweep.launched(tmp_path / "sweep", launch, [["seed=0"]], 0, {0: config_of("seed=0")})
    found, launch = origin.launcher(sweep, [])
    assert (found.slots, found.first, found.threads, found.shuffle, found.gpus) == (3, ["seed=0"], 2, True, None)
    assert launch["options"]["slots"] == 3 and launch["cluster"] == "local_pool"
    assert origin.launcher(sweep, ["hydra.launcher.slots=1"])[0].slots == 1
    assert type(origin.launcher(sweep, ["cluster=local"])[0]).__name__ == "ProcessLauncher"
    with pytest.raises(ConfigError, match=r"its runs have device=cuda, those of .* were launched with device=cpu"):
        origin.launcher(sweep, ["cluster=gpus"])


SPACE = {"space": {"model": ["gru", "lstm"], "algorithm.clip": {"low": 0.1, "high": 0.3}}}
SETTINGS = {**SPACE, "num_trials": 2, "batch_size": 1, "sampler": "random", "seed": 0}


def test_what_a_search_proposes_changes_the_configuration_it_began_with(tmp_path):
    def composed(overrides):
        return compose(["model.hidden_size=9", *overrides], hydra_node=True)

    found = Proposals.composed(SETTINGS, ["model.hidden_size=9"], composed)
    assert [base["given"] for base in found.bases] == [{"model": "gru"}, {"model": "lstm"}]
    assert found.freeze(tmp_path) is None
    frozen_ones = Proposals.of(tmp_path)
    config = frozen_ones.config(["model=lstm", "algorithm.clip=0.25"])
    expected = config_of("model=lstm", "model.hidden_size=9", "algorithm.clip=0.25")
    assert {**config, "choices": 0} == {**expected, "choices": 0} and config["choices"]["model"] == "lstm"
    with pytest.raises(ConfigError, match=r"algorithm.nothing=1: no such key"):
        frozen_ones.config(["model=gru", "algorithm.nothing=1"])
    changed = Proposals(SETTINGS, [], [{**base, "config": {**base["config"], "seed": 5}} for base in found.bases])
    assert "goes on as it began, with seed=0" in str(changed.freeze(tmp_path))
    assert Proposals.of(tmp_path).bases == found.bases


def test_a_search_of_a_stranger_reads_nothing_of_this_process(tmp_path):
    base = {"given": {}, "choices": {}, "config": {"tags": ["${oc.env:HOME}"]}}
    frozen.freeze(tmp_path, "search", {"settings": SETTINGS, "fixed": [], "bases": [base]})
    with pytest.raises(RunDirectoryError, match=r"refers to ..oc.env:...., which a search can only where"):
        Proposals.of(tmp_path)
    frozen.freeze(tmp_path, "search", {"settings": {}, "fixed": [], "bases": [base | {"config": {}}]})
    with pytest.raises(RunDirectoryError, match="is damaged"):
        Proposals.of(tmp_path)


def test_a_frozen_configuration_names_no_code_that_its_user_does_not_trust(tmp_path, monkeypatch):
    monkeypatch.delenv("METARL_TRUST", raising=False)
    config = config_of("seed=0")
    config["env"]["_target_"] = "torch.utils.collect_env.run"
    sweep = Sweep.launched(tmp_path / "sweep", {}, [["seed=0"]], 0, {0: config})
    with pytest.raises(ConfigError, match="say --trust torch or METARL_TRUST=torch"):
        resume(sweep, ["cluster=local"])
    assert sweep.status(sweep.jobs[0]).state == "pending"
    monkeypatch.setattr("logging.config.dictConfig", lambda config: None)
    with pytest.raises(ConfigError, match="is code outside metarl"):  # also where a launcher does not look
        run_frozen(sweep.path, 0)
    assert "say --trust torch or METARL_TRUST=torch" in sweep.status(sweep.jobs[0]).error
