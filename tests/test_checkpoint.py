"""Checkpoints: whole or not at all, refused when they are not ours, and exact to resume from."""

import os
import pickle
import zipfile

import pytest
import torch
from helpers import StopAt, read_rows, same, small_config, timeless, trainer_of, tree

from metarl.checking.algorithms import interrupted_equals_uninterrupted
from metarl.checking.runs import run_until
from metarl.errors import CheckpointError
from metarl.runs import checkpoint
from metarl.runs.checkpoint import FORMAT, Checkpoints, load, save

STATE = {
    "weights": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(True)},
    "numbers": [1, 2.5, float("-inf"), None, "text"],
    "generator": torch.Generator().get_state(),
}


def test_a_saved_state_is_read_back_as_it_was(tmp_path):
    save(STATE, tmp_path / "deep" / "folder" / "a.pt")
    assert same(load(tmp_path / "deep" / "folder" / "a.pt"), STATE)
    assert list((tmp_path / "deep" / "folder").iterdir()) == [tmp_path / "deep" / "folder" / "a.pt"]


class Crash(BaseException):
    """A process that dies."""


@pytest.mark.parametrize("moment", ["before a byte", "in the middle", "after the last byte", "before the rename"])
def test_a_crash_while_saving_leaves_the_old_file(tmp_path, monkeypatch, moment):
    path = tmp_path / "a.pt"
    save(STATE, path)
    real = torch.save

    def crashing_save(content, file, *rest):
        if moment == "in the middle":
            file.write(b"PK\x03\x04 half a file")
        if moment == "after the last byte":
            real(content, file, *rest)
        raise Crash

    def crashing_replace(*paths):
        raise Crash

    if moment == "before the rename":
        monkeypatch.setattr(os, "replace", crashing_replace)
    else:
        monkeypatch.setattr(torch, "save", crashing_save)
    with pytest.raises(Crash):
        save({"new": 1}, path)
    monkeypatch.undo()
    assert same(load(path), STATE)


def test_half_written_files_are_no_checkpoints(tmp_path):
    store = Checkpoints(tmp_path)
    store.save_latest(STATE, 3)
    (tmp_path / "00000004.partial").write_bytes(b"half")
    assert store.path("latest").name == "00000003.pt"


# ---------------------------------------------------------------- files that are not ours


class Code:
    """A pickle that would run a command when it is read."""

    def __init__(self, witness):
        self.witness = str(witness)

    def __reduce__(self):
        return os.mkdir, (self.witness,)


def foreign_files(witness) -> dict:
    """Writers of files that are no metarl checkpoint, by what they are."""

    def zipped(path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("hello.txt", "hello")

    return {
        "empty": lambda path: path.write_bytes(b""),
        "text": lambda path: path.write_text("these are not\nthe weights you are looking for\n"),
        "zip": zipped,
        "plain dictionary": lambda path: torch.save({"weights": torch.ones(3)}, path),
        "plain tensor": lambda path: torch.save(torch.ones(3), path),
        "whole module": lambda path: torch.save(torch.nn.Linear(2, 2), path),
        "pickle with code": lambda path: path.write_bytes(pickle.dumps(Code(witness), protocol=2)),
        "torch file with code": lambda path: torch.save({"format": FORMAT, "state": Code(witness)}, path),
        "old torch file with code": lambda path: torch.save(
            {"format": FORMAT, "state": Code(witness)}, path, _use_new_zipfile_serialization=False
        ),
        "folder": lambda path: path.mkdir(),
    }


def refusal(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert caught.value.__cause__ is None
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize("kind", list(foreign_files(None)))
def test_foreign_files_are_refused_in_one_line_and_run_no_code(tmp_path, kind):
    path, witness = tmp_path / "00000001.pt", tmp_path / "code-has-run"
    foreign_files(witness)[kind](path)
    assert "delete it" in refusal(path)
    assert not witness.exists()


@pytest.mark.parametrize("kept", [0, 1, 10, 100, 0.5, -1, -30])
def test_truncated_files_are_refused(tmp_path, kept):
    path = tmp_path / "00000001.pt"
    save({"weights": torch.randn(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    assert "delete it" in refusal(path)


@pytest.mark.parametrize("newer", [FORMAT + 1, "2024-07"])
def test_another_format_is_refused_with_both_named(tmp_path, newer):
    path = tmp_path / "a.pt"
    torch.save({"format": newer, "state": {}}, path)
    message = refusal(path)
    assert str(newer) in message and f"reads format {FORMAT}" in message


def test_a_missing_file_is_told(tmp_path):
    assert "no checkpoint" in refusal(tmp_path / "a.pt")


# ---------------------------------------------------------------- retention


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_latest_few_are_kept_and_the_best_beside_them(tmp_path, keep):
    store = Checkpoints(tmp_path / "checkpoints", keep)
    for iteration in (1, 2, 9, 10, 11):
        if iteration == 2:
            store.save_best({"iteration": 2})
        store.save_latest({"iteration": iteration}, iteration)
    names = [path.name for path in store.numbered()]
    assert names == ["00000009.pt", "00000010.pt", "00000011.pt"][-keep:]
    assert load(store.path("latest")) == {"iteration": 11} and load(store.path("best")) == {"iteration": 2}


def test_the_old_checkpoint_goes_only_after_the_new_one_is_there(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path, 1)
    store.save_latest({"iteration": 1}, 1)

    def dead(*_):
        raise Crash

    monkeypatch.setattr(checkpoint, "save", dead)
    with pytest.raises(Crash):
        store.save_latest({"iteration": 2}, 2)
    assert load(store.path("latest")) == {"iteration": 1}


@pytest.mark.parametrize("which", ["latest", "best"])
def test_an_empty_store_says_so(tmp_path, which):
    with pytest.raises(CheckpointError, match=f"no {which} checkpoint"):
        Checkpoints(tmp_path / "checkpoints").path(which)


# ---------------------------------------------------------------- resuming


def without_clock(state: dict) -> dict:
    return state | {"progress": state["progress"] | {"wall_time": 0.0}}


def resumable(*choice: str, every: int = 1) -> dict:
    size = ("training.total_steps=100_000", "training.eval_every=2", "eval.num_tasks=4")
    return small_config(*choice, *size, f"training.checkpoint_every={every}")


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(few_combination, tmp_path):
    algorithm, model, env = few_combination
    config = resumable(f"algorithm={algorithm}", f"model={model}", f"env={env}")
    interrupted_equals_uninterrupted(config, tmp_path)
    rows = [[timeless(row) for row in read_rows(tmp_path / name / "metrics.jsonl")] for name in ("whole", "pieces")]
    assert [row["iteration"] for row in rows[0]] == [0, 1, 2, 3] and rows[0] == rows[1]
    for which in ("latest", "best"):
        states = [load(Checkpoints(tmp_path / name / "checkpoints").path(which)) for name in ("whole", "pieces")]
        assert same(*map(without_clock, states))


def test_the_best_weights_are_those_of_the_highest_return_of_sampled_actions(tmp_path, monkeypatch):
    config = small_config("training.total_steps=100_000", "training.eval_every=1")
    trainer = trainer_of(config, tmp_path)
    sampled, greedy = iter([-2.5, -2.0, 1.0, -3.0, 0.5]), iter([0.0, 0.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr(
        trainer,
        "_evaluation_row",
        lambda: {"eval/sampled/return_mean": next(sampled), "eval/greedy/return_mean": next(greedy)},
    )
    trainer.train(StopAt(trainer, 4))
    trainer.run_dir.close()
    progress = load(Checkpoints(tmp_path / "checkpoints").path("best"))["progress"]
    assert progress["best_return"] == 1 and progress["iteration"] == 2


def test_rows_after_the_last_checkpoint_are_written_again_the_same(tmp_path):
    """A run killed two iterations after its last checkpoint, in the middle of writing a row."""
    config = resumable(every=3)
    whole = run_until(config, tmp_path / "whole", 7)
    killed = trainer_of(config, tmp_path / "killed")
    for _ in range(5):
        row = killed._iterate()
        killed.run_dir.append_metrics(row)
        if row["iteration"] == 3:
            killed.run_dir.checkpoints.save_latest(killed.state_dict(), 3)
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 6, "env_st')
    killed.run_dir.close()
    resumed = run_until(config, tmp_path / "killed", 7)
    rows = [[timeless(row) for row in read_rows(tmp_path / name / "metrics.jsonl")] for name in ("whole", "killed")]
    assert [row["iteration"] for row in rows[1]] == [1, 2, 3, 4, 5, 6, 7] and rows[0][1:] == rows[1]
    assert same(without_clock(resumed.state_dict()), without_clock(whole.state_dict()))


def test_half_a_row_at_the_end_is_dropped(tmp_path):
    config = resumable()
    run_until(config, tmp_path, 2)
    whole = (tmp_path / "metrics.jsonl").read_text()
    for half in ('{"iteration": 3, "env_st', '{"iteration": 2, "env_steps": 36}'):
        (tmp_path / "metrics.jsonl").write_text(whole + half)
        trainer_of(config, tmp_path).run_dir.close()
        assert (tmp_path / "metrics.jsonl").read_text() == whole


def test_checkpoints_are_made_when_asked_and_at_every_stop(tmp_path):
    run_until(resumable(every=3), tmp_path, 3)
    store = Checkpoints(tmp_path / "checkpoints")
    assert [path.stem for path in store.numbered()] == ["00000003"]
    run_until(resumable(every=3), tmp_path, 5)
    assert [path.stem for path in store.numbered()] == ["00000003", "00000005"]


def test_wall_time_goes_on_counting(tmp_path):
    first = run_until(resumable(), tmp_path, 2).progress.wall_time
    assert run_until(resumable(), tmp_path, 3).progress.wall_time > first > 0


UNFIT = {
    "without weights": lambda state: state.pop("algorithm"),
    "without optimiser": lambda state: state.pop("training"),
    "without generators": lambda state: state.pop("generators"),
    "of another algorithm": lambda state: state.update(training={}),
    "of another size": lambda state: state.update(algorithm={name: torch.zeros(3, 3) for name in state["algorithm"]}),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path, kind):
    config = resumable()
    run_until(config, tmp_path, 1)
    path = Checkpoints(tmp_path / "checkpoints").path("latest")
    state = load(path)
    UNFIT[kind](state)
    save(state, path)
    before = tree(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        trainer_of(config, tmp_path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert tree(tmp_path) | {".lock": b""} == before | {".lock": b""}
