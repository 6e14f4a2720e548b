"""T-mazes, rooms and the planning game: exact returns of agents that know the rules, and independent walks."""

import pytest
import torch
from helpers import make_env, random_actions

from metarl.baselines.registry import baselines
from metarl.envs.rooms import DEPTH, draw_views
from metarl.errors import ConfigError
from metarl.evaluation import evaluate
from metarl.seeding import make_generator

# Options, return of who forgets nothing, and of who forgets all but knows the rules (arithmetic on 4 and -3).
ANCHORS = {
    ("env=tmaze",): 16.0,
    ("env=tmaze", "env.indicators=[1,50]"): 16.0,
    ("env=tmaze_copying",): 4 * (4 + 9.9),
    ("env=rooms",): 27.4,
    ("env=rooms", "env.indicator=order", "env.num_rooms=10"): 20.4,
}


def played(overrides, tasks: int = 64, solver: str = "Remembering") -> list[float]:
    def make(*, num_tasks, seed):
        return make_env(*overrides, num_tasks=num_tasks, seed=seed)

    return evaluate(baselines(make(num_tasks=1, seed=0))[solver], make, num_tasks=tasks, seed=0).adaptation_curve


def mean_return(overrides, solver: str) -> float:
    return sum(played(overrides, 2000, solver))


@pytest.mark.parametrize("overrides", ANCHORS)
def test_who_remembers_earns_exactly_what_is_possible(overrides):
    assert sum(played(overrides)) == pytest.approx(ANCHORS[overrides], abs=1e-3)


def test_hidden_indicators_cost_one_blind_guess():
    first, second = played(("env=rooms", "env.indicator=hidden"), tasks=400)
    assert second == pytest.approx(13.7, abs=1e-3)
    assert first == pytest.approx(9.7 + 0.5 * (4 - 3), abs=0.6)  # of 400 guesses


def test_bits_of_a_latent_maze_tell_over_episodes():
    curve = played(("env=tmaze", "env.indicators=[]", "env.biased_bits=0.7"), tasks=500)
    assert curve[-1] == pytest.approx(4, abs=0.02) and curve[0] > 3.7


def expected_goals(ways: list[int], steps: int) -> float:
    """Goals per episode, if each is found after one of ``ways``, all as likely, and collected in one more step."""
    found = [0.0] * (steps + 1)
    for left in range(steps + 1):
        found[left] = sum(1 + found[left - way - 1] for way in ways if way < left) / len(ways)
    return found[steps]


@pytest.mark.parametrize("size", [3, 4])
def test_agents_of_the_planning_game_find_goals_as_fast_as_arithmetic_says(size):
    given = ("env=planning_game", f"env.size={size}", "env.horizon=60", "env.num_episodes=2")
    along = [min(cell, size - cell) for cell in range(size)]
    shortest = [x + y for x in along for y in along if x + y]
    expected = {"Known map": expected_goals(shortest, 60), "Sweep": expected_goals(list(range(1, size**2)), 60)}
    found = {name: mean_return(given, name) for name in (*expected, "Mapping")}
    for name, value in expected.items():
        assert found[name] == pytest.approx(2 * value, rel=0.01)
    assert found["Sweep"] + 4 < found["Mapping"] < found["Known map"] - 4
    hidden = mean_return((*given, "env.show_labels=false"), "Sweep")
    assert hidden == pytest.approx(2 * expected["Sweep"], rel=0.01)


# ---------------------------------------------------------------- walks


def test_a_t_maze_shows_its_indicator_once_and_noise_always():
    env = make_env("env=tmaze", "env.length=6", "env.indicators=[1]", "env.position_encoding=sincos", num_tasks=200)
    tasks = env.sample_tasks().parameters["indicators"].squeeze(1)
    seen = [env.reset()]
    for t in range(1, 7):
        step = env.step(torch.full((200,), 0))
        seen.append(step.observation)
        assert step.terminated.all() == (t == 6) and not step.truncated.any()
    up = tasks > 0
    assert torch.equal(step.success, up) and torch.equal(step.reward, torch.where(up, 4.0, -3.0))
    for t, observation in enumerate(seen[:6]):
        assert observation[:, 0].eq(float(t == 0)).all() and observation[:, 2].eq(float(t == 5)).all()
        assert torch.equal(observation[:, 1], tasks if t == 1 else torch.zeros(200))
        angle = torch.tensor(2 * torch.pi * t / 6)
        torch.testing.assert_close(observation[:, 4:], torch.stack([angle.sin(), angle.cos()]).expand(200, 2))
    bits = torch.stack([observation[:, 3] for observation in seen])
    assert set(bits.unique().tolist()) == {-1.0, 1.0} and abs(bits.mean()) < 0.15


def test_left_counts_as_up_and_right_as_down():
    for action, up in ((0, True), (2, True), (1, False), (3, False)):
        env = make_env("env=tmaze", "env.length=2", num_tasks=20)
        indicators = env.sample_tasks().parameters["indicators"].squeeze(1)
        env.reset()
        env.step(torch.full((20,), action))
        assert torch.equal(env.step(torch.full((20,), action)).success, (indicators > 0) == up)


def test_a_copying_maze_waits_for_the_right_bit():
    env = make_env("env=tmaze_copying", "env.length=5", "env.horizon=9", num_tasks=50)
    env.sample_tasks()
    observation, generator = env.reset(), make_generator(0)
    position, elapsed = torch.zeros(50), torch.zeros(50)
    for _ in range(40):
        action = random_actions(env, generator)
        step = env.step(action)
        turns = position == 4
        copied = ~turns & torch.where(observation[:, 3] > 0, action == 2, action == 3)
        assert torch.equal(step.terminated, turns)
        torch.testing.assert_close(step.reward[~turns], 0.1 * copied[~turns].float())
        assert set(step.reward[turns].tolist()) <= {4.0, -3.0}
        position, elapsed = position + copied, elapsed + 1
        assert torch.equal(step.truncated, (elapsed == 9) & ~turns)
        done = turns | step.truncated
        position, elapsed, observation = position * ~done, elapsed * ~done, step.observation


def test_rooms_reward_progress_and_the_side_of_the_door():
    env = make_env("env=rooms", "env.num_rooms=2", "env.horizon=20", num_tasks=60)
    env.sample_tasks()
    observation, generator = env.reset(), make_generator(0)
    position, elapsed = [0] * 60, [0] * 60
    ended = 0
    for _ in range(120):
        action, view = random_actions(env, generator), env.view_of(observation).tolist()
        step = env.step(action)
        for lane, act in enumerate(action.tolist()):
            depth = (position[lane] - 1) % DEPTH if position[lane] else -1
            at_end = position[lane] == 13
            elapsed[lane] += 1
            reward = step.reward[lane].item()
            assert (view[lane] < 3) == (position[lane] == 0) and (view[lane] == 10) == at_end
            if at_end:
                assert bool(step.terminated[lane]) == (act != 1) and (reward == 0) == (act == 1)
            elif depth == DEPTH - 1:
                right_side = act == 2 * (view[lane] - 8)
                assert reward == pytest.approx(0.1 * right_side) and view[lane] in (8, 9)
                position[lane] += act != 1
            else:
                assert reward == pytest.approx(0.1 * (act == 1))
                position[lane] += act == 1
            over = bool(step.terminated[lane]) or elapsed[lane] == 20
            assert bool(step.truncated[lane]) == (elapsed[lane] == 20 and not step.terminated[lane])
            if over:
                position[lane] = elapsed[lane] = 0
                ended += 1
        observation = step.observation
    assert ended > 60


def test_pictures_differ_and_noise_is_as_large_as_asked():
    views = torch.from_numpy(draw_views())
    assert views.shape == (11, 10, 10, 3) and len(views.flatten(1).unique(dim=0)) == 11 and views.abs().max() <= 1
    env = make_env("env=rooms", "env.noise=0.05", num_tasks=200)
    env.sample_tasks()
    clean = env._views[env.view_of(env.reset())]
    inner = clean.abs() < 0.8
    assert (env._observe() - clean)[inner].std().item() == pytest.approx(0.05, rel=0.03)


def test_the_planning_game_moves_on_a_torus_under_shuffled_labels():
    env = make_env("env=planning_game", num_tasks=40)
    labels = env.sample_tasks().parameters["labels"].long()
    observation, generator = env.reset(), make_generator(0)
    collected = 0
    for _ in range(2 * env.horizon):
        cell = [int((labels[lane] == observation[lane, :9].argmax()).nonzero()) for lane in range(40)]
        goal = [int((labels[lane] == observation[lane, 9:].argmax()).nonzero()) for lane in range(40)]
        action = random_actions(env, generator)
        step = env.step(action)
        for lane, act in enumerate(action.tolist()):
            x, y = cell[lane] % 3, cell[lane] // 3
            x, y = [(x, y + 1), (x, y - 1), (x - 1, y), (x + 1, y), (x, y)][act]
            after = labels[lane, (y % 3) * 3 + x % 3]
            hit = act == 4 and cell[lane] == goal[lane]
            assert step.final_observation[lane, :9].argmax() == after and step.reward[lane] == float(hit)
            moved = step.final_observation[lane, 9:].argmax() != labels[lane, goal[lane]]
            assert bool(moved) == hit
            collected += hit
        observation = step.observation
    assert collected > 20


def test_without_labels_the_planning_game_says_only_whether_this_is_the_goal():
    env = make_env("env=planning_game", "env.show_labels=false", num_tasks=50)
    env.sample_tasks()
    env.reset()
    step = env.step(torch.full((50,), 0))
    assert torch.equal(step.observation.squeeze(1), (env.place == env.goal).float())


REFUSED = {
    ("env=tmaze", "env.indicators=[]"): "one or two positions",
    ("env=tmaze", "env.indicators=[99]"): "before the junction at 99",
    ("env=tmaze", "env.biased_bits=0.7"): "use []",
    ("env=tmaze_copying", "env.horizon=50"): "no way through",
    ("env=rooms", "env.horizon=50"): "97 steps away",
    ("env=planning_game", "env.size=1"): "2 or more",
    ("env=hall", "env.num_doors=1"): "2 or more",
    ("env=grid", "env.size=2"): "raise it",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_mazes_that_cannot_be_are_refused(overrides):
    with pytest.raises((ConfigError, ValueError), match=REFUSED[overrides].replace("[", r"\[")):
        make_env(*overrides)
