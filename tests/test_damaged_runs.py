"""Run directories that are damaged, shared or of another run: what is lost is said, and nothing worse happens."""

import itertools
import json
import signal

import pytest
import yaml
from helpers import StopAt, read_rows, small_config, timeless, trainer_of, tree
from processes import outcome, run_py
from run_directories import write_run

from metarl import experiment
from metarl.cli import main
from metarl.configuration.build import build
from metarl.errors import CheckpointError, RunDirectoryError
from metarl.launching.commands import status_rows
from metarl.runs.checkpoint import Checkpoints, load, save
from metarl.runs.directory import RunDirectory
from metarl.runs.sweep import Sweep

SIZE = ("training.total_steps=100_000", "training.eval_every=0", "eval.num_tasks=4", "eval.final_num_tasks=8")
SHORT = (*SIZE, "training.total_steps=36", "eval.baselines=false")


def config_of_run(*overrides: str) -> dict:
    return small_config(*SIZE, *overrides)


def run_until(directory, iteration: int, *overrides: str):
    trainer = trainer_of(config_of_run(*overrides), directory)
    trainer.train(StopAt(trainer, iteration))
    trainer.run_dir.close()
    return trainer


# ---------------------------------------------------------------- checkpoints


def test_every_flipped_bit_of_a_checkpoint_is_refused_with_the_older_one_named(tmp_path):
    run_until(tmp_path, 2)
    latest = Checkpoints(tmp_path / "checkpoints").path("latest")
    whole = latest.read_bytes()
    for place in range(0, len(whole), len(whole) // 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        latest.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"from the older 00000001\.pt|has checkpoint format"):
            load(latest)
    for place in range(len(whole) - 100, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        latest.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(latest)
    latest.write_bytes(whole)
    assert load(latest)["progress"]["iteration"] == 2


def test_without_an_older_checkpoint_the_run_begins_anew(tmp_path):
    save({"a": 1}, tmp_path / "00000003.pt")
    (tmp_path / "00000003.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="there is no older one, so the run starts again"):
        load(tmp_path / "00000003.pt")


def test_a_checkpoint_of_the_format_without_digest_is_read(tmp_path):
    import torch

    torch.save({"format": 2, "state": {"a": torch.ones(2)}}, tmp_path / "1.pt")
    assert load(tmp_path / "1.pt")["a"].tolist() == [1, 1]


# ---------------------------------------------------------------- metrics


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda path: path.unlink(), "iterations 1 to 4 of 4"),
        (lambda path: path.write_text(""), "iterations 1 to 4 of 4"),
        (lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[:2])), "3 to 4 of 4"),
        (
            lambda path: path.write_text(path.read_text().replace('"iteration": 2', '"iter')),
            "iterations 2 of 4",
        ),
        (lambda path: path.write_bytes(b"\xff\xfe\n" + path.read_bytes()), None),
    ],
)
def test_rows_that_are_lost_are_said_and_training_is_exact(tmp_path, caplog, damage, lost):
    run_until(tmp_path / "whole", 6)
    run_until(tmp_path / "run", 4)
    damage(tmp_path / "run" / "metrics.jsonl")
    caplog.clear()
    run_until(tmp_path / "run", 6)
    said = [record.getMessage() for record in caplog.records if "which are lost" in record.getMessage()]
    assert len(said) == bool(lost) and (lost or "") in "".join(said)
    whole, found = (
        {row["iteration"]: timeless(row) for row in read_rows(tmp_path / name / "metrics.jsonl")}
        for name in ("whole", "run")
    )
    assert {5, 6} <= set(found) and all(whole[number] == row for number, row in found.items())


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PK half"), None])
def test_best_weights_that_are_lost_are_said_on_resume(tmp_path, caplog, damage):
    run_until(tmp_path, 4, "training.eval_every=2")
    if damage is not None:
        damage(tmp_path / "checkpoints" / "best.pt")
    caplog.clear()
    build(config_of_run("training.eval_every=2"), tmp_path).resume()
    said = [record.getMessage() for record in caplog.records if "best weights so far are lost" in record.getMessage()]
    assert bool(said) == (damage is not None) and all("\n" not in line and "best" in line for line in said)


# ---------------------------------------------------------------- summaries


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, and its configuration."""
    path = tmp_path_factory.mktemp("finished") / "run"
    config = small_config(*SHORT)
    experiment.run(build(config, path), config)
    return path, config


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"evaluation": {"sampled": {}}, "env_steps": 1}', "\x00"])
def test_a_damaged_summary_is_made_again_the_same(finished, content, caplog):
    path, config = finished
    before = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(content)
    experiment.run(build(config, path), config)
    after = json.loads((path / "summary.json").read_text())
    assert after["evaluation"] == before["evaluation"] and "It is made again now" in caplog.text


@pytest.mark.parametrize("moment", ["_record", "_show"])
def test_a_kill_after_the_final_evaluation_loses_nothing(tmp_path, monkeypatch, moment):
    """Recording, figures, what loggers keep and report come before the summary, so that all are made on resume."""
    config = small_config(*SHORT, "env=point_goal")
    config["training"]["total_steps"] = 10
    handed = []

    class Recorder:
        def start(self, *_): ...
        def log(self, row): ...
        def finish(self, summary, figures):
            handed.append((summary, figures))

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, moment, killed)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(build(config, tmp_path / "run"), config)
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.undo()
    trainer = build(config, tmp_path / "run")
    trainer.loggers.active = {"recorder": Recorder()}
    experiment.run(trainer, config)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"summary.json", "report.html", "trial.json"} <= names
    ((summary, figures),) = handed
    assert summary["evaluation"] and "adaptation_curve" in figures


def test_a_signal_in_the_final_evaluation_stops_it_and_it_is_made_on_resume(tmp_path, monkeypatch):
    config, passed_on = small_config(*SHORT), []
    real = experiment.evaluate

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the evaluation went on")

    monkeypatch.setattr(experiment, "evaluate", interrupted)
    before = signal.signal(signal.SIGTERM, lambda number, frame: passed_on.append(number))
    try:
        with pytest.raises(SystemExit) as end:
            experiment.run(build(config, tmp_path / "run"), config)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 0 and passed_on == [signal.SIGTERM]
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.setattr(experiment, "evaluate", real)
    experiment.run(build(config, tmp_path / "run"), config)
    assert (tmp_path / "run" / "summary.json").exists()


# ---------------------------------------------------------------- directories


def test_nothing_is_read_before_the_lock_is_held(tmp_path, monkeypatch):
    """A second process builds its trainer while the first goes on; it resumes where the first has ended."""
    first = trainer_of(config_of_run(), tmp_path)
    first.train(StopAt(first, 2))
    second = build(config_of_run(), tmp_path)
    with pytest.raises(RunDirectoryError, match="is in use by another run"):
        second.run_dir.open(config_of_run())
    first.train(StopAt(first, 5))
    first.run_dir.close()
    assert second.progress.iteration == 0
    experiment._enter(second, config_of_run(), fresh=False)
    assert second.progress.iteration == 5
    second.run_dir.close()


@pytest.mark.parametrize("left", ["checkpoints/00000001.pt", "metrics.jsonl", "summary.json"])
def test_results_without_a_configuration_are_refused(tmp_path, left):
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_text("{}")
    before = tree(tmp_path)
    with pytest.raises(RunDirectoryError, match=f"holds {left} but no config.yaml"):
        RunDirectory(tmp_path).open(config_of_run())
    assert tree(tmp_path) == before


def test_runs_of_one_default_name_get_numbers(tmp_path):
    held = []
    for _ in range(3):
        directory = RunDirectory(tmp_path / "run")
        directory.open(config_of_run(), fresh=True)
        held.append(directory)
    assert [directory.path.name for directory in held] == ["run", "run-2", "run-3"]
    held[0].begin(config_of_run(), 0)
    for directory in held:
        directory.close()
    last = RunDirectory(tmp_path / "run")
    last.open(config_of_run(), fresh=True)
    assert last.path.name == "run-2"  # where nothing had begun
    last.close()


def test_two_runs_that_start_at_once_both_train(tmp_path):
    few = ("meta_batch_size=8", "algorithm.num_minibatches=2", "model.hidden_size=8", "training.total_steps=80")
    last = ("eval.num_tasks=2", "eval.final_num_tasks=4", "eval.baselines=false")
    for process in [run_py(*few, *last, directory=tmp_path) for _ in range(2)]:
        code, _, err = outcome(process)
        assert code == 0, err
    assert len(list(tmp_path.rglob("summary.json"))) == 2


@pytest.mark.parametrize("empty", ["hydra.run.dir=", "-m seed=0 hydra.sweep.dir="])
def test_an_empty_directory_name_is_refused(tmp_path, empty):
    code, _, err = outcome(run_py(*empty.split(), directory=tmp_path))
    assert code == 1 and "is empty: give a directory, or leave it out" in err and err.count("\n") == 1
    assert tree(tmp_path) == {}


def test_a_whole_float_as_seed_trains_to_the_end_as_the_number_does(tmp_path):
    summaries = []
    for seed in ("1000", "1e3"):
        config = small_config(*SHORT, f"seed={seed}")
        experiment.run(build(config, tmp_path / seed), config)
        summaries.append(json.loads((tmp_path / seed / "summary.json").read_text()))
    assert summaries[0]["evaluation"] == summaries[1]["evaluation"]
    assert [repr(summary["seed"]) for summary in summaries] == ["1000", "1000"]
    assert "\nseed: 1000\n" in (tmp_path / "1e3" / "config.yaml").read_text()


# ---------------------------------------------------------------- one reader

FILES = ("summary.json", "metrics.jsonl", "config.yaml")
DAMAGES = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 3],
    "not UTF-8": lambda data: b"\xff\xfe" + data,
    "another kind": lambda data: b"7\n",
    "nested": lambda data: b"[" * 100_000 + b"\n",
    "zeros": lambda data: bytes(len(data)),
    "a damaged middle": lambda data: data[: len(data) // 2] + b"\n\x00}\n" + data[len(data) // 2 :],
}


def damaged_sweep(tmp_path, file: str, damage: str) -> Sweep:
    sweep = Sweep.launched(tmp_path / "sweep", {}, [["seed=0"], ["seed=1"]], 0)
    for job in sweep.jobs:
        write_run(job.directory, seed=job.number, finished=file != "metrics.jsonl")
    path = sweep.jobs[1].directory / file
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    return sweep


@pytest.mark.parametrize(("file", "damage"), list(itertools.product(FILES, DAMAGES)))
def test_a_damaged_run_is_one_row_and_one_line(tmp_path, capsys, file, damage):
    sweep = damaged_sweep(tmp_path, file, damage)
    rows, _ = status_rows(sweep)
    assert len(rows) == 2 and rows[0]["error"] is None
    if file == "summary.json":
        assert rows[1]["state"] == "failed" and "summary.json" in rows[1]["error"]
    main(["list", str(sweep.path)])
    for command in (["compare"], ["report", "--output", str(tmp_path / "report.html")]):
        capsys.readouterr()
        try:
            main([*command, str(sweep.jobs[1].directory)])
        except SystemExit as end:
            said = capsys.readouterr().err
            assert end.code == 1 and said.startswith("error: ") and said.count("\n") == 1, said


@pytest.mark.parametrize("command", [["evaluate"], ["watch"], ["analyse"], ["report"], ["compare"]])
@pytest.mark.parametrize("damage", ["empty", "not UTF-8", "nested", "another kind"])
def test_a_damaged_configuration_is_one_line_for_every_command(tmp_path, capsys, command, damage):
    path = write_run(tmp_path / "run")
    (path / "config.yaml").write_bytes(DAMAGES[damage]((path / "config.yaml").read_bytes()))
    with pytest.raises(SystemExit) as end:
        main([*command, str(path)])
    said = capsys.readouterr().err
    assert end.value.code == 1 and said.count("\n") == 1 and str(path / "config.yaml") in said


@pytest.mark.parametrize("record", ['{"jobs": {}}', '{"jobs": []}', "{}", "", "7", '{"jobs": {"x": {}}}', "\x00"])
def test_a_damaged_record_of_a_sweep_is_one_line(tmp_path, capsys, record):
    (tmp_path / "sweep.json").write_text(record)
    for command in ("status", "compare", "report"):
        with pytest.raises(SystemExit):
            main([command, str(tmp_path)])
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "delete it and launch the sweep again" in said


def test_links_and_pipes_are_not_read(tmp_path):
    import os

    path = write_run(tmp_path / "run")
    (path / "summary.json").unlink()
    os.mkfifo(path / "summary.json")
    with pytest.raises(RunDirectoryError, match="is no regular file"):
        RunDirectory(path).summary()
    (path / "config.yaml").rename(tmp_path / "elsewhere")
    (path / "config.yaml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunDirectoryError, match="it is a link"):
        RunDirectory(path).config()
    assert yaml.safe_load((tmp_path / "elsewhere").read_text())["seed"] == 0


def test_a_finished_run_whose_trial_is_damaged_says_so_in_a_line(finished, caplog):
    path, config = finished
    (path / "trial.json").write_text("{")
    caplog.clear()
    experiment.run(build(config, path), config)
    (record,) = [record for record in caplog.records if "trial.json" in record.getMessage()]
    assert record.exc_info is None and "\n" not in record.getMessage()
    (path / "trial.json").unlink()
