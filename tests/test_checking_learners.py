"""``metarl check``: broken memories and algorithms fail the checks they break; the command says so."""

import json

import pytest
import torch
from gymnasium import spaces
from helpers import small_config
from torch import nn

from metarl.algorithms.rl2 import RL2
from metarl.checking.algorithms import LEARNER_CHECKS, Learner
from metarl.checking.models import CHECKS_OF_ANY_SIZE, MEMORY_CHECKS, Memory
from metarl.checking.outcomes import failed, run
from metarl.cli import main
from metarl.models.base import SequenceModel
from metarl.models.heads import PlainHeads
from metarl.models.policy import Policy
from metarl.types import EnvSpec


class Sum(SequenceModel):
    """A decaying sum of projected inputs; keeps every promise."""

    def __init__(self, input_dim: int):
        super().__init__()
        self.output_dim = 6
        self.project = nn.Linear(input_dim, 6)

    def initial_carry(self, batch_size):
        return self.project.weight.new_zeros(batch_size, 6)

    def forward(self, x, carry):
        outputs = []
        for step in self.project(x):
            carry = 0.8 * carry + step
            outputs.append(carry)
        return torch.stack(outputs), carry


class WrongSize(Sum):
    def forward(self, x, carry):
        y, carry = super().forward(x, carry)
        return y[..., :5], carry


class CutCarry(Sum):
    def forward(self, x, carry):
        y, new = super().forward(x, carry)
        return y, new * (len(x) == 37) + carry * (len(x) == 20)


class OtherStep(Sum):
    def step(self, x, carry):
        y, carry = super().step(x, carry)
        return y * 1.01, carry


class Detached(Sum):
    def forward(self, x, carry):
        return super().forward(x, carry.detach())


class Prophet(Sum):
    def forward(self, x, carry):
        y, carry = super().forward(x, carry)
        return y + x.mean(0, keepdim=True).sum(-1, keepdim=True) * (len(x) == 37) * x.new_tensor(1.0), carry


class Mixing(Sum):
    def forward(self, x, carry):
        return super().forward(x - 0.1 * x.mean(1, keepdim=True), carry)


class Sticky(Sum):
    def __init__(self, input_dim: int):
        super().__init__(input_dim)
        self.calls = 0

    def step(self, x, carry):
        self.calls = 1
        return super().step(x, carry)

    def forward(self, x, carry):
        y, carry = super().forward(x, carry)
        return y + 1e-7 * self.calls * (x.shape[0] == 37), carry


class Amnesia(Sum):
    def forward(self, x, carry):
        return self.project(x), carry


class LanesLater(Sum):
    def initial_carry(self, batch_size):
        return super().initial_carry(batch_size).T

    def forward(self, x, carry):
        y, carry = super().forward(x, carry.T)
        return y, carry.T


BROKEN_MEMORIES = {
    WrongSize: {"policies can be built around it"},
    CutCarry: {
        "pieces equal the whole",
        "single steps equal the whole",
        "gradients flow through the carry",
        "the policy step by step equals the whole",
    },
    OtherStep: {
        "single steps equal the whole",
        "gradients flow through the carry",
        "the policy step by step equals the whole",
    },
    Detached: {"gradients flow through the carry"},
    Mixing: {"lanes do not interact", "carries have lanes on axis 0"},
    Sticky: {"nothing is remembered outside the carry"},
    Amnesia: {"the carry is what remembers"},
    LanesLater: {"carries have lanes on axis 0"},
}


def wrong_in_memory(kind, checks=MEMORY_CHECKS) -> set[str]:
    spec = EnvSpec(spaces.Box(-1, 1, (4,)), spaces.Discrete(3), 3, 50)

    def policy():
        torch.manual_seed(0)
        return Policy(spec, memory=kind, heads=PlainHeads)

    return set(failed(run("model", checks, Memory(policy, spec))))


def test_a_sound_memory_passes():
    assert wrong_in_memory(Sum) == set()


@pytest.mark.parametrize("broken", BROKEN_MEMORIES, ids=lambda kind: kind.__name__)
def test_a_broken_memory_fails_the_checks_it_breaks(broken):
    assert wrong_in_memory(broken) == BROKEN_MEMORIES[broken]
    assert wrong_in_memory(broken, CHECKS_OF_ANY_SIZE) == BROKEN_MEMORIES[broken]


class Rounding(Sum):
    """Right but for digits that single precision loses, more of them in longer pieces."""

    def forward(self, x, carry):
        y, carry = super().forward(x, carry)
        return (y + 1e3 * len(x)) - 1e3 * len(x), carry


def test_rounding_of_large_numbers_is_no_fault_of_a_memory():
    assert "pieces equal the whole" in wrong_in_memory(Rounding)
    assert wrong_in_memory(Rounding, CHECKS_OF_ANY_SIZE) == set()


def test_a_memory_that_sees_the_future_fails_that_check():
    assert "the future is not seen" in wrong_in_memory(Prophet)


# ---------------------------------------------------------------- algorithms


class Diverging(RL2):
    def update(self, trial, progress, generator):
        return super().update(trial, progress, generator) | {"loss": float("nan")}


class Shifted(RL2):
    def evaluate(self, batch):
        timestep = batch.timestep._replace(previous_reward=batch.timestep.previous_reward.roll(1, 0))
        return super().evaluate(batch._replace(timestep=timestep))


class Coupled(RL2):
    def act(self, timestep, state, generator, greedy=False):
        decision, state = super().act(timestep, state, generator, greedy)
        return decision._replace(value=decision.value + timestep.previous_reward.mean()), state

    def evaluate(self, batch):
        output = super().evaluate(batch)
        return output._replace(value=output.value + batch.timestep.previous_reward.mean(1, keepdim=True))


class Peeking(RL2):
    def act(self, timestep, state, generator, greedy=False):
        decision, state = super().act(timestep, state, generator, greedy)
        return decision._replace(action=(state.task.sum(1) * 1e3).long() % 3), state


class Overwriting(RL2):
    def update(self, trial, progress, generator):
        logs = super().update(trial, progress, generator)
        trial[0].reward.mul_(0.5)
        return logs


class Unseeded(RL2):
    def update(self, trial, progress, generator):
        state = torch.get_rng_state()
        order = torch.Generator().manual_seed(int(torch.randint(1000, ()).item()))
        torch.set_rng_state(state)
        return super().update(trial, progress, order)


class Careless(RL2):
    def training_state(self):
        return {}

    def load_training_state(self, state):
        pass


BROKEN_ALGORITHMS = {
    Diverging: {"it can be built and learns finite numbers"},
    Shifted: {"ratio one: recomputed equals stored"},
    Coupled: {"lanes do not interact"},
    Peeking: {"ratio one: recomputed equals stored", "actions do not depend on the task's description"},
    Overwriting: {"an update leaves trial and global randomness alone"},
    Unseeded: {"the same seed trains the same weights"},
    Careless: {"interrupted equals uninterrupted"},
}


def wrong_in_algorithm(kind, env: str = "tabular_mdp") -> set[str]:
    config = small_config(f"env={env}")
    config["algorithm"]["_target_"] = f"{kind.__module__}.{kind.__name__}"
    return set(failed(run("algorithm", LEARNER_CHECKS, Learner(config))))


@pytest.mark.parametrize("broken", BROKEN_ALGORITHMS, ids=lambda kind: kind.__name__)
def test_a_broken_algorithm_fails_the_checks_it_breaks(broken):
    assert wrong_in_algorithm(broken) == BROKEN_ALGORITHMS[broken]


@pytest.mark.parametrize("algorithm", ["rl2", "varibad", "maml", "maesn"])
def test_algorithms_pass_all_checks(algorithm):
    assert not failed(run("algorithm", LEARNER_CHECKS, Learner(small_config(f"algorithm={algorithm}"))))


# ---------------------------------------------------------------- the command


def test_the_command_prints_a_table_and_its_exit_code_says_whether_all_holds(capsys):
    main(["check", "env=bandit", "model=mlp", "--format", "json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["subject"] for row in rows} == {"env=bandit", "model=mlp"}
    assert {row["status"] for row in rows} == {"passed", "not applicable"}
    with pytest.raises(SystemExit) as ended:
        main(["check", "env=bandit", "env._target_=test_checking.Narrow", "~env.num_arms", "~env.num_episodes"])
    out = capsys.readouterr().out
    assert ended.value.code == 1 and "failed" in out and "declare bounds that hold" in out


def test_the_command_asks_what_to_check(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["check", "seed=3"])
    assert ended.value.code == 1 and "add env=..., model=... or algorithm=..." in capsys.readouterr().err
