"""``metarl watch``: a video of one trial."""

import argparse
from pathlib import Path
from typing import Any

from metarl.cli.options import add_command, add_run, add_task, natural, positive
from metarl.errors import ConfigError
from metarl.extras import require
from metarl.runs.zoo import zoo_name


def add_commands(commands: Any) -> None:
    """Add the command."""
    watching = add_command(commands, "watch", watch, "record a video of one trial (headless)", formats=False)
    add_run(watching)
    watching.add_argument("--video", type=Path, help="an .mp4 or .gif (default: watch.mp4 in the run, or NAME.mp4)")
    add_task(watching)
    watching.add_argument("--task-set", default="held_out", help="set of the other parameters (default held_out)")
    watching.add_argument("--seed", type=natural, default=0, help="seed of the task and the environment noise")
    watching.add_argument("--every", type=positive, default=2, help="steps between frames (default 2)")
    watching.add_argument(
        "--paths", action="store_true", help="draw the path of each episode instead of rendering (tasks in the plane)"
    )
    watching.add_argument("--fps", type=positive, help="frames per second (default: real time)")
    watching.add_argument("--greedy", action="store_true", help="the most likely actions instead of samples")


def _video_of(source: Path) -> Path:
    """Default name of a video: in the run directory, beside an exported file, or in this directory for ``zoo:NAME``."""
    name = zoo_name(source)
    if name is not None:
        return Path(f"{name}.mp4")
    return source / "watch.mp4" if source.is_dir() else source.with_suffix(".mp4")


def watch(options: argparse.Namespace) -> None:
    """Record one trial of a trained agent."""
    from metarl.analysis.chosen_tasks import with_parameters
    from metarl.analysis.paths import with_path_frames
    from metarl.analysis.video import write_video
    from metarl.analysis.video_recorder import record_trial
    from metarl.configuration.trained import load_source
    from metarl.envs.capabilities import Renderable
    from metarl.envs.rendering import RenderError

    path = options.video or _video_of(options.run)
    if path.suffix not in (".mp4", ".gif"):
        raise ConfigError(f"--video {path}: give a name that ends in .mp4 or .gif")
    if path.suffix == ".mp4":
        require("imageio_ffmpeg", f"metarl watch --video {path}")
    agent, parts, _ = load_source(options.run, options.checkpoint, options.trust, "cpu", lanes_per_task=1)
    env = parts.make_env(num_tasks=1, seed=options.seed)
    try:
        env.set_tasks(with_parameters(env.sample_tasks(options.task_set), options.task))
        recording = record_trial(agent, env, options.seed, 0 if options.paths else options.every, options.greedy)
        recording = with_path_frames(recording, options.every) if options.paths else recording
    except (ValueError, RenderError) as error:
        raise ConfigError(str(error)) from None
    speed = env.steps_per_second if isinstance(env, Renderable) else Renderable.steps_per_second
    write_video(recording, path, options.fps or speed / options.every)
    for episode, earned in enumerate(recording.returns, 1):
        print(f"episode {episode}: return {earned:.2f}   ({recording.task})")
    print(path)
