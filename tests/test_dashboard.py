"""A sweep in Weights & Biases, read back from what it wrote."""

import json

import pytest
from run_directories import write_run
from wandb_records import by_key, records, wandb_files

from metarl.analysis.dashboard import publish, workspace
from metarl.analysis.runs import load_runs
from metarl.analysis.selection import select
from metarl.errors import RunDirectoryError

KEY = "algorithm.learning_rate"


@pytest.fixture
def sweep(tmp_path):
    settings = [(model, rate, seed) for model in ("gru", "lstm") for rate in (1e-3, 1e-2) for seed in (0, 1)]
    for number, (model, rate, seed) in enumerate(settings):
        final = 6 + (model == "lstm") * 0.2 + (rate == 1e-2) * 0.1
        write_run(tmp_path / "rates" / str(number), model=model, seed=seed, final=final, settings={KEY: rate})
    return tmp_path / "rates"


def test_a_sweep_is_one_run_of_its_group_with_tables_figures_and_the_best(sweep):
    runs = load_runs(sorted(sweep.iterdir()))
    for _ in range(2):  # again goes on with the same run
        directory = publish(runs, sweep, "metarl", None, "offline", select(runs, KEY))
    assert directory.is_relative_to(sweep / "wandb")
    *_, file = wandb_files(sweep)
    assert file.parent == directory
    found = list(records(file))
    run = next(record.run for record in found if record.HasField("run"))
    assert (run.run_group, run.job_type, run.project) == ("rates", "sweep", "metarl")
    history = {k: v for record in found if record.HasField("history") for k, v in by_key(record.history.item).items()}
    assert {f"tables/{name}/path" for name in ("runs", "methods", "settings")} <= set(history)
    assert {
        f"figures/{name}/path" for name in ("intervals", "learning_curves", "adaptation_curves", "selection")
    } <= set(history)
    table = json.loads((directory / "files" / history["tables/methods/path"]).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["method"] for row in rows] == ["gru/rl2", "lstm/rl2"]
    assert [row["return"] for row in rows] == pytest.approx([6.1, 6.3])
    summary = {k: v for record in found if record.HasField("summary") for k, v in by_key(record.summary.update).items()}
    assert summary["best/bandit"] == "lstm/rl2"


def test_a_sweep_without_a_finished_run_is_refused(tmp_path):
    run = write_run(tmp_path / "sweep" / "0", finished=False)
    with pytest.raises(RunDirectoryError, match="no run is finished yet"):
        publish(load_runs([run]), tmp_path / "sweep", "metarl", None, "offline", None)
    assert not (tmp_path / "sweep" / "wandb").exists()


def test_the_workspace_groups_the_runs_of_the_sweep_by_method():
    view = workspace("rates", "metarl", "someone")
    assert "rates" in str(view.runset_settings.filters)
    described = view._to_model().model_dump_json()  # what is sent to W&B
    assert "eval/sampled/return_mean" in described and "choices.model" in described and '"rates"' in described
