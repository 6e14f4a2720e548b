"""Planners against loops and linear programs, beliefs against Bayes' rule, solvers against known returns."""

from functools import partial
from itertools import pairwise
from operator import itemgetter

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from metarl.baselines import mdps
from metarl.baselines.base import Random
from metarl.baselines.mdps import TRUE_PRIOR, Experience, Prior, TabularSize
from metarl.baselines.optimism import extended_value_iteration, optimistic_expectation
from metarl.baselines.references import mdp_grid, mdp_solvers
from metarl.baselines.registry import baselines
from metarl.envs.tabular_mdp import TabularMDP
from metarl.envs.value_iteration import MDP, value_iteration
from metarl.evaluation import evaluate
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from metarl.tree import tree_map
from metarl.types import Timestep

SIZE = TabularSize(10, 5, 10, 10)
SMALL = TabularSize(4, 3, 5, 3)


def make_mdp(size, *, num_tasks, seed):
    return TabularMDP(*size, num_tasks=num_tasks, seed=seed)


def some_mdps(size=SMALL, num_tasks=3):
    return MDP(*make_mdp(size, num_tasks=num_tasks, seed=0).sample_tasks().parameters.values())


def some_experience(size=SMALL, num_tasks=3, seed=0):
    """Experience of random play, and its rollout."""
    env = make_mdp(size, num_tasks=num_tasks, seed=seed)
    env.sample_tasks()
    rollout = collect_trial(env, Random(env.action_space, size.num_episodes), make_generator(seed))[0]
    agent = mdps.Greedy(size)
    experience = agent.initial_knowledge(env.tasks)
    for t in range(len(rollout.reward)):
        experience = agent.learn(experience, tree_map(itemgetter(t), rollout.timestep))
    return experience, rollout


def test_value_iteration_is_the_loop():
    mdp = some_mdps()
    values = value_iteration(mdp, SMALL.horizon)
    for lane in range(3):
        next_value = np.zeros(4)
        for step in reversed(range(5)):
            q = np.zeros((4, 3))
            for state in range(4):
                for action in range(3):
                    future = sum(mdp.transition[lane, state, action, s].item() * next_value[s] for s in range(4))
                    q[state, action] = mdp.reward[lane, state, action].item() + future
            np.testing.assert_allclose(values[lane, step].numpy(), q, atol=1e-5)
            next_value = q.max(1)


def test_transition_bonus_counts_the_steps_that_remain():
    mdp, bonus = some_mdps(), torch.rand(3, 4, 3, generator=make_generator(0))
    difference = value_iteration(mdp, 2, bonus)[:, 0] - value_iteration(mdp, 2)[:, 0]
    torch.testing.assert_close(difference, bonus)
    third = value_iteration(MDP(torch.zeros(3, 4, 3), mdp.transition), 3, torch.ones(3, 4, 3))[:, 0]
    torch.testing.assert_close(third, torch.full((3, 4, 3), 2.0 + 1.0))


def best_row_by_linear_program(row, slack, value):
    """Largest p @ value with p a distribution and |p - row|_1 <= slack; variables are p and |p - row|."""
    n = len(row)
    eye = np.eye(n)
    above = np.block([[eye, -eye], [-eye, -eye], [np.zeros((1, n)), np.ones((1, n))]])
    limit = np.concatenate([row, -row, [slack]])
    total = np.concatenate([np.ones(n), np.zeros(n)])[None]
    result = linprog(np.concatenate([-value, np.zeros(n)]), A_ub=above, b_ub=limit, A_eq=total, b_eq=[1.0])
    return -result.fun


@pytest.mark.parametrize("slack", [0.0, 0.3, 1.1, 5.0])
def test_optimistic_expectation_is_the_linear_program(slack):
    transition = some_mdps().transition[:, :, :2]
    value = torch.randn(3, 4, generator=make_generator(1))
    best = optimistic_expectation(transition, torch.full((3, 4, 2), slack), value)
    for index in np.ndindex(3, 4, 2):
        row = transition[index].double().numpy()
        expected = best_row_by_linear_program(row / row.sum(), slack, value[index[0]].double().numpy())
        assert best[index].item() == pytest.approx(expected, abs=1e-5)


def test_extended_value_iteration():
    mdp = some_mdps()
    nothing, something = torch.zeros(3, 4, 3), torch.full((3, 4, 3), 0.2)
    plain = value_iteration(mdp, 5)
    torch.testing.assert_close(extended_value_iteration(mdp, nothing, nothing, 5), plain)
    rewards_only = extended_value_iteration(mdp, something, nothing, 5)
    more = 0.2 * torch.arange(5, 0, -1.0).view(5, 1, 1)  # each remaining step may pay that much more
    torch.testing.assert_close(rewards_only, plain + more)
    both = extended_value_iteration(mdp, something, something, 5)
    assert (both[:, :4] > rewards_only[:, :4]).all()


def test_experience_is_that_of_a_loop():
    experience, rollout = some_experience()
    steps = len(rollout.reward)
    visits, reward_sum, transitions = torch.zeros(3, 4, 3), torch.zeros(3, 4, 3), torch.zeros(3, 4, 3, 4)
    for lane in range(3):
        for t in range(steps - 1):  # what the very last step gave is not seen before acting
            state, action = rollout.timestep.observation[t, lane], rollout.decision.action[t, lane]
            visits[lane, state, action] += 1
            reward_sum[lane, state, action] += rollout.reward[t, lane]
            if (t + 1) % SMALL.horizon:  # the next observation belongs to the same episode
                transitions[lane, state, action, rollout.timestep.observation[t + 1, lane]] += 1
    assert torch.equal(experience.visits, visits) and torch.equal(experience.transitions, transitions)
    torch.testing.assert_close(experience.reward_sum, reward_sum)


def test_posterior_is_bayes_rule():
    """Reward by reward: Normal(mean, 1 / precision) prior, unit noise."""
    prior = Prior(reward_mean=0.5, reward_precision=2.0, dirichlet=0.7)
    agent = mdps.Greedy(SMALL, prior)
    rewards = [1.5, -0.3, 2.0]
    visits, reward_sum = torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)
    transitions = torch.zeros(1, 4, 3, 4)
    visits[0, 1, 2], reward_sum[0, 1, 2] = len(rewards), sum(rewards)
    transitions[0, 1, 2] = torch.tensor([2.0, 0.0, 1.0, 0.0])
    mean, precision = 0.5, 2.0
    for reward in rewards:
        mean, precision = (mean * precision + reward) / (precision + 1), precision + 1
    experience = Experience(visits, reward_sum, transitions)
    posterior_mean, posterior_precision = agent.reward_posterior(experience)
    assert posterior_mean[0, 1, 2].item() == pytest.approx(mean)
    assert posterior_precision[0, 1, 2].item() == pytest.approx(precision)
    row = agent.expected_mdp(experience).transition[0, 1, 2]
    torch.testing.assert_close(row, torch.tensor([2.7, 0.7, 1.7, 0.7]) / 5.8)


def test_posterior_samples():
    experience, _ = some_experience(num_tasks=1)
    many = Experience(*(entry.expand(4000, *entry.shape[1:]) for entry in experience))
    agent = mdps.PSRL(SMALL)
    sample, (mean, precision) = agent.sample_mdp(many, make_generator(0)), agent.reward_posterior(experience)
    torch.testing.assert_close(sample.transition.sum(-1), torch.ones(4000, 4, 3))
    expected = agent.expected_mdp(experience).transition[0]
    assert ((sample.reward.mean(0) - mean[0]).abs() < 4.5 / (4000 * precision[0]).sqrt()).all()
    assert torch.allclose(sample.reward.var(0) * precision[0], torch.ones(4, 3), atol=0.12)
    assert ((sample.transition.mean(0) - expected).abs() < 0.02).all()


@pytest.mark.parametrize(
    ("agent", "value", "tolerance"),
    [
        (mdps.KnownMDP(SIZE), 218.4, 0.2),
        (mdps.Greedy(SIZE), 154.9, 0.4),
        (mdps.BEB(SIZE, beta=0.5), 157.3, 0.4),
        (mdps.UCRL2(SIZE, scaling=0.03), 156.2, 0.4),
        (mdps.PSRL(SIZE), 133.9, 0.2),
        (mdps.EpsilonGreedy(SIZE, epsilon=1.0), 100.0, 0),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "rollouts") else None,
)
def test_returns(agent, value, tolerance):
    result = evaluate(agent, partial(make_mdp, SIZE), num_tasks=1000, seed=4)
    assert abs(result.return_mean - value) < 3.5 * result.return_se + tolerance


@pytest.mark.parametrize(("name", "published"), [("PSRL", 138.1), ("BEB", 150.2), ("Greedy", 134.8)])
def test_published_results_come_from_the_default_priors_of_tabularl(name, published):
    """Published means are over 1,000 tasks, so their standard error is ours."""
    result = evaluate(mdp_solvers(SIZE, "tabularl")[name], partial(make_mdp, SIZE), num_tasks=1000, seed=4)
    assert abs(result.return_mean - published) < 3.5 * 2**0.5 * result.return_se


def test_nobody_beats_knowing_the_mdp():
    make_env = partial(make_mdp, SIZE)
    agents = baselines(make_env(num_tasks=1, seed=0))
    assert list(agents) == ["Random", "PSRL", "OPSRL", "UCRL2", "BEB", "ε-greedy", "Greedy", "Known MDP"]
    returns = {name: evaluate(a, make_env, num_tasks=100, seed=0).return_mean for name, a in agents.items()}
    assert returns.pop("Random") < 105
    oracle = returns.pop("Known MDP")
    assert all(120 < value < oracle - 30 for value in returns.values())


def test_known_mdp_gets_the_value_it_plans():
    env = make_mdp(SMALL, num_tasks=4000, seed=0)
    tasks = env.sample_tasks()
    rollout = collect_trial(env, mdps.KnownMDP(SMALL), make_generator(1))[0]
    planned = value_iteration(MDP(*tasks.parameters.values()), 5)[:, 0, 0].amax(-1)
    difference = rollout.reward.sum(0) / SMALL.num_episodes - planned
    assert abs(difference.mean().item()) < 4 * difference.std().item() / 4000**0.5


@pytest.mark.parametrize("name", mdp_solvers(SMALL))
def test_lanes_are_independent_and_acting_changes_no_state(name):
    """A lane's reward changes that lane's later actions only; from one state the same chance gives the same."""
    agent, env = mdp_solvers(SMALL)[name], make_mdp(SMALL, num_tasks=6, seed=0)
    env.sample_tasks()
    rollout = collect_trial(env, agent, make_generator(0))[0]
    changed = rollout.timestep.previous_reward.clone()
    changed[:, 2] += 50 * (rollout.timestep.previous_action[:, 2] == 0)
    actions = replay(agent, env, rollout.timestep._replace(previous_reward=changed))
    keep = torch.arange(6) != 2
    assert torch.equal(replay(agent, env, rollout.timestep), rollout.decision.action)
    assert torch.equal(actions[:, keep], rollout.decision.action[:, keep])
    assert name == "Known MDP" or not torch.equal(actions, rollout.decision.action)


def replay(agent, env, timesteps):
    """Actions of an agent that is shown these timesteps, whatever it does."""
    state, generator, actions = agent.initial_state(env.tasks), make_generator(0), []
    for t in range(len(timesteps.first)):
        timestep = tree_map(itemgetter(t), timesteps)
        agent.act(timestep, state, make_generator(9))  # must leave no trace
        decision, state = agent.act(timestep, state, generator)
        actions.append(decision.action)
    return torch.stack(actions)


def test_the_policy_is_planned_once_per_episode():
    env = make_mdp(SMALL, num_tasks=5, seed=0)
    agent, generator = mdps.PSRL(SMALL), make_generator(0)
    state = agent.initial_state(env.sample_tasks())
    policies = []
    for timestep in zip(*collect_trial(env, agent, generator)[0].timestep, strict=True):
        _, state = agent.act(Timestep(*timestep), state, generator)
        policies.append(state.policy)
    same = [torch.equal(a, b) for a, b in pairwise(policies)]
    assert same == [(t + 1) % SMALL.horizon != 0 for t in range(len(same))]


def test_a_bonus_of_one_is_a_prior_that_expects_one():
    """(0 + sum + 1) / (1 + n) either way, so BEB from prior mean 0 with beta 1 is Greedy from prior mean 1."""
    experience, _ = some_experience()
    beb, greedy = mdps.BEB(SMALL, beta=1.0, prior=Prior(0.0, 1.0, 1.0)), mdps.Greedy(SMALL, TRUE_PRIOR)
    values = [agent.action_values(experience, 0, make_generator(0)) for agent in (beb, greedy)]
    torch.testing.assert_close(*values)


def test_optimism_of_one_sample_is_psrl_and_grows():
    experience, _ = some_experience()
    values = [mdps.PSRL(SMALL).action_values(experience, 0, make_generator(0))]
    values += [mdps.OPSRL(SMALL, n).action_values(experience, 0, make_generator(0)) for n in (1, 2, 8)]
    assert torch.equal(values[0], values[1])
    assert (values[2] >= values[1]).all() and (values[3] >= values[2]).all() and (values[3] > values[1]).any()


def test_grids_hold_the_tuned_solvers():
    for prior in ("true", "tabularl"):
        grid = mdp_grid(SMALL, prior)
        assert set(grid) == {"OPSRL", "UCRL2", "BEB", "ε-greedy"}
        assert all(isinstance(agent, mdps.ModelLearner) for points in grid.values() for _, agent in points)
