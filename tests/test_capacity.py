"""Sizes that do not fit are refused before anything large is filled, and the others are built as ever."""

import time

import pytest
import torch
from helpers import same, small_config
from torch import nn

from metarl.configuration import capacity
from metarl.configuration.build import build_algorithm
from metarl.configuration.capacity import Allocations, TooLargeError, rehearse
from metarl.configuration.compose import options
from metarl.errors import ConfigError

WIDE = {"model.hidden_size": 10**6}


def layers() -> list[nn.Module]:
    """A first layer of 4 GB, which fits, and a second of 4 TB; both with orthogonal weights."""
    made = []
    for inputs in (1000, 10**6):
        made.append(nn.Linear(inputs, 10**6))
        nn.init.orthogonal_(made[-1].weight)
    return made


def test_a_first_layer_that_fits_is_not_filled_where_the_second_does_not_fit():
    rehearse(lambda: nn.Linear(1, 1), WIDE, 2**34)  # loads what torch loads at its first dispatch
    started = time.process_time()
    with pytest.raises(TooLargeError, match=r"needs 3,7[0-9]{2}.* GiB of memory or more, and 16.0 GiB are free"):
        rehearse(layers, WIDE, 2**34)
    assert time.process_time() - started < 1  # second; to fill it takes ten


def test_a_rehearsal_adds_nothing_to_what_is_counted():
    with Allocations(2**34) as counted:
        rehearse(lambda: nn.Linear(1000, 10**6), WIDE, 2**34)
    assert counted.used == 0


def test_other_errors_are_left_to_the_construction():
    def broken():
        raise ValueError("of its own")

    rehearse(broken, WIDE, 2**34)


def test_what_is_small_is_not_rehearsed():
    rehearse(layers, {"model.hidden_size": 64, "model.num_layers": 2, "meta_batch_size": 10**6}, 2**20)


def weights_of(monkeypatch, worth_it: int, combination) -> tuple[dict, torch.Tensor]:
    monkeypatch.setattr(capacity, "WORTH_IT", worth_it)
    monkeypatch.setattr(capacity, "UNWRITTEN", 8)
    algorithm, model, env = combination
    agent, _ = build_algorithm(small_config(f"env={env}", f"model={model}", f"algorithm={algorithm}"))
    return agent.state_dict(), torch.get_rng_state()


@pytest.mark.parametrize("model", [*options("model"), "maml", "varibad"])
def test_a_rehearsal_changes_neither_weights_nor_random_streams(model, monkeypatch):
    combination = {"maml": ("maml", "mlp"), "varibad": ("varibad", "gru")}.get(model, ("rl2", model))
    found, expected = (weights_of(monkeypatch, size, (*combination, "point_goal")) for size in (1, 2**62))
    assert same(found, expected)


@pytest.mark.parametrize("model", ["mlp algorithm=maml", "gru", "transformer", "splagger"])
def test_a_width_that_does_not_fit_is_refused_at_once(model):
    config = small_config("env=point_goal", *f"model={model}".split())
    config["model"]["hidden_size"] = 2**27
    started = time.process_time()
    with pytest.raises(ConfigError, match=r"model\.hidden_size=134217728: needs .* GiB .* lower it"):
        build_algorithm(config)
    assert time.process_time() - started < 2
