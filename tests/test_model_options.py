"""Every option of every model changes what the policy computes."""

import typing

import pytest
import torch
from gymnasium import spaces
from helpers import make_policy, own_options, perturb, same, small_config
from hydra.utils import instantiate

from metarl.configuration.compose import options
from metarl.models.heads import PlainHeads
from metarl.models.policy import Policy
from metarl.seeding import make_generator
from metarl.types import Timestep


def other_values(value, annotation) -> list[str]:
    """Other admissible values of an option, one at least."""
    words = [word for word in typing.get_args(annotation) if isinstance(word, str)]
    if isinstance(value, bool):
        return [str(not value).lower()]
    if isinstance(value, int | float):
        return [str(2 * value)]
    if value is None:
        return ["100"]
    return [word for word in words if word != value]


def model_options() -> list[tuple[str, str, str]]:
    found = []
    for model in options("model"):
        node = small_config(f"model={model}")["model"]
        memory = instantiate(node["memory"]).func
        parts = (memory.__init__, PlainHeads.__init__, Policy.__init__)
        hints = {name: hint for part in parts for name, hint in typing.get_type_hints(part).items()}
        for name in own_options(node) - {"memory", "heads"}:
            values = other_values(node[name], hints[name])
            assert values, f"{model}.{name} has no other value"
            found += [(model, name, value) for value in values]
    return sorted(found)


# What an option of a model only counts with, and is refused without.
NEEDED = {
    ("splagger", "temperature"): ("model.aggregator=softmax",),
    ("amrl", "temperature"): ("model.aggregator=softmax",),
    ("transformer", "context"): ("model.positions=learned",),
}
CONTINUOUS = ("initial_std", "state_dependent_std")  # refused where actions are discrete


@pytest.mark.parametrize(("model", "option", "value"), model_options())
def test_every_option_of_a_model_changes_what_it_computes(model, option, value):
    generator = make_generator(0)
    timestep = Timestep(
        observation=torch.randn(9, 2, 4, generator=generator),
        previous_observation=torch.randn(9, 2, 4, generator=generator),
        previous_action=torch.randint(3, (9, 2), generator=generator),
        previous_reward=torch.randn(9, 2, generator=generator),
        first=torch.rand(9, 2, generator=generator) < 0.3,
    )
    observations, actions = spaces.Box(-1, 1, (4,)), spaces.Discrete(3)
    if option == "image_embedding_size":  # refused where there are none
        observations = spaces.Box(-1, 1, (5, 4, 3))
        pictures = torch.randn(2, 9, 2, 5, 4, 3, generator=generator)
        timestep = timestep._replace(observation=pictures[0], previous_observation=pictures[1])
    if option in CONTINUOUS:
        actions = spaces.Box(-1, 1, (3,))
        timestep = timestep._replace(previous_action=torch.randn(9, 2, 3, generator=generator))

    def outputs(*overrides):
        needed = NEEDED.get((model, option), ())
        given = {"observation_space": observations, "action_space": actions}
        policy = make_policy(f"model={model}", *needed, *overrides, **given)
        perturb(policy)
        output, _ = policy(timestep, policy.initial_carry(2), torch.randn(2, 3, generator=make_generator(1)))
        return tuple(part.detach() for part in output)

    assert same(outputs(), outputs())
    assert not same(outputs(), outputs(f"model.{option}={value}"))
