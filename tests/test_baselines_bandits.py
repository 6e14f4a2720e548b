"""Classical bandit solvers against exact values, slow obvious versions, and each other."""

from functools import cache, partial
from math import comb
from operator import itemgetter

import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.baselines import bandits
from metarl.baselines.arm_beliefs import ArmStatistics, BetaBelief, TruncatedNormalBelief
from metarl.baselines.bandit_bounds import information_relaxation, lagrangian_relaxation, upper_bound
from metarl.baselines.bandit_optimum import bayes_optimum, is_tractable, num_states
from metarl.baselines.base import Random, random_argmax
from metarl.baselines.gittins import gittins_index, gittins_table
from metarl.baselines.references import best_values, nearest, tune
from metarl.baselines.registry import baseline_grid, baselines, bounds
from metarl.envs.bandit import BernoulliBandit, GaussianBandit
from metarl.evaluation import evaluate
from metarl.rollout import collect_trial, first_timestep
from metarl.seeding import make_generator
from metarl.tree import tree_map
from metarl.types import Timestep

BETA = BetaBelief()


def make_bandit(num_arms, num_episodes, *, num_tasks, seed, cls=BernoulliBandit):
    return cls(num_arms, num_episodes, num_tasks=num_tasks, seed=seed)


def all_solvers(num_arms=5, num_episodes=10):
    return baselines(make_bandit(num_arms, num_episodes, num_tasks=1, seed=0))


@cache
def knowledge_value(arms, pulls_left, choose=None):
    """Naive recursion over sorted arms ``((s, f), ...)``; ``choose`` plays, or the best arm where None."""
    if pulls_left == 0:
        return 0.0
    candidates = range(len(arms)) if choose is None else [choose(arms, pulls_left)]
    return max(pull_value(arms, arm, pulls_left, choose) for arm in candidates)


def pull_value(arms, arm, pulls_left, choose):
    s, f = arms[arm]
    mean = (s + 1) / (s + f + 2)
    rest = arms[:arm] + arms[arm + 1 :]
    success = knowledge_value(tuple(sorted((*rest, (s + 1, f)))), pulls_left - 1, choose)
    failure = knowledge_value(tuple(sorted((*rest, (s, f + 1)))), pulls_left - 1, choose)
    return mean * (1 + success) + (1 - mean) * failure


@pytest.mark.parametrize(
    ("num_pulls", "num_arms", "value"),
    [
        (10, 5, 6041941 / 907200),
        (10, 10, 6.7139511914),
        (10, 50, 6.7139511914),
        (10, 2, 6.0217857143),
        (20, 2, 12.4312649),
        (20, 3, 13.4658310),
        (20, 5, 14.2873384),
        (7, 1, 3.5),
        (1, 4, 0.5),
    ],
)
def test_bayes_optimum(num_pulls, num_arms, value):
    assert bayes_optimum(num_arms, num_pulls) == pytest.approx(value, abs=6e-8)


@pytest.mark.parametrize(("num_arms", "num_pulls"), [(2, 6), (3, 5), (4, 3)])
def test_bayes_optimum_is_the_naive_recursion(num_arms, num_pulls):
    knowledge_value.cache_clear()
    value = knowledge_value(((0, 0),) * num_arms, num_pulls)
    assert bayes_optimum(num_arms, num_pulls) == pytest.approx(value, abs=1e-12)
    assert num_states(num_arms, num_pulls) + leaves(num_arms, num_pulls) == knowledge_value.cache_info().currsize


def leaves(num_arms, num_pulls):
    """Multisets after the last pull."""
    return num_states(num_arms, num_pulls + 1) - num_states(num_arms, num_pulls)


def test_what_is_tractable():
    assert is_tractable(5, 20) and is_tractable(50, 10) and is_tractable(1, 1000)
    assert not is_tractable(5, 100) and not is_tractable(50, 500)
    with pytest.raises(ValueError, match="upper_bound"):
        bayes_optimum(5, 100)


def test_num_states_of_two_arms():
    ordered = comb(11 - 1 + 4, 4)  # (s, f) of both arms and fewer than 11 pulls
    identical = sum(pulls + 1 for pulls in range(6))  # both arms alike, at most 5 pulls each
    assert num_states(2, 11) == (ordered + identical) // 2


@pytest.mark.parametrize(("num_arms", "num_pulls"), [(2, 20), (5, 10), (5, 20), (10, 10)])
def test_bounds_are_above_the_optimum(num_arms, num_pulls):
    optimum = bayes_optimum(num_arms, num_pulls)
    mean, error = information_relaxation(num_arms, num_pulls, num_paths=2000)
    assert optimum <= lagrangian_relaxation(num_arms, num_pulls) < 1.1 * optimum
    assert optimum <= mean + 3 * error < 1.1 * optimum


@pytest.mark.parametrize(("num_arms", "gittins"), [(5, 78.651), (50, 85.554)])
def test_upper_bound_of_long_trials(num_arms, gittins):
    assert gittins < upper_bound(num_arms, 100) < 1.02 * gittins


def slow_gittins_index(s, f, pulls_left):
    """Bisection over the charge; the stopping problem by recursion."""

    @cache
    def value(s, f, left, charge):
        return max(0.0, trying(s, f, left, charge)) if left else 0.0

    def trying(s, f, left, charge):
        p = (s + 1) / (s + f + 2)
        return p - charge + p * value(s + 1, f, left - 1, charge) + (1 - p) * value(s, f + 1, left - 1, charge)

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if trying(s, f, pulls_left, middle) > 0 else (low, middle)
    return low


def test_gittins_table_is_the_slow_index():
    num_pulls = 7
    table = gittins_table(num_pulls, num_charges=2048)
    for past in range(num_pulls):
        for s in range(past + 1):
            for f in range(past + 1 - s):
                other = past - s - f  # pulls of a second arm, all failures
                statistics = ArmStatistics(torch.tensor([[s + f, other]]), torch.tensor([[s, 0]]))
                index = gittins_index(table, statistics)[0, 0].item()
                assert index == pytest.approx(slow_gittins_index(s, f, num_pulls - past), abs=3e-5)


def test_gittins_policy_is_optimal_for_ten_pulls_of_five_arms():
    table = gittins_table(10, num_charges=2048)

    def choose(arms, pulls_left):
        s, f = torch.tensor(arms).T.unsqueeze(1)
        return gittins_index(table, ArmStatistics(s + f, s)).argmax().item()

    assert knowledge_value(((0, 0),) * 5, 10, choose) == pytest.approx(bayes_optimum(5, 10), abs=1e-9)


@pytest.mark.parametrize(
    ("agent", "num_pulls", "value", "tolerance"),
    [
        (Random(spaces.Discrete(5), 10), 10, 5.0, 0),
        (bandits.Greedy(BETA, 5, 10), 10, 6.626225, 0),
        (bandits.EpsilonGreedy(BETA, 5, 10, epsilon=1.0), 10, 5.0, 0),
        (bandits.UCB1(BETA, 5, 10, c=0.1), 10, 6.659, 0.01),
        (bandits.UCB1(BETA, 5, 10, c=1.0), 10, 5.78, 0.01),
        (bandits.Thompson(BETA, 5, 10), 10, 5.842, 0.01),
        (bandits.OptimisticThompson(BETA, 5, 10, num_samples=20), 10, 6.45, 0.03),
        (bandits.Gittins(5, 10), 10, 6.6599878748, 0),
        (bandits.Gittins(5, 100, num_charges=512), 100, 78.651, 0.02),
        (bandits.Greedy(BETA, 5, 100), 100, 75.97, 0.12),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "rollouts") else None,
)
def test_returns(agent, num_pulls, value, tolerance):
    """Values are exact, or simulated elsewhere to ``tolerance``."""
    make_env = partial(make_bandit, 5, num_pulls)
    result = evaluate(agent, make_env, num_tasks=6000, seed=3)
    assert abs(result.return_mean - value) < 3.5 * result.return_se + tolerance


def test_statistics_are_those_of_a_loop():
    env = make_bandit(4, 12, num_tasks=6, seed=1)
    env.sample_tasks()
    rollout = collect_trial(env, Random(env.action_space, 12), make_generator(0))[0]
    agent = bandits.Greedy(BETA, 4, 12)
    state = agent.initial_state(env.tasks)
    for t in range(12):
        _, state = agent.act(tree_map(itemgetter(t), rollout.timestep), state, make_generator(1))
    pulls, reward_sum = torch.zeros(6, 4), torch.zeros(6, 4)
    for lane in range(6):
        for t in range(11):  # what the last pull gave is not seen before acting
            pulls[lane, rollout.decision.action[t, lane]] += 1
            reward_sum[lane, rollout.decision.action[t, lane]] += rollout.reward[t, lane]
    assert torch.equal(state.pulls, pulls) and torch.equal(state.reward_sum, reward_sum)


@pytest.mark.parametrize("name", all_solvers())
def test_lanes_are_independent_and_acting_changes_no_state(name):
    """The reward of lane 2 differs; only lane 2 may notice. From one state the same chance gives the same action."""
    agent, env = all_solvers()[name], make_bandit(5, 10, num_tasks=8, seed=0)
    ones = torch.ones(8)
    start = agent.initial_state(env.sample_tasks())
    first = first_timestep(env)
    second = Timestep(first.observation, first.observation, torch.arange(8) % 5, ones, ones.bool())
    other = second._replace(previous_reward=ones.index_fill(0, torch.tensor([2]), 0.0))
    _, state = agent.act(first, start, make_generator(4))
    before = [entry.clone() for entry in state]
    outcomes = [agent.act(timestep, state, make_generator(5)) for timestep in (second, other, second)]
    keep = torch.arange(8) != 2
    assert torch.equal(outcomes[0][0].action, outcomes[2][0].action)
    assert all(torch.equal(a[keep], b[keep]) for a, b in zip(outcomes[0][1], outcomes[1][1], strict=True))
    if name not in ("Thompson", "OTS"):  # their rejection sampler takes more or less chance from the others' share
        assert torch.equal(outcomes[0][0].action[keep], outcomes[1][0].action[keep])
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))


def test_random_argmax_draws_among_ties_only():
    scores = torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0 - 1e-6]).expand(30_000, 5)
    exact = random_argmax(scores, make_generator(0)).bincount(minlength=5)
    assert exact[[0, 3, 4]].sum() == 0
    assert abs(exact[1].item() - 15_000) < 4 * 87  # four standard deviations
    close = random_argmax(scores, make_generator(0), tolerance=1e-5).bincount(minlength=5)
    assert (close[[1, 2, 4]] - 10_000).abs().max() < 4 * 82


def test_random_covers_a_box_and_has_actions_without_bounds():
    low, high = np.array([-1, 0, -np.inf, 2, -np.inf], np.float32), np.array([1, 4, np.inf, np.inf, 3], np.float32)
    timestep = Timestep(*[torch.zeros(20_000)] * 5)
    action = Random(spaces.Box(low, high), 1).act(timestep, (), make_generator(0))[0].action
    assert torch.allclose(action.mean(0), torch.tensor([0.0, 2.0, 0.0, 3.0, 2.0]), atol=0.05)
    assert (action >= torch.from_numpy(low)).all() and (action <= torch.from_numpy(high)).all()
    assert torch.allclose(action[:, 2:].std(0), torch.ones(3), atol=0.05)
    with pytest.raises(TypeError, match="use Discrete or Box"):
        Random(spaces.MultiBinary(2), 1)


def truncated_normal_by_integration(pulls, reward_sum, reward_std):
    grid = (np.arange(200_000) + 0.5) / 200_000
    log_likelihood = -0.5 * (pulls * grid**2 - 2 * reward_sum * grid) / reward_std**2
    weight = np.exp(log_likelihood - log_likelihood.max())
    weight /= weight.sum()
    mean = (weight * grid).sum()
    return mean, np.sqrt((weight * (grid - mean) ** 2).sum())


@pytest.mark.parametrize(("pulls", "reward_sum"), [(0, 0.0), (1, -2.5), (3, 1.2), (40, 46.0), (400, 396.0)])
def test_truncated_normal_belief_is_bayes_rule(pulls, reward_sum):
    belief = TruncatedNormalBelief(reward_std=0.8)
    statistics = ArmStatistics(torch.full((20_000,), float(pulls)), torch.full((20_000,), reward_sum))
    mean, deviation = truncated_normal_by_integration(pulls, reward_sum, 0.8)
    assert belief.mean(statistics)[0].item() == pytest.approx(mean, abs=1e-5)
    assert belief.width(statistics)[0].item() == pytest.approx(deviation, abs=1e-5)
    sample = belief.sample(statistics, make_generator(0))
    assert sample.min() >= 0 and sample.max() <= 1
    assert sample.mean().item() == pytest.approx(mean, abs=4 * deviation / 20_000**0.5)
    assert sample.std().item() == pytest.approx(deviation, rel=0.04)


def test_beta_belief_samples_its_posterior():
    statistics = ArmStatistics(torch.full((40_000,), 7.0), torch.full((40_000,), 5.0))  # Beta(6, 3)
    sample = BETA.sample(statistics, make_generator(0))
    assert sample.mean().item() == pytest.approx(6 / 9, abs=4 * 0.149 / 200)
    assert sample.var().item() == pytest.approx(18 / (81 * 10), rel=0.05)
    posterior = torch.distributions.Beta(6.0, 3.0).log_prob(sample)
    assert (BETA.log_density(statistics, sample) - posterior).std() < 1e-4


def test_gaussian_solvers_learn_and_stay_below_the_bound():
    make_env = partial(make_bandit, 5, 50, cls=GaussianBandit)
    env = make_env(num_tasks=1, seed=0)
    agents = baselines(env)
    returns = {name: evaluate(a, make_env, num_tasks=500, seed=0).return_mean for name, a in agents.items()}
    assert list(agents) == ["Random", "Greedy", "ε-greedy", "UCB1", "Thompson", "OTS"]
    assert returns.pop("Random") == pytest.approx(25, abs=1.2)
    assert all(27 < value < bounds(env)["Upper bound"] for value in returns.values())


def test_environment_names_its_solvers_and_bounds():
    assert list(all_solvers()) == ["Random", "Greedy", "ε-greedy", "UCB1", "Thompson", "OTS", "Gittins"]
    assert bounds(make_bandit(5, 10, num_tasks=1, seed=0)) == {"Bayes optimum": bayes_optimum(5, 10)}
    assert list(bounds(make_bandit(5, 100, num_tasks=1, seed=0))) == ["Upper bound"]


def test_tuning_plays_the_whole_grid_on_the_same_tasks():
    make_env = partial(make_bandit, 3, 5)
    grid = {"UCB1": [(c, bandits.UCB1(BETA, 3, 5, c)) for c in (0.1, 5.0)]}
    rows = tune(make_env, num_tasks=2000, seed=0, grid=grid)
    assert [(row.solver, row.value) for row in rows] == [("UCB1", 0.1), ("UCB1", 5.0)]
    assert best_values(rows) == {"UCB1": 0.1}
    assert rows == tune(make_env, num_tasks=2000, seed=0, grid=grid)
    assert set(baseline_grid(make_env(num_tasks=1, seed=0))) == {"ε-greedy", "UCB1", "OTS"}


def test_nearest_setting():
    best = {(10, 5): {"c": 1.0}, (100, 5): {"c": 2.0}, (100, 50): {"c": 3.0}}
    assert nearest(best, 10, 5) == {"c": 1.0}
    assert nearest(best, 60, 8) == {"c": 2.0}
    assert nearest(best, 1000, 40) == {"c": 3.0}
