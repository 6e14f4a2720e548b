"""The memory law over every model: a sequence whole, in pieces or by steps gives the same. And their formulas."""

import copy
import typing
from functools import lru_cache, partial

import pytest
import torch
import yaml
from gymnasium import spaces
from helpers import make_policy, perturb, small_config
from hydra.utils import instantiate

from metarl.checking.models import (
    LANES,
    MEMORY_CHECKS,
    Memory,
    all_close,
    close,
    cut,
    gradients,
    in_steps,
    policy_steps_equal_the_whole,
    random_cuts,
    random_timesteps,
    whole,
)
from metarl.configuration.compose import CONF, options
from metarl.models import linear_attention, sliding_window
from metarl.types import EnvSpec

INPUT = 9  # a box of 4, 3 actions, reward and flag
SPEC = EnvSpec(spaces.Box(-1, 1, (4,)), spaces.Discrete(3), task_dim=3, trial_length=50)  # of ``make_policy``


@lru_cache(maxsize=2)
def subject_of(model_option: str, *changes: str) -> Memory:
    """A memory that is configured once, for all checks of it; each check has copies of its own."""
    policy = make_policy(f"model={model_option}", *changes)
    return Memory(lambda: copy.deepcopy(policy), SPEC)


def variants() -> list:
    """Every model as shipped and, where its memory has switches or choices, with each one turned."""
    files = (CONF / "model" / "_policy.yaml", CONF / "conditioning" / "none.yaml")
    shared = {key for file in files for key in yaml.safe_load(file.read_text())}
    found = []
    for name in options("model"):
        found.append(pytest.param((name,), id=name))
        model = small_config(f"model={name}")["model"]
        hints = typing.get_type_hints(instantiate(model["memory"]).func.__init__)
        for key, value in model.items():
            for other in other_choices(value, hints.get(key)) if key not in shared else []:
                change = f"model.{key}={other}"
                found.append(pytest.param((name, change), id=f"{name}-{change}"))
    return found


def other_choices(value, annotation) -> list[str]:
    if isinstance(value, bool):
        return [str(not value).lower()]
    return [word for word in typing.get_args(annotation) if isinstance(word, str) and word != value]


every_memory = pytest.mark.parametrize("memory", variants())


@pytest.mark.parametrize("check", MEMORY_CHECKS, ids=lambda check: check.name)
@every_memory
def test_every_memory_keeps_the_law(memory, check):
    check.law(subject_of(*memory))


def with_gradients(memory, run, x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs, and gradients of a random linear functional of them."""
    found = []

    def noting(*given):
        found[:] = run(*given)
        return found

    rest = gradients(memory, noting, x)
    return [found[0].detach(), *rest]


@pytest.mark.parametrize("length", [1, 7, 33, 70])
def test_the_law_holds_in_double_precision_for_any_length_and_cuts(model_option, length, monkeypatch):
    """In blocks of time of usual sizes; and, for 33 steps, of 8, which are four blocks and a step."""
    if length == 33:
        monkeypatch.setattr(sliding_window, "SMALLEST_BLOCK", 8)
        in_chunks = partial(linear_attention.gated_linear_attention, chunk=8)
        monkeypatch.setattr(linear_attention, "gated_linear_attention", in_chunks)
    policy = make_policy(f"model={model_option}", trial_length=length + 3)
    memory = policy.memory.double()
    perturb(memory)
    x = torch.randn(length, 2, INPUT, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    expected = with_gradients(memory, whole, x)
    all_close(with_gradients(memory, cut(random_cuts(length)), x), expected, "in pieces")
    all_close(with_gradients(memory, in_steps, x), expected, "in steps")
    with torch.no_grad():
        close(in_steps(memory, x)[0], expected[0], "in steps without gradients")


@pytest.mark.parametrize("critic", ["shared", "separate", "privileged", "memoryless"])
@pytest.mark.parametrize("spaces_of", ["discrete", "box"])
def test_a_policy_obeys_the_memory_law_with_every_critic(model_option, critic, spaces_of):
    observation, action = {
        "discrete": (spaces.Discrete(4), spaces.Discrete(3)),
        "box": (spaces.Box(-1, 1, (2, 2)), spaces.Box(-1, 1, (2,))),
    }[spaces_of]
    overrides = (f"model={model_option}", f"model.critic={critic}")
    policy = make_policy(*overrides, observation_space=observation, action_space=action)
    perturb(policy)
    policy_steps_equal_the_whole(policy, random_timesteps(observation, action), torch.randn(LANES, 3))


def test_the_first_policy_is_close_to_uniform(model_option):
    policy = make_policy(f"model={model_option}")
    timestep = random_timesteps(spaces.Box(-1, 1, (4,)), spaces.Discrete(3))
    output, _ = policy(timestep, policy.initial_carry(LANES), torch.zeros(LANES, 3))
    assert (output.distribution_params.softmax(-1) - 1 / 3).abs().max() < 0.02
