"""Evaluation task by task: arrivals, falls, pooled returns, and the table of ``metarl evaluate --by-task``."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import Corridor, Counter, make_env
from processes import outcome, run_py

from metarl.analysis.by_task import task_table
from metarl.cli import main
from metarl.errors import ConfigError
from metarl.evaluation import PlayedTasks, evaluate, evaluate_per_task, summarise
from metarl.types import Tasks


def played(returns, lengths, successes=None, falls=None, fixed_length=False, **parameters) -> PlayedTasks:
    """One episode on each task."""
    returns = torch.tensor(returns, dtype=torch.float64)
    nothing = torch.zeros(len(returns), dtype=torch.float64)
    return PlayedTasks(
        trials=returns[None, None],
        episodes_met=[0],
        successes=None if successes is None else torch.tensor(successes, dtype=torch.float64),
        falls=nothing if falls is None else torch.tensor(falls, dtype=torch.float64),
        last_returns=returns,
        last_lengths=torch.tensor(lengths, dtype=torch.float64),
        tasks=Tasks({name: torch.tensor(values) for name, values in parameters.items()} or {"none": nothing}),
        fixed_length=fixed_length,
        source="fresh",
    )


def test_pooled_returns_count_short_episodes_more_often_than_task_means():
    """Half of the tasks -10 in 35 steps, half -150 in 200: pooled -30.8, over tasks -80."""
    result = summarise(played([-10.0, -150.0] * 10, [35.0, 200.0] * 10, [1.0, 0.0] * 10, [0.0, 0.5] * 10))
    assert result.return_mean == pytest.approx(-80)
    assert result.pooled_return == pytest.approx((-10 / 35 - 150 / 200) / (1 / 35 + 1 / 200))
    assert result.pooled_return == pytest.approx(-30.85, abs=0.01)
    assert result.success_rate == 0.5 and result.fall_rate == 0.25


@pytest.mark.parametrize("given", [{"fixed_length": True, "successes": [1.0, 0.0]}, {"successes": None}])
def test_without_early_ends_or_success_nothing_is_pooled(given):
    result = summarise(played([1.0, 2.0], [5.0, 5.0], **given))
    assert result.pooled_return is None and result.fall_rate is None
    assert "pooled_return" not in result.as_dict()


@pytest.mark.parametrize(("option", "falls"), [("point_goal", False), ("ant_target", True)])
def test_a_fall_rate_is_given_only_where_an_agent_can_fall(option, falls):
    env = make_env(f"env={option}", num_tasks=1)
    assert not env.fixed_length and env.can_fall is falls
    result = summarise(replace(played([1.0, 2.0], [3.0, 5.0], [1.0, 0.0], [0.0, 0.0]), can_fall=env.can_fall))
    assert (result.fall_rate is not None) is falls and result.pooled_return is not None


class Hurdle(Corridor):
    """A corridor that ends early without success where it is shorter than the horizon and earns little."""

    def step(self, action):
        step = super().step(action)
        return step._replace(success=step.terminated & (self.tasks.parameters["bonus"].squeeze(1) > 0))


def test_lengths_arrivals_and_falls_are_those_of_the_episodes_played():
    found = evaluate_per_task(Counter(3), lambda **given: Hurdle(**given), num_tasks=50, seed=0, batch_size=20)
    length, bonus = found.tasks.description.double().T
    ends = length <= 5
    torch.testing.assert_close(found.last_lengths, length.clamp(max=5))
    torch.testing.assert_close(found.successes, (ends & (bonus > 0)).double())
    torch.testing.assert_close(found.falls, (ends & (bonus <= 0)).double())
    torch.testing.assert_close(found.last_returns, found.returns.mean(0))
    assert 0 < found.successes.mean() < 1 and 0 < found.falls.mean() < 1
    assert evaluate(Counter(3), lambda **given: Hurdle(**given), num_tasks=50, seed=0).fall_rate is not None


def test_few_values_get_a_row_each_and_many_are_halved():
    rows = task_table(
        played([1.0, 2.0, 3.0, 4.0, 6.0], [9.0] * 5, side=[1.0, -1.0, 1.0, -1.0, 1.0], speed=[0.1, 0.2, 0.3, 0.4, 0.5])
    )
    assert [(row["tasks"], row["count"], row["last_episode"]) for row in rows] == [
        ("side = -1", 2, 3.0),
        ("side = 1", 3, pytest.approx(10 / 3)),
        ("speed <= 0.3", 3, 2.0),
        ("speed > 0.3", 2, 5.0),
    ]
    assert rows[0]["standard_error"] == pytest.approx(1.0) and "success_rate" not in rows[0]


def test_tasks_of_many_numbers_are_refused():
    with pytest.raises(ConfigError, match="described by 9 numbers; it takes at most 8"):
        task_table(played([1.0], [1.0], weights=[[0.0] * 9]))


def test_the_command_plays_every_set_that_is_asked_for(tmp_path, capsys):
    sizes = ["meta_batch_size=2", "lanes_per_task=2", "eval.num_tasks=2", "eval.final_num_tasks=2", "env.horizon=9"]
    line = ["env=point_goal", "algorithm=maml", *sizes, "training.total_steps=72"]
    code, _, said = outcome(run_py(*line, "hydra.run.dir=run", directory=tmp_path))
    assert code == 0, said
    directory = tmp_path / "run"
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["evaluation"]["sampled"]["episodes_met"] == [0, 1, 4, 5]
    assert summary["baselines"]["Random"]["episodes_met"] == [0, 1, 2, 3]  # as long a trial, but nobody adapts
    main(["evaluate", str(directory), "--task-set", "train", "out_of_range", "--num-tasks", "3", "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert {"train", "out_of_range"} < found.keys()
    assert {"pooled_return", "success_rate"} <= found["train"]["sampled"].keys()
    assert "fall_rate" not in found["train"]["sampled"]  # points cannot fall
    main(["evaluate", str(directory), "--by-task", "--num-tasks", "6", "--format", "csv"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split(",")[:3] == ["actions", "tasks", "count"] and len(rows) == 8
