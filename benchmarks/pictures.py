"""Pictures of the documents, from the code itself: ``python benchmarks/pictures.py [NAME ...]`` writes ``docs/images``.

- ``environments``: a trial in each family of environments in tensors, and one with a simulated body
- ``bodies``: rendered pictures of environments
- ``memories``: which inputs the output of every memory depends on
- ``methods``: the rollouts of a trial of every algorithm
- ``loop``: the training loop, with the function that does each part
- ``curves``: learning and adaptation curve of the first agent of the tutorial, which it trains (half a minute)
"""

import sys
import tempfile

import numpy as np
import torch
from diagrams import loop, methods
from drawing import BLUE, GREEN, IMAGES, ORANGE, SKY, save, untrained
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw

import metarl
from metarl.analysis import style
from metarl.analysis.figures import adaptation_curve, learning_curve
from metarl.analysis.runs import load_runs
from metarl.analysis.style import GRID, INK, MUTED, SMALL
from metarl.baselines.registry import baselines
from metarl.checking.comparing import random_actions
from metarl.configuration.compose import options
from metarl.envs.base import MetaEnv
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from metarl.types import Agent, Rollout

# ---------------------------------------------------------------- environments


def environments() -> None:
    """One trial in each of six environments, by an agent of the zoo or a classical solver."""
    figure, axes = style.panels(6, columns=3, height=2.7)
    for ax, draw in zip(axes, (pulls, rewards, cells, junctions, paths, speeds), strict=True):
        draw(ax)
    save(figure, "environments")


def trial(env: MetaEnv, agent: Agent | str) -> list[Rollout]:
    """A trial of a solver, or of an agent of the zoo with its most likely actions."""
    learned = isinstance(agent, str)
    player = metarl.load(f"zoo:{agent}").algorithm if learned else agent
    return collect_trial(env, player, make_generator(0, "cpu"), greedy=learned)


def pulls(ax: Axes) -> None:
    """Arms over a trial of the bandit; filled where they paid."""
    env = metarl.make("bandit", seed=6)
    (rollout,) = trial(env, "bandit_gru")
    arms, paid = rollout.decision.action[:, 0].numpy(), rollout.reward[:, 0].numpy() > 0
    episodes = np.arange(1, len(arms) + 1)
    ax.scatter(episodes, arms, s=55, color=[BLUE if won else "none" for won in paid], edgecolors=BLUE, zorder=3)
    chances = env.tasks.parameters["mean"][0].tolist()
    ax.set_yticks(range(env.num_arms), [f"arm {arm}: {chance:.2f}" for arm, chance in enumerate(chances)])
    _finish(ax, "bandit: arms pulled, filled if paid", "pull")


def rewards(ax: Axes) -> None:
    """Mean rewards of the steps of a trial of tabular MDPs, over many tasks."""
    env = metarl.make("tabular_mdp", 500)
    (rollout,) = trial(env, "tabular_mdp_lstm")
    mean = rollout.reward.mean(1).reshape(env.num_episodes, env.horizon).numpy()
    _shade(ax, (mean - mean.min()) / (mean.max() - mean.min()))
    ax.set_yticks(range(0, env.num_episodes, 3), [f"episode {i + 1}" for i in range(0, env.num_episodes, 3)])
    _finish(ax, f"tabular_mdp: mean rewards, {mean.min():.1f} to {mean.max():.1f}", "step")


def cells(ax: Axes) -> None:
    """Paths of two episodes on the grid."""
    env = metarl.make("grid", seed=2)
    (rollout,) = trial(env, baselines(env)["Sweep"])
    places = rollout.next_observation[:, 0].reshape(env.num_episodes, env.horizon, 2)
    start = rollout.timestep.observation[:1, 0]
    for episode, color, shift in ((0, SKY, 0.05), (1, BLUE, -0.05)):
        ax.plot(
            *(torch.cat([start, places[episode]]) + shift).T, color=color, marker=".", label=f"episode {episode + 1}"
        )
    ax.plot(*env.tasks.parameters["goal"][0], marker="*", markersize=14, color=GREEN, linestyle="none")
    _finish(ax, "grid: a sweep, then straight to the goal", legend=True)


def junctions(ax: Axes) -> None:
    """Indicators and turns of a few tasks of the T-maze."""
    env = metarl.make("tmaze", 12, seed=1)
    (rollout,) = trial(env, "tmaze_hypernetwork")
    earned = rollout.reward.T.reshape(12, env.num_episodes, env.horizon).sum(2).mean(1)
    seen = env.tasks.parameters["indicators"][:, 0]
    colors = [BLUE if mean > 3.9 else ORANGE for mean in earned]
    ax.hlines(range(12), 0, env.horizon, color=GRID, linewidth=1)
    ax.scatter(
        [0] * 12, range(12), marker="o", c=[MUTED if up > 0 else "none" for up in seen], edgecolors=MUTED, zorder=3
    )
    for lane in range(12):
        ax.plot(env.horizon, lane, marker="^" if seen[lane] > 0 else "v", color=colors[lane], markersize=7)
    ax.set_yticks([])
    _finish(ax, "tmaze: indicators seen, and turns (12 tasks)", "step")


def paths(ax: Axes) -> None:
    """Positions in the plane before and after MAML's gradient step, of the lanes of one task."""
    env = metarl.make("point_navigation", seed=2, lanes_per_task=20)
    rollouts = trial(env, "point_navigation_maml")
    for rollout, color, label in ((rollouts[0], SKY, "before"), (rollouts[-1], BLUE, "after")):
        for lane in range(6):
            steps = rollout.next_observation[: env.horizon, lane]
            ax.plot(*steps.T, color=color, linewidth=1.1, label=label if lane == 0 else None)
    ax.plot(*env.tasks.parameters["goal"][0], marker="*", markersize=14, color=GREEN, linestyle="none")
    _finish(ax, "point_navigation: paths around MAML's step", legend=True)


def speeds(ax: Axes) -> None:
    """Speed of the HalfCheetah against the target, over a trial of two episodes."""
    env = metarl.make("cheetah_vel", 3, seed=1)
    (rollout,) = trial(env, "cheetah_vel_gru")
    smooth = np.ones(10) / 10
    for lane, color in enumerate((BLUE, ORANGE, GREEN)):
        target = env.tasks.parameters["velocity"][lane].item()
        ax.axhline(target, color=color, linewidth=1, linestyle="--")
        for episode, speed in enumerate(rollout.next_observation[:, lane, 8].split(env.horizon)):
            shown = np.convolve(speed, smooth, "valid")
            ax.plot(0.05 * (env.horizon * episode + np.arange(10, len(shown) + 10)), shown, color=color, linewidth=1.2)
    ax.set_ylim(bottom=0)
    _finish(ax, "cheetah_vel: speeds (m/s), targets dashed", "seconds")


def _finish(ax: Axes, title: str, x: str = "", legend: bool = False) -> None:
    """Title and unit; a panel with a legend is a map, without ticks."""
    style.title(ax, title)
    ax.set_xlabel(x, fontsize=SMALL, color=INK)
    if legend:
        ax.set(xticks=[], yticks=[])
        ax.set_aspect("equal", adjustable="datalim")
        ax.spines["bottom"].set_visible(False)
        ax.legend(frameon=False, fontsize=SMALL, labelcolor=INK, loc="lower right")


def _shade(ax: Axes, values: np.ndarray, color: str = BLUE) -> None:
    """A matrix of numbers in [0, 1] as opacity, which reads on any background."""
    pixels = np.empty((*values.shape, 4))
    pixels[..., :3], pixels[..., 3] = to_rgb(color), values
    ax.imshow(pixels, aspect="auto", interpolation="nearest")
    ax.grid(visible=False)


BODIES = (
    "cheetah_vel",
    "ant_goal",
    "humanoid_dir",
    "walker_params",
    "swimmer_dir",
    "wheeled",
    "reacher_4link",
    "rooms",
)


def bodies() -> None:
    """Rendered pictures after some random steps, four in a row."""
    width, height = 240, 180
    sheet = Image.new("RGB", (4 * width, 2 * height))
    for number, name in enumerate(BODIES):
        env = metarl.make(name, seed=1)
        generator = make_generator(0, "cpu")
        env.reset()
        for _ in range(20):
            env.step(random_actions(env, generator))
        tile = Image.fromarray(env.render(0)).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        ImageDraw.Draw(tile).text((8, height - 18), name, fill="white", stroke_width=2, stroke_fill="black")
        sheet.paste(tile, (number % 4 * width, number // 4 * height))
    sheet.save(IMAGES / "bodies.jpg", quality=82, optimize=True)


# ---------------------------------------------------------------- memories


STEPS, EPISODE = 48, 8


def memories() -> None:
    """For every memory, untrained: size of the gradient of the output at each step with respect to each input."""
    names = options("model")
    figure, axes = style.panels(len(names), columns=5, width=5.6, height=2.0)
    for ax, name in zip(axes, names, strict=True):
        found = influence(name)
        _shade(ax, (found / found.max(1, keepdims=True)) ** 0.5)
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.spines[["left", "bottom"]].set(visible=True, color=MUTED)
        style.title(ax, name)
    axes[0].set_ylabel("output at step", fontsize=SMALL, color=INK)
    axes[0].set_xlabel("input of step", fontsize=SMALL, color=INK)
    save(figure, "memories")


def influence(name: str) -> np.ndarray:
    """Gradient norms of the output at every step (rows) with respect to the input of every step (columns)."""
    episodes = (f"env.horizon={EPISODE}", f"env.num_episodes={STEPS // EPISODE}")
    algorithm = untrained(f"model={name}", "env=tabular_mdp", *episodes)
    memory, generator = algorithm.policy.memory, make_generator(0, "cpu")
    x = 2 * torch.rand(STEPS, 1, algorithm.policy.features.output_dim, generator=generator) - 1
    x[..., -1] = torch.arange(STEPS).unsqueeze(1) % EPISODE == 0  # an episode starts
    x.requires_grad_()
    outputs, _ = memory(x, memory.initial_carry(1))
    signs = (
        2.0 * torch.randint(2, outputs.shape[2:], generator=generator) - 1
    )  # layer normalisation fixes the plain sum
    totals = outputs[:, 0] @ signs
    rows = [torch.autograd.grad(total, x, retain_graph=True)[0].norm(dim=(1, 2)) for total in totals]
    return torch.stack(rows).numpy()


# ---------------------------------------------------------------- curves


def curves() -> None:
    """Train the first agent of the tutorial, and draw it as its report does."""
    with tempfile.TemporaryDirectory() as folder:
        run = metarl.train(["env=bandit", "training.total_steps=600_000"], f"{folder}/run")
        (loaded,) = load_runs([run.path])
    save(learning_curve(loaded), "learning_curve")
    save(adaptation_curve(loaded), "adaptation_curve")


PICTURES = {
    "environments": environments,
    "bodies": bodies,
    "memories": memories,
    "methods": methods,
    "loop": loop,
    "curves": curves,
}


def main(names: list[str]) -> None:
    """Draw the pictures with these names, or all."""
    for name in names or PICTURES:
        PICTURES[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
