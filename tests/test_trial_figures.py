"""Figures of a trial: each environment has the one that suits it, with what happened in the trial."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import make_algorithm, make_env
from matplotlib.colors import to_hex
from processes import REPOSITORY

from metarl.analysis import style
from metarl.analysis.trial_figures import MOST_EPISODES, chosen, draw_trial
from metarl.analysis.trial_recording import (
    VIEWS,
    Course,
    Path,
    Pulls,
    Rewards,
    TrialRecording,
    Visits,
    from_json,
    to_json,
)
from metarl.analysis.trial_views import RewardRecorder, view_recorder
from metarl.analysis.video_recorder import record_trial
from metarl.envs.capabilities import Measured, Quantity, trial_view
from metarl.envs.tmaze import TMaze

SMALL = ("env.horizon=5", "env.num_episodes=2", "algorithm.num_minibatches=1")


def played(option: str, *overrides: str):
    agent, env = make_algorithm(f"env={option}", *overrides, "algorithm.num_minibatches=1", lanes=1)
    env.sample_tasks()
    return record_trial(agent, env, 0, every=0), env


@pytest.mark.parametrize("option", ["cheetah_vel", "ant_vel"])
def test_velocity_tasks_show_the_velocity_against_their_target(option):
    recording, env = played(option, *SMALL)
    view = recording.view
    assert isinstance(view, Course) and (view.name, view.unit) == ("forward velocity", "m/s")
    assert view.target == pytest.approx(float(env.tasks.parameters["velocity"][0]))
    assert view.seconds_per_step == 0.05 and [len(values) for values in view.values] == [4, 4]
    for places, velocities in zip(recording.positions, view.values, strict=True):
        moved = np.diff(np.array(places)[:, 0]) / 0.05
        np.testing.assert_allclose(velocities, moved[: len(velocities)], atol=0.05 if option == "ant_vel" else 1e-4)
    figure, caption = draw_trial(recording)
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time in the episode (s)", "forward velocity (m/s)")
    assert view.target in [line.get_ydata()[0] for line in ax.lines] and "against the target" in caption


@pytest.mark.parametrize("option", ["cheetah_dir", "ant_dir", "swimmer_dir", "humanoid_dir"])
def test_direction_tasks_show_the_velocity_in_their_direction(option):
    recording, env = played(option, *SMALL)
    view, direction = recording.view, env.tasks.parameters["direction"][0].flatten().numpy()
    assert isinstance(view, Course) and view.target is None and "direction" in view.name
    moved = np.diff(np.array(recording.positions[0])[:, : len(direction)], axis=0) @ direction / view.seconds_per_step
    assert len(view.values[0]) == len(moved) or option == "humanoid_dir"
    if option != "humanoid_dir":  # where it is that of the centre of mass
        np.testing.assert_allclose(view.values[0], moved, atol=0.1)


@pytest.mark.parametrize(
    ("hop", "name"), [(0.0, "velocity in the direction of the task"), (1.0, "height of the torso")]
)
def test_a_quantity_may_depend_on_the_task(hop, name):
    env = make_env("env=cheetah_hop_walk", num_tasks=1)
    env.set_tasks(env.draw_tasks(1, "train"))
    env._parameters["hop"][:] = hop
    assert isinstance(env, Measured) and env.quantity(0).name == name


FIGURES = {
    "quantity": "ant_dir ant_vel cheetah_dir cheetah_dir_sparse cheetah_grid cheetah_hop cheetah_hop_walk cheetah_vel "
    "hopper_grid hopper_params humanoid_dir swimmer_dir walker_grid walker_params",
    "arms": "bandit gaussian_bandit",
    "cells": "grid hall",
    "path": "ant_goal ant_goal_sparse ant_target planning_game point_goal point_navigation reacher_2link reacher_4link "
    "semicircle sparse_point wheeled",
    "rewards": "ml1 ml10 ml45 rooms tabular_mdp tmaze tmaze_copying",
}


def test_every_environment_has_a_figure_that_suits_it():
    options = {name: view for view, names in FIGURES.items() for name in names.split()}
    assert set(options) == {file.stem for file in (REPOSITORY / "conf" / "env").glob("[!_]*.yaml")}
    for name, view in options.items():
        if not name.startswith("ml"):  # whose simulators are slow to start
            env = make_env(f"env={name}", num_tasks=1)
            env.sample_tasks()
            recorder, action = view_recorder(env), torch.zeros(1, *env.action_space.shape)
            action = action.long() if isinstance(env.action_space, spaces.Discrete) else action
            recorder.begin(env.reset())
            recorder.add(action, env.step(action), over=env.horizon == 1)
            assert trial_view(env) == view and isinstance(recorder.view, VIEWS[view])
            assert draw_trial(TrialRecording("a task", returns=[0.0], view=recorder.view)) is not None


def test_bandits_show_the_arms_that_were_pulled():
    recording, env = played("bandit", "env.num_episodes=30")
    view = recording.view
    assert isinstance(view, Pulls) and len(view.arms) == len(view.rewards) == 30 == len(recording.returns)
    assert view.rewards == recording.returns
    np.testing.assert_allclose(view.expected_rewards, env.tasks.parameters["mean"][0])
    figure, caption = draw_trial(recording)
    (ax,) = figure.axes
    best = int(np.argmax(view.expected_rewards))
    assert ax.get_yticklabels()[-1].get_text() == f"arm {best} ({view.expected_rewards[best]:.2f})"
    assert f"{100 * view.arms.count(best) / 30:.0f} % of them" in caption


def test_grids_show_the_cells_that_were_visited():
    recording, env = played("grid", *SMALL)
    view = recording.view
    assert isinstance(view, Visits) and view.shape == env.grid_shape and view.goal == int(env.goal[0])
    assert [len(cells) for cells in view.cells] == [6, 6] and view.cells[0][0] == view.cells[1][0] == env.home
    assert all(abs(b % 5 - a % 5) + abs(b // 5 - a // 5) <= 1 for cells in view.cells for a, b in pairwise(cells))
    figure, _ = draw_trial(recording)
    assert [ax.get_title("left").split(":")[0] for ax in figure.axes] == ["episode 1", "episode 2"]
    assert len(figure.axes[0].patches) == len(set(view.cells[0]))


@pytest.mark.parametrize(("option", "points"), [("wheeled", 5), ("point_navigation", 6), ("ant_goal", 5)])
def test_goals_show_the_path_of_each_episode(option, points):
    recording, env = played(option, *SMALL)
    view = recording.view
    assert isinstance(view, Path) and [len(places) for places in view.positions] == [points, points]
    assert view.goal == env.tasks.parameters["goal"][0].tolist()
    figure, _ = draw_trial(recording)
    names = [text.get_text().split(":")[0] for text in figure.legends[0].get_texts()]
    assert names == ["episode 1", "episode 2", "goal"]


def test_an_episode_that_ends_at_its_goal_is_drawn_to_it():
    env = make_env("env=point_goal", num_tasks=1)
    env.sample_tasks()
    recorder = view_recorder(env)
    recorder.begin(env.reset())
    for _ in range(100):
        action = ((env.goal - env.state) / env.max_step).clamp(-1, 1)
        step = env.step(action)
        recorder.add(action, step, bool(step.terminated[0]))
        if step.terminated[0]:
            break
    end = np.array(recorder.view.positions[0][-1])
    assert step.terminated[0] and np.abs(end - env.goal[0].numpy()).max() < env.arrival


@pytest.mark.parametrize("option", ["tabular_mdp", "rooms"])
def test_other_environments_show_their_rewards(option):
    recording, _ = played(option, "env.num_episodes=2")
    assert isinstance(recording.view, Rewards)
    np.testing.assert_allclose([sum(rewards) for rewards in recording.view.rewards], recording.returns, rtol=1e-6)
    figure, _ = draw_trial(recording)
    assert figure.axes[0].get_ylabel() == "reward of the step"


def test_an_environment_of_ones_own_says_what_suits_it():
    class MeasuredMaze(TMaze, Measured):
        def quantity(self, lane=0):
            return Quantity("distance", "cells", float(self.position[lane]), 3.0)

    env = MeasuredMaze(
        length=4, indicators=[0], biased_bits=None, position_encoding="none", num_episodes=1, num_tasks=1, seed=0
    )
    env.sample_tasks()
    recorder = view_recorder(env)
    assert recorder.view is None
    recorder.begin(env.reset())
    for _ in range(4):
        recorder.add(torch.zeros(1), env.step(torch.zeros(1, dtype=torch.long)), over=False)
    assert recorder.view == Course("distance", "cells", 3.0, None, [[1.0, 2.0, 3.0, 0.0]])
    assert isinstance(view_recorder(make_env("env=tmaze", num_tasks=1)), RewardRecorder)


@pytest.mark.parametrize("option", ["cheetah_vel", "bandit", "grid", "point_goal", "tmaze"])
def test_recordings_survive_their_file(option):
    recording, _ = played(option, "env.num_episodes=2", *([] if option in ("bandit", "tmaze") else ["env.horizon=4"]))
    again = from_json(to_json(recording))
    assert to_json(again) == to_json(recording) and type(again.view) is type(recording.view)


def test_recordings_of_earlier_versions_show_their_path():
    held = {"task": "goal 1, 1", "returns": [1.0], "places": [[[0, 0], [1, 1]]], "goal": [1, 1]}
    recording = from_json(json.dumps(held))
    assert recording.view == Path(("x", "y"), [[[0, 0], [1, 1]]], [1, 1]) and draw_trial(recording) is not None
    assert draw_trial(from_json(json.dumps(held | {"places": [[]], "goal": None}))) is None


def test_gradient_methods_have_an_episode_for_every_rollout():
    agent, env = make_algorithm("env=point_goal", "model=mlp", "algorithm=maml", "env.horizon=4", lanes=1)
    env.sample_tasks()
    recording = record_trial(agent, env, 0, every=0)
    assert len(recording.returns) == len(recording.view.positions) == sum(agent.rollouts)
    assert all(earned != 0 for earned in recording.returns)


def test_of_many_episodes_some_are_drawn():
    episodes = [[1.0]] * 50 + [[]]
    assert len(chosen(episodes)) == MOST_EPISODES and chosen(episodes)[0] == 0 and chosen(episodes)[-1] == 49
    assert chosen([[], [1.0]]) == [1]


def test_figures_name_no_colour_that_a_page_cannot_set():
    """Whatever is drawn in black or in a colour of its own would be lost in the dark."""
    for option in ("cheetah_vel", "bandit", "grid", "point_goal", "tabular_mdp"):
        recording, _ = played(option, "env.num_episodes=2", *([] if option == "bandit" else ["env.horizon=4"]))
        figure, _ = draw_trial(recording)
        svg = style.to_svg(figure, "trial")
        assert svg.startswith('<svg fill="currentColor"') and "stroke: #" not in svg and "fill: #" not in svg
        assert svg.count("<title>") >= 2 and to_hex("black") not in svg
