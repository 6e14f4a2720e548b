"""Videos of trials: frames and captions, trajectories, the report, the command."""

import gc
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import make_algorithm, make_env, small_config
from PIL import Image, ImageSequence
from processes import REPOSITORY

from metarl.analysis import trial_recording, video
from metarl.analysis.paths import with_path_frames
from metarl.analysis.report import write_report
from metarl.analysis.video_recorder import RecordedEnv, record_trial
from metarl.cli import main
from metarl.configuration.build import build
from metarl.envs.capabilities import Renderable
from metarl.envs.rendering import Camera, NoRendererError, RenderError, choose_backend
from metarl.envs.tabular_mdp import TabularMDP
from metarl.experiment import run
from metarl.rollout import episode_returns
from metarl.types import Tasks

SMALL = ("env.horizon=6", "env.num_episodes=2")


def can_draw() -> bool:
    env = make_env("env=cheetah_vel", num_tasks=1)
    env.sample_tasks()
    env.reset()
    try:
        return env.render() is not None
    except RenderError:
        return False


drawn = pytest.mark.skipif(not can_draw(), reason="no renderer on this machine")


@pytest.mark.parametrize("broken", ["mujoco.gl_context.GLContext", "mujoco._render.MjrContext"])
def test_a_renderer_that_fails_half_way_ends_in_one_message(broken, monkeypatch):
    mujoco, printed = pytest.importorskip("mujoco"), []

    def failing(*_):
        raise RuntimeError("no display")

    monkeypatch.setattr(broken, failing, raising=False)
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    with pytest.raises(NoRendererError, match="no renderer: "):
        Camera(mujoco.MjModel.from_xml_string("<mujoco/>"), 3.0)
    gc.collect()
    assert printed == []


def test_without_a_graphics_library_there_is_one_message(monkeypatch):
    mujoco = pytest.importorskip("mujoco")
    monkeypatch.delattr("mujoco.gl_context.GLContext", raising=False)
    with pytest.raises(NoRendererError, match="no renderer: "):
        Camera(mujoco.MjModel.from_xml_string("<mujoco/>"), 3.0)


def recorded(option: str, every: int, *overrides: str):
    agent, env = make_algorithm(f"env={option}", *SMALL, *overrides, "algorithm.num_minibatches=1", lanes=1)
    env.sample_tasks()
    return record_trial(agent, env, 0, every), agent, env


def test_a_film_keeps_where_the_agent_went_and_what_it_earned():
    recording, _, env = recorded("point_navigation", 0, "env.arrival=0")
    assert [len(places) for places in recording.positions] == [7, 7] and recording.frames == []
    assert recording.task.startswith("goal ") and np.array_equal(
        recording.goal, env.tasks.parameters["goal"][0].numpy()
    )
    again, _, _ = recorded("point_navigation", 0, "env.arrival=0")
    assert again.returns == recording.returns and len(recording.returns) == 2
    distances = [np.linalg.norm(np.array(places[1:]) - recording.goal, axis=1).sum() for places in recording.positions]
    np.testing.assert_allclose(recording.returns, -np.array(distances), rtol=1e-5)


def test_a_film_is_the_same_trial_as_without_a_camera():
    from metarl.rollout import collect_trial
    from metarl.seeding import make_generator, split_seed

    recording, agent, _ = recorded("cheetah_vel", 0)
    _, env = make_algorithm("env=cheetah_vel", *SMALL, "algorithm.num_minibatches=1", lanes=1)
    env.sample_tasks()
    (rollout,) = collect_trial(env, agent, make_generator(split_seed(0, 2)[1]))
    np.testing.assert_allclose(recording.returns, episode_returns(rollout, 2)[:, 0], rtol=1e-5)


def test_a_film_survives_its_file():
    recording, *_ = recorded("ant_goal", 0)
    again = trial_recording.from_json(trial_recording.to_json(recording))
    assert (
        again.task == recording.task
        and again.returns == recording.returns
        and np.array_equal(again.goal, recording.goal)
    )
    assert all(np.array_equal(a, b) for a, b in zip(again.positions, recording.positions, strict=True))


@drawn
@pytest.mark.parametrize("option", ["cheetah_vel", "ant_goal", "walker_params", "reacher_2link", "ml1"])
def test_pictures_show_the_body_move_and_carry_captions(option):
    recording, *_ = recorded(option, 2)
    assert recording.frame_episodes == [0, 0, 0, 1, 1, 1]
    shape = (360 + video.caption_height(480), 480, 3)
    assert all(picture.shape == shape and picture.dtype == np.uint8 for picture in recording.frames)
    body = [picture[video.caption_height(480) :].astype(int) for picture in recording.frames]
    assert all(picture.std() > 10 for picture in body) and abs(body[0] - body[1]).max() > 20
    assert (recording.frames[0][: video.caption_height(480)] < 128).any()
    assert video.strip(recording).size == (3 * video.STRIP_WIDTH, 2 * round(video.STRIP_WIDTH * shape[0] / shape[1]))


@drawn
def test_a_goal_is_marked_where_it_is():
    env = make_env("env=wheeled", num_tasks=1)
    pictures = []
    for goal in ([0.4, 0.0], [-0.4, 0.0]):
        env.set_tasks(Tasks({"goal": torch.tensor([goal])}))
        env.reset()
        pictures.append(env.render().astype(int))
    red = [np.argwhere((picture[..., 0] > 150) & (picture[..., 1] < 90)).mean(0) for picture in pictures]
    assert abs(red[0][1] - red[1][1]) > 50


def test_render_may_require_the_lane():
    class Drawn(TabularMDP, Renderable):
        def render(self, lane):
            return np.full((32, 32, 3), lane, np.uint8)

    env = Drawn(num_states=3, num_actions=2, horizon=4, num_episodes=1, num_tasks=1, seed=0)
    env.sample_tasks()
    recorder = RecordedEnv(env, every=1)
    recorder.reset()
    assert len(recorder.recording.frames) == 1


def test_an_environment_that_cannot_be_rendered_is_refused():
    with pytest.raises(RenderError, match="TabularMDP does not support rendering"):
        recorded("tabular_mdp", 1)


def finished(path, env: str):
    """A run of a few steps, to its end."""
    overrides = (f"env={env}", "env.horizon=6", "training.total_steps=72", "eval.baselines=false", "eval.num_tasks=2")
    config = small_config(*overrides, "eval.final_num_tasks=2")
    run(build(config, path), config)
    return path


def test_a_finished_run_keeps_a_trial_and_shows_it(tmp_path):
    finished(tmp_path / "run", "point_navigation")
    held = json.loads((tmp_path / "run" / "trial.json").read_text())
    assert len(held["returns"]) == 3 and not (tmp_path / "run" / "trial.png").exists()
    Image.new("RGB", (8, 8)).save(tmp_path / "run" / "trial.png")
    page = write_report([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "path of the agent in each episode" in page and "data:image/png;base64," in page


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def cheetah_run(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("runs") / "cheetah", "cheetah_vel")


@drawn
@pytest.mark.parametrize("name", ["recording.gif", "recording.mp4"])
def test_watch_writes_a_video(cheetah_run, tmp_path, capsys, name):
    path = tmp_path / name
    main(["watch", str(cheetah_run), "--task", "velocity=1.5", "--video", str(path), "--every", "1"])
    said = capsys.readouterr().out
    assert "(velocity 1.5)" in said and said.strip().endswith(str(path)) and path.stat().st_size > 1000
    if name.endswith("gif"):
        assert Image.open(path).n_frames == 6 * 3


def test_watch_draws_the_paths_of_all_episodes_side_by_side(tmp_path):
    path = tmp_path / "paths.gif"
    run_dir = finished(tmp_path / "run", "grid")
    main(["watch", str(run_dir), "--paths", "--fps", "4", "--every", "1", "--video", str(path)])
    video = Image.open(path)
    durations = [frame.info["duration"] for frame in ImageSequence.Iterator(video)]
    frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(video)]
    assert video.size == (3 * 190, 210) and len(frames) >= 6
    assert set(durations[:-1]) == {250} and durations[-1] >= 2000, "the last frame stays"
    panels = np.split(frames[0], 3, axis=1)
    heads = [(abs(panel - np.array([0, 114, 178])).sum(-1) < 60).sum() for panel in panels]
    assert min(heads) > 20, "each panel shows where the agent is"


def test_paths_are_refused_without_positions():
    with pytest.raises(ValueError, match="no positions in a plane"):
        with_path_frames(trial_recording.TrialRecording("", positions=[[], []], returns=[0.0, 0.0]))


@pytest.mark.parametrize(
    ("given", "fragment"),
    [
        (["--task", "speed=1"], "--task speed=1: no such parameter; the task has velocity"),
        (["--task", "velocity=1,2"], "--task velocity=1,2: velocity is 1 number, such as velocity=0.5"),
        (["--task", "velocity=fast"], "--task velocity=fast: velocity is 1 number"),
        (["--task-set", "mars"], "task_set='mars': CheetahVelocity has train, held_out"),
        (["--video", "recording.avi"], "--video recording.avi: give a name that ends in .mp4 or .gif"),
    ],
)
def test_watch_refuses_what_it_cannot_show(cheetah_run, capsys, given, fragment):
    with pytest.raises(SystemExit):
        main(["watch", str(cheetah_run), *given])
    assert fragment in capsys.readouterr().err


def test_without_a_renderer_watch_names_the_remedy(cheetah_run, capsys, monkeypatch):
    import mujoco

    def broken(*given):
        raise RuntimeError("an OpenGL platform library has not been loaded")

    monkeypatch.setattr(mujoco, "Renderer", broken)
    with pytest.raises(SystemExit):
        main(["watch", str(cheetah_run)])
    assert "no renderer: an OpenGL platform library" in (said := capsys.readouterr().err) and "MUJOCO_GL=egl" in said


def test_a_run_without_a_renderer_ends_with_its_results(tmp_path):
    """Its environments in a worker, which says so and goes on."""
    small = ["env=ml1", "env.num_workers=1", "env.horizon=4", "env.num_episodes=1", "meta_batch_size=2"]
    small += ["training.total_steps=8", "eval.num_tasks=2", "eval.final_num_tasks=2", "algorithm.num_minibatches=1"]
    command = [sys.executable, "run.py", *small, "eval.baselines=false", f"hydra.run.dir={tmp_path}"]
    environment = os.environ | {"MUJOCO_GL": "disable", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "summary.json").exists() and not (tmp_path / "trial.png").exists()


def test_the_backend_is_what_is_installed_and_never_overrides_a_choice(monkeypatch):
    from metarl.envs import rendering

    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    halves = [({"EGL", "OSMesa", "GL"}, "egl"), ({"EGL"}, None), ({"OSMesa", "OpenGL"}, "osmesa"), (set(), None)]
    for installed, chosen in halves:
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name, found=installed: name in found or None)
        choose_backend()
        assert rendering.os.environ.get("MUJOCO_GL") == chosen
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    choose_backend()
    assert rendering.os.environ["MUJOCO_GL"] == "glfw"
