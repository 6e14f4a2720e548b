"""The analysis of memories, on one whose answers are known, and as a command."""

import csv

import numpy as np
import pytest
import torch
from torch import nn

from metarl.analysis.memory import QUANTITIES, analyse, at_steps, write_analysis
from metarl.cli import main
from metarl.models.base import SequenceModel
from metarl.seeding import make_generator

STEPS, DIM = 12, 4


class Average(SequenceModel):
    """Scales its inputs by one number, adds a bias, and averages over time."""

    def __init__(self):
        super().__init__()
        self.output_dim = DIM
        self.scale, self.bias = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(5.0))

    def initial_carry(self, batch_size):
        return ()

    def forward(self, x, carry):
        count = torch.arange(1, len(x) + 1).view(-1, 1, 1)
        return (self.scale * x + self.bias).cumsum(0) / count, ()


@pytest.fixture(scope="module")
def measured():
    return analyse(Average(), DIM, STEPS, repeats=2, generator=make_generator(0))


def test_gradients_with_respect_to_inputs(measured):
    """Gradient norm of a sum of d averages over t + 1 steps, scaled by 2: 2 sqrt(d) / (t + 1)."""
    count = np.arange(1, STEPS + 1)
    np.testing.assert_allclose(measured["first_input_gradient"], 2 * DIM**0.5 / count, rtol=1e-5)
    np.testing.assert_allclose(measured["input_gradient"], np.full(STEPS, 2 * DIM**0.5 / STEPS), rtol=1e-5)


def test_an_average_knows_no_order(measured):
    np.testing.assert_allclose(measured["permutation_difference"], np.zeros(STEPS), atol=1e-5)


def test_an_integrator_with_a_weight_per_step_does():
    class Weighted(Average):
        def forward(self, x, carry):
            return super().forward(x * torch.arange(1, len(x) + 1).view(-1, 1, 1), carry)

    found = analyse(Weighted(), DIM, STEPS, repeats=2, generator=make_generator(0))
    assert found["permutation_difference"][0] < 1e-6 and found["permutation_difference"][-1] > 1e-3


def test_signal_and_noise(measured):
    """Without the bias a signal of one is 2 / (t + 1), and its power the square; noise has a third per step."""
    count = np.arange(1, STEPS + 1)
    np.testing.assert_allclose(measured["signal_power"], (5 + 2 / count) ** 2, rtol=1e-5)
    noise = (2 / count) ** 2 / measured["signal_to_noise"]
    assert noise[0] == pytest.approx(4 / 3, rel=0.6) and noise[-1] < noise[0]


def test_the_memory_is_left_as_it_was():
    memory = Average()
    analyse(memory, DIM, STEPS, 1, make_generator(0))
    assert memory.bias.item() == 5 and memory.scale.grad is None


def test_files_hold_every_step_of_every_quantity(measured, tmp_path):
    table, figure = write_analysis({"average": measured, "again": measured}, tmp_path / "new")
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 2 * len(QUANTITIES) * STEPS and figure.read_text().count("<svg") == 1
    shown = at_steps({"average": measured}, [0, 3])
    assert [set(row) for row in shown] == [{"model", "quantity", "t=0", "t=3"}] * len(QUANTITIES)


def test_the_command_compares_untrained_memories(tmp_path, capsys):
    small = ["env=bandit", "env.num_episodes=5", "model.hidden_size=8"]
    main(["analyse", "model=gru,mlp", *small, "--repeats", "1", "--output", str(tmp_path), "--format", "csv"])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    values = {(row["model"], row["quantity"]): row for row in rows}
    assert (
        float(values["mlp", "first_input_gradient"]["t=4"]) == 0 < float(values["gru", "first_input_gradient"]["t=4"])
    )
    assert (tmp_path / "memory.csv").exists() and (tmp_path / "memory.svg").exists()


def test_the_command_asks_which_memories(capsys):
    with pytest.raises(SystemExit):
        main(["analyse", "env=bandit"])
    assert "name at least one model, such as model=gru" in capsys.readouterr().err
