"""Meta-World as published: goals, hidden ones, no end at success, costs that change nothing."""

import numpy as np
import pytest
import torch
from helpers import make_env, random_actions, same
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from metarl.analysis.adapted import adapted_table, metaworld_success_rate
from metarl.envs.metaworld_lane import MetaWorldLane
from metarl.evaluation import evaluate, evaluate_after_adaptation
from metarl.seeding import make_generator
from metarl.types import Decision

BRIEF = ("env.num_workers=0", "env.horizon=30")


def ml1(*overrides: str, **keywords):
    return make_env("env=ml1", *BRIEF, *overrides, **keywords)


def rows(goals: np.ndarray) -> set:
    return {tuple(row) for row in goals.tolist()}


# ---------------------------------------------------------------- goals


def test_ml1_trains_on_other_goals_than_it_is_tested_on():
    env = ml1("env.task=push")
    train, held_out = (env.goals[name]["push-v3"] for name in ("train", "held_out"))
    assert len(rows(train)) == len(rows(held_out)) == 50 and not rows(train) & rows(held_out)
    drawn = [env.draw_tasks(50, name).parameters["goal"].numpy() for name in ("train", "held_out")]
    assert rows(drawn[0]) == rows(train) and rows(drawn[1]) == rows(held_out)


def test_ml10_and_ml45_hold_out_whole_classes():
    sizes = {"ml10": (10, 5), "ml45": (45, 5)}
    for option, (train, held_out) in sizes.items():
        env = make_env(f"env={option}", *BRIEF, num_tasks=2)
        assert (len(env.goals["train"]), len(env.goals["held_out"])) == (train, held_out)
        assert not set(env.goals["train"]) & set(env.goals["held_out"])
        assert all(len(rows(goals)) == 50 for found in env.goals.values() for goals in found.values())
    ml10_train = (
        "reach push pick-place door-open drawer-close button-press-topdown peg-insert-side window-open sweep basketball"
    )
    env = make_env("env=ml10", *BRIEF)
    assert set(env.goals["train"]) == {f"{name}-v3" for name in ml10_train.split()}


def test_goals_are_those_the_library_draws():
    import pickle

    import metaworld

    library = metaworld.ML1("reach-v3", seed=5)
    for name, tasks in (("train", library.train_tasks), ("held_out", library.test_tasks)):
        expected = np.array([pickle.loads(task.data)["rand_vec"] for task in tasks])
        np.testing.assert_array_equal(ml1("env.goal_seed=5").goals[name]["reach-v3"], expected)


def test_classes_take_turns_and_goals_do_not_repeat():
    env = make_env("env=ml10", *BRIEF, num_tasks=20)
    parameters = env.sample_tasks().parameters
    assert parameters["class"].sum(0).tolist() == [2] * 10 + [0] * 5
    assert len(rows(torch.cat([parameters["class"], parameters["goal"]], 1).numpy())) == 20
    few = make_env("env=ml10", *BRIEF, num_tasks=3).sample_tasks("held_out").parameters["class"]
    assert few.sum(0)[:10].sum() == 0 and few.sum(0).max() == 1


def test_more_lanes_than_goals_are_refused():
    with pytest.raises(ValueError, match=r"51 parallel tasks: only 50 goals of 1 classes; lower meta_batch_size"):
        ml1().draw_tasks(51, "train")


@pytest.mark.parametrize(
    ("option", "override", "fragment"),
    [
        ("ml1", "env.task=raech", "env.task=raech: no such task of Meta-World; it has 50, such as reach"),
        ("ml1", "env.task=null", "env.task=None: no such task"),
        ("ml10", "env.task=reach", "env.task=reach: ML10 has all its tasks; leave it null, or use env=ml1"),
        ("ml1", "env.horizon=501", "env.horizon=501: episodes of Meta-World last 500 steps at most"),
    ],
)
def test_what_there_is_not_is_refused(option, override, fragment):
    with pytest.raises(ValueError, match=fragment):
        make_env(f"env={option}", "env.num_workers=0", override)


# ---------------------------------------------------------------- lanes


def test_the_goal_is_hidden_and_a_success_ends_nothing():
    env = ml1("env.task=reach", "env.horizon=200")
    goal = env.sample_tasks().parameters["goal"][:, 3:].numpy()
    observation = env.reset()
    succeeded = torch.zeros(4, dtype=torch.bool)
    for t in range(1, 201):
        assert not observation[:, -3:].any()
        hand = observation[:, :3].numpy()
        action = torch.from_numpy(np.c_[10 * (goal - hand), np.zeros(4)]).float()
        step = env.step(action)
        assert not step.terminated.any() and step.truncated.all() == (t == 200)
        succeeded |= step.success
        observation = step.observation
    assert succeeded.all()


@pytest.mark.parametrize("task", ["reach", "pick-place", "door-open"])
def test_steps_equal_the_librarys(task):
    """A fresh environment of the library under the same actions, twice over: after a reset, too."""
    env = ml1(f"env.task={task}", num_tasks=2)
    env.sample_tasks()
    library = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    library.set_task(_library_task(env, 1))
    generator = make_generator(0)
    for _ in range(2):
        np.testing.assert_array_equal(env.reset()[1], library.reset()[0].astype(np.float32))
        for _ in range(30):
            action = random_actions(env, generator)
            action[:, 2] -= 1  # down, where objects are
            step = env.step(action)
            observation, reward, _, _, info = library.step(action[1].clamp(-1, 1).numpy())
            np.testing.assert_array_equal(step.final_observation[1], observation.astype(np.float32))
            assert step.reward[1] == np.float32(reward) and bool(step.success[1]) == bool(info["success"])


def _library_task(env, lane: int):
    import pickle

    from metaworld.types import Task

    name, goal = env.to_native_tasks(env.tasks)[lane]
    data = {"rand_vec": goal, "env_cls": ALL_V3_ENVIRONMENTS[name], "partially_observable": True}
    return Task(env_name=name, data=pickle.dumps(data))


def test_contacts_are_found_as_the_library_finds_them():
    """The gripper closed around the puck, and every other geometry."""
    lane = MetaWorldLane()
    env = ml1("env.task=pick-place", num_tasks=1)
    env.sample_tasks()
    lane.set_task(env.to_native_tasks(env.tasks)[0])
    observation, _ = lane.reset()
    quick, found = lane._present, set()
    original = ALL_V3_ENVIRONMENTS["pick-place-v3"].touching_object
    for t in range(120):
        above = t < 40
        aim = observation[4:7] + np.array([0, 0, 0.1 if above else 0.0])
        observation, *_ = lane.step(np.r_[10 * (aim - observation[:3]), -1.0 if t < 80 else 1.0].clip(-1, 1))
        for geometry in range(quick.model.ngeom):
            touching = quick.touching_object(geometry)
            assert touching == original(quick, geometry)
            found.add(touching)
    assert found == {True, False}


def test_workers_change_nothing():
    def played(workers: int) -> list:
        env, generator = ml1(f"env.num_workers={workers}", num_tasks=3), make_generator(0)
        said = [env.sample_tasks().description, env.reset()]
        for _ in range(35):
            said += env.step(random_actions(env, generator))
        return said

    assert same(played(0), played(2))


# ---------------------------------------------------------------- the protocol


def test_the_librarys_count_rewards_the_fastest_goals():
    """As measured of the library: agents that solve 10, 20 or 50 % of the goals are all reported as perfect."""
    for share in (0.1, 0.2, 0.5):
        successes = np.zeros((50, 3), bool)
        successes[: int(50 * share)] = True
        steps = np.where(successes, 80, 500)
        assert metaworld_success_rate(successes, steps) == 1.0
        (row,) = adapted_table(successes * 1.0, successes, steps, ["reach-v3"] * 50)
        assert row["success_rate"] == pytest.approx(share) and row["library_count"] == 1.0
    assert metaworld_success_rate(np.zeros((50, 3), bool), np.full((50, 3), 500)) == 0


def test_classes_count_the_same_whatever_their_number_of_tasks():
    successes = np.array([[True], [True], [True], [False]])
    rows = adapted_table(successes * 2.0, successes, np.ones((4, 1)), ["a", "a", "a", "b"])
    assert [(row["class"], row["success_rate"]) for row in rows] == [("a", 1.0), ("b", 0.0), ("mean", 0.5)]


def goals_of(*, num_tasks: int, seed: int):
    return make_env("env=point_goal", "env.horizon=5", "env.num_episodes=1", num_tasks=num_tasks, seed=seed)


class Counting:
    """Counts its steps, in place; walks up for the first five, then right for five, then left."""

    rollouts = (1,)

    def initial_state(self, tasks):
        return torch.zeros(len(tasks))

    def act(self, timestep, state, generator, greedy=False):
        heading = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
        action = heading[(state // 5).long()]
        state += 1
        return Decision(action, torch.zeros(len(state)), torch.zeros(len(state))), state

    def adapt(self, state, rollout):
        return state


def test_every_held_out_goal_is_tested_from_the_memory_the_trial_left():
    played = evaluate_after_adaptation(Counting(), goals_of, num_tasks=100, seed=0, episodes=2, batch_size=30)
    goals = make_env("env=point_goal").all_tasks("held_out").parameters["goal"]
    assert torch.equal(played.tasks.parameters["goal"], goals)  # every goal, in batches that do not divide them
    walked = 0.05 * torch.arange(1, 6).view(-1, 1, 1) * torch.tensor([1.0, 0.0])
    expected = -(walked - goals).norm(dim=-1).sum(0)
    torch.testing.assert_close(played.returns, expected.unsqueeze(1).expand(-1, 2))


def test_lanes_that_share_a_task_play_more_episodes_of_it():
    def shared(*, num_tasks: int, seed: int):
        short = ("env.horizon=5", "env.num_episodes=1", "env.num_goals=6")
        return make_env("env=point_goal", *short, num_tasks=num_tasks, lanes_per_task=3, seed=seed)

    played = evaluate_after_adaptation(Counting(), shared, num_tasks=6, seed=0, episodes=2, batch_size=4)
    assert played.returns.shape == played.steps.shape == (6, 6) and len(played.tasks) == 6
    assert len(played.tasks.description.unique(dim=0)) == 6
    torch.testing.assert_close(played.returns, played.returns[:, :1].expand(-1, 6))


def test_a_finite_set_is_evaluated_in_whole_rounds_and_the_error_is_over_its_tasks():
    def few(*, num_tasks: int, seed: int):
        short = ("env.horizon=5", "env.num_episodes=1", "env.num_goals=6")
        return make_env("env=point_goal", *short, num_tasks=num_tasks, seed=seed)

    walked_up = evaluate(Counting(), few, num_tasks=20, seed=0, batch_size=4)  # three rounds, two trials short
    assert walked_up.num_tasks == 6
    goals = few(num_tasks=1, seed=0).all_tasks("held_out").parameters["goal"]
    walked = 0.05 * torch.arange(1, 6).view(-1, 1, 1) * torch.tensor([0.0, 1.0])
    expected = -(walked - goals).norm(dim=-1).sum(0)
    assert walked_up.return_mean == pytest.approx(expected.mean().item(), rel=1e-5)
    assert walked_up.return_se == pytest.approx((expected.std() / 6**0.5).item(), rel=1e-5)
    assert evaluate(Counting(), few, num_tasks=5, seed=0).num_tasks == 5  # too few for the whole set: drawn
