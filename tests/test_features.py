"""What memories and heads are fed."""

import pytest
import torch
from gymnasium import spaces
from helpers import collected, make_algorithm, make_policy, perturb

from metarl.errors import ConfigError
from metarl.types import Timestep

START_AND_NEXT = Timestep(
    observation=torch.tensor([0, 1]),
    previous_observation=torch.tensor([-1, 0]),
    previous_action=torch.tensor([-1, 2]),
    previous_reward=torch.tensor([0.0, 0.5]),
    first=torch.tensor([True, False]),
)


def test_features_say_nothing_before_the_first_action_and_show_everything_after():
    policy = make_policy("model=mlp", observation_space=spaces.Discrete(2), action_space=spaces.Discrete(3))
    features = policy.features(START_AND_NEXT)
    assert features.tolist() == [[1, 0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0.5, 0]]


def features_of(inputs: str, states: int = 2):
    overrides = ("model=mlp", f"model.inputs={inputs}")
    policy = make_policy(*overrides, observation_space=spaces.Discrete(states), action_space=spaces.Discrete(3))
    assert policy.features(START_AND_NEXT).shape == (2, policy.features.output_dim)
    return policy.features(START_AND_NEXT)


def test_features_show_the_whole_last_transition_where_asked():
    found = features_of("transition")
    assert torch.equal(found[:, [*range(6), -1]], features_of("action_reward"))
    assert found[:, 6:-1].tolist() == [[0, 0], [1, 0]]


def test_features_show_the_pair_of_observation_and_action_and_its_reward_where_asked():
    found = features_of("outer_product")
    assert torch.equal(found[:, [*range(8), -1]], features_of("transition"))
    pair = [0, 0, 1, 0, 0, 0]  # observation 0 and action 2 of 2 x 3
    assert found[:, 8:-1].tolist() == [[0] * 12, pair + [0.5 * bit for bit in pair]]


def test_an_observation_that_never_changes_leaves_the_action_as_its_pair():
    found = features_of("outer_product", states=1)
    assert found[1].tolist() == [0, 0, 1, 0.5, *(0, 0, 1), *(0, 0, 0.5), 0]


def test_features_leave_out_spaces_of_one_element():
    policy = make_policy("model=mlp", observation_space=spaces.Discrete(1), action_space=spaces.Discrete(3))
    assert policy.features.output_dim == 5


def test_an_encoder_rectifies_a_layer_of_the_features():
    policy = make_policy("model=mlp", "model.input_embedding_size=7", observation_space=spaces.Discrete(2))
    plain = make_policy("model=mlp", observation_space=spaces.Discrete(2)).features(START_AND_NEXT)
    layer = next(module for module in policy.features.modules() if isinstance(module, torch.nn.Linear))
    expected = (plain[:, :-1] @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(policy.features(START_AND_NEXT), torch.cat([expected, plain[:, -1:]], -1))
    assert policy.memory.layers[0].in_features == policy.features.output_dim == 8


@pytest.mark.parametrize("critic", ["shared", "separate", "privileged", "memoryless"])
def test_a_head_layer_shows_the_heads_what_a_blind_memory_does_not(critic):
    def reaction(*head: str) -> float:
        policy = make_policy("model=gru", f"model.critic={critic}", *head)
        perturb(policy)
        with torch.no_grad():
            for parameter in policy.memory.parameters():
                parameter.zero_()
        first, second = (torch.ones(1, 4) * number for number in (0, 1))
        rest = {"previous_action": torch.zeros(1, dtype=torch.long), "previous_reward": torch.zeros(1)}
        outputs = [
            policy.step(Timestep(x, x, first=torch.ones(1, dtype=torch.bool), **rest), policy.initial_carry(1), task)[0]
            for x in (first, second)
            for task in [torch.zeros(1, 3)]
        ]
        return (outputs[0].distribution_params - outputs[1].distribution_params).abs().max().item()

    assert reaction() == 0 and reaction("model.head_size=16") > 1e-3


# ---------------------------------------------------------------- scales and continuous actions


def test_inputs_are_standardised_by_all_trials_before():
    agent, env = make_algorithm("env=cheetah_vel", "model=mlp", lanes=8)
    (rollout,) = trial = collected(agent, env)
    agent.update_normalization(trial)
    observation = agent.policy.features.observation_scale
    torch.testing.assert_close(observation.mean, rollout.timestep.observation[rollout.mask].double().mean(0))
    size = rollout.timestep.previous_reward[rollout.mask].double().square().mean()
    torch.testing.assert_close(agent.policy.features.reward_scale.variance, size.unsqueeze(0))
    features = agent.policy.features(rollout.timestep)[..., : env.observation_space.shape[0]]
    torch.testing.assert_close(features.flatten(0, 1).mean(0), torch.zeros(17), atol=1e-4, rtol=0)


@pytest.mark.parametrize("state_dependent", ["false", "true"])
def test_the_first_actions_have_the_deviation_that_was_asked_for(state_dependent):
    options = ("model.initial_std=0.3", f"model.state_dependent_std={state_dependent}")
    agent, env = make_algorithm("env=cheetah_vel", "model=gru", *options, lanes=200)
    (rollout,) = collected(agent, env)
    assert rollout.decision.action.std().item() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("option", ["initial_std=0.5", "state_dependent_std=true"])
def test_options_of_continuous_actions_are_refused_where_actions_are_discrete(option):
    with pytest.raises(ConfigError, match=f"(?i)model.{option}: actions of this environment are discrete; leave it"):
        make_algorithm("env=bandit", f"model.{option}")
