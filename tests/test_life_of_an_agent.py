"""Exported agents, and runs that start from the weights of others."""

import json
import struct

import pytest
import torch
from helpers import (
    StopAt,
    few_combinations,
    finish,
    make_algorithm,
    read_rows,
    same,
    small_config,
    timeless,
    trainer_of,
)
from run_directories import BRIEF

import metarl
from metarl import experiment
from metarl.cli import main
from metarl.errors import CheckpointError, MetarlError
from metarl.runs.directory import RunDirectory
from metarl.runs.exported import export, read_exported
from metarl.runs.start import start_from
from metarl.runs.tensors import read_tensors, write_tensors

SHORT = ("training.total_steps=270", "training.eval_every=1", "eval.num_tasks=4", "eval.final_num_tasks=4")


# ---------------------------------------------------------------- tensors in a file


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {
        str(dtype): torch.arange(6).to(dtype).reshape(2, 3)[:, ::2]  # not contiguous
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
    }
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "shared": tensors["torch.float32"]}
    write_tensors(tmp_path / "a", tensors, {"about": "ä\n"})
    found, metadata = read_tensors(tmp_path / "a")
    assert same(found, tensors) and {name: value.dtype for name, value in found.items()} == {
        name: value.dtype for name, value in tensors.items()
    }
    assert metadata == {"about": "ä\n"}


def test_the_file_is_one_of_safetensors(tmp_path):
    import safetensors.torch as library

    tensors = {"weight": torch.randn(3, 2), "flag": torch.tensor([True, False, True]), "count": torch.tensor(7)}
    write_tensors(tmp_path / "ours", tensors, {"about": "it"})
    assert same(library.load_file(tmp_path / "ours"), tensors)
    library.save_file(tensors, tmp_path / "theirs", {"about": "it"})
    assert same(read_tensors(tmp_path / "theirs")[0], tensors)


def header(entries: object, numbers: bytes = b"\0" * 4) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def entry(shape: object = (1,), begin: int = 0, end: int = 4, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


DAMAGED = {
    "short": b"\0\0",
    "longer header than the file": struct.pack("<Q", 2**40) + b"{}",
    "no JSON": struct.pack("<Q", 2) + b"{,",
    "a list": header([1]),
    "outside": header({"a": entry((2,), 0, 8)}),
    "before the start": header({"a": entry((1,), -4, 0)}),
    "of another size": header({"a": entry((3,))}),
    "negative shape": header({"a": entry((-1,), 0, 4)}),
    "a huge shape": header({"a": entry((2**62, 4), 0, 4)}),
    "another type": header({"a": entry(dtype="object")}),
    "overlapping": header({"a": entry(), "b": entry()}),
    "more numbers": header({"a": entry()}, b"\0" * 8),
    "metadata that are no text": header({"__metadata__": {"metarl": 1}, "a": entry()}),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_refused_in_one_line(content, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(MetarlError, match=r"a\.safetensors is damaged") as caught:
        metarl.load(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- exported agents


def test_an_exported_agent_is_evaluated_as_its_run_is(brief_run, tmp_path, capsys):
    file = tmp_path / "agents" / "bandit.safetensors"
    main(["export", str(brief_run.path), str(file)])
    assert "bandit, gru/rl2" in capsys.readouterr().out
    card = json.loads(file.with_suffix(".json").read_text())
    assert card["evaluation"] == brief_run.summary()["evaluation"] and card["iteration"] == 3
    assert card["command"] == brief_run.summary()["command"] and card["config"]["env"]["num_arms"] == 5
    file.with_suffix(".json").unlink()  # the file is complete without it
    assert metarl.load(file).evaluate(50, seed=1) == brief_run.evaluate(50, seed=1)
    options = ["--num-tasks", "50", "--seed", "1", "--format", "json", "env.num_episodes=4"]
    main(["evaluate", str(file), *options])
    found = json.loads(capsys.readouterr().out)
    main(["evaluate", str(brief_run.path), *options])
    assert json.loads(capsys.readouterr().out) == found
    main(["export", str(brief_run.path), str(file), "--checkpoint", "best"])
    assert "evaluation" not in json.loads(file.with_suffix(".json").read_text())
    assert same(
        read_exported(file).tensors, torch.load(brief_run.path / "checkpoints" / "best.pt")["state"]["algorithm"]
    )


def test_an_exported_agent_is_data(brief_run, tmp_path):
    file = tmp_path / "a.safetensors"
    export(brief_run.path, "latest", file)
    tensors, metadata = read_tensors(file)
    card = json.loads(metadata["metarl"])
    card["config"]["env"]["_target_"] = "elsewhere.Env"
    write_tensors(file, tensors, {"metarl": json.dumps(card)})
    with pytest.raises(MetarlError, match=r"a\.safetensors: env\._target_=elsewhere\.Env: is code outside metarl"):
        metarl.load(file)
    for changed, fragment in (({"format": 2}, "has format 2"), ({"config": [1]}, "names no choices")):
        write_tensors(file, tensors, {"metarl": json.dumps(card | changed)})
        with pytest.raises(CheckpointError, match=fragment):
            read_exported(file)
    write_tensors(file, tensors, {})
    with pytest.raises(CheckpointError, match="has no card of metarl"):
        read_exported(file)
    with pytest.raises(MetarlError, match=r"ends in \.safetensors"):
        export(brief_run.path, "latest", tmp_path / "a.pt")
    with pytest.raises(MetarlError, match="holds one agent"):
        metarl.load(file, checkpoint="best")


ONE_OF_EACH = {algorithm: (algorithm, model, env) for algorithm, model, env in few_combinations()}


@pytest.mark.parametrize(("algorithm", "model", "env"), ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_every_agent_can_be_exported(algorithm, model, env, tmp_path):
    learner, _ = make_algorithm(f"env={env}", f"algorithm={algorithm}", f"model={model}")
    write_tensors(tmp_path / "agent", learner.state_dict(), {})
    assert same(read_tensors(tmp_path / "agent")[0], dict(learner.state_dict()))


# ---------------------------------------------------------------- starting from another run


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished training, with statistics of its inputs."""
    path = tmp_path_factory.mktemp("source") / "run"
    trainer = trainer_of(small_config("env=point_goal", "model.normalize_inputs=true", *SHORT), path)
    finish(trainer)
    trainer.run_dir.close()
    return path


def stop_after(trainer, iteration: int) -> None:
    trainer.train(StopAt(trainer, iteration))
    trainer.run_dir.close()


def started(source, path, *overrides: str):
    config = small_config("env=point_goal", "model.normalize_inputs=true", *SHORT, *overrides)
    trainer = trainer_of(config | {"training": config["training"] | {"start_from": str(source)}}, path)
    experiment._start(trainer)
    return trainer


def test_a_run_starts_from_the_weights_and_statistics_of_another(source, tmp_path):
    other = started(source, tmp_path / "run", "env.horizon=4", "seed=9", "algorithm.learning_rate=0.5")
    weights = torch.load(RunDirectory(source).checkpoints.path("latest"))["state"]["algorithm"]
    assert same(other.algorithm.state_dict(), weights) and other.progress.iteration == 0
    record = other.run_dir.start()
    assert record["source"] == str(source) and record["env_steps"] >= 270 and record["not_taken"] == []
    finish(other)
    assert not same(other.algorithm.state_dict(), weights)


def test_a_run_that_started_from_another_resumes_exactly(source, tmp_path):
    config = small_config("env=point_goal", "model.normalize_inputs=true", *SHORT, "seed=4")
    config["training"]["start_from"] = str(source)
    whole, first = trainer_of(config, tmp_path / "whole"), trainer_of(config, tmp_path / "parts")
    for trainer in (whole, first):
        experiment._start(trainer)
    finish(whole)
    stop_after(first, 1)
    second = trainer_of(config, tmp_path / "parts")
    experiment._start(second)
    assert second.progress.iteration == 1
    finish(second)
    assert same(second.algorithm.state_dict(), whole.algorithm.state_dict())
    rows = [[timeless(row) for row in read_rows(tmp_path / name / "metrics.jsonl")] for name in ("whole", "parts")]
    assert rows[0] == rows[1] and len(rows[0]) == 4


def test_other_shapes_are_refused_unless_asked_for(source, tmp_path, caplog):
    wider = ("env=point_goal", "model.normalize_inputs=true", "model.hidden_size=12")
    learner, _ = make_algorithm(*wider)
    with pytest.raises(CheckpointError, match=r"does not fit this agent: .*shape.*; training\.strict=false") as caught:
        start_from(learner, source)
    assert "\n" not in str(caught.value)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    with caplog.at_level("INFO"):
        record = start_from(learner, source, strict=False)
    given = torch.load(RunDirectory(source).checkpoints.path("latest"))["state"]["algorithm"]
    after = learner.state_dict()
    for name, value in after.items():
        assert torch.equal(value, given[name] if name in record["taken"] else before[name])
    assert record["taken"] and len(record["taken"]) + len(record["not_taken"]) == len(after)
    assert all(f"not taken: {line}" in caplog.text for line in record["not_taken"])
    with pytest.raises(CheckpointError, match="nothing of it fits"):
        start_from(torch.nn.Linear(3, 2), source, strict=False)


def test_a_run_that_cannot_start_leaves_nothing(source, tmp_path):
    with pytest.raises(MetarlError, match="does not fit this agent"):
        metarl.train([*BRIEF, f"training.start_from='{source}'"], tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_exported_files_and_checkpoints_are_sources_too(source, tmp_path):
    export(source, "latest", tmp_path / "a.safetensors")
    for file in (tmp_path / "a.safetensors", RunDirectory(source).checkpoints.path("best")):
        learner, _ = make_algorithm("env=point_goal", "model.normalize_inputs=true")
        assert start_from(learner, file)["not_taken"] == []
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        start_from(learner, tmp_path / "nowhere")


def test_a_resumed_run_says_that_another_source_is_not_used(source, tmp_path, caplog):
    first = started(source, tmp_path / "run")
    stop_after(first, 1)
    again = started(source, tmp_path / "run")
    assert not caplog.text
    again.run_dir.close()
    started(tmp_path / "another", tmp_path / "run")
    assert "another is not used: the run goes on from its own checkpoint" in caplog.text
