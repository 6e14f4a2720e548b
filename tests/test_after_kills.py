"""Files after a kill: no partial file and no checkpoint too many stays, and rows that are damaged or gone are said."""

import fcntl
import json

import pytest
from helpers import StopAt, small_config, trainer_of
from run_directories import evaluation, write_run

from metarl.analysis.report import write_report
from metarl.analysis.runs import load_run
from metarl.errors import RunDirectoryError
from metarl.runs.checkpoint import Checkpoints, save
from metarl.runs.files import remove_partial_files, replacing
from metarl.runs.sweep import Sweep, launching

CONFIG = small_config("training.total_steps=2_000", "training.eval_every=0")
LEFT = (
    *(".config.yaml.3666fb15d4fef30a.partial", ".report.html.0000000000000000.partial"),
    *("checkpoints/.00000002.pt.2d447033616ca8fe.partial", "checkpoints/.best.pt.7154a41a2112876f.partial"),
)
OTHERS = (
    "notes.partial",
    ".config.yaml.partial",
    ".x.2d447033.partial",
    "checkpoints/.mine.pt.2d447033616ca8feff.partial",
)


def leave(folder, names) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("half")


def test_whoever_opens_a_run_removes_the_partial_files_of_killed_writers_and_nothing_else(tmp_path):
    leave(tmp_path, (*LEFT, *OTHERS))
    trainer = trainer_of(CONFIG, tmp_path)
    assert [name for name in LEFT if (tmp_path / name).exists()] == []
    assert [name for name in OTHERS if not (tmp_path / name).exists()] == []
    trainer.run_dir.close()


def test_without_the_lock_nothing_is_removed(tmp_path):
    first = trainer_of(CONFIG, tmp_path)
    leave(tmp_path, LEFT)
    with pytest.raises(RunDirectoryError, match="in use by another run"):
        trainer_of(CONFIG, tmp_path)
    assert all((tmp_path / name).exists() for name in LEFT)
    first.run_dir.close()


@pytest.mark.parametrize("flock", [True, False])
def test_a_file_that_is_being_written_stays(tmp_path, monkeypatch, flock):
    if not flock:
        leave(tmp_path, LEFT)

        def missing(*_):
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(fcntl, "flock", missing)
        remove_partial_files(tmp_path)
        assert not (tmp_path / LEFT[0]).exists()
        return
    with replacing(tmp_path / "report.html") as file:
        remove_partial_files(tmp_path)
        file.write(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_link_with_the_name_of_a_partial_file_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("kept")
    (tmp_path / ".config.yaml.3666fb15d4fef30a.partial").symlink_to(tmp_path / "secret")
    remove_partial_files(tmp_path)
    assert (tmp_path / "secret").read_text() == "kept"


def test_a_launcher_removes_the_partial_files_of_its_sweep(tmp_path):
    names = (".sweep.json.3666fb15d4fef30a.partial", "configs/.0.yaml.3666fb15d4fef30a.partial")
    leave(tmp_path, names)
    with launching(tmp_path):
        assert not any((tmp_path / name).exists() for name in names)


def test_checkpoints_that_a_kill_left_are_dropped_on_resume(tmp_path):
    trainer = trainer_of(CONFIG, tmp_path)
    trainer.train(StopAt(trainer, 4))
    trainer.run_dir.close()
    store = Checkpoints(tmp_path / "checkpoints")
    assert [path.stem for path in store.numbered()] == ["00000003", "00000004"]
    for number in (1, 2):
        save({}, store.directory / f"{number:08d}.pt")
    resumed = trainer_of(CONFIG, tmp_path)
    resumed.run_dir.close()
    assert resumed.progress.iteration == 4
    assert [path.stem for path in store.numbered()] == ["00000003", "00000004"]


# ---------------------------------------------------------------- rows of metrics


def rows_of(path, change) -> None:
    """Change the row of iteration 5, which has evaluations."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    change(rows[4])
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


OF_A_ROW = ["iteration", "env_steps"]
OF_AN_EVALUATION = [f"eval/{kind}/{name}" for kind in ("sampled", "greedy") for name in list(evaluation(1.0))[:5]]
WRONG = ("gone", "another name", "text", "true", "a list of text")


def damage(row: dict, key: str, wrong: str) -> None:
    value = row.pop(key)
    if wrong != "gone":
        name = key[:-1] + "X" if wrong == "another name" else key
        row[name] = {"another name": value, "text": "much", "true": True, "a list of text": ["a"]}[wrong]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("key", OF_A_ROW + OF_AN_EVALUATION)
def test_a_row_that_lacks_what_readers_use_is_a_damaged_row(tmp_path, key, wrong):
    path = write_run(tmp_path / "run", finished=False, rows=5)
    rows_of(path, lambda row: damage(row, key, wrong))
    with pytest.raises(RunDirectoryError, match=r"metrics\.jsonl, line 5: not a row of metrics"):
        load_run(path)


def test_a_curve_that_is_shorter_than_its_error_is_damage(tmp_path):
    path = write_run(tmp_path / "run", finished=False, rows=5)
    rows_of(path, lambda row: row["eval/sampled/episodes_met"].pop())
    with pytest.raises(RunDirectoryError, match="eval/sampled/adaptation_curve differs in length"):
        load_run(path)


def test_undefined_numbers_of_an_evaluation_are_no_damage(tmp_path):
    path = write_run(tmp_path / "run", finished=False, rows=5)
    rows_of(path, lambda row: row.update({"eval/sampled/return_se": None, "eval/sampled/adaptation_se": [None] * 10}))
    assert write_report([path], tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda summary: summary["evaluation"].pop("greedy"), "evaluation.greedy is missing"),
        (lambda summary: summary["evaluation"]["greedy"].pop("episodes_met"), "evaluation.greedy.episodes_met is"),
        (lambda summary: summary["evaluation"]["sampled"].update(num_tasks="many"), "sampled.num_tasks is damaged"),
        (lambda summary: summary.update(bounds={"optimum": "high"}), "bounds is damaged"),
        (lambda summary: summary.update(bounds=[1]), "bounds is damaged"),
        (lambda summary: summary.update(parameters="a few"), "parameters is no number"),
        (lambda summary: summary.update(wall_time="long"), "wall_time is no number"),
    ],
)
def test_a_summary_that_lacks_what_readers_show_is_damaged(tmp_path, change, message):
    path = write_run(tmp_path / "run")
    summary = json.loads((path / "summary.json").read_text())
    change(summary)
    (path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunDirectoryError, match=message):
        load_run(path)


@pytest.mark.parametrize("group", ["env", "model", "algorithm", "training", "eval"])
def test_a_configuration_whose_group_holds_no_keys_is_damaged(tmp_path, group):
    path = write_run(tmp_path / "run")
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text + f"{group}: text\n")
    with pytest.raises(RunDirectoryError, match=f"{group} holds no keys"):
        load_run(path)


# ---------------------------------------------------------------- status


def status_of(tmp_path, change):
    sweep = Sweep.launched(tmp_path / "sweep", {}, [["seed=0"]], 0)
    path = write_run(sweep.jobs[0].directory, finished=False, rows=6)
    save({}, path / "checkpoints" / "00000006.pt")
    change(path)
    return sweep.status(sweep.jobs[0])


def test_the_status_of_a_killed_run_has_no_error(tmp_path):
    found = status_of(tmp_path, lambda path: None)
    assert (found.state, found.error, found.env_steps, found.total_steps) == ("stopped", None, 60_000, 600_000)


def test_status_says_that_rows_are_lost(tmp_path):
    def cut(path):
        (path / "metrics.jsonl").write_text((path / "metrics.jsonl").read_text()[:-40])

    found = status_of(tmp_path, cut)
    assert "metrics.jsonl ends with iteration 5, and checkpoint 00000006.pt is there: rows are lost" in found.error


def test_status_says_that_the_configuration_is_missing(tmp_path):
    found = status_of(tmp_path, lambda path: (path / "config.yaml").unlink())
    assert "config.yaml is missing, and the run has results" in found.error
