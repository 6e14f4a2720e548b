"""Finite sets of tasks: listed, numbered, played equally often; errors over what they have to be over; what is said."""

import json
import math

import pytest
import torch
from helpers import make_env, small_config
from processes import outcome, run_py
from run_directories import write_run

from metarl.analysis.adapted import adapted_table
from metarl.analysis.by_task import task_table
from metarl.analysis.runs import load_run
from metarl.analysis.selection import select
from metarl.analysis.task_notes import selected_on_the_same, sentence
from metarl.cli import main
from metarl.configuration.build import build, build_env_factory
from metarl.configuration.compose import compose
from metarl.errors import ConfigError
from metarl.evaluation import evaluate, evaluate_after_adaptation, evaluate_per_task
from metarl.held_out import error_over, standard_error, task_source
from metarl.types import Decision, Tasks

COUNTS = {  # of all tasks, and of the held-out ones
    ("ant_dir",): (2, 2),
    ("ant_dir", "env.directions=legacy_radian"): (2, 2),
    ("ant_dir", "env.directions=any"): None,
    ("cheetah_dir",): (2, 2),
    ("cheetah_dir_sparse",): (2, 2),
    ("cheetah_grid",): (25, 4),
    ("cheetah_grid", "env.held_out=[]"): (25, 25),
    ("cheetah_hop", "env.max_height=0.3"): (1, 1),
    ("cheetah_hop_walk",): None,
    ("cheetah_hop_walk", "env.parametric=false"): (2, 2),
    ("cheetah_vel",): None,
    ("cheetah_vel", "env.min_velocity=3.0"): (1, 1),
    ("grid",): (21, 21),
    ("hall", "env.num_doors=7"): (7, 7),
    ("humanoid_dir", "env.directions=forward_backward"): (2, 2),
    ("planning_game",): None,
    ("planning_game", "env.size=2"): (24, 24),
    ("point_goal",): (300, 100),
    ("point_goal", "env.num_goals=null"): None,
    ("rooms", "env.indicator=order"): (4, 4),
    ("swimmer_dir",): (2, 2),
    ("tmaze",): (2, 2),
    ("tmaze", "env.indicators=[1,2]"): (4, 4),
    ("wheeled",): (300, 100),
}


@pytest.mark.parametrize("given", COUNTS, ids=" ".join)
def test_environments_list_their_tasks_where_these_have_an_end(given):
    env = make_env(f"env={given[0]}", *given[1:])
    held_out = env.all_tasks("held_out")
    assert (None if held_out is None else (env.num_tasks_total, len(held_out))) == COUNTS[given]


def test_lists_numbers_and_draws_of_tasks_agree(env_option):
    """Whatever is drawn from a set is in its list; numbers run through all lists; or there is neither."""
    overrides = [f"env={env_option}"] + (["env.num_workers=0"] if env_option.startswith("ml") else [])
    env = make_env(*overrides, num_tasks=5)
    lists = {task_set: env.all_tasks(task_set) for task_set in env.task_sets}
    if None in lists.values():
        assert set(lists.values()) == {None} and env.num_tasks_total is None
        with pytest.raises(NotImplementedError, match="does not number its tasks"):
            env.task_id(env.sample_tasks())
        return
    numbers = {task_set: env.task_id(tasks).tolist() for task_set, tasks in lists.items()}
    assert set().union(*numbers.values()) == set(range(env.num_tasks_total))
    assert all(len(set(found)) == len(found) for found in numbers.values())
    assert numbers["train"] == list(range(len(numbers["train"])))
    for task_set in env.task_sets:
        drawn = env.sample_tasks(task_set)
        assert set(env.task_id(drawn).tolist()) <= set(numbers[task_set])
        listed = lists[task_set].select(torch.tensor([numbers[task_set].index(n) for n in env.task_id(drawn)]))
        assert torch.equal(listed.description, drawn.description)
        assert {name: value.dtype for name, value in listed.parameters.items()} == {
            name: value.dtype for name, value in drawn.parameters.items()
        }


# ---------------------------------------------------------------- what errors are over


def test_an_error_over_trials_is_that_of_a_stratified_mean():
    """Two tasks that earn 0 and 100, give or take 1: the mean is known to 1 / sqrt(R N), however far they are apart."""
    trials = torch.tensor([[-1.0, 99.0], [1.0, 101.0]] * 50, dtype=torch.float64)  # [R, N]
    variance = 100 / 99
    assert standard_error(trials, "trials").item() == pytest.approx(math.sqrt(variance / 200))
    assert standard_error(trials, "tasks").item() == pytest.approx(50)
    means = trials + torch.randn(4000, 100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = (means - trials).mean((1, 2)).std()
    noise = standard_error(means - trials, "trials").mean()
    assert noise.item() == pytest.approx(expected.item(), rel=0.05)


def test_a_single_task_or_trial_has_no_error_and_no_nan():
    assert standard_error(torch.ones(1, 1), "tasks") == 0
    assert error_over("all", 1) == "tasks" and error_over("all", 2) == "trials" and error_over("fixed", 2) == "tasks"


class Pushing:
    """Earns what it pushes: 1 in one direction of a two-task runner, and noise."""

    rollouts = (1,)

    def initial_state(self, tasks):
        return tasks.parameters["direction"].reshape(len(tasks), -1)[:, 0]

    def act(self, timestep, state, generator, greedy=False):
        count, size = len(state), 6
        action = torch.rand(count, size, generator=generator) * (state > 0).unsqueeze(1)
        return Decision(action, torch.zeros(count), torch.zeros(count)), state


def runner():
    return build_env_factory(small_config("env=cheetah_dir", "env.num_episodes=1", "env.horizon=4"))


def test_both_directions_of_a_runner_are_played_equally_often():
    played = evaluate_per_task(Pushing(), runner(), num_tasks=21, seed=0, batch_size=6)
    assert played.tasks.parameters["direction"].tolist() == [1, -1] and played.trials.shape == (1, 10, 2)
    result = evaluate(Pushing(), runner(), num_tasks=21, seed=0, batch_size=6)
    per_task = played.trials[0].mean(0)
    assert result.return_mean == pytest.approx(per_task.mean().item())
    assert result.return_se == pytest.approx(math.sqrt(played.trials[0].var(0).sum().item() / 10) / 2)
    assert result.return_se < abs(per_task[0] - per_task[1]).item() / 2  # not the toss of a direction
    assert (result.num_tasks, result.trials_per_task) == (2, 10)
    assert (result.task_source, result.error_over) == ("all", "trials")
    rows = task_table(played)
    assert [(row["tasks"], row["count"], row["trials_of_each"], row["error_over"]) for row in rows] == [
        ("direction = -1", 1, 10, "trials"), ("direction = 1", 1, 10, "trials"),
    ]  # fmt: skip
    assert rows[1]["standard_error"] == pytest.approx((played.trials[0, :, 0].var() / 10).sqrt().item())


# ---------------------------------------------------------------- what is said


SOURCES = {"bandit": "fresh", "cheetah_vel": "fresh", "point_goal": "fixed", "grid": "all", "cheetah_grid": "fixed"}


@pytest.mark.parametrize(("option", "source"), SOURCES.items())
def test_where_tasks_come_from(option, source):
    env = make_env(f"env={option}", num_tasks=4)
    assert task_source(env, "held_out", env.sample_tasks("held_out")) == source


def test_tasks_that_nobody_lists_are_known_by_their_repetition():
    env = make_env("env=bandit")
    assert task_source(env, "held_out", Tasks({"a": torch.tensor([0.0, 1.0, 0.0])})) == "repeating"


def test_only_tasks_drawn_afresh_are_said_to_be_new():
    said = {
        source: sentence({"task_source": source, "num_tasks": 40, "trials_per_task": 1})
        for source in ("fresh", "fixed", "all", "repeating")
    }
    assert [source for source, text in said.items() if "no earlier evaluation played them" in text] == ["fresh"]
    assert [source for source, text in said.items() if "best.pt" in text] == ["fixed", "all", "repeating"]
    assert "best.pt is not selected" in sentence({"task_source": "fixed", "num_tasks": 40}, selected_on="train")
    assert sentence({"num_tasks": 40}) == "40 held-out tasks"  # of an earlier version: nothing is claimed
    assert [selected_on_the_same({"task_source": source}) for source in said] == [False, True, True, True]
    assert selected_on_the_same({"task_source": "fixed"}, "train") is False and selected_on_the_same({}) is None


@pytest.mark.parametrize(
    ("source", "words"), [("fresh", "other tasks"), ("all", "the same tasks"), (None, "not record")]
)
def test_a_selection_says_whether_it_was_made_on_the_tasks_compared(tmp_path, source, words):
    paths = [
        write_run(tmp_path / str(rate), settings={"algorithm.learning_rate": rate}, final=final)
        for rate, final in ((1e-3, 6.0), (1e-2, 6.5))
    ]
    for path in paths if source else ():
        summary = json.loads((path / "summary.json").read_text())
        summary["evaluation"]["sampled"]["task_source"] = source
        (path / "summary.json").write_text(json.dumps(summary))
    assert words in select([load_run(path) for path in paths], "algorithm.learning_rate").note


def test_a_run_says_what_it_was_selected_on_and_can_be_selected_on_training_tasks(tmp_path, capsys):
    size = ["meta_batch_size=2", "env.horizon=5", "training.eval_every=1", "eval.num_tasks=2"]
    size += ["eval.final_num_tasks=100", "eval.task_sets=train", "algorithm.num_minibatches=1"]
    line = ["env=point_goal", "env.num_episodes=1", "training.total_steps=10", *size, "hydra.run.dir=run"]
    code, out, said = outcome(run_py(*line, directory=tmp_path, report=True))
    assert code == 0, said
    words = "100 held-out tasks of a fixed set, on which best.pt is not selected"
    assert words in out and words in (tmp_path / "run" / "report.html").read_text()
    for task_set in ("train", "held_out"):
        config = tmp_path / "run" / "config.yaml"
        config.write_text(config.read_text().replace("task_sets: train", f"task_sets: {task_set}"))
        main(["evaluate", str(tmp_path / "run"), "--checkpoint", "best", "--num-tasks", "3"])
        captured = capsys.readouterr()
        assert ("best.pt was selected by its return on these 100 held_out" in captured.err) == (task_set == "held_out")
        assert "error over" in captured.out
    main(["report", str(tmp_path / "run")])
    assert "so best.pt is selected on it" in (tmp_path / "run" / "report.html").read_text()


def test_an_unknown_task_set_of_evaluations_is_refused(tmp_path):
    config = small_config("env=bandit", "eval.task_sets=trian")
    with pytest.raises(ConfigError, match=r"eval.task_sets=trian: BernoulliBandit has train, held_out"):
        build(config, tmp_path)
    assert compose([])["eval"]["task_sets"] == "held_out"


def test_episodes_after_adaptation_are_played_on_both_directions_too():
    found = evaluate_after_adaptation(Pushing(), runner(), num_tasks=9, seed=0, episodes=2, batch_size=6)
    assert found.tasks.parameters["direction"].tolist() == [1, -1] * 4 and found.returns.shape == (8, 2)
    returns = found.returns.numpy()
    (row,) = adapted_table(returns, None, found.steps.numpy(), ["all tasks"] * 8, [0, 1] * 4)
    per_trial = returns.mean(1)
    assert (row["tasks"], row["error_over"]) == (2, "trials") and row["return"] == pytest.approx(per_trial.mean())
    strata = [per_trial[start::2].var(ddof=1) / 4 for start in (0, 1)]
    assert row["standard_error"] == pytest.approx(math.sqrt(sum(strata)) / 2)
    assert adapted_table(returns, None, found.steps.numpy(), ["all tasks"] * 8)[0]["error_over"] == "tasks"
