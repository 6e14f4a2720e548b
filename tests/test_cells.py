"""Grids and halls: an independent walk through every rule, exact values of scripted agents, exact beliefs."""

import pytest
import torch
from helpers import make_env, random_actions

from metarl.baselines.cells import KnownGoal, PosteriorSampling, Sweep, shortest_paths
from metarl.baselines.registry import baselines
from metarl.envs.capabilities import exact_belief
from metarl.evaluation import evaluate
from metarl.rollout import collect_trial
from metarl.seeding import make_generator

GRIDS = {
    "plain": (),
    "dense": ("env.dense=true",),
    "shown": ("env.show_goal=true",),
    "ring": ("env.size=7", "env.start=middle", "env.goals=ring", "env.discovery_bonus=0.1"),
    "random": ("env.start=random", "env.horizon=4"),
}
MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_is_what_a_walk_with_pencil_and_paper_says(name):
    env = make_env("env=grid", *GRIDS[name], num_tasks=30)
    env.sample_tasks()
    size, horizon = env.size, env.horizon
    generator = make_generator(0)

    def scaled(cell):
        return [2 * part / (size - 1) - 1 for part in cell]

    observation = env.reset()
    starts = [tuple(env.position[lane].tolist()) for lane in range(30)]
    goals = [(goal % size, goal // size) for goal in env.goal.tolist()]
    at, seen = list(starts), [set() for _ in starts]
    home = {"plain": (0, 0), "dense": (0, 0), "shown": (0, 0), "ring": (3, 3)}.get(name)
    for lane, goal in enumerate(goals):
        assert home is None or (starts[lane] == home and max(abs(goal[0] - home[0]), abs(goal[1] - home[1])) > 1)
        assert goal != starts[lane]
    for t in range(1, 2 * horizon + 1):
        action = random_actions(env, generator)
        step = env.step(action)
        for lane, move in enumerate(action.tolist()):
            here = tuple(min(max(a + b, 0), size - 1) for a, b in zip(at[lane], MOVES[move], strict=True))
            expected = -0.1
            if name == "dense":
                expected = -(abs(here[0] - goals[lane][0]) + abs(here[1] - goals[lane][1])) / size
            on_ring = 0 in here or size - 1 in here
            expected = 1.0 if here == goals[lane] else expected
            if name == "ring" and on_ring and here != goals[lane] and here not in seen[lane]:
                expected = 0.1
                seen[lane].add(here)
            assert step.reward[lane].item() == pytest.approx(expected, abs=1e-6)
            shown = goals[lane] if name == "shown" and here == starts[lane] else here
            assert step.final_observation[lane].tolist() == pytest.approx(scaled(shown), abs=1e-6)
            assert bool(step.success[lane]) == (here == goals[lane])
            at[lane] = here
        if t % horizon == 0:
            starts = [tuple(env.position[lane].tolist()) for lane in range(30)]
            at = list(starts)
            assert all(start != goal for start, goal in zip(starts, goals, strict=True))
            torch.testing.assert_close(step.observation, torch.tensor([scaled(cell) for cell in starts]))
    assert observation.shape == (30, 2)


def test_rooms_of_a_hall_are_entered_upwards_and_left_downwards():
    keys = ("env.num_doors=4", "env.room_at_start=true", "env.show_unchecked=true", "env.goal_reward=5")
    env = make_env("env=hall", *keys, num_tasks=1)
    env.sample_tasks()
    goal = int(env.goal) - 4
    other = 1 if goal != 1 else 2
    env.reset()
    walk = [2] * other + [1, 2, 4, 1, 0, 3]  # to the door, in, three idle moves and one stay, out
    rewards, flags, cells = [], [], []
    for action in walk:
        step = env.step(torch.tensor([action]))
        rewards.append(round(step.reward.item(), 6))
        flags.append(step.observation[0, 2].item())
        cells.append(env.position[0].tolist())
    assert cells[other:] == [[other, 1]] * 5 + [[other, 0]]
    assert set(rewards) == {-0.1} and flags[-1] == 0 and flags[0] == 1
    for action in [4] * 4 + [2] * goal + [1]:
        step = env.step(torch.tensor([action]))
    assert step.reward.item() == 5 and bool(step.success)


# ---------------------------------------------------------------- scripted agents


def every_goal(*, num_tasks: int, seed: int):
    """One lane for each of the 21 goals."""
    env = make_env("env=grid", num_tasks=21, seed=seed)
    tasks = env.draw_tasks(21, "train")
    tasks.parameters["goal"] = env._coordinates[env.candidates]
    env.draw_tasks = lambda *_: tasks
    return env


def mean_return(solver, make=every_goal, seed: int = 0) -> float:
    return evaluate(solver, make, num_tasks=21, seed=seed).return_mean


def test_who_knows_the_goal_earns_exactly_what_is_possible():
    """4 x mean over 21 goals of (16 - d) - 0.1 (d - 1), for goals d steps away: 44.3."""
    away = [x + y for x in range(5) for y in range(5) if x > 1 or y > 1]
    expected = 4 * sum((16 - d) - 0.1 * (d - 1) for d in away) / 21
    assert expected == pytest.approx(44.3, abs=0.05)
    assert mean_return(KnownGoal(make_env("env=grid"))) == pytest.approx(expected, abs=1e-4)


def test_the_sweep_earns_what_it_promises_and_no_less_than_any_obvious_order():
    sweep = Sweep(make_env("env=grid"))
    assert mean_return(sweep) == pytest.approx(sweep.expected_return, abs=1e-4) and sweep.expected_return > 37.2
    rows = [[y * 5 + x for x in (range(5) if y % 2 == 0 else reversed(range(5)))] for y in range(5)]
    snake = [cell for row in rows for cell in row][1:]
    other = Sweep(make_env("env=grid"))
    other.plan = torch.tensor([snake[:15], [5, 10, *snake[14:], *[20] * 3][:15], [0] * 15, [0] * 15])
    assert mean_return(other) < sweep.expected_return


@pytest.mark.parametrize(
    ("keys", "rooms", "known", "swept"),
    [((), 15, 44.8, 33.14), (("num_doors=16", "room_at_start=true"), 16, 47.0, 34.6)],
)
def test_a_hall_is_worth_what_its_rooms_are_away(keys, rooms, known, swept):
    """Known goal: 4 x mean over the rooms, d = x + 1 steps away, of (21 - d) - 0.1 (d - 1)."""
    keys = ["env=hall", *(f"env.{key}" for key in keys)]
    hall = make_env(*keys, num_tasks=rooms)
    tasks = hall.draw_tasks(rooms, "train")
    tasks.parameters["goal"] = hall._coordinates[hall.candidates]

    def every_room(*, num_tasks, seed):
        env = make_env(*keys, num_tasks=rooms, seed=seed)
        env.draw_tasks = lambda *_: tasks
        return env

    found = {name: evaluate(solver, every_room, num_tasks=rooms, seed=0) for name, solver in baselines(hall).items()}
    assert found["Known goal"].return_mean == pytest.approx(known, abs=1e-4)
    assert found["Sweep"].return_mean == pytest.approx(swept, abs=0.05)


def test_where_more_is_to_be_known_no_belief_is_claimed():
    for variant in ("env.dense=true", "env.start=random", "env.show_goal=true"):
        env = make_env("env=grid", variant)
        assert exact_belief(env) is None
        assert set(baselines(env)) == {"Random", "Known goal"}
    with pytest.raises(ValueError, match="less than the goal earns"):
        make_env("env=grid", "env.discovery_bonus=1.2")


def test_what_was_visited_comes_back_for_the_next_test():
    env = make_env("env=hall", "env.room_at_start=true", "env.show_unchecked=true", num_tasks=2)
    env.sample_tasks()
    env.reset()
    left = env.trial_state()
    assert env.step(torch.ones(2, dtype=torch.long)).observation[:, 2].tolist() == [0, 0]
    env.load_trial_state(left)
    assert env.reset()[:, 2].tolist() == [1, 1]


def test_posterior_sampling_explores_slower_than_a_sweep():
    env = make_env("env=grid")
    found = [mean_return(PosteriorSampling(env), seed=seed) for seed in range(20)]
    assert max(found) < 30 and sum(found) / 20 > mean_return(baselines(env)["Random"]) + 5


def test_ways_are_shortest_around_walls():
    hall = make_env("env=hall", "env.num_doors=4")
    distance, _ = shortest_paths(hall.neighbours)
    assert distance[6, 9] == 5 and distance[0, 3] == 3 and distance[6, 1] == 1  # out of one room, along, into another
    grid = make_env("env=grid")
    distance, action = shortest_paths(grid.neighbours)
    assert distance[0, 24] == 8 and action.diagonal().unique().tolist() == [0]


# ---------------------------------------------------------------- beliefs


@pytest.mark.parametrize("env_name", ["grid", "hall"])
def test_beliefs_are_bayes_rule_over_all_goals(env_name):
    """Against the likelihood of everything a trial said, under each goal in turn."""
    from metarl.baselines.base import Random

    env = make_env(f"env={env_name}", "env.horizon=6", "env.num_episodes=3", num_tasks=8)
    env.sample_tasks()
    (rollout,) = collect_trial(env, Random(env.action_space, 3), make_generator(1))
    belief, likelihood = env.initial_belief(8), torch.zeros(8, env.width * env.height)
    likelihood[:, env.candidates] = 1
    for t in range(len(rollout.reward)):
        timestep = type(rollout.timestep)(*(part[t] for part in rollout.timestep))
        belief = env.update_belief(belief, timestep)
        if t > 0:
            arrived = env.cell(rollout.next_observation[t - 1])
            for lane in range(8):
                for goal in range(env.width * env.height):
                    said = rollout.reward[t - 1, lane] > 0
                    likelihood[lane, goal] *= float(said == (goal == arrived[lane]))
        torch.testing.assert_close(belief, likelihood / likelihood.sum(1, keepdim=True))


def test_a_picture_shows_agent_and_goal_where_they_are():
    env = make_env("env=grid", num_tasks=2)
    env.sample_tasks()
    env.reset()
    env.step(torch.tensor([1, 2]))  # up; right
    for lane, (x, y) in enumerate([(0, 1), (1, 0)]):
        picture = env.render(lane)[2:-2, 2:-2]
        goal = int(env.goal[lane])
        at = picture[::-1][16::32, 16::32]
        assert at[y, x].tolist() == [0, 114, 178] and at[goal // 5, goal % 5].tolist() == [0, 158, 115]
