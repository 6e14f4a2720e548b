"""Laws of the learners: ratio one, isolated lanes, gradients that agree with finite differences."""

import copy

import pytest
import torch
from helpers import REPRESENTATIVE, SHOWN, batch_of, collected, combinations, make_algorithm, perturb, small_config

from metarl.checking.algorithms import (
    Learner,
    acts_without_the_task,
    has_ratio_one,
    keeps_lanes_apart,
    learns_finite_numbers,
    leaves_trials_and_randomness_alone,
    recomputed_equals_stored,
    repeats_under_a_seed,
    trials_with_another_task,
)
from metarl.checking.outcomes import NotApplicable
from metarl.configuration.compose import options
from metarl.seeding import make_generator
from metarl.types import Rollout

CRITICS = ("shared", "separate", "privileged", "memoryless")


def recomputed(algorithm, rollout: Rollout):
    """Log-probabilities and values of a stored rollout, from the whole sequence at once."""
    policy = algorithm.policy
    carry = policy.initial_carry(rollout.reward.shape[1])
    with torch.no_grad():
        output, _ = policy(rollout.timestep, carry, rollout.tasks.description)
    return policy.distribution.log_prob(output.distribution_params, rollout.decision.action), output.value


def one_big_step(combination: tuple[str, str, str], *more: str):
    """An agent that takes its whole batch in one step, moved away from its initialisation, and its environment."""
    algorithm, model, env = combination
    known = small_config(f"algorithm={algorithm}")["algorithm"]
    whole = [f"algorithm.{name}=1" for name in ("num_epochs", "num_minibatches") if name in known]
    agent, on = make_algorithm(f"algorithm={algorithm}", f"model={model}", f"env={env}", *whole, *more)
    perturb(agent, 0.2)
    return agent, on


def test_every_model_and_environment_is_used_by_rl2():
    found = combinations()
    assert all(("rl2", model, env) in found for model in options("model") for env in REPRESENTATIVE)
    assert all(("rl2", "gru", env) in found for env in options("env"))


def learner_of(combination: tuple[str, str, str]) -> Learner:
    algorithm, model, env = combination
    return Learner(small_config(f"algorithm={algorithm}", f"model={model}", f"env={env}"))


def obey(law, learner: Learner) -> None:
    """Hold a learner to a law of ``metarl check``."""
    try:
        law(learner)
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_ratio_one(combination):
    """Values that ``update`` recomputes before its first gradient step equal those of acting, in every iteration."""
    obey(has_ratio_one, learner_of(combination))


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("env_name", ["bandit", "tabular_mdp"])
def test_ratio_one_with_every_critic(model_option, critic, env_name):
    agent, env = one_big_step(("rl2", model_option, env_name), f"model.critic={critic}")
    recomputed_equals_stored(agent, collected(agent, env, updates=2)[-1])


INPUTS = [
    "model.inputs=transition",
    "model.inputs=outer_product",
    "model.input_embedding_size=5",
    "model.head_size=5",
    "model.timescale=20",
    "lanes_per_task=2",
]


@pytest.mark.parametrize("change", INPUTS)
def test_ratio_one_with_every_input_and_several_lanes_per_task(change):
    agent, env = one_big_step(("rl2", "gru", "tabular_mdp"), change)
    recomputed_equals_stored(agent, collected(agent, env, updates=2)[-1])


def test_ratio_one_without_normalised_returns_and_with_layer_norm():
    more = ("algorithm.normalize_returns=false", "algorithm.standardize_advantages=false", "model.layer_norm=true")
    agent, env = one_big_step(("rl2", "gru", "bandit"), *more)
    recomputed_equals_stored(agent, collected(agent, env, updates=2)[-1])


@pytest.mark.parametrize("field", ["previous_action", "previous_reward", "observation", "first"])
def test_ratio_one_would_notice_a_shifted_input(field):
    """The law above can fail: each input, shifted by one step, breaks it."""
    agent, env = one_big_step(("rl2", "gru", "tabular_mdp"))
    (rollout,) = collected(agent, env)
    shifted = getattr(rollout.timestep, field).roll(1, 0)
    wrong = rollout._replace(timestep=rollout.timestep._replace(**{field: shifted}))
    with pytest.raises(AssertionError):
        recomputed_equals_stored(agent, wrong)


def test_values_stay_in_units_of_reward_whatever_is_normalised():
    """After learning, the value at the start of a trial is near the discounted return, not near zero."""
    factors = ("algorithm.discount=1.0", "algorithm.gae_lambda=1.0", "algorithm.learning_rate=1e-2")
    agent, env = make_algorithm("env=tabular_mdp", *factors, lanes=64)
    (rollout,) = collected(agent, env, updates=20)
    returns = rollout.reward.sum(0).mean().item()
    assert rollout.decision.value[0].mean().item() == pytest.approx(returns, rel=0.35)


def test_lanes_are_isolated_while_acting(usual_combination):
    """Another task in lane 0, under the same noise, leaves all that other lanes do and feel bitwise the same."""
    learner = learner_of(usual_combination)
    obey(keeps_lanes_apart, learner)
    _, before, after = trials_with_another_task(learner)
    for left, right in zip(before, after, strict=True):
        steps = min(len(left.reward), len(right.reward))
        hidden = usual_combination[2] in SHOWN or left.reward.unique().numel() < 3
        assert hidden or not torch.equal(left.reward[:steps, 0], right.reward[:steps, 0])


@pytest.mark.parametrize("critic", CRITICS)
def test_lanes_are_isolated_in_the_update(model_option, critic):
    agent, env = one_big_step(("rl2", model_option, "tabular_mdp"), f"model.critic={critic}")
    (rollout,) = collected(agent, env)
    rewards = rollout.timestep.previous_reward.clone()
    rewards[:, 0] += 5
    changed = rollout._replace(timestep=rollout.timestep._replace(previous_reward=rewards))
    for before, after in zip(recomputed(agent, rollout), recomputed(agent, changed), strict=True):
        torch.testing.assert_close(before[:, 1:], after[:, 1:], atol=1e-6, rtol=0)
        assert not torch.allclose(before[:, 0], after[:, 0], atol=1e-3)


def test_agents_do_not_look_at_the_task_while_acting(usual_combination):
    """Experience with another description of the task leads to the same actions."""
    obey(acts_without_the_task, learner_of(usual_combination))


# ---------------------------------------------------------------- gradients


def double_batch(*overrides: str, spread: float = 0.4):
    """A tiny RL² agent in double precision and a batch whose ratios are spread over both sides of the clip."""
    tiny = ("model.hidden_size=3", "env.num_states=2", "env.num_actions=2", "env.horizon=3", "env.num_episodes=2")
    rest = ("algorithm.max_gradient_norm=null", "algorithm.num_minibatches=1", "algorithm.entropy_coefficient=0.1")
    agent, env = make_algorithm("env=tabular_mdp", *tiny, *rest, *overrides, lanes=4)
    perturb(agent, 0.3)
    (rollout,) = collected(agent, env, updates=1)
    batch = batch_of(agent, rollout)
    agent.double()
    agent.optimizer.state.clear()
    timestep = type(batch.timestep)(*(p.double() if p.is_floating_point() else p for p in batch.timestep))
    parts = {name: part.double() for name, part in batch._asdict().items() if name in ("advantage", "returns", "task")}
    noise = spread * torch.randn(batch.log_prob.shape, generator=make_generator(2))
    return agent, batch._replace(timestep=timestep, log_prob=(batch.log_prob + noise).double(), **parts)


def written_out_loss(agent, batch, entropy_coefficient: float, huber: bool) -> torch.Tensor:
    """PPO's loss as the paper has it, step by step and lane by lane."""
    carry = agent.policy.initial_carry(batch.mask.shape[1])
    output, _ = agent.policy(batch.timestep, carry, batch.task)
    head, total, count = agent.policy.value_head, 0.0, 0
    for t in range(batch.mask.shape[0]):
        for lane in range(batch.mask.shape[1]):
            if not batch.mask[t, lane]:
                continue
            log_probs = output.distribution_params[t, lane].log_softmax(0)
            ratio = (log_probs[batch.action[t, lane]] - batch.log_prob[t, lane]).exp()
            gain = batch.advantage[t, lane]
            clipped = torch.clamp(ratio, 1 - agent.clip, 1 + agent.clip)
            error = (output.value[t, lane] - batch.returns[t, lane]) / head.std
            linear = huber and error.abs() > 1
            value_loss = error.abs() - 0.5 if linear else 0.5 * error**2
            entropy = -(log_probs.exp() * log_probs).sum()
            total = total - torch.min(ratio * gain, clipped * gain)
            total = total + agent.value_coefficient * value_loss - entropy_coefficient * entropy
            count += 1
    return total / count


@pytest.mark.parametrize("value_loss", ["squared", "huber"])
@pytest.mark.parametrize("critic", CRITICS)
def test_rl2_gradients_agree_with_finite_differences(value_loss, critic):
    agent, batch = double_batch(f"algorithm.value_loss={value_loss}", f"model.critic={critic}")
    mask = batch.mask & (torch.rand(batch.mask.shape, generator=make_generator(3)) < 0.8)
    batch = batch._replace(mask=mask, num_steps=mask.sum())
    ratios = (recomputed_log_prob(agent, batch) - batch.log_prob).exp()
    assert (ratios > 1 + agent.clip).any() and (ratios < 1 - agent.clip).any()  # both sides of the clip are met

    before = copy.deepcopy(agent.state_dict())
    agent._minibatch_step(batch, 0.0, make_generator(0))
    parameters = [parameter for parameter in agent.parameters() if parameter.grad is not None]
    found = torch.cat([parameter.grad.flatten() for parameter in parameters])
    agent.load_state_dict(before)

    def loss() -> float:
        with torch.no_grad():
            return written_out_loss(agent, batch, agent.entropy_coefficient[0], value_loss == "huber").item()

    directions = torch.randn(12, len(found), dtype=torch.float64, generator=make_generator(4))
    for direction in directions:
        pieces = direction.split([parameter.numel() for parameter in parameters])
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                for parameter, piece in zip(parameters, pieces, strict=True):
                    parameter.add_(sign * 1e-6 * piece.view_as(parameter))
            losses.append(loss())
            agent.load_state_dict(before)
        slope = (losses[0] - losses[1]) / 2e-6
        assert slope == pytest.approx((found @ direction).item(), rel=1e-5, abs=1e-7)


def recomputed_log_prob(agent, batch) -> torch.Tensor:
    carry = agent.policy.initial_carry(batch.mask.shape[1])
    with torch.no_grad():
        output, _ = agent.policy(batch.timestep, carry, batch.task)
    return agent.policy.distribution.log_prob(output.distribution_params, batch.action)


def test_every_weight_of_rl2_is_trained(model_option):
    for critic in CRITICS:
        agent, env = one_big_step(("rl2", model_option, "tabular_mdp"), f"model.critic={critic}")
        before = copy.deepcopy(dict(agent.named_parameters()))
        agent.update(collected(agent, env), 0.0, make_generator(0))
        moved = {name for name, parameter in agent.named_parameters() if not torch.equal(parameter, before[name])}
        assert moved == set(before)


def test_an_update_leaves_the_trial_and_global_randomness_alone(few_combination):
    obey(leaves_trials_and_randomness_alone, learner_of(few_combination))


def test_an_update_learns_finite_numbers(usual_combination):
    obey(learns_finite_numbers, learner_of(usual_combination))


def test_the_same_seeds_train_the_same_weights(few_combination):
    obey(repeats_under_a_seed, learner_of(few_combination))
