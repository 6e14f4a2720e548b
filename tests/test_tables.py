"""Final tables and comparisons, over run directories made up for the purpose."""

import csv
import io
import json

import numpy as np
import pytest
from run_directories import write_run

from metarl.analysis.comparison import AGGREGATE, compare
from metarl.analysis.comparison_figures import comparison_figures
from metarl.analysis.runs import load_run, load_runs
from metarl.analysis.tables import FORMATS, final_table, format_table
from metarl.errors import RunDirectoryError


def test_final_table_ranks_agent_baselines_and_bounds(bandit):
    rows = final_table(load_run(bandit).summary)
    assert [row["name"] for row in rows[:4]] == [
        "Bayes optimum",
        "Gittins index",
        "gru/rl2 (greedy)",
        "gru/rl2 (sampled)",
    ]
    sampled = rows[3]
    assert sampled["share_of_bound"] == pytest.approx(6.5 / 6.65999)
    assert sampled["regret"] == pytest.approx(0.15999)
    assert rows[0]["standard_error"] is None and rows[0]["regret"] == 0


def test_final_table_without_a_bound_has_no_columns_for_it(tmp_path):
    rows = final_table(load_run(write_run(tmp_path / "a", baselines={"Random": 5.0})).summary)
    assert list(rows[0]) == ["name", "kind", "return", "standard_error", "error_over"]
    assert {row["error_over"] for row in rows} == {"tasks"}


def test_a_bound_below_zero_has_no_share(tmp_path):
    rows = final_table(load_run(write_run(tmp_path / "a", bounds={"optimum": -1.0})).summary)
    assert "share_of_bound" not in rows[0] and rows[0]["regret"] == pytest.approx(-1 - 6.55)


def test_success_is_shown_where_it_is_known(bandit):
    summary = load_run(bandit).summary
    summary["evaluation"]["sampled"]["success_rate"] = 0.875
    assert "87.5 %" in format_table(final_table(summary))


def test_numbers_are_rounded_to_what_the_standard_error_supports():
    rows = [
        {"name": "a", "return": 6.54321, "standard_error": 0.01234},
        {"name": "b", "return": 1234.5678, "standard_error": 12.34},
        {"name": "c", "return": 6.65999, "standard_error": None},
        {"name": "d", "return": 0.5, "standard_error": 0.0996},
    ]
    lines = format_table(rows, "text").splitlines()[2:]
    assert [line.split() for line in lines] == [
        ["a", "6.543", "0.012"],
        ["b", "1235", "12"],
        ["c", "6.660", "-"],
        ["d", "0.50", "0.10"],
    ]
    assert len({len(line) for line in lines}) == 1  # aligned


def test_a_spread_that_is_only_rounding_shows_no_digits():
    row = {"return": 6.08, "standard_error": 6e-16, "iqm": 6.08, "iqm_low": 6.08, "iqm_high": 6.08 + 1e-15}
    assert format_table([row]).splitlines()[-1].split(maxsplit=2) == ["6.080", "0", "6.080 [6.080, 6.080]"]


def test_text_draws_an_interval_with_its_estimate():
    row = {"method": "a", "iqm": 0.5512, "iqm_low": 0.4761, "iqm_high": 0.6301}
    assert "0.55 [0.48, 0.63]" in format_table([row], "text")


def test_machine_formats_keep_every_digit():
    rows = [
        {"name": "a|b", "return": 1 / 3, "standard_error": None},
        {"name": "c", "return": float("nan"), "note": "x"},
    ]
    assert json.loads(format_table(rows, "json"))[0]["return"] == 1 / 3
    assert json.loads(format_table(rows, "json"))[1]["return"] is None
    read = list(csv.DictReader(io.StringIO(format_table(rows, "csv"))))
    assert float(read[0]["return"]) == 1 / 3 and read[0]["standard_error"] == "" and read[1]["note"] == "x"
    assert "a\\|b" in format_table(rows, "markdown")


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_table_is_no_error(format):
    assert "None" not in format_table([], format)


def test_an_unknown_format_lists_the_options():
    with pytest.raises(ValueError, match="text, markdown, csv, json"):
        format_table([], "html")


# Comparison


def test_comparison_per_environment_and_over_all(sweep):
    comparison = compare(load_runs(sweep))
    rows = {(row["environment"], row["method"]): row for row in comparison.rows}
    assert len(rows) == 6
    gru = rows["bandit", "gru/rl2"]
    assert gru["seeds"] == 3 and gru["probability_of_improvement"] is None
    assert gru["return"] == pytest.approx(5 + 0.82 * 1.65999)
    assert gru["error_over_seeds"] is gru["iqm_low"] is gru["iqm_high"] is None  # of three seeds
    assert gru["task_error"] == pytest.approx(0.0125 / 3**0.5) and gru["lowest"] < gru["iqm"] < gru["highest"]
    lstm = rows["bandit", "lstm/rl2"]
    assert lstm["probability_of_improvement"] is None and lstm["difference"] == pytest.approx(-0.1 * 1.65999)
    total = rows[AGGREGATE, "gru/rl2"]
    assert total["seeds"] == 6 and total["return"] == pytest.approx(0.82) and total["iqm"] == pytest.approx(0.82)
    assert any("fewer than 5 seeds: task error" in note for note in comparison.notes)
    assert not any("P(better)" in note for note in comparison.notes)
    assert "P(better)" not in format_table(comparison.rows) and "task error" in format_table(comparison.rows)


def test_five_seeds_have_an_error_over_seeds_and_a_paired_difference(tmp_path):
    finals = {"gru": [6.1, 6.3, 6.2, 6.6, 6.4], "lstm": [6.0, 6.25, 6.1, 6.45, 6.35]}
    runs = [
        load_run(write_run(tmp_path / f"{model}-{seed}", model=model, seed=seed, final=final))
        for model, those in finals.items()
        for seed, final in enumerate(those)
    ]
    first, second = compare(runs).rows
    assert first["error_over_seeds"] == pytest.approx(np.std(finals["gru"], ddof=1) / 5**0.5)
    assert first["task_error"] is first["lowest"] is first["highest"] is None and first["iqm_low"] < first["iqm"]
    differences = np.subtract(finals["lstm"], finals["gru"])
    assert second["difference"] == pytest.approx(differences.mean())
    reach = 2.776445 * differences.std(ddof=1) / 5**0.5  # Student's t of four degrees of freedom
    assert second["difference_low"] == pytest.approx(differences.mean() - reach, rel=1e-5)
    assert second["difference_high"] < 0 < second["probability_of_improvement_high"]
    runs[5].summary["evaluation_seed"] += 1  # other tasks: no pair
    assert compare(runs).rows[1]["difference"] == pytest.approx(differences[1:].mean())


def test_one_seed_has_no_interval_and_says_so(bandit):
    comparison = compare([load_run(bandit)])
    (row,) = comparison.rows
    assert row["return"] == row["iqm"] == 6.5
    assert row["error_over_seeds"] is row["iqm_low"] is row["iqm_high"] is row["probability_of_improvement"] is None
    assert row["task_error"] == 0.0125 and row["lowest"] is row["highest"] is row["difference"] is None
    assert any("says nothing about other seeds" in note for note in comparison.notes)
    assert "6.5" in format_table(comparison.rows)


def test_no_aggregate_where_a_method_is_missing(sweep):
    comparison = compare(load_runs(sweep[:9]))
    assert {row["environment"] for row in comparison.rows} == {"tabular_mdp", "bandit"}
    assert any("not every method ran on all" in note for note in comparison.notes)


def test_no_aggregate_without_a_random_baseline(tmp_path):
    runs = [load_run(write_run(tmp_path / env, env=env)) for env in ("a", "b")]
    comparison = compare(runs)
    assert len(comparison.rows) == 2
    assert any("no random baseline" in note for note in comparison.notes)


def test_greedy_actions_can_be_compared(sweep):
    sampled, greedy = (compare(load_runs(sweep), actions).rows[0]["return"] for actions in ("sampled", "greedy"))
    assert greedy == pytest.approx(sampled + 0.05)


def test_trials_of_different_length_are_compared_by_their_last_episode(tmp_path):
    long, short = (load_run(write_run(tmp_path / name, model=name)) for name in ("gru", "lstm"))
    for evaluation in short.summary["evaluation"].values():
        evaluation |= {name: evaluation[name][:4] for name in ("adaptation_curve", "episodes_met")}
    comparison = compare([long, short])
    assert comparison.score == "last_episode" and "last episode" in comparison.notes[0]
    first, second = (run.summary["evaluation"]["sampled"]["adaptation_curve"] for run in (long, short))
    assert [row["return"] for row in comparison.rows] == [first[-1], second[-1]]
    assert compare([long], score="last_episode").rows[0]["return"] == first[-1]
    with pytest.raises(RunDirectoryError, match="4 and 10 episodes; use --score last_episode"):
        compare([long, short], score="trial")
    figures = comparison_figures([long, short], comparison)
    assert "last episode" in figures["intervals"].axes[0].get_xlabel()
    (ax,) = figures["learning_curves"].axes
    assert "last episode" in ax.get_ylabel()
    ends = [row["eval/sampled/adaptation_curve"][-1] for row in long.history if "eval/sampled/return_mean" in row]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), ends)


def test_methods_that_need_other_numbers_of_episodes_stand_side_by_side_by_their_last(tmp_path):
    memory = write_run(tmp_path / "memory", settings={"env.num_episodes": 2})
    gradients = write_run(tmp_path / "gradients", model="mlp", algorithm="maml", settings={"env.num_episodes": 1})
    runs = load_runs([memory, gradients])
    assert [row["environment"] for row in compare(runs).rows][:2] == ["bandit num_episodes=2", "bandit num_episodes=1"]
    comparison = compare(runs, score="last_episode")
    assert [(row["environment"], row["method"]) for row in comparison.rows] == [
        ("bandit", "gru/rl2"), ("bandit", "mlp/maml")
    ]  # fmt: skip
    assert [len(figure.axes) for figure in comparison_figures(runs, comparison).values()] == [1, 1, 1]


def test_a_run_counts_once(sweep, tmp_path):
    assert len(load_runs([sweep[0], sweep[0]])) == 1
    copy = write_run(tmp_path / "copy", env="tabular_mdp", model="gru", seed=0)
    with pytest.raises(RunDirectoryError, match=r"same run .*seed=0.* give one of them"):
        compare(load_runs([*sweep, copy]))


def test_unfinished_runs_are_not_compared(tmp_path):
    with pytest.raises(RunDirectoryError, match="unfinished"):
        compare([load_run(write_run(tmp_path / "a", finished=False))])
    with pytest.raises(RunDirectoryError, match="no run to compare"):
        compare([])
