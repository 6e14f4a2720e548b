"""The regret of actions: against brute force, against what trials return, and what learning makes of it."""

import pytest
import torch
from helpers import Corridor, batch_of, collected, env_class, make_algorithm, make_env

from metarl.algorithms.rl2 import RL2
from metarl.baselines.base import Random
from metarl.configuration.compose import options
from metarl.envs.capabilities import KnownRegret
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from metarl.types import Rollout

SOLVED = [option for option in options("env") if issubclass(env_class(option), KnownRegret)]


def random_trial(env) -> Rollout:
    env.sample_tasks()
    (rollout,) = collect_trial(env, Random(env.action_space, env.num_episodes), make_generator(5))
    return rollout


def taken(regrets: torch.Tensor, rollout: Rollout) -> torch.Tensor:
    return regrets.gather(-1, rollout.decision.action.unsqueeze(-1)).squeeze(-1)


def best_return(env, tasks, lane: int) -> float:
    """Expected return of a trial under the best policy for the known task, one state after another."""
    if "mean" in tasks.parameters:
        return env.num_episodes * tasks.parameters["mean"][lane].max().item()
    return env.num_episodes * optimal_value(tasks, lane, 0, env.horizon)


def optimal_value(tasks, lane: int, state: int, steps: int) -> float:
    return max(action_value(tasks, lane, state, action, steps) for action in range(2)) if steps else 0.0


def action_value(tasks, lane: int, state: int, action: int, steps: int) -> float:
    reward, rows = (tasks.parameters[name][lane, state, action] for name in ("reward_mean", "transition"))
    following = [optimal_value(tasks, lane, successor, steps - 1) for successor in range(2)]
    return reward.item() + sum(p * v for p, v in zip(rows.tolist(), following, strict=True))


def test_the_bandits_and_the_tabular_mdp_know_regrets():
    assert {"bandit", "gaussian_bandit", "tabular_mdp"} <= set(SOLVED)


def test_bandit_regrets_are_distances_to_the_best_arm():
    env = make_env("env=bandit", "env.num_arms=3", num_tasks=4)
    rollout = random_trial(env)
    mean = rollout.tasks.parameters["mean"]
    expected = torch.stack([mean.max(1).values - mean[:, arm] for arm in range(3)], -1)
    regrets = env.regrets(rollout)
    assert regrets.shape == (*rollout.reward.shape, 3)
    assert all(torch.equal(row, expected) for row in regrets)


def test_mdp_regrets_agree_with_a_recursion():
    size = ("env.num_states=2", "env.num_actions=2", "env.horizon=4", "env.num_episodes=2")
    env = make_env("env=tabular_mdp", *size, num_tasks=3)
    rollout = random_trial(env)
    regrets = env.regrets(rollout)
    for t in range(8):
        for lane in range(3):
            state, steps = rollout.timestep.observation[t, lane].item(), 4 - t % 4
            best = optimal_value(rollout.tasks, lane, state, steps)
            for action in range(2):
                expected = best - action_value(rollout.tasks, lane, state, action, steps)
                assert regrets[t, lane, action].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("solved", SOLVED)
def test_regrets_make_up_for_what_a_trial_misses(solved):
    """Performance difference lemma: return and regret sum to the best return, in expectation."""
    size = ("env.num_states=2", "env.num_actions=2", "env.horizon=4") if solved == "tabular_mdp" else ()
    env = make_env(f"env={solved}", *size, "env.num_episodes=3", num_tasks=2000)
    rollout = random_trial(env)
    regrets = env.regrets(rollout)
    assert (regrets >= 0).all() and (regrets.min(-1).values == 0).all()
    best = torch.tensor([best_return(env, rollout.tasks, lane) for lane in range(2000)])
    difference = rollout.reward.sum(0) + taken(regrets, rollout).sum(0) - best
    assert abs(difference.mean()) < 4 * difference.std() / 2000**0.5


@pytest.mark.parametrize("solved", SOLVED)
def test_lanes_that_share_a_task_share_its_regrets(solved):
    env = make_env(f"env={solved}", num_tasks=2, lanes_per_task=3)
    first = env.regrets(random_trial(env))[0]
    assert torch.equal(first, first[[0, 0, 0, 3, 3, 3]]) and not torch.equal(first[0], first[3])


# ---------------------------------------------------------------- learning from them


def regret_loss(agent, batch) -> float:
    losses = agent.auxiliary_losses(batch, agent.evaluate(batch), 0.0, make_generator(0))
    return losses["regret_loss"][1].item()


def learner_and_batch(*overrides: str):
    agent, env = make_algorithm("env=tabular_mdp", *overrides, lanes=16)
    (rollout,) = collected(agent, env)
    return agent, env, rollout, batch_of(agent, rollout)


def test_the_objective_regret_ignores_the_luck_of_rewards():
    fixed = ("algorithm.objective=regret", "algorithm.standardize_advantages=false")
    agent, env, rollout, batch = learner_and_batch(*fixed)
    lucky = rollout._replace(reward=rollout.reward + 100)
    torch.testing.assert_close(batch_of(agent, lucky).advantage, batch.advantage)
    discount = agent.discount ** torch.arange(len(rollout.reward)).unsqueeze(1)
    agent.gae_lambda = 1.0
    returns = batch_of(agent, rollout).returns[0]
    torch.testing.assert_close(returns, -(discount * taken(env.regrets(rollout), rollout)).sum(0), atol=1e-3, rtol=1e-4)


def test_the_regret_loss_is_the_share_left_unexplained():
    agent, _, _, batch = learner_and_batch("algorithm.regret_coefficient=1")
    torch.nn.init.zeros_(agent.regret_head.weight)
    torch.nn.init.zeros_(agent.regret_head.bias)
    assert regret_loss(agent, batch) == pytest.approx(1)


def test_predicting_regrets_teaches_the_memory():
    """With no other loss, the share left unexplained falls below what the best constant leaves."""
    only = ("algorithm.regret_coefficient=1", "algorithm.value_coefficient=0", "algorithm.entropy_coefficient=0")
    fast = ("algorithm.learning_rate=1e-2", "model.hidden_size=16", "env.num_episodes=10")
    agent, env = make_algorithm("env=bandit", *only, *fast, lanes=64)
    for parameter in agent.policy.heads.actor_head.parameters():
        parameter.requires_grad_(False)
    collected(agent, env, updates=60)
    (rollout,) = collected(agent, env)
    batch = batch_of(agent, rollout)
    regrets = batch.extras["regrets"]
    constant = regrets.var((0, 1), correction=0).sum() / regrets.square().sum(-1).mean()
    assert regret_loss(agent, batch) < 0.9 * constant


def test_the_weight_of_predicting_regrets_is_linear_in_progress():
    """The head learns from nothing else."""

    def gradient(progress, *coefficients):
        options = (
            f"algorithm.{name}regret_coefficient={c}" for name, c in zip(("", "final_"), coefficients, strict=True)
        )
        agent, _, _, batch = learner_and_batch(*options, "algorithm.max_gradient_norm=null")
        agent._minibatch_step(batch, progress, make_generator(0))
        return agent.regret_head.weight.grad

    whole = gradient(0.0, 1, 0)
    assert whole.norm() > 1e-3
    torch.testing.assert_close(gradient(0.75, 1, 0), 0.25 * whole)
    torch.testing.assert_close(gradient(0.25, 0, 2), 0.5 * whole)


@pytest.mark.parametrize("option", ["objective=regret", "regret_coefficient=0.5", "final_regret_coefficient=0.5"])
def test_an_environment_that_does_not_know_them_is_refused(option):
    name, value = option.split("=")
    env = Corridor(num_tasks=4)
    agent = RL2(num_minibatches=1, **{name: value if name == "objective" else float(value)})
    with pytest.raises(ValueError, match=rf"{name}={value}.*Corridor does not provide"):
        agent.setup(env, lambda spec: None)
