"""Layers and networks that a condition changes: exact, at first as published, and with values that can be rescaled."""

import copy
import shutil
import typing

import pytest
import torch
from helpers import batch_of, collected, config_of, make_algorithm, make_policy, perturb, same
from hydra.utils import instantiate

from metarl.configuration import compose
from metarl.configuration.compose import options
from metarl.errors import ConfigError
from metarl.models.conditional_layers import FilmLayer, HyperLinear, UnconditionedLinear, initializer
from metarl.models.conditioning import Concatenate, Film, Hypernetwork
from metarl.seeding import make_generator

NETWORKS = ("concatenate", "hypernetwork", "film")


def layers(input_dim: int, output_dim: int, condition_dim: int = 3) -> list:
    fill = initializer("normc", 1.0)
    return [
        HyperLinear(input_dim, output_dim, condition_dim, "naive", fill, 1.0),
        HyperLinear(input_dim, output_dim, condition_dim, "weight", fill, 1.0, shared=False),
        FilmLayer(input_dim, output_dim, condition_dim, "naive", fill),
        UnconditionedLinear(input_dim, output_dim, fill),
    ]


# ---------------------------------------------------------------- exactness


@pytest.mark.parametrize(("input_dim", "output_dim"), [(5, 4), (4, 5), (6, 1), (1, 6)])
@pytest.mark.parametrize("shared", [True, False])
def test_a_generated_layer_is_a_matrix_of_its_own_for_every_sample(input_dim, output_dim, shared):
    layer = HyperLinear(input_dim, output_dim, 3, "bias", initializer("normc", 1.0), 1.0, shared).double()
    perturb(layer)
    x, condition = torch.randn(7, 2, input_dim).double(), torch.randn(7, 2, 3).double()
    generated = layer.generate(condition.flatten(0, 1))
    assert generated.shape == (14, output_dim * (input_dim + 1))
    weight = generated[:, : output_dim * input_dim].view(7, 2, output_dim, input_dim)
    by_hand = torch.zeros(output_dim, input_dim).double() + (layer.weight[-1] if shared else 0)
    by_hand = by_hand + sum(condition[0, 0, k] * layer.weight[k] for k in range(3))
    torch.testing.assert_close(weight[0, 0], by_hand)
    expected = torch.einsum("abi,aboi->abo", x, weight) + generated[:, output_dim * input_dim :].view(7, 2, output_dim)
    torch.testing.assert_close(layer(x, condition), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("index", range(4))
def test_gradients_of_conditional_layers_agree_with_finite_differences(index):
    for shape in ((3, 2), (2, 3)):
        layer = layers(*shape)[index].double()
        perturb(layer)
        inputs = [torch.randn(4, size, requires_grad=True).double() for size in (shape[0], 3)]
        parameters = tuple(layer.parameters())

        def run(x, condition, *_, layer=layer):
            return layer(x, condition)

        torch.autograd.gradcheck(run, (*inputs, *parameters))


@pytest.mark.parametrize("index", range(4))
def test_outputs_can_be_rescaled_exactly(index):
    layer = layers(5, 1)[index].double()
    perturb(layer)
    one_hot = torch.eye(3).double()
    x = torch.randn(3, 5).double()
    expected = 0.3 * layer(x, one_hot) - 2
    layer.rescale_(torch.tensor(0.3), torch.tensor(-2.0))
    torch.testing.assert_close(layer(x, one_hot), expected)


# ---------------------------------------------------------------- as published, at first


@torch.no_grad()
def measured(network, seeds: int = 10, **options) -> dict[str, float]:
    """Standard deviations over states and latents: 20-d states, 24-d latents, 6 actions, networks of Beck et al."""
    rows = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        sizes = {"layers": [256, 128], "observation_embedding_size": 256, "condition_layers": [25]}
        networks = network(20, 24, 6, 1.0, **sizes, weight_init="normc", **options)
        condition = networks.condition(torch.randn(400, 24))
        found = networks(torch.randn(400, 20), condition, condition)
        first = networks.actor_layers[0]
        generated = isinstance(first, HyperLinear)
        weights = first.generate(condition[:40])[:, : 256 * 256] if generated else first.linear.weight
        values = networks.critic_output(found.critic, condition)
        rows.append([found.output.std(), values.std(), weights.std()])
    count = sum(parameter.numel() for parameter in networks.parameters())
    means = torch.tensor(rows).mean(0).tolist()
    return dict(zip(("action", "value", "weight", "count"), [*means, count], strict=True))


# Standard deviations of the action's mean and of the first layer's weights that were measured of the published code.
PUBLISHED = {
    "concatenate": (Concatenate, {}, 0.58, 0.10),
    "bias": (Hypernetwork, {"initialization": "bias", "generated_layers": None}, None, 0.104),
    "weight": (Hypernetwork, {"initialization": "weight", "generated_layers": None}, None, 0.235),
    "both": (Hypernetwork, {"initialization": "both", "generated_layers": None}, None, 0.13),
    "naive": (Hypernetwork, {"initialization": "naive", "generated_layers": None}, None, 0.77),
    "kaiming": (Hypernetwork, {"initialization": "kaiming", "generated_layers": None}, 8.5, 0.77),
    "hfi": (Hypernetwork, {"initialization": "hfi", "generated_layers": None}, 0.38, 0.034),
    "film": (Film, {"initialization": "bias"}, 0.61, 0.104),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_start_as_published(name):
    network, options_, action, weight = PUBLISHED[name]
    found = measured(network, **options_)
    assert found["weight"] == pytest.approx(weight, rel=0.05)
    assert action is None or found["action"] == pytest.approx(action, rel=0.08)  # of one draw


def test_networks_have_as_many_parameters_as_published():
    """Without the six standard deviations of actions: 5,161,261 and 217,086 in all."""
    of = {name: measured(network, 1, **given)["count"] for name, (network, given, *_) in PUBLISHED.items()}
    assert of["bias"] == 5_161_261 - 6 and of["concatenate"] == 217_086 - 6


def test_bias_hyperinit_starts_as_one_network_for_all_tasks_and_learns_conditions_second():
    policy = make_policy("conditioning=hypernetwork")
    networks = policy.heads.networks
    observation = torch.randn(9, policy.features.current_dim)
    conditions = [networks.condition(torch.randn(9, policy.memory_dim)) for _ in range(2)]
    outputs = [networks(observation, condition, condition).output for condition in conditions]
    assert torch.equal(*outputs)
    outputs[0].sum().backward()
    assert all(parameter.grad.abs().max() == 0 for parameter in networks.condition_layers.parameters())


def test_weight_hyperinit_is_an_ordinary_network_for_each_one_hot_condition():
    fill = initializer("normc", 2.0)
    layer = HyperLinear(6, 5, 4, "weight", fill, 2.0)
    rows = layer.generate(torch.eye(4))[:, :30].view(4, 5, 6).norm(dim=2)
    torch.testing.assert_close(rows, torch.full((4, 5), 2.0))
    assert layer.generate(torch.zeros(1, 4)).abs().max() == 0


# ---------------------------------------------------------------- options


def conditioned(name: str, *overrides: str):
    policy = make_policy(f"conditioning={name}", *overrides)
    perturb(policy)
    networks = policy.heads.networks
    generator = make_generator(0)
    observation = torch.randn(5, policy.features.current_dim, generator=generator)
    condition = networks.condition(torch.randn(5, policy.memory_dim, generator=generator))
    return networks(observation, condition, condition).output.detach()


def option_values() -> list[tuple[str, str, str]]:
    found = []
    for name in NETWORKS:
        node = config_of(f"conditioning={name}")["model"]["conditioning"]
        target = instantiate(node).func
        hints = typing.get_type_hints(Concatenate.__mro__[1].__init__) | typing.get_type_hints(target.__init__)
        other = {
            "layers": "[4]",
            "observation_embedding_size": "null",
            "condition_layers": "[3,2]",
            "generated_layers": "[false,true,true]",
        }
        for option in (key for key in node if not key.startswith("_")):
            words = [word for word in typing.get_args(hints[option]) if isinstance(word, str) and word != node[option]]
            found += [(name, option, value) for value in ([other[option]] if option in other else words)]
    return found


@pytest.mark.parametrize(("name", "option", "value"), option_values())
def test_every_option_of_a_conditioning_changes_what_is_computed(name, option, value):
    assert same(conditioned(name), conditioned(name))
    assert not same(conditioned(name), conditioned(name, f"model.conditioning.{option}={value}"))


REFUSED = {
    ("conditioning=hypernetwork", "model.conditioning.generated_layers=[true]"): ["generated_layers=[True]", "3 times"],
    ("conditioning=film", "model.head_size=8"): ["model.head_size=8: no such key", "conditioning=none"],
    ("conditioning=film", "+model.head_size=8"): ["model.head_size=8: no such key", "conditioning=none"],
    ("conditioning=film", "model.state_dependent_std=true", "env=point_goal"): ["no such key", "conditioning=none"],
    ("conditioning=film", "model.critic=memoryless"): ["model.critic=memoryless", "use model.critic=shared"],
    ("conditioning=per_task",): ["per_task", "algorithm=multitask"],
    ("model=splagger", "model.aggregator=gaussian", "model.skip=none", "model.latent_dim=3"): ["model.latent_dim=4"],
    ("model.latent_dim=3", "model.critic=separate"): ["model.critic=separate", "model.latent_dim=null"],
    ("model.image_embedding_size=8",): ["model.image_embedding_size=8", "not images"],
    ("conditioning=film", "model.conditioning.actor_gain=1"): ["no such key"],
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_does_not_fit_is_refused_with_the_remedy(overrides):
    with pytest.raises(ConfigError) as refusal:
        prefixed = [f"+{one}" if "actor_gain" in one else one for one in overrides]
        make_algorithm(*prefixed)
    assert all(part in str(refusal.value) for part in REFUSED[overrides])


# ---------------------------------------------------------------- with every memory


@pytest.mark.parametrize("name", NETWORKS)
def test_every_memory_conditions_networks_and_is_trained_through_them(model_option, name):
    agent, env = make_algorithm(
        f"model={model_option}", f"conditioning={name}", "env=tmaze_copying", "model.latent_dim=3"
    )
    perturb(agent, 0.2)
    before = copy.deepcopy(dict(agent.named_parameters()))
    agent.update(collected(agent, env), 0.0, make_generator(0))
    assert {n for n, p in agent.named_parameters() if not torch.equal(p, before[n])} == set(before)


@pytest.mark.parametrize("critic", ["shared", "separate", "privileged"])
def test_values_of_generated_critics_stay_when_returns_are_normalised(critic):
    agent, env = make_algorithm("conditioning=hypernetwork", f"model.critic={critic}", "env=tabular_mdp")
    perturb(agent, 0.2)
    (rollout,) = collected(agent, env)
    twin = copy.deepcopy(agent)
    batch = batch_of(twin, rollout)
    assert twin.policy.value_head.mean != agent.policy.value_head.mean
    torch.testing.assert_close(twin.evaluate(batch).value, agent.evaluate(batch).value, atol=1e-4, rtol=1e-4)


def test_every_conditioning_is_tried_here():
    assert {*NETWORKS, "per_task", "none"} == set(options("conditioning"))


def test_values_that_a_model_file_states_hold(tmp_path, monkeypatch):
    """Also those that conf/conditioning states a default for."""
    shutil.copytree(compose.CONF, tmp_path / "conf")
    text = (compose.CONF / "model" / "gru.yaml").read_text()
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(f"{text}head_size: 7\nstate_dependent_std: true\n")
    monkeypatch.setattr(compose, "CONF", tmp_path / "conf")
    model = compose.compose(["model=mine"]).model
    assert model.head_size == 7 and model.state_dependent_std and next(iter(model)) == "_target_"
    assert compose.compose(["model=mine", "model.head_size=3"]).model.head_size == 3
