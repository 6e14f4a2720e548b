"""Figures and reports, over run directories made up for the purpose."""

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from run_directories import BANDIT_BASELINES, EPISODES, write_run

from metarl.analysis import report
from metarl.analysis.comparison import AGGREGATE, compare
from metarl.analysis.comparison_figures import comparison_figures, learning_curves, over_seeds
from metarl.analysis.figures import learning_curve, regret_curve, regret_reference, run_figures, training_diagnostics
from metarl.analysis.report import write_report
from metarl.analysis.runs import load_run, load_runs
from metarl.analysis.style import _apart, draw_map, episode_axis, experience_axis, new_figure

SCRIPT = (Path(report.__file__).parent / "report.js").read_text()
SCRIPT_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()

# Figures


def test_figures_of_a_run(bandit):
    figures = run_figures(load_run(bandit))
    assert list(figures) == ["learning_curve", "adaptation_curve", "regret", "diagnostics"]
    image = io.BytesIO()
    figures["regret"].savefig(image, format="png")
    assert image.getvalue().startswith(b"\x89PNG")


def test_figures_without_data_say_what_is_missing(tmp_path):
    run = load_run(write_run(tmp_path / "a", finished=False, rows=1))
    for draw, message in ((learning_curve, "eval_every"), (regret_curve, "eval"), (training_diagnostics, "metrics")):
        with pytest.raises(ValueError, match=message):
            draw(run)


def test_regret_ends_at_that_of_the_trial(bandit):
    run = load_run(bandit)
    (ax,) = regret_curve(run).axes
    ends = [line.get_ydata()[-1] for line in ax.lines if len(line.get_ydata()) == EPISODES]
    assert sorted(ends)[0] == pytest.approx(6.65999 - 6.655)
    assert any(end == pytest.approx(6.65999 - 6.5) for end in ends)


def test_regret_falls_back_to_the_best_baseline(tmp_path):
    run = load_run(write_run(tmp_path / "a", baselines=BANDIT_BASELINES))
    name, returns = regret_reference(run)
    assert name == "Gittins index" and returns.sum() == pytest.approx(6.655)


def test_random_actions_are_no_reference_of_regret(tmp_path):
    run = load_run(write_run(tmp_path / "a", baselines={"Random": 5.0}))
    assert regret_reference(run) is None and "regret" not in run_figures(run)


def test_curves_over_seeds_share_the_steps_all_have_reached(tmp_path):
    runs = [load_run(write_run(tmp_path / str(rows), seed=rows, rows=rows, finished=False)) for rows in (60, 30)]
    steps, returns = over_seeds(runs, "sampled")
    assert steps[-1] == 300_000 and returns.shape == (2, 6)
    np.testing.assert_allclose(returns[1], runs[1].curve().mean)


def test_runs_of_very_different_length_have_panels_of_their_own(tmp_path):
    shapes = [("gru", 0, 60), ("gru", 1, 60), ("lstm", 0, 40), ("mingru", 0, 10), ("gru", 2, 8)]
    runs = [load_run(write_run(tmp_path / f"{m}{s}", model=m, seed=s, rows=rows)) for m, s, rows in shapes]
    short, long = learning_curves(runs).axes
    assert short.get_title("left") == "bandit, runs of up to 100k steps"
    assert long.get_title("left") == "bandit, runs of up to 600k steps"
    assert [[line.get_label() for line in ax.lines if line.get_label()[0] != "_"] for ax in (short, long)] == [
        ["gru/rl2", "mingru/rl2"],
        ["gru/rl2", "lstm/rl2"],
    ]
    colours = [{line.get_label(): line.get_color() for line in ax.lines} for ax in (short, long)]
    assert colours[0]["gru/rl2"] == colours[1]["gru/rl2"] != colours[0]["mingru/rl2"]
    assert short.get_xlim()[1] < 120_000 and max(long.lines[0].get_xdata()) == 600_000
    (alone,) = learning_curves(runs[:3]).axes
    assert alone.get_title("left") == "bandit"


@pytest.mark.parametrize("episodes", [1, 2, 3, 11])
def test_axes_of_episodes_have_ticks_at_whole_numbers(episodes):
    _, (ax, other) = new_figure(1, 2)
    episode_axis(ax, episodes)
    experience_axis(other, episodes - 1)
    assert ax.get_xticks().tolist() == list(range(1, episodes + 1))
    assert other.get_xticks().tolist() == list(range(episodes))


def test_colour_bars_say_what_they_measure():
    _, (ax,) = new_figure()
    draw_map(ax, np.eye(3), "attention weight")
    assert ax.figure.axes[1].get_ylabel() == "attention weight"


def test_labels_keep_apart_and_close_to_their_lines():
    placed = _apart(np.array([0.5, 0.5, 0.1, 0.99, 1.0]), 0.05)
    assert np.diff(np.sort(placed)).min() >= 0.05 - 1e-12
    assert placed.min() >= 0 and placed.max() <= 1 + 1e-12
    assert placed[2] == pytest.approx(0.1) and sorted(placed[:2]) == pytest.approx([0.475, 0.525])
    crowded = _apart(np.full(100, 0.5), 0.05)
    assert crowded.min() == pytest.approx(0) and crowded.max() == pytest.approx(1)


def test_figures_of_many_runs(sweep):
    runs = load_runs(sweep)
    figures = comparison_figures(runs, compare(runs))
    assert list(figures) == ["intervals", "learning_curves", "adaptation_curves"]
    assert len(figures["intervals"].axes) == 3 and len(figures["learning_curves"].axes) == 2


# Reports


class Page(HTMLParser):
    """Parser that collects tags, ids, addresses and text."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.tags, self.ids, self.addresses, self.text = [], [], [], [], ""
        self.feed(path.read_text())
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check_self_contained(path: Path) -> Page:
    """A small page that asks for nothing from outside, with no id twice."""
    html = path.read_text()
    page = Page(path)
    assert path.stat().st_size < 1_000_000
    assert all(address.startswith("#") for address in page.addresses)
    assert {"link", "iframe", "img"}.isdisjoint(page.tags) and page.tags.count("script") == 1
    assert SCRIPT in html and f"script-src 'sha256-{SCRIPT_HASH}'" in html and "default-src 'none'" in html
    assert re.findall(r"url\((?!#)", html) == [] and "@import" not in html
    assert len(page.ids) == len(set(page.ids))
    return page


def test_report_of_one_run(bandit, tmp_path):
    path = write_report([bandit], tmp_path / "new" / "report.html")
    page = check_self_contained(path)
    assert page.tags.count("svg") == 4
    for text in ("gru/rl2 on bandit, seed 0", "python run.py env=bandit", "Gittins index", "6.660", "hidden_size: 128"):
        assert text in page.text
    assert "Unfinished" not in page.text
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_report_of_an_unfinished_run_says_so(tmp_path):
    run = write_run(tmp_path / "a", finished=False, rows=20)
    page = check_self_contained(write_report([run], tmp_path / "report.html"))
    assert "has done 200,000 of 600,000 environment steps" in page.text
    assert page.tags.count("svg") == 3
    (run / "metrics.jsonl").unlink()
    page = check_self_contained(write_report([run], tmp_path / "report.html"))
    assert "has no metrics yet" in page.text and page.tags.count("svg") == 0


def test_report_of_a_long_run_stays_small(tmp_path):
    run = write_run(tmp_path / "a", rows=10_000)
    check_self_contained(write_report([run], tmp_path / "report.html"))


def test_report_of_several_runs(sweep, tmp_path):
    unfinished = write_run(tmp_path / "u", env="bandit", model="lstm", seed=7, rows=30, finished=False)
    page = check_self_contained(write_report([*sweep, unfinished], tmp_path / "report.html"))
    assert page.tags.count("svg") == 3
    assert AGGREGATE in page.text and "interquartile mean" in page.text
    assert "has done 300,000 of 600,000" in page.text and str(unfinished) in page.text


def test_report_of_several_runs_none_of_which_is_finished(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed=seed, finished=False) for seed in range(2)]
    page = check_self_contained(write_report(runs, tmp_path / "report.html"))
    assert page.tags.count("svg") == 2 and page.text.count("Unfinished") == 2


def test_report_escapes_everything(tmp_path):
    nasty = "<script>alert('$x$')</script>&\"]]>--"
    baselines = {"Random": 5.0, f"{nasty} baseline": 6.0}
    runs = [
        write_run(tmp_path / f"<b>{i}", model=nasty, seed=i, baselines=baselines, bounds={f"{nasty} bound": 7.0})
        for i in range(2)
    ]
    for run in runs:
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"command": nasty, "hardware": nasty}))
    for chosen in (runs[:1], runs):
        page = check_self_contained(write_report(chosen, tmp_path / "report.html"))
        assert "b" not in page.tags and f"{nasty}" in page.text


def test_a_report_that_fails_leaves_the_old_one(bandit, tmp_path, monkeypatch):
    path = write_report([bandit], tmp_path / "report.html")
    before = path.read_text()
    monkeypatch.setattr("metarl.runs.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report([bandit], path)
    assert path.read_text() == before
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_reports_are_reproducible(bandit, tmp_path):
    first, second = (write_report([bandit], tmp_path / f"{i}.html").read_text() for i in range(2))
    assert first == second


def test_analysis_starts_quickly_and_leaves_pyplot_alone():
    """Tables need neither torch nor matplotlib; figures need no global state."""
    code = (
        "import sys, metarl.analysis.comparison, metarl.analysis.tables\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)\n"
        "import metarl.analysis.report\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
