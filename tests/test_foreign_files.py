"""Files of somebody else's run directory: links are not followed, nothing hangs, and a page embeds pictures alone."""

import io
import json
import os
import re
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from helpers import small_config
from PIL import Image
from run_directories import evaluation, write_run

from metarl.analysis import embedding
from metarl.analysis.embedding import picture
from metarl.analysis.figures import MOST_PANELS, training_diagnostics
from metarl.analysis.report import write_report
from metarl.analysis.runs import load_run
from metarl.analysis.trial_figures import draw_trial
from metarl.analysis.trial_recording import from_json
from metarl.cli import main
from metarl.errors import CheckpointError, RunDirectoryError
from metarl.runs import checkpoint
from metarl.runs.checkpoint import Checkpoints
from metarl.runs.exported import read_exported
from metarl.runs.loggers import Loggers, TensorboardLogger, WandbLogger

SECRET = "secret of this machine"


def png(size=(4, 4), content: bytes = b"") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return file.getvalue() + content


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "id_rsa"
    path.write_text(SECRET)
    return path


def embedded(run) -> int:
    return write_report([run], run / "report.html").read_text().count("data:image/png")


def test_a_real_picture_is_embedded(run):
    (run / "trial.png").write_bytes(png())
    assert embedded(run) == 1 and picture(run / "trial.png") == png()


@pytest.mark.parametrize(
    "content",
    [SECRET.encode(), b"", png()[:60], png()[:20] + SECRET.encode(), b"\x89PNG\r\n\x1a\n" + SECRET.encode()],
)
def test_what_is_no_picture_is_not_embedded(run, content, caplog):
    (run / "trial.png").write_bytes(content)
    assert embedded(run) == 0 and "left out" in caplog.text


def test_pictures_of_other_kinds_and_sizes_are_not_embedded(run, monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG")
    (run / "trial.png").write_bytes(file.getvalue())
    assert embedded(run) == 0
    (run / "trial.png").write_bytes(png((9000, 9000)))
    assert embedded(run) == 0
    monkeypatch.setattr("metarl.analysis.embedding.MOST_BYTES", 10)
    (run / "trial.png").write_bytes(png())
    assert embedded(run) == 0


@pytest.mark.parametrize("name", ["trial.png", "trial.json", "report.html"])
def test_links_are_neither_embedded_nor_followed(run, secret, name):
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(secret)
    try:
        write_report([run], run / "report.html")
    except RunDirectoryError as error:
        assert name == "trial.json" and "link" in str(error)
    else:
        assert SECRET not in (run / "report.html").read_text()
    assert secret.read_text() == SECRET


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "summary.json", "trial.json", "trial.png"])
def test_pipes_do_not_hang(run, name):
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    if name == "trial.png":
        assert embedded(run) == 0
    else:
        with pytest.raises(RunDirectoryError, match=name):
            write_report([run], run / "report.html")


SCRIPT = "<script>alert(1)</script>"
IMAGE = "\"'><img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    "text", [SCRIPT, IMAGE, "javascript:alert(1)", "</pre>" + SCRIPT, "</style>" + SCRIPT, "]]>" + SCRIPT]
)
def test_no_name_or_text_of_a_run_becomes_code_of_its_page(run, text):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["choices"] = dict.fromkeys(config["choices"], text)
    config[text] = {text: [text]}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    summary = json.loads((run / "summary.json").read_text())
    for key in ("env", "model", "algorithm", "command", "hardware", "versions", "commit", text):
        summary[key] = text
    summary["baselines"] = {text: summary["evaluation"]["sampled"]}
    summary["bounds"] = {text: 1.0}
    (run / "summary.json").write_text(json.dumps(summary))
    recording = {"task": text, "returns": [1.0], "places": [[[0, 0], [1, 1]]], "goal": [1, 1]}
    (run / "trial.json").write_text(json.dumps(recording))
    page = write_report([run], run / "report.html").read_text()
    own = (Path(embedding.__file__).parent / "report.js").read_text()
    assert page.count(f"<script>{own}</script>") == 1
    page = page.replace(f"<script>{own}</script>", "")
    assert not re.search(r"<script|<img(?! alt=\"pictures)|<[^>]*\sonerror=|(?:href|src)=\"?javascript:", page, re.I)


@pytest.mark.parametrize("text", ["$x$", "$\\frac{", "$$", "\\"])
def test_texts_are_not_read_as_formulas(run, text):
    recording = {"task": text, "returns": [1.0], "places": [[[0, 0], [1, 1]]], "goal": [1, 1]}
    (run / "trial.json").write_text(json.dumps(recording))
    write_report([run], run / "report.html")


@pytest.mark.parametrize(
    "recording",
    [
        [],
        {},
        {"task": 1, "returns": 1, "places": 1, "goal": 1},
        {"task": "a", "returns": [], "places": [[[0, 0]]], "goal": None},
    ],
)
def test_a_damaged_recording_is_said(run, recording):
    (run / "trial.json").write_text(json.dumps(recording))
    with pytest.raises(RunDirectoryError, match=r"trial.json"):
        write_report([run], run / "report.html")


GRID = {"kind": "cells", "shape": [5, 5], "goal": 3, "cells": [[0, 1], [2, 3]]}
SPEED = {"kind": "quantity", "name": "a", "unit": "b", "target": 1, "seconds_per_step": 1, "values": [[1, 2], [2]]}
PATH = {"kind": "path", "axes": ["x", "y"], "goal": [1, 1], "positions": [[[0, 0], [1, 1]]]}


@pytest.mark.parametrize(
    "view",
    [
        GRID | {"shape": [10**9, 10**9]},
        GRID | {"shape": [-3, 4]},
        GRID | {"shape": [2.5, 1e-300]},
        SPEED | {"seconds_per_step": 1e308},
        SPEED | {"values": [[10**400]]},
        PATH | {"goal": [1e308, -1e308]},
        {"kind": "rewards", "rewards": [[1e308], [-1e308]]},
    ],
)
def test_a_recording_that_no_figure_can_show_is_said(run, view):
    recording = {"task": "t", "returns": [1.0, 2.0], "places": [], "goal": None, "view": view}
    (run / "trial.json").write_text(json.dumps(recording))
    with pytest.raises(RunDirectoryError, match=r"trial.json is not readable as recording"):
        write_report([run], run / "report.html")


def test_large_grids_are_drawn_in_little_time(monkeypatch):
    monkeypatch.setattr("metarl.analysis.trial_figures.MOST_SHADES", 7)
    view = GRID | {"shape": [10**6, 3], "cells": [[*range(40), 2, 2]]}
    held = {"task": "t", "returns": [1.0], "places": [], "goal": None, "view": view}
    figure, _ = draw_trial(from_json(json.dumps(held)))
    (ax,) = figure.axes
    assert len(ax.patches) == 7 and ax.patches[0].get_x() == 1.5  # the cell of most steps is among them
    assert len(ax.xaxis.get_minor_locator()()) == 0 and len(ax.yaxis.get_minor_locator()()) == 4


@pytest.mark.parametrize("sets", [None, 5, True, [], [None], [["a"]], {"a": 1}, "", "a/b", ["a", "a"]])
def test_task_sets_that_are_no_names_are_said(run, sets):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["eval"]["task_sets"] = sets
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(RunDirectoryError, match=r"config.yaml: eval.task_sets is no name of a task set"):
        write_report([run], run / "report.html")


@pytest.mark.parametrize("text", ["\ud800", "\x1b[31m", "\x00"])
def test_text_that_cannot_be_shown_is_replaced(run, text):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["choices"]["env"] = text
    config[text] = 1
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    summary = json.loads((run / "summary.json").read_text()) | {"command": text, "bounds": {text: 7.0}}
    (run / "summary.json").write_text(json.dumps(summary))
    rows = [json.loads(line) | {f"update/{text}": 1.0} for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report([run], run / "report.html").read_text()
    assert text[0] not in page and "\ufffd" in page


def test_numbers_beyond_all_axes_and_hundreds_of_metrics_do_no_harm(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    many = {f"update/m{i}": 1.0 for i in range(200)}
    rows = [row | many | {"update/a": 10**400, "update/b": (-1) ** i * 1e308} for i, row in enumerate(rows)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_run(run)
    assert len(loaded.series("update/a")[0]) == len(loaded.series("update/b")[0]) == 0
    assert len(training_diagnostics(loaded).axes) == MOST_PANELS
    rows[-1] |= {f"eval/sampled/{name}": value for name, value in evaluation(5.0).items()}
    rows[-1]["eval/sampled/return_mean"] = 10**400
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(RunDirectoryError, match="return_mean is missing or damaged"):
        load_run(run)


def test_an_exported_file_larger_than_the_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "agent.safetensors"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(CheckpointError, match="is too large"):
        read_exported(path)

    def full(*_):
        raise MemoryError

    monkeypatch.setattr("metarl.runs.reader.os.fdopen", full)
    with pytest.raises(CheckpointError, match="is larger than the free memory"):
        read_exported(path)


def test_checkpoints_behind_a_link_are_neither_read_nor_written(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "00000001.pt").write_bytes(b"precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(elsewhere)
    kept = Checkpoints(tmp_path / "run" / "checkpoints", keep=1)
    for use in (lambda: kept.save_latest({"a": 1}, 2), lambda: kept.save_best({"a": 1}), lambda: kept.path("latest")):
        with pytest.raises(RunDirectoryError, match=r"checkpoints is a link"):
            use()
    assert [path.name for path in elsewhere.iterdir()] == ["00000001.pt"]


def test_a_checkpoint_is_a_regular_file_that_unpacks_to_its_own_size(tmp_path):
    path = tmp_path / "00000001.pt"
    checkpoint.save({"a": torch.zeros(3)}, path)
    link, pipe, bomb = tmp_path / "link.pt", tmp_path / "pipe.pt", tmp_path / "bomb.pt"
    link.symlink_to(path)
    os.mkfifo(pipe)
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data.pkl", bytes(10**7))
    for hostile in (link, pipe, bomb):
        with pytest.raises(CheckpointError, match=hostile.name):
            checkpoint.load(hostile)
    assert torch.equal(checkpoint.load(path)["a"], torch.zeros(3))


@pytest.mark.parametrize(("logger", "folder"), [(TensorboardLogger, "tensorboard"), (WandbLogger, "wandb")])
def test_loggers_write_through_no_link(logger, folder, tmp_path, caplog):
    elsewhere, run = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    run.mkdir()
    (run / folder).symlink_to(elsewhere)
    loggers = Loggers({"one": logger()})
    loggers.start(run, {}, None)
    assert not loggers.active and list(elsewhere.iterdir()) == [] and "is a link" in caplog.text


def test_aliases_that_multiply_are_refused(run):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text("\n".join([*lines, text]))
    with pytest.raises(RunDirectoryError, match=r"config.yaml"):
        write_report([run], run / "report.html")
    (run / "config.yaml").write_text("a: &a [*a]\n" + text)
    with pytest.raises(RunDirectoryError, match=r"config.yaml"):
        write_report([run], run / "report.html")


def test_files_that_are_too_large_are_refused_unread(run, monkeypatch):
    monkeypatch.setattr("metarl.runs.reader.MOST_BYTES", 10)
    with pytest.raises(RunDirectoryError, match=r"config.yaml.*too large"):
        write_report([run], run / "report.html")


def test_evaluating_writes_nothing_through_links(tmp_path, secret):
    """The film of a run whose ``watch.mp4`` leads elsewhere; here refused before, as the run has no checkpoint."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(small_config("env=point_goal")))
    (run / "watch.mp4").symlink_to(secret)
    with pytest.raises(SystemExit):
        main(["watch", str(run)])
    assert secret.read_text() == SECRET
