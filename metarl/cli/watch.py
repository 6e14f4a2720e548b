"""``metarl watch``: a video of one trial."""

import argparse
from pathlib import Path
from typing import Any

from metarl.cli.options import add_command, add_run, natural, positive
from metarl.errors import ConfigError


def add_commands(commands: Any) -> None:
    """Add the command."""
    watching = add_command(commands, "watch", watch, "record a video of one trial (headless)", formats=False)
    add_run(watching)
    watching.add_argument("--video", type=Path, help="an .mp4 or .gif (default: watch.mp4 in the run)")
    watching.add_argument("--task", nargs="*", default=[], metavar="NAME=NUMBER,...", help="parameters of the task")
    watching.add_argument("--task-set", default="held_out", help="set of the other parameters (default held_out)")
    watching.add_argument("--seed", type=natural, default=0, help="seed of the task and the environment noise")
    watching.add_argument("--every", type=positive, default=2, help="steps between frames (default 2)")
    watching.add_argument(
        "--paths", action="store_true", help="draw the path of each episode instead of rendering (tasks in the plane)"
    )
    watching.add_argument("--fps", type=positive, help="frames per second (default: real time)")
    watching.add_argument("--greedy", action="store_true", help="the most likely actions instead of samples")


def watch(options: argparse.Namespace) -> None:
    """Record one trial of a trained agent."""
    from metarl.analysis.film import write_video
    from metarl.analysis.filming import film_trial, with_parameters
    from metarl.analysis.paths import with_path_frames
    from metarl.configuration.trained import load_agent
    from metarl.envs.pictures import NoRendererError
    from metarl.runs.directory import RunDirectory

    path = options.video or options.run / "watch.mp4"
    if path.suffix not in (".mp4", ".gif"):
        raise ConfigError(f"--video {path}: give a name that ends in .mp4 or .gif")
    directory = RunDirectory(options.run)
    agent, parts = load_agent(directory, options.checkpoint, options.trust, "cpu", lanes_per_task=1)
    env = parts.make_env(num_tasks=1, seed=options.seed)
    try:
        env.set_tasks(with_parameters(env.sample_tasks(options.task_set), options.task))
        film = film_trial(agent, env, options.seed, 0 if options.paths else options.every, options.greedy)
        film = with_path_frames(film, options.every) if options.paths else film
    except (ValueError, NotImplementedError, NoRendererError) as error:
        raise ConfigError(str(error)) from None
    write_video(film, path, options.fps or env.steps_per_second / options.every)
    for episode, earned in enumerate(film.returns, 1):
        print(f"episode {episode}: return {earned:.2f}   ({film.task})")
    print(path)
