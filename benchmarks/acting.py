"""Acting speed: many lanes against one lane, and against the bare recurrent cell."""

import os
from functools import partial

import torch
from timing import Row, learner, trial_of, wall_seconds
from torch import nn

LANES, EPISODES, HIDDEN = 1024, 100, 256
SIZE = ("env=bandit", f"env.num_episodes={EPISODES}", f"model.hidden_size={HIDDEN}", "algorithm.num_minibatches=1")


def rows() -> list[Row]:
    """Environment steps per second of collecting trials on the bandit, by one thread and by all cores; wall time."""
    found = []
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        for name, norm in (("GRU", "false"), ("layer-normalised GRU", "true")):
            many = learner(*SIZE, f"model.layer_norm={norm}", f"meta_batch_size={LANES}")
            one = learner(*SIZE, f"model.layer_norm={norm}", "meta_batch_size=1")
            work = {"many": partial(trial_of, *many), "one": partial(trial_of, *one), "cell": bare_cell}
            seconds = wall_seconds(work, repeats=7)
            title = f"acting, {name} {HIDDEN}, {LANES} lanes, {threads} threads"
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
