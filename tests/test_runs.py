"""Loading and naming runs, over run directories made up for the purpose."""

import pytest
import yaml
from helpers import small_config
from run_directories import write_run

from metarl import experiment
from metarl.analysis.figures import run_figures
from metarl.analysis.runs import group_runs, load_run, load_runs, name_runs, require_finished
from metarl.configuration.build import build
from metarl.errors import RunDirectoryError
from metarl.runs.sweep import Sweep

# Loading


def test_a_finished_run_is_read(bandit):
    run = load_run(bandit)
    assert (run.environment, run.method, run.seed, run.finished) == ("bandit", "gru/rl2", 0, True)
    assert run.evaluations["sampled"]["return_mean"] == 6.5
    curve = run.curve("greedy")
    assert len(curve.env_steps) == 12 and curve.env_steps[-1] == 600_000
    assert curve.mean[-1] == pytest.approx(6.55)
    assert len(run.series("update/entropy")[1]) == 60


def test_an_unfinished_run_gives_its_latest_evaluation(tmp_path):
    run = load_run(write_run(tmp_path / "a", finished=False, final=6.0))
    assert run.evaluations["sampled"]["return_mean"] == pytest.approx(6.0)
    assert run.baselines == {} and run.bounds == {}
    with pytest.raises(RunDirectoryError, match=r"unfinished \(no summary.json\)"):
        require_finished(run)


def test_a_run_that_has_just_started_is_read(tmp_path):
    path = write_run(tmp_path / "a", finished=False)
    (path / "metrics.jsonl").unlink()
    run = load_run(path)
    assert run.history == [] and run.evaluations == {} and run_figures(run) == {}


def test_a_last_line_that_is_cut_off_is_ignored(bandit):
    whole = load_run(bandit).history
    text = (bandit / "metrics.jsonl").read_text()
    for cut in (1, 2, 40):
        (bandit / "metrics.jsonl").write_text(text[:-cut])
        assert load_run(bandit).history == (whole if cut == 1 else whole[:-1])


def test_a_row_written_again_after_a_resume_counts_once(bandit):
    whole = load_run(bandit).history
    lines = (bandit / "metrics.jsonl").read_text().splitlines(keepends=True)
    (bandit / "metrics.jsonl").write_text("".join(lines + lines[50:55]))
    assert load_run(bandit).history == whole


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.jsonl", '{"iteration": 1, \n{"iteration": 2}\n', r"metrics.jsonl, line 1: not a row"),
        ("metrics.jsonl", '{"no": 1}\n{"iteration": 2}\n', r"metrics.jsonl, line 1: not a row"),
        ("summary.json", '{"evaluation": ', r"summary.json is damaged .* delete it"),
        ("summary.json", "{}", r"summary.json holds no evaluation"),
        ("config.yaml", "a: [", r"config.yaml is not readable as YAML"),
        ("config.yaml", "a: 1", r"config.yaml names no choices"),
        (
            "config.yaml",
            "seed: 0\nchoices: {env: bandit, algorithm: rl2}\n",
            r"config.yaml names no choices of env, model and algorithm",
        ),
        ("config.yaml", "seed: 0\nchoices: {env: bandit, algorithm: rl2, model: g}", r"config.yaml ends within a line"),
    ],
)
def test_damaged_files_are_named(bandit, file, text, message):
    (bandit / file).write_text(text)
    with pytest.raises(RunDirectoryError, match=message) as caught:
        load_run(bandit)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("zoo:bandit_gru", "evaluate, watch and analyse take it"), ("a.safetensors", "take it"), ("none", "of that name")],
)
def test_what_is_no_run_is_answered_with_what_to_give(tmp_path, name, remedy):
    for read in (load_run, Sweep):
        with pytest.raises(RunDirectoryError, match=rf"{name} is not a .* directory .*{remedy}"):
            read(tmp_path / name)


def test_a_directory_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        load_run(tmp_path)
    with pytest.raises(RunDirectoryError, match="no run directory given"):
        load_runs([])


# Naming and grouping


def test_runs_that_differ_in_the_seed_are_one_group(sweep):
    groups = group_runs(load_runs(sweep))
    assert list(groups) == ["tabular_mdp/gru/rl2", "tabular_mdp/lstm/rl2", "bandit/gru/rl2", "bandit/lstm/rl2"]
    assert [run.seed for run in groups["bandit/gru/rl2"]] == [0, 1, 2]


def test_labels_hold_the_settings_that_differ(tmp_path):
    settings = [
        {},
        {"model.hidden_size": 32, "seed": 1},
        {"env.num_arms": 10},
        {"algorithm.learning_rate": 1e-4, "model.hidden_size": 32},
    ]
    runs = [load_run(write_run(tmp_path / str(i), settings=changes)) for i, changes in enumerate(settings)]
    names = name_runs(runs)
    assert names[0].label == "bandit/gru/rl2 num_arms=5 learning_rate=0.001 hidden_size=128"
    assert names[2].environment == "bandit num_arms=10"
    assert names[3].method == "gru/rl2 learning_rate=0.0001 hidden_size=32"
    assert len(group_runs(runs)) == 4


def test_labels_ignore_where_and_how_a_run_ran(tmp_path):
    changes = {"device": "cuda", "training.eval_every": 50, "eval.num_tasks": 7, "num_threads": 4, "env.num_threads": 2}
    runs = [load_run(write_run(tmp_path / str(i), seed=i, settings=c)) for i, c in enumerate(({}, changes))]
    assert list(group_runs(runs)) == ["bandit/gru/rl2"]


def test_settings_that_follow_the_environment_are_no_difference(tmp_path):
    """Each environment may need its own budget; the method is still the same."""
    one = write_run(tmp_path / "a", env="bandit")
    other = write_run(tmp_path / "b", env="tabular_mdp", settings={"training.total_steps": 7})
    changes = {"training.total_steps": 9, "env.num_arms": 10}
    wider = write_run(tmp_path / "c", env="bandit", settings=changes)
    names = name_runs(load_runs([one, other, wider]))
    assert {name.method for name in names} == {"gru/rl2"}
    assert [name.environment for name in names] == ["bandit num_arms=5", "tabular_mdp", "bandit num_arms=10"]


def test_ambiguous_keys_are_shown_whole(tmp_path):
    changes = {"model.width": 2, "algorithm.width": 3}
    runs = [load_run(write_run(tmp_path / str(i), settings=c)) for i, c in enumerate(({}, changes))]
    assert name_runs(runs)[1].method == "gru/rl2 algorithm.width=3 model.width=2"
    assert name_runs(runs)[0].method == "gru/rl2 algorithm.width=absent model.width=absent"


def test_a_method_without_a_model_is_named(tmp_path):
    assert load_run(write_run(tmp_path / "a", model=None)).method == "rl2"


def test_the_option_of_a_group_stands_for_its_keys(tmp_path):
    def run(name: str, option: str, layers: str, seed: int = 0):
        path = write_run(tmp_path / name, seed=seed)
        config = yaml.safe_load((path / "config.yaml").read_text())
        config["choices"]["conditioning"], config["model"]["conditioning"] = option, {"layers": layers}
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        return load_run(path)

    plain, film, again = run("a", "none", "[]"), run("b", "film", "[8]"), run("c", "film", "[8]", seed=1)
    assert [name.method for name in name_runs([plain, film, again])] == [
        "gru/rl2 conditioning=none",
        *["gru/rl2 conditioning=film"] * 2,
    ]
    wider = run("d", "film", "[16]")  # what the option does not tell is still told
    assert name_runs([plain, film, wider])[2].method == "gru/rl2 conditioning=film layers=[16]"


def test_a_run_names_the_commit_it_began_with(tmp_path, monkeypatch):
    """Which a repository that moves on meanwhile leaves as it was."""
    config = small_config("training.total_steps=36", "eval.final_num_tasks=8", "eval.baselines=false")
    trainer = build(config, tmp_path / "run")
    monkeypatch.setattr("metarl.experiment.provenance", lambda _: {"commit": f"after {trainer.progress.iteration}"})
    experiment.run(trainer, config)
    assert load_run(tmp_path / "run").summary["commit"] == "after 0" and trainer.progress.iteration > 0
