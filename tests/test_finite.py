"""A number that is not finite ends a run with one message and its last good checkpoint, or drops one update."""

import copy
import json
import math

import pytest
import torch
from helpers import (
    StopAt,
    collected,
    finish,
    make_algorithm,
    read_rows,
    same,
    small_config,
    timeless_states,
    trainer_of,
)
from processes import outcome, run_py

from metarl.errors import NonFiniteError
from metarl.finite import check_diagnostics, check_parameters, check_rollout
from metarl.runs.checkpoint import Checkpoints, load

PARTS = {
    "observation": lambda rollout: rollout.timestep.observation,
    "value": lambda rollout: rollout.decision.value,
    "log-probability of the action": lambda rollout: rollout.decision.log_prob,
    "action": lambda rollout: rollout.decision.action,
    "reward": lambda rollout: rollout.reward,
    "observation after the step": lambda rollout: rollout.next_observation,
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e25])
@pytest.mark.parametrize("name", PARTS)
def test_the_message_names_quantity_step_lane_and_value(name, value):
    (rollout,) = collected(*make_algorithm("env=point_goal"))
    check_rollout(rollout, None)
    PARTS[name](rollout)[3, 1] = value
    PARTS["observation after the step"](rollout)[7, 0] = math.nan  # later, so not the first
    with pytest.raises(NonFiniteError, match=f"the {name} at step 3 of lane 1 is {value:g}".replace("+", r"\+")):
        check_rollout(rollout, None)


def test_within_a_step_the_cause_comes_first():
    (rollout,) = collected(*make_algorithm("env=point_goal"))
    for part in PARTS.values():
        part(rollout)[2] = math.nan
    with pytest.raises(NonFiniteError, match="the observation at step 2 of lane 0"):
        check_rollout(rollout, None)


def test_an_agent_with_a_broken_parameter_is_the_cause():
    agent, env = make_algorithm("env=point_goal")
    next(agent.parameters()).data.view(-1)[0] = math.nan
    with pytest.raises(NonFiniteError, match=r"the parameter policy\.\S+ is nan"):
        collected(agent, env)


@pytest.mark.parametrize(
    ("diagnostics", "first"),
    [
        ({"kl": math.nan, "gradient_norm": math.inf, "policy_loss": math.nan}, "the loss policy_loss is nan"),
        ({"kl": math.nan, "gradient_norm": math.inf, "policy_loss": 0.0}, "the gradient gradient_norm is inf"),
        ({"kl": math.nan, "gradient_norm": 1.0}, "the diagnostic kl is nan"),
    ],
)
def test_losses_come_before_gradients_and_these_before_others(diagnostics, first):
    check_diagnostics({"policy_loss": 0.0, "kl": 1e30})
    with pytest.raises(NonFiniteError, match=first):
        check_diagnostics(diagnostics)


def test_discrete_observations_and_empty_modules_have_nothing_to_check():
    check_rollout(collected(*make_algorithm("env=tabular_mdp"))[0], None)
    check_parameters(torch.nn.Identity())


# ---------------------------------------------------------------- in training


def broken_at(trainer, iteration: int, value: float, count: int = 1) -> None:
    """Spoil one reward of every lane in some iterations, before whatever else looks at it."""
    step = trainer.env.step

    def spoilt(action):
        found = step(action)
        if iteration <= trainer.progress.iteration + 1 < iteration + count:
            return found._replace(reward=torch.full_like(found.reward, value))
        return found

    trainer.env.step = spoilt


def training(*overrides: str, iterations: int = 5) -> dict:
    """A small configuration without evaluations that trains for so many iterations."""
    config = small_config(*overrides)
    config["training"] |= {"total_steps": 10**9, "eval_every": 0}
    return config


def model_of(algorithm_option: str) -> str:
    methods = ("maml", "meta_sgd", "e_maml", "promp", "maesn", "adapt_sv", "tesp", "multitask")
    return "mlp" if algorithm_option in methods else "gru"


@pytest.mark.parametrize(
    "env, key",
    [
        ("gaussian_bandit", "reward_std"),
        ("point_navigation", "half_width"),
        ("point_navigation", "max_step"),
        ("cheetah_vel", "control_cost"),
        ("cheetah_vel", "max_velocity"),
    ],
)
@pytest.mark.parametrize("value", [1e30, 1e9])
def test_a_message_names_the_setting_that_is_very_large(env, key, value, tmp_path):
    trainer = trainer_of(training(f"env={env}", f"env.{key}={value}"), tmp_path)
    try:
        trainer.train(StopAt(trainer, 2))
    except NonFiniteError as error:
        assert f"(very large: env.{key}={value:g})" in str(error)
    else:
        assert value == 1e9


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_broken_reward_ends_the_run_and_keeps_the_last_good_checkpoint(algorithm_option, value, tmp_path):
    config = training(f"algorithm={algorithm_option}", f"model={model_of(algorithm_option)}", "env=point_goal")
    trainer = trainer_of(config, tmp_path)
    broken_at(trainer, 3, value)
    message = "iteration 3: the reward at step 0 of lane 0 is .* The last good checkpoint is .*00000002.pt"
    with pytest.raises(NonFiniteError, match=message):
        trainer.train(StopAt(trainer, 5))
    kept = Checkpoints(tmp_path / "checkpoints").numbered()
    assert [path.stem for path in kept] == ["00000001", "00000002"]
    assert all(value.isfinite().all() for value in load(kept[-1])["algorithm"].values())
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 2


def test_a_rate_that_explodes_is_found_in_the_iteration_it_breaks(algorithm_option, tmp_path):
    """Whatever the method steps with; a trust region takes no step that is too long, and has no rate."""
    config = training(f"algorithm={algorithm_option}", f"model={model_of(algorithm_option)}", "env=point_goal")
    node = config["algorithm"]
    rate = node if "learning_rate" in node else node["meta_optimizer"]
    if "learning_rate" not in rate:
        pytest.skip("no learning rate of Adam")
    rate["learning_rate"] = 1e20
    trainer = trainer_of(config, tmp_path)
    with pytest.raises(NonFiniteError, match=r"iteration [12]: the (loss|gradient|parameter|value|log-prob)"):
        trainer.train(StopAt(trainer, 4))
    for path in Checkpoints(tmp_path / "checkpoints").numbered():
        assert all(value.isfinite().all() for value in load(path)["algorithm"].values())


def test_a_dropped_update_changes_nothing_and_is_counted(algorithm_option, tmp_path):
    config = training(f"algorithm={algorithm_option}", f"model={model_of(algorithm_option)}", "env=point_goal")
    config["training"]["on_nonfinite"] = "skip"
    trainer = trainer_of(config, tmp_path)
    broken_at(trainer, 3, math.nan)
    trainer.train(StopAt(trainer, 2))
    before = copy.deepcopy([trainer.algorithm.state_dict(), trainer.algorithm.training_state()])
    trainer.train(StopAt(trainer, 3))
    assert same(before, [trainer.algorithm.state_dict(), trainer.algorithm.training_state()])
    trainer.train(StopAt(trainer, 4))
    assert not same(before[0], trainer.algorithm.state_dict())
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["train/skipped_updates"] for row in rows] == [0, 0, 1, 1]
    assert "train/return" not in rows[2] and "train/return" in rows[3]


def test_an_update_that_breaks_the_parameters_is_undone(tmp_path):
    config = training("env=bandit")
    config["training"]["on_nonfinite"] = "skip"
    trainer = trainer_of(config, tmp_path)
    trainer.train(StopAt(trainer, 1))
    before, update = copy.deepcopy(trainer.algorithm.state_dict()), trainer.algorithm.update

    def breaking(*given):
        found = update(*given)
        next(trainer.algorithm.parameters()).data.fill_(math.nan)
        return found

    trainer.algorithm.update = breaking
    trainer.train(StopAt(trainer, 2))
    assert same(before, trainer.algorithm.state_dict())


def test_too_many_dropped_updates_in_a_row_end_the_run(tmp_path):
    config = training("env=bandit")
    config["training"] |= {"on_nonfinite": "skip", "max_skipped": 2}
    trainer = trainer_of(config, tmp_path)
    broken_at(trainer, 2, math.nan, count=2)
    broken_at(trainer, 5, math.nan, count=3)
    with pytest.raises(NonFiniteError, match=r"iteration 7: .* training\.max_skipped=2 updates in a row"):
        trainer.train(StopAt(trainer, 9))


def test_a_run_that_dropped_updates_resumes_exactly(tmp_path):
    config = training("env=bandit")
    config["training"]["on_nonfinite"] = "skip"
    whole, first = trainer_of(config, tmp_path / "whole"), trainer_of(config, tmp_path / "parts")
    for trainer in (whole, first):
        broken_at(trainer, 2, math.nan, count=2)
    whole.train(StopAt(whole, 6))
    first.train(StopAt(first, 3))
    first.run_dir.close()
    second = trainer_of(config, tmp_path / "parts")
    assert second.progress.skipped_updates == second.progress.skipped_in_a_row == 2
    second.train(StopAt(second, 6))
    assert same(*timeless_states([whole, second]))


def test_an_evaluation_of_a_broken_agent_has_no_result():
    from metarl.configuration.build import build_algorithm
    from metarl.evaluation import evaluate

    agent, built = build_algorithm(small_config("env=bandit"))
    next(agent.parameters()).data.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="the parameter"):
        evaluate(agent, built.make_env, num_tasks=4, seed=0)


def test_the_program_says_so_in_a_line_and_fails(tmp_path):
    run_dir = tmp_path / "run"
    given = ("algorithm.learning_rate=1e20", "meta_batch_size=32", "training.total_steps=3200")
    code, _, errors = outcome(run_py(*given, f"hydra.run.dir={run_dir}", directory=tmp_path))
    assert code == 1 and "Traceback" not in errors
    assert [line for line in errors.splitlines() if line.startswith("error: iteration 1: the loss policy_loss is nan")]
    assert not (run_dir / "summary.json").exists()


def test_a_failed_run_of_a_sweep_shows_as_failed(tmp_path):
    from metarl.runs.sweep import Sweep

    given = ("meta_batch_size=32", "training.total_steps=640", "eval.num_tasks=20", "eval.final_num_tasks=20")
    rates = "algorithm.learning_rate=1e-3,1e20"
    options = ("eval.baselines=false", "cluster=local_pool", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    code, _, _ = outcome(run_py("-m", *given, rates, *options, directory=tmp_path))
    assert code != 0
    good, bad = Sweep(tmp_path / "sweep").statuses()
    assert good.state == "finished" and bad.state == "failed"
    assert "iteration 1: the loss policy_loss is nan" in bad.error
    json.loads((good.job.directory / "summary.json").read_text())


def test_finish_is_reached_where_nothing_is_wrong(tmp_path):
    config = training("env=bandit")
    config["training"]["total_steps"] = 2 * 6 * 3
    finish(trainer_of(config, tmp_path))
