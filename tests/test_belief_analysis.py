"""Beliefs over a trial: what is measured of a memory that is read as one."""

import csv

import numpy as np
import pytest
import torch
from helpers import collected, make_algorithm, perturb

from metarl.algorithms.elbo import as_belief
from metarl.analysis import beliefs
from metarl.cli import main

SMALL = ["env=grid", "env.num_episodes=2", "env.horizon=5", "model.hidden_size=8"]


def measured(*overrides: str):
    agent, env = make_algorithm("algorithm=varibad", "algorithm.reward_decoder=per_cell", *SMALL, *overrides, lanes=4)
    perturb(agent, 0.3)
    (rollout,) = collected(agent, env)
    return agent, env, rollout, beliefs.measure(agent, env, rollout, seed=0)


def test_a_belief_is_measured_at_every_step():
    agent, _, rollout, found = measured()
    known, _ = agent.policy.encode(rollout.timestep, agent.policy.initial_carry(4))
    belief = as_belief(known.actor.detach())
    np.testing.assert_allclose(found.mean, belief.mean.numpy(), atol=1e-6)
    np.testing.assert_allclose(found.deviation, belief.log_variance.exp().sqrt().numpy(), rtol=1e-5)
    assert found.cells == (5, 5) and found.believed.shape == found.true.shape == (10, 4, 25)
    np.testing.assert_allclose(found.true.sum(-1), 1, atol=1e-6)
    assert found.costs.keys() == {"latent_kl", "reward_error"} and (found.gradient > 0).all()


def test_the_gradient_of_values_is_that_of_finite_differences():
    agent, _, rollout, found = measured()
    known, _ = agent.policy.encode(rollout.timestep, agent.policy.initial_carry(4))
    told = known.actor.detach()
    sizes = []
    with torch.no_grad():
        for index in range(told.shape[-1]):
            shift = torch.zeros_like(told)
            shift[..., index] = 1e-2
            value = [
                agent.policy.act_and_value(
                    rollout.timestep, known._replace(actor=moved, critic=moved), rollout.tasks.description
                ).value
                for moved in (told + shift, told - shift)
            ]
            sizes.append((value[0] - value[1]) / 2e-2)
    np.testing.assert_allclose(found.gradient, torch.stack(sizes).norm(dim=0).numpy(), rtol=0.02, atol=1e-4)


def test_the_table_averages_over_tasks_that_still_play():
    _, _, _, found = measured()
    mask = found.mask.copy()
    mask[5:, 1:] = False
    rows = beliefs.table({"a": found._replace(mask=mask)})
    assert [row["step"] for row in rows] == list(range(10))
    assert rows[7]["latent_kl"] == pytest.approx(float(found.costs["latent_kl"][7, 0]), rel=1e-5)
    assert rows[2]["deviation"] == pytest.approx(float(found.deviation[2].mean()), rel=1e-5)


def test_the_command_writes_beliefs_of_any_memory_read_as_one(tmp_path, capsys):
    arguments = ["analyse", "model=gru,mingru", "algorithm=varibad", *SMALL, "--study", "beliefs", "--num-tasks", "3"]
    main([*arguments, "--output", str(tmp_path), "--format", "csv"])
    shown = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(row["model"], row["step"]) for row in shown] == [(m, s) for m in ("gru", "mingru") for s in ("0", "9")]
    arrays = np.load(tmp_path / "beliefs.npz", allow_pickle=False)
    assert arrays["gru-mean"].shape == (10, 3, 5) and arrays["mingru-true"].shape == (10, 3, 25)
    assert (tmp_path / "beliefs.svg").read_text().count("<svg") == 1
    rows = list(csv.DictReader((tmp_path / "beliefs.csv").open()))
    assert len(rows) == 20 and shown[1] == rows[9]


def test_a_memory_that_is_no_belief_is_told_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["analyse", "model=gru", "--study", "beliefs", "--output", str(tmp_path / "new")])
    assert "set model.latent_dim" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_an_agent_that_is_told_has_no_memory_to_study(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["analyse", "model=mlp", "algorithm=multitask", *SMALL, "--output", str(tmp_path / "new")])
    assert "no memory to analyse" in capsys.readouterr().err
