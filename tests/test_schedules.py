"""Evaluations during training: when they are made, on which tasks, and what is kept of them."""

import math
from itertools import pairwise

import pytest
from helpers import StopAt, read_rows, same, small_config, timeless, trainer_of

from metarl.analysis.figures import learning_curve
from metarl.analysis.report import write_report
from metarl.analysis.runs import load_run
from metarl.configuration.build import build
from metarl.configuration.trained import load_source
from metarl.errors import ConfigError
from metarl.evaluation import evaluate
from metarl.experiment import run
from metarl.plans import EvaluationPlan, Schedule, schedule
from metarl.runs.checkpoint import load

SIZE = ("env=point_goal", "env.horizon=5", "env.num_episodes=1", "meta_batch_size=2", "algorithm.num_minibatches=1")
TASKS = ("eval.num_tasks=6", "eval.final_num_tasks=10", "eval.batch_size=6", "eval.baselines=false")
SETS = (*SIZE, *TASKS, "eval.task_sets=[train,held_out]", "training.total_steps=40", "training.eval_every=2 per run")


def due(when: Schedule, steps: list[int], total: int) -> list[int]:
    """Iterations after which an evaluation is due, for the environment steps done after each."""
    pairs = enumerate(pairwise([0, *steps]), 1)
    return [number for number, (before, after) in pairs if when.is_due(number, before, after, total)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, [3, 6, 9]), ("3 iterations", [3, 6, 9]), ("250 steps", [3, 5, 8, 10]), ("4 per run", [3, 5, 8, 10]), (0, [])],
)
def test_evaluations_are_due_at_their_times(value, expected):
    assert due(schedule(value), list(range(100, 1001, 100)), 1000) == expected


@pytest.mark.parametrize("iterations", [7, 10, 64, 1001])
@pytest.mark.parametrize("number", [1, 3, 7])
def test_a_run_of_any_length_has_the_number_asked_for_and_the_last_iteration_is_one_of_them(iterations, number):
    for size in (1, 13):
        steps = [size * index for index in range(1, iterations + 1)]
        found = due(Schedule(number, "per run"), steps, steps[-1] - size // 2)  # the last one passes the total
        assert len(found) == number and found[-1] == iterations
        assert all(abs(after - before - iterations / number) <= 1 for before, after in pairwise([0, *found]))


@pytest.mark.parametrize("value", ["often", "3 per week", "steps", "-2 steps", "9" * 5000 + " steps", ""])
def test_another_form_is_refused(value, tmp_path):
    with pytest.raises(ConfigError, match=r"training.eval_every=.* must be a number of iterations such as 50"):
        build(small_config(f"training.eval_every='{value}'"), tmp_path)


@pytest.mark.parametrize("sets", [[], ["train", "train"]])
def test_sets_are_named_once(sets):
    with pytest.raises(ConfigError, match=r"eval.task_sets=.*: name at least one set, and each once"):
        EvaluationPlan(2, 2, 2, False, sets)


def test_the_untrained_agent_is_evaluated_and_the_first_of_the_best(tmp_path):
    config = small_config(*SETS)
    trainer, other = trainer_of(config, tmp_path / "run"), trainer_of(config, tmp_path / "other")
    trainer.train(StopAt(trainer, 1))
    first, second = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert first["iteration"] == first["env_steps"] == 0 and "train/return" not in first
    assert "eval/sampled/return_mean" not in second
    expected = evaluate(
        other.algorithm, other.make_env, num_tasks=6, seed=other.evaluation_seed, batch_size=6, task_set="train"
    )
    assert first["eval/sampled/return_mean"] == expected.return_mean
    best = load(trainer.run_dir.checkpoints.path("best"))
    assert best["progress"]["iteration"] == 0 and same(best["algorithm"], other.algorithm.state_dict())


def test_a_run_killed_before_its_first_checkpoint_evaluates_the_untrained_agent_again(tmp_path):
    config = small_config(*SETS, "training.checkpoint_every=3")
    killed = trainer_of(config, tmp_path / "killed")
    killed._record(killed._counters() | killed._evaluate())
    killed._record(killed._iterate())
    killed.run_dir.close()
    for name in ("killed", "whole"):
        trainer = trainer_of(config, tmp_path / name)
        assert trainer.progress.iteration == 0
        trainer.train(StopAt(trainer, 4))
    rows = [[timeless(row) for row in read_rows(tmp_path / name / "metrics.jsonl")] for name in ("killed", "whole")]
    assert rows[0] == rows[1] and [row["iteration"] for row in rows[0]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("eval_every", [1, 1000])
def test_a_best_agent_that_is_the_untrained_one_is_said(eval_every, tmp_path, caplog):
    trainer = trainer_of(small_config(*SETS, f"training.eval_every={eval_every}"), tmp_path)
    trainer.train(StopAt(trainer, 2))
    best = load(trainer.run_dir.checkpoints.path("best"))["progress"]["iteration"]
    load_source(tmp_path, "best", ())
    assert ("holds the untrained agent" in caplog.text) == (best == 0) and (best == 0 or eval_every == 1)
    caplog.clear()
    load_source(tmp_path, "latest", ())
    assert not caplog.text


@pytest.fixture(scope="module")
def on_two_sets(tmp_path_factory):
    """A finished run that was evaluated on training and on held-out tasks."""
    directory = tmp_path_factory.mktemp("sets")
    config = small_config(*SETS)
    run(build(config, directory), config)
    return load_run(directory)


def test_the_gap_is_the_difference_of_the_returns_on_both_sets(on_two_sets):
    rows = [row for row in on_two_sets.history if "eval/sampled/return_mean" in row]
    assert [row["iteration"] for row in rows] == [0, 2, 4]
    for row in rows:
        gap = row["eval/sampled/return_mean"] - row["eval/held_out/sampled/return_mean"]
        assert row["eval/generalization_gap/held_out"] == gap != 0
    summary = on_two_sets.summary
    train, held_out = summary["task_sets"]["train"]["sampled"], summary["evaluation"]["sampled"]
    found = summary["generalization_gap"]["held_out"]
    assert found["mean"] == train["return_mean"] - held_out["return_mean"] != 0
    assert found["standard_error"] == math.hypot(train["return_se"], held_out["return_se"])


def test_the_report_shows_both_curves_and_the_gap(on_two_sets, tmp_path):
    assert on_two_sets.selected_on == "train"
    figure = learning_curve(on_two_sets)
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    for label in ("agent, sampled, train tasks", "agent, greedy, train tasks", "agent, sampled, held-out tasks"):
        assert any(label in text for text in texts), texts
    curve = on_two_sets.curve("sampled", task_set="held_out")
    assert curve.mean.tolist() == [
        row["eval/held_out/sampled/return_mean"] for row in on_two_sets.history if row["iteration"] % 2 == 0
    ]
    write_report([on_two_sets.path], tmp_path / "page.html")
    assert "generalisation gap, held-out tasks" in (tmp_path / "page.html").read_text()


def test_the_end_of_a_run_says_the_gap(on_two_sets, capsys):
    run(build(on_two_sets.config, on_two_sets.path), on_two_sets.config)  # a finished run shows its results again
    found = on_two_sets.summary["generalization_gap"]["held_out"]
    words = f"generalisation gap, held-out tasks: {found['mean']:.4g} ± {found['standard_error']:.2g}"
    assert words in capsys.readouterr().out.splitlines()
