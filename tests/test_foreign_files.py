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
from run_directories import write_run

from metarl.analysis import embedding
from metarl.analysis.embedding import picture
from metarl.analysis.report import write_report
from metarl.cli import main
from metarl.errors import CheckpointError, RunDirectoryError
from metarl.runs import checkpoint
from metarl.runs.checkpoint import Checkpoints
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
