"""The best setting of every method: chosen by what evaluations while training said, and drawn."""

import json
import subprocess
import sys

import numpy as np
import pytest
from run_directories import write_run

from metarl.analysis.runs import load_runs
from metarl.analysis.selection import score, select
from metarl.errors import RunDirectoryError

KEY = "algorithm.learning_rate"


@pytest.fixture
def sweep(tmp_path):
    """Two methods, three learning rates, two seeds: the GRU is best at 1e-3, the LSTM at 1e-2."""
    finals = {"gru": {1e-4: 6.0, 1e-3: 6.6, 1e-2: 6.2}, "lstm": {1e-4: 6.0, 1e-3: 6.1, 1e-2: 6.5}}
    return [
        write_run(
            tmp_path / f"{model}-{rate}-{seed}", model=model, seed=seed, final=final + 0.01 * seed, settings={KEY: rate}
        )
        for model, rates in finals.items()
        for rate, final in rates.items()
        for seed in range(2)
    ]


def metarl(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from metarl.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("by", ["final", "mean", "auc"])
def test_every_method_gets_the_setting_with_the_best_mean_over_seeds(sweep, by):
    selection = select(load_runs(sweep), KEY, by)
    chosen = {(run.config["choices"]["model"], run.config["algorithm"]["learning_rate"]) for run in selection.chosen}
    assert chosen == {("gru", 1e-3), ("lstm", 1e-2)} and len(selection.chosen) == 4
    starred = [(row["method"], row[KEY]) for row in selection.rows if row["chosen"] == "*"]
    assert starred == [("gru/rl2", "0.001"), ("lstm/rl2", "0.01")]
    assert [row[KEY] for row in selection.rows[:3]] == ["0.0001", "0.001", "0.01"]
    row = next(row for row in selection.rows if row["method"] == "gru/rl2" and row[KEY] == "0.001")
    own = [score(run, by) for run in selection.chosen[:2]]
    assert row["seeds"] == 2 and row[by] == pytest.approx(np.mean(own))
    assert row["error_over_seeds"] is None and (row["lowest"], row["highest"]) == pytest.approx((min(own), max(own)))


def test_scores_are_what_their_names_say(sweep):
    run = load_runs(sweep[:1])[0]
    curve = run.curve()
    assert score(run, "final") == curve.mean[-1]
    assert score(run, "mean") == pytest.approx(curve.mean.mean())
    heights = (curve.mean[1:] + curve.mean[:-1]) / 2
    area = (heights * np.diff(curve.env_steps)).sum() / (curve.env_steps[-1] - curve.env_steps[0])
    assert score(run, "auc") == pytest.approx(area)
    assert len({score(run, by) for by in ("final", "mean", "auc")}) == 3


def test_runs_that_do_not_differ_in_the_key_or_were_not_evaluated_are_refused(sweep, tmp_path):
    with pytest.raises(RunDirectoryError, match=r"--best algorithm\.clip: these runs do not differ in it"):
        select(load_runs(sweep), "algorithm.clip")
    (sweep[0] / "metrics.jsonl").write_text("")
    with pytest.raises(RunDirectoryError, match="was not evaluated while it trained"):
        select(load_runs(sweep), KEY)


def test_compare_picks_the_best_setting_compares_it_and_draws(sweep, tmp_path):
    out = tmp_path / "figures"
    result = metarl("compare", *sweep, "--best", KEY, "--by", "auc", "--figures", out, "--format", "json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [row["method"] for row in rows] == ["gru/rl2", "lstm/rl2"]
    assert rows[0]["return"] == pytest.approx(6.605) and rows[1]["return"] == pytest.approx(6.505)
    assert {path.name for path in out.iterdir()} == {
        "adaptation_curves.svg", "intervals.svg", "learning_curves.svg", "selection.svg"
    }  # fmt: skip
    assert "chosen" in result.stderr and KEY in (out / "selection.svg").read_text().replace("&#45;", "-")


def test_a_report_shows_the_settings_and_compares_the_best(sweep, tmp_path):
    page = tmp_path / "page.html"
    result = metarl("report", *sweep, "--best", KEY, "--output", page)
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    assert "Settings of algorithm.learning_rate, by last held-out return" in text
    assert "Settings: mean over seeds" in text
    assert "<title>gru/rl2, lstm/rl2 on bandit" in text
