"""``metarl evaluate``: which checkpoint, which tasks, which settings."""

import json

import pytest
import torch

from metarl.cli import main
from metarl.configuration.trained import load_source
from metarl.evaluation import evaluate
from metarl.runs.checkpoint import Checkpoints, load
from metarl.seeding import stream_seed

SETTINGS = ["--num-tasks", "300", "--seed", "4"]


def said(capsys, run, *options: str):
    main(["evaluate", str(run.path), *SETTINGS, "--format", "json", *options])
    return json.loads(capsys.readouterr().out)


def error(capsys, run, *options: str) -> str:
    with pytest.raises(SystemExit):
        main(["evaluate", str(run.path), *SETTINGS, *options])
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_every_checkpoint_that_was_kept_has_a_row(brief_run, capsys):
    found = said(capsys, brief_run, "--checkpoint", "all")
    assert [row["checkpoint"] for row in found] == ["2", "3", "best"]
    latest, second = said(capsys, brief_run), said(capsys, brief_run, "--checkpoint", "2")
    assert found[1]["sampled"] == latest["sampled"] and found[0]["sampled"] == second["sampled"]
    assert found[0]["sampled"] != found[1]["sampled"]
    best = Checkpoints(brief_run.path / "checkpoints").path("best")
    iteration = load(best)["progress"]["iteration"]  # that of the untrained agent, or the only one that was evaluated
    assert iteration in (0, 2) and (found[2]["sampled"] == found[0]["sampled"]) == (iteration == 2)
    main(["evaluate", str(brief_run.path), *SETTINGS, "--checkpoint", "all", "--format", "csv"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("checkpoint,actions,return") and len(lines) == 7


def test_settings_of_the_environment_may_differ(brief_run, capsys):
    found = said(capsys, brief_run, "env.num_episodes=20")
    assert len(found["sampled"]["adaptation_curve"]) == 20 and found["overrides"] == ["env.num_episodes=20"]
    before = ["evaluate", str(brief_run.path), "env.num_episodes=20", *SETTINGS, "--format", "json"]
    main(before)
    assert json.loads(capsys.readouterr().out) == found
    assert "env.num_arms=9: changes the shape" in error(capsys, brief_run, "env.num_arms=9")
    assert "seed=3: a trained agent takes" in error(capsys, brief_run, "seed=3")
    assert "unrecognized arguments: --depth" in error(capsys, brief_run, "--depth", "3")


def test_parameters_of_the_tasks_may_be_chosen(brief_run, capsys):
    agent, parts, _ = load_source(brief_run.path, "latest")
    means = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])

    def make_env(**options):
        env = parts.make_env(**options)
        draw = env.draw_tasks

        def drawn(count, task_set):
            tasks = draw(count, task_set)
            tasks.parameters["mean"][:] = means
            return tasks

        env.draw_tasks = drawn
        return env

    expected = evaluate(agent, make_env, num_tasks=300, seed=stream_seed(4, "command_line"), greedy=True)
    found = said(capsys, brief_run, "--task", "mean=0,0,1,1,1")
    assert found["greedy"] == json.loads(json.dumps(expected.as_dict())) and found["task"] == ["mean=0,0,1,1,1"]
    assert "--task chance=1: no such parameter; the task has mean" in error(capsys, brief_run, "--task", "chance=1")
    assert "mean is 5 numbers" in error(capsys, brief_run, "--task", "mean=1")


def test_checkpoints_that_are_not_there_are_named(brief_run, capsys):
    assert "no checkpoint of iteration 1; kept are 2, 3" in error(capsys, brief_run, "--checkpoint", "1")
    assert "'first' is none of latest, best, all" in error(capsys, brief_run, "--checkpoint", "first")
