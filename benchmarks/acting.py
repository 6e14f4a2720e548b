"""How fast an agent acts: many lanes against one, and against the bare arithmetic of its cell."""

import torch
from timing import Row, cpu_seconds, learner, trial_of
from torch import nn

LANES, EPISODES, HIDDEN = 1024, 100, 256
SIZE = ("env=bandit", f"env.num_episodes={EPISODES}", f"model.hidden_size={HIDDEN}", "algorithm.num_minibatches=1")


def rows() -> list[Row]:
    """Environment steps per CPU-second of collecting trials on the bandit, one thread."""
    torch.set_num_threads(1)
    found = []
    for name, norm in (("GRU", "false"), ("layer-normalised GRU", "true")):
        many = learner(*SIZE, f"model.layer_norm={norm}", f"meta_batch_size={LANES}")
        one = learner(*SIZE, f"model.layer_norm={norm}", "meta_batch_size=1")
        work = {"many": lambda many=many: trial_of(*many), "one": lambda one=one: trial_of(*one), "cell": bare_cell}
        seconds = cpu_seconds(work, repeats=7)
        title = f"acting, {name} {HIDDEN}, {LANES} lanes"
        found += [
            Row(f"{title}: steps/s", f"{LANES * EPISODES / seconds['many']:,.0f}"),
            Row(f"{title} / one lane", LANES * seconds["one"] / seconds["many"], 30),
            Row(f"{title} / bare nn.GRUCell", seconds["cell"] / seconds["many"], 0.6),
        ]
    return found


@torch.no_grad()
def bare_cell() -> None:
    """The recurrence alone: no environment, features, heads, sampling or storing."""
    cell, x, hidden = nn.GRUCell(7, HIDDEN), torch.randn(LANES, 7), torch.zeros(LANES, HIDDEN)
    for _ in range(EPISODES):
        hidden = cell(x, hidden)
