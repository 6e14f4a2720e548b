"""Goals in the plane: TESP's fixed sets and bodies, points without a simulator."""

import mujoco
import numpy as np
import pytest
import torch
from helpers import make_env

from metarl.errors import ConfigError
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from metarl.types import Decision, Tasks

BODIES = ["wheeled", "ant_target", "reacher_2link", "reacher_4link"]
SETS = [*BODIES, "point_goal"]


def distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - others[None], axis=-1)


@pytest.mark.parametrize("option", SETS)
def test_goal_sets_have_the_published_ranges_and_spacing(option):
    env = make_env(f"env={option}")
    sets, plan = env.goals, env.plan
    border, farthest, spacing = {"point_goal": (0.7, 1.0, 0.01), "reacher_4link": (1.1, 1.5, 0.11)}.get(
        option, (1.1, 1.5, 0.1)
    )
    assert (plan.train_radius, plan.ood_radius, plan.min_goal_distance) == (border, farthest, spacing)
    for task_set, (low, high) in {
        "train": (0.2, border),
        "held_out": (0.2, border),
        "out_of_range": (border, farthest),
    }.items():
        assert sets[task_set].shape == (100, 2)
        radius = np.linalg.norm(sets[task_set], axis=1)
        assert low < radius.min() and radius.max() < high
        apart = distances(sets[task_set], sets[task_set]) + 10 * np.eye(100)
        assert apart.min() >= spacing
    assert distances(sets["held_out"], sets["train"]).min() >= spacing


def test_goal_sets_depend_on_their_own_seed_alone():
    goals = [make_env("env=wheeled", *more).goals["train"] for more in ([], ["seed=3"], ["env.goal_seed=1"])]
    assert np.array_equal(goals[0], goals[1]) and not np.array_equal(goals[0], goals[2])


def test_half_planes_hold_their_goals():
    sets = make_env("env=wheeled", "env.split=half_plane").goals
    for task_set, sign in (("train", 1), ("held_out", 1), ("out_of_range", -1)):
        assert (sign * sets[task_set][:, 0] >= 0).all() and abs(sets[task_set]).max() <= 2


def test_a_meta_batch_meets_different_goals_of_its_set_and_no_more_than_there_are():
    env = make_env("env=wheeled", num_tasks=100)
    for task_set in env.task_sets:
        drawn = env.sample_tasks(task_set).parameters["goal"].double().numpy()
        assert distances(drawn, env.goals[task_set]).argmin(1).tolist() != list(range(100))
        assert sorted(distances(drawn, env.goals[task_set]).argmin(1)) == list(range(100))
    with pytest.raises(ValueError, match=r"101 tasks.*env.num_goals=100.*lower meta_batch_size or eval.batch_size"):
        make_env("env=wheeled", num_tasks=101).sample_tasks()


def test_goals_can_be_fresh_every_time():
    env = make_env("env=reacher_2link", "env.num_goals=null", num_tasks=3000)
    for task_set, (low, high) in {"train": (0.2, 1.1), "out_of_range": (1.1, 1.5)}.items():
        radius = env.sample_tasks(task_set).parameters["goal"].norm(dim=1)
        assert low < radius.min() and radius.max() < high
    assert env.sample_tasks().parameters["goal"].norm(dim=1).mean().item() == pytest.approx(0.754, abs=0.02)


@pytest.mark.parametrize("num_goals", ["100", "null"])
def test_an_area_without_room_for_goals_is_refused_with_all_its_keys(num_goals):
    with pytest.raises(
        (ConfigError, ValueError), match=r"env\.min_radius=0\.2, env\.train_radius=1\.1, env\.ood_radius=1e\+30"
    ):
        make_env("env=wheeled", "env.ood_radius=1e30", f"env.num_goals={num_goals}").sample_tasks()


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("env.min_goal_distance=0.5", "env.num_goals=100 at env.min_goal_distance=0.5 do not fit"),
        ("env.min_radius=2.0", "env.min_radius=2.0, env.train_radius=1.1, env.ood_radius=1.5: must increase"),
        (
            "env=ant_target env.terminate_when_unhealthy=false env.unhealthy_penalty=1.0",
            "env.unhealthy_penalty=1.0 is of steps",
        ),
        ("env.failed_actuator=2", "env.failed_actuator=2: this body has 0 to 1, or random"),
    ],
)
def test_impossible_goals_and_actuators_are_refused(override, fragment):
    with pytest.raises((ValueError, ConfigError), match=fragment.replace("[", r"\[")):
        make_env("env=wheeled", *override.split(" "))


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize("option", BODIES)
def test_bodies_weigh_24_kilograms(option):
    assert make_env(f"env={option}").model.body_mass.sum() == pytest.approx(24, abs=2e-3)


@pytest.mark.parametrize(
    ("option", "size", "start"),
    [
        ("wheeled", 9, (0, 0)),
        ("ant_target", 29, (0, 0)),
        ("reacher_2link", 8, (1.7, 0)),
        ("reacher_4link", 14, (2.0, 0)),
    ],
)
def test_bodies_have_the_published_observations_and_starts(option, size, start):
    env = make_env(f"env={option}")
    env.sample_tasks()
    assert env.reset().shape == (4, size) and env.horizon == 200 and env.physics.control_interval == pytest.approx(0.05)
    np.testing.assert_allclose(env.point(env.physics.qpos), np.tile(start, (4, 1)), atol=1e-12)


# Measured on the original bodies: where ten steps of the strongest action lead.
@pytest.mark.parametrize(
    ("option", "reached", "tolerance"),
    [("wheeled", (0.472, 0), 0.02), ("reacher_2link", (-0.128, 0.604), 1e-3), ("reacher_4link", (0.492, 0.327), 1e-3)],
)
def test_ten_steps_lead_where_they_led_in_the_original(option, reached, tolerance):
    env = make_env(f"env={option}")
    env.set_tasks(Tasks({"goal": torch.full((4, 2), 9.0)}))
    env.reset()
    for _ in range(10):
        env.step(torch.ones(env.action_space.shape).expand(4, -1))
    np.testing.assert_allclose(env.point(env.physics.qpos)[0], reached, atol=tolerance)


class Shaking:
    """Acts by normal noise of one size."""

    rollouts = (1,)

    def __init__(self, env, size: float):
        self.shape, self.size = env.action_space.shape, size

    def initial_state(self, tasks):
        return ()

    def act(self, timestep, state, generator, greedy=False):
        action = self.size * torch.randn(len(timestep.first), *self.shape, generator=generator)
        return Decision(action, action.sum(1), action.sum(1)), state


# Measured on the original bodies, 100 goals of each set: no action at all, or normal noise.
@pytest.mark.parametrize(
    ("option", "size", "held_out", "out_of_range"),
    [
        ("wheeled", 0.0, -150.8, -268.6),
        ("wheeled", 1.0, -225, -335),
        ("ant_target", 0.0, -159, -266),
        ("reacher_2link", 1.0, -237, -316),
        ("reacher_4link", 1.0, -208, -294),
    ],
)
def test_actions_without_aim_earn_what_they_did_in_the_original(option, size, held_out, out_of_range):
    count = 30 if option == "ant_target" else 100
    env = make_env(f"env={option}", num_tasks=count)
    for task_set, published in (("held_out", held_out), ("out_of_range", out_of_range)):
        env.sample_tasks(task_set)
        (rollout,) = collect_trial(env, Shaking(env, size), make_generator(0))
        assert (rollout.reward * rollout.mask).sum(0).mean().item() == pytest.approx(published, rel=0.12)


def test_the_small_ant_stands():
    env = make_env("env=ant_target")
    env.set_tasks(Tasks({"goal": torch.full((4, 2), 9.0)}))
    env.reset()
    assert not any(env.step(torch.zeros(4, 8)).terminated.any() for _ in range(100))


@pytest.mark.parametrize("option", BODIES)
def test_steps_equal_a_scalar_implementation(option):
    """One MjData stepped in Python, the tip from MuJoCo's own kinematics, the reward from its published formula."""
    env = make_env(f"env={option}", num_tasks=2)
    goal = env.sample_tasks().parameters["goal"].double().numpy()
    observation, generator, data = env.reset(), make_generator(0), mujoco.MjData(env.model)
    for _ in range(100):
        action = torch.randn(2, env.model.nu, generator=generator)
        mujoco.mj_resetData(env.model, data)
        data.qpos[:], data.qvel[:] = env.physics.qpos[1], env.physics.qvel[1]
        clipped = action[1].double().numpy().clip(-1, 1)
        data.ctrl[:] = clipped * env.model.actuator_ctrlrange[:, 1]
        mujoco.mj_step(env.model, data, 5)
        mujoco.mj_kinematics(env.model, data)
        body = {"wheeled": "car", "ant_target": "torso"}.get(option, "tip")
        distance = np.linalg.norm(data.body(body).xpos[:2] - goal[1])
        step = env.step(action)
        observation = step.final_observation[1]
        assert step.reward[1].item() == pytest.approx(-distance - 1e-3 * 0.5 * np.square(clipped).sum(), abs=1e-6)
        fallen = option == "ant_target" and not 0.15 <= data.qpos[2] <= 0.45
        assert bool(step.terminated[1]) == (distance < env.arrival or fallen)
        assert bool(step.success[1]) == (distance < env.arrival)
        if option == "wheeled":
            expected = [*data.qpos[:3], np.sin(data.qpos[3]), np.cos(data.qpos[3]), *data.qvel[:4]]
        elif option == "ant_target":
            expected = [*data.qpos, *data.qvel]
        else:
            expected = [*np.cos(data.qpos), *np.sin(data.qpos), *data.qvel, *data.body("tip").xpos[:2]]
        np.testing.assert_allclose(observation, expected, atol=2e-5)


def test_failed_actuators_do_nothing_and_noise_is_on_what_is_seen_alone():
    tasks, actions = Tasks({"goal": torch.full((500, 2), 9.0)}), torch.ones(500, 2)

    def after(*overrides):
        env = make_env("env=wheeled", *overrides, num_tasks=500)
        env.set_tasks(tasks)
        env.reset()
        return env, [env.step(actions) for _ in range(5)][-1]

    whole, _ = after()
    left, _ = after("env.failed_actuator=0")
    random, _ = after("env.failed_actuator=random")
    noisy, seen = after("env.observation_noise=0.1")
    assert abs(whole.physics.qpos[:, 3]).max() < 1e-9 and abs(left.physics.qpos[:, 3]).min() > 1e-3
    assert (random.physics.qpos[:, 3] > 0).any() and (random.physics.qpos[:, 3] < 0).any()
    np.testing.assert_array_equal(noisy.physics.qpos, whole.physics.qpos)
    assert (seen.observation.numpy() - whole.sees()).std() == pytest.approx(0.1, rel=0.05)


def test_the_ants_options_change_what_falling_costs():
    def fall(*overrides):
        env = make_env("env=ant_target", *overrides, num_tasks=1)
        env.set_tasks(Tasks({"goal": torch.ones(1, 2)}))
        env.reset()
        env.physics.qpos[:, 2] = 0.6
        return env.step(torch.zeros(1, 8))

    published, kept, punished = fall(), fall("env.terminate_when_unhealthy=false"), fall("env.unhealthy_penalty=5")
    assert published.terminated.all() and not kept.terminated.any()
    assert punished.reward.item() == pytest.approx(published.reward.item() - 5)
    progress = fall("env.reward=progress")
    assert abs(progress.reward.item()) < 0.1 < abs(published.reward.item())


# ---------------------------------------------------------------- points


def point(option: str, goal, *overrides):
    env = make_env(f"env={option}", *overrides, num_tasks=len(goal))
    env.set_tasks(Tasks({"goal": torch.tensor(goal)}))
    env.reset()
    return env


def test_navigation_moves_by_its_steps_and_pays_the_distance():
    env = point("point_navigation", [[0.3, 0.0], [0.0, -0.5]])
    step = env.step(torch.tensor([[1.0, 0.5], [-3.0, -0.2]]))
    torch.testing.assert_close(step.observation, torch.tensor([[0.1, 0.05], [-0.1, -0.02]]))
    torch.testing.assert_close(step.reward, -torch.tensor([[0.2, -0.05], [0.1, -0.48]]).norm(dim=1))
    env.step(torch.tensor([[1.0, -0.5], [0.0, 0.0]]))
    arrival = env.step(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert arrival.terminated.tolist() == [True, False] and arrival.success.tolist() == [True, False]
    assert arrival.observation[0].tolist() == [0, 0] and arrival.final_observation[0, 0] == pytest.approx(0.3)


def test_a_sparse_point_earns_near_its_goal_alone():
    env = point("sparse_point", [[0.0, 1.0], [1.0, 0.0]], "env.goal_radius=0.22")
    rewards = torch.stack([env.step(torch.tensor([[0.0, 1.0], [0.0, 1.0]])).reward for _ in range(20)])
    distance = (1 - 0.1 * torch.arange(1, 21)).abs()
    near = torch.where(distance < 0.22, 1 - distance, torch.zeros(20))
    torch.testing.assert_close(rewards[:, 0], near, atol=1e-5, rtol=0)
    assert not rewards[:, 1].any()


def test_semicircle_pays_for_arriving_and_starts_over():
    env = point("semicircle", [[0.2, 0.0], [0.0, 0.2]])
    env.state = torch.zeros(2, 3)
    steps = [env.step(torch.tensor([[1.0, 0.0], [1.0, 0.0]])) for _ in range(2)]
    assert [step.reward.tolist() for step in steps] == [[0, 0], [1, 0]]
    assert steps[0].observation[0].tolist() == pytest.approx([0.1, 0, 0], abs=1e-6)
    assert steps[1].observation[0, :2].tolist() == [0, 0] and steps[1].observation[1, 0] == pytest.approx(0.2)
    env.state = torch.zeros(2, 3)
    turned = env.step(torch.tensor([[0.0, 1.0], [0.0, -0.5]])).observation[:, 2]
    assert turned.tolist() == pytest.approx([0.628319, -0.314159], abs=1e-5)


def test_goals_of_points_lie_where_the_papers_have_them():
    square = make_env("env=point_navigation", num_tasks=4000).sample_tasks().parameters["goal"]
    assert square.abs().max() <= 0.5 and square.std(0).tolist() == pytest.approx([1 / 12**0.5] * 2, rel=0.05)
    for option, radius in (("sparse_point", 1.0), ("semicircle", 0.2)):
        goal = make_env(f"env={option}", num_tasks=4000).sample_tasks().parameters["goal"]
        torch.testing.assert_close(goal.norm(dim=1), torch.full((4000,), radius))
        assert goal[:, 1].min() >= -1e-6 and abs(goal[:, 0].mean()) < 0.05 * radius


def test_tesps_point_is_walled_in_and_ends_at_its_goal():
    env = point("point_goal", [[9.0, 9.0], [0.1, 0.0]])
    for _ in range(2):
        step = env.step(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert step.terminated.tolist() == [False, True] and step.reward[0] == pytest.approx(-np.hypot(8.9, 9.0), rel=1e-5)
    for _ in range(150):
        step = env.step(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert step.observation[0, 0] == 5


@pytest.mark.parametrize("option", ["cheetah_vel", "ant_vel"])
def test_a_range_upside_down_is_refused(option):
    with pytest.raises(ValueError, match=r"env.min_velocity=4.0 is above env.max_velocity=3.0; exchange them"):
        make_env(f"env={option}", "env.min_velocity=4.0")
