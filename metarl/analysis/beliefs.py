"""Beliefs over a trial: what VariBAD's memory thinks, how sure it is, what it predicts, and what would be right."""

from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metarl.algorithms.elbo import Belief, as_belief, kl_to_prior
from metarl.algorithms.policy_gradient import PolicyGradient
from metarl.algorithms.varibad import VariBAD
from metarl.analysis import style
from metarl.analysis.tables import Row
from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import GridWorld, exact_belief
from metarl.models.decoders import CellDecoder
from metarl.seeding import make_generator
from metarl.types import Rollout

MAPS = 6  # moments of a trial whose maps are drawn


class Beliefs(NamedTuple):
    """Beliefs of an agent about N tasks over T steps.

    Attributes:
        mean, deviation: mean and standard deviation of the latent, ``[T, N, latent_dim]``.
        mask: whether a step counts, bool ``[T, N]``.
        first: whether a step starts an episode, bool ``[T, N]``.
        costs: terms of the ELBO by name, ``[T, N]``: KL divergence from each belief to the previous one and, if rewards
            or observations are decoded, the reconstruction error of the whole trial.
        gradient: norm of the gradient of the value with respect to the belief, ``[T, N]``.
        believed: probability that each cell is rewarding, decoded from the latent, ``[T, N, cells]``; None without a
            decoder of cells.
        true: exact posterior probability that each cell is the goal, ``[T, N, cells]``; None if not provided.
        cells: width and height of a grid world; None in other environments.
    """

    mean: np.ndarray
    deviation: np.ndarray
    mask: np.ndarray
    first: np.ndarray
    costs: dict[str, np.ndarray]
    gradient: np.ndarray
    believed: np.ndarray | None
    true: np.ndarray | None
    cells: tuple[int, int] | None


def measure(agent: PolicyGradient, env: MetaEnv, trial: Rollout, seed: int) -> Beliefs:
    """Beliefs at every step of a rollout from the start of its trials."""
    policy = agent.policy
    memory, _ = policy.encode(trial.timestep, policy.initial_carry(trial.mask.shape[1]))
    belief = as_belief(memory.actor.detach())
    costs = {"latent_kl": kl_to_prior(belief, "previous")}
    believed = None
    if isinstance(agent, VariBAD):
        costs = agent.elbo_over_time(trial, make_generator(seed))
        decoder = dict(agent.transition_decoders()).get("reward")
        if isinstance(decoder, CellDecoder):
            believed = decoder.probabilities(belief.mean).detach().numpy()
    return Beliefs(
        belief.mean.numpy(),
        (0.5 * belief.log_variance).exp().numpy(),
        trial.mask.numpy(),
        trial.timestep.first.numpy(),
        {name: values.numpy() for name, values in costs.items()},
        _gradient(agent, trial, belief).numpy(),
        believed,
        _true_beliefs(env, trial),
        env.grid_shape if isinstance(env, GridWorld) else None,
    )


def _gradient(agent: PolicyGradient, trial: Rollout, belief: Belief) -> torch.Tensor:
    memory, _ = agent.policy.encode(trial.timestep, agent.policy.initial_carry(trial.mask.shape[1]))
    params = torch.cat(belief, dim=-1).requires_grad_()  # [T, N, 2 * latent_dim]
    memory = memory._replace(actor=params, critic=params)
    output = agent.policy.act_and_value(trial.timestep, memory, trial.tasks.description)
    (gradient,) = torch.autograd.grad(output.value.sum(), params)
    return gradient.norm(dim=-1)


def _true_beliefs(env: MetaEnv, trial: Rollout) -> np.ndarray | None:
    world = exact_belief(env)
    return None if world is None else world.exact_beliefs(trial.timestep).numpy()


def table(found: dict[str, Beliefs]) -> list[Row]:
    """A row per model and step: means over the tasks that still play."""
    rows: list[Row] = []
    for model, beliefs in found.items():
        columns = {"deviation": beliefs.deviation.mean(-1), "value_gradient": beliefs.gradient} | beliefs.costs
        for step, mask in enumerate(beliefs.mask):
            means = {name: float(values[step][mask].mean()) for name, values in columns.items()}
            rows.append({"model": model, "step": step} | means)
    return rows


def summary(found: dict[str, Beliefs]) -> list[Row]:
    """A row per model: the first step, and the last one that all tasks play."""
    rows: list[Row] = []
    for model, beliefs in found.items():
        steps = [row for row in table({model: beliefs}) if beliefs.mask[int(row["step"])].all()]
        rows += [steps[0], steps[-1]]
    return rows


def draw(found: dict[str, Beliefs]) -> Figure:
    """Per model: latent of one trial, its deviation and costs over time, and maps of cells where there are any."""
    mapped = {model: beliefs for model, beliefs in found.items() if beliefs.true is not None and beliefs.cells}
    columns = MAPS if mapped else 3
    lines = -(-3 * len(found) // columns) * columns  # whole rows, so that maps stand one above the other
    figure, axes = style.panels(lines + 2 * MAPS * len(mapped), columns=columns, height=2.4)
    remaining = iter(axes[:lines])
    for model, beliefs in found.items():
        _draw_latent(next(remaining), beliefs, f"{model}: latent of one trial")
        spread = {"deviation": beliefs.deviation.mean(-1)} | _divergence(beliefs)
        _draw_lines(next(remaining), spread, beliefs, model, "deviation of the latent, KL (nats)")
        errors = {name: costs for name, costs in beliefs.costs.items() if name != "latent_kl"}
        shown, name = (
            (errors, "error of the prediction") if errors else ({"gradient": beliefs.gradient}, "|d value / d belief|")
        )
        _draw_lines(next(remaining), shown, beliefs, model, name)
    for ax in remaining:
        ax.set_axis_off()
    for index, (model, beliefs) in enumerate(mapped.items()):
        _draw_maps(axes[lines + 2 * MAPS * index :][: 2 * MAPS], beliefs, model)
    return figure


def _divergence(beliefs: Beliefs) -> dict[str, np.ndarray]:
    return {"KL to the one before, nats": beliefs.costs["latent_kl"]}


def _draw_latent(ax: Axes, beliefs: Beliefs, title: str) -> None:
    length = int(beliefs.mask[:, 0].sum())
    steps = np.arange(length)
    for index in range(beliefs.mean.shape[-1]):
        color = style.PALETTE[index % len(style.PALETTE)]
        mean, deviation = beliefs.mean[:length, 0, index], beliefs.deviation[:length, 0, index]
        ax.plot(steps, mean, color=color, linewidth=1)
        ax.fill_between(steps, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)
    _mark_episodes(ax, beliefs)
    style.title(ax, title)
    ax.set_xlabel("step of the trial", **style.AXIS)
    style.value_axis(ax, "latent (mean ± deviation)")


def _draw_lines(ax: Axes, lines: dict[str, np.ndarray], beliefs: Beliefs, model: str, quantity: str) -> None:
    """Means over the tasks that still play."""
    for color, (name, values) in zip(style.PALETTE, lines.items(), strict=False):
        means = [row[mask].mean() if mask.any() else np.nan for row, mask in zip(values, beliefs.mask, strict=True)]
        ax.plot(means, color=color, linewidth=1, label=name.replace("_", " "))
    _mark_episodes(ax, beliefs)
    ax.legend(frameon=False, fontsize=style.SMALL)
    style.title(ax, model)
    ax.set_xlabel("step of the trial", **style.AXIS)
    style.value_axis(ax, quantity)


def _mark_episodes(ax: Axes, beliefs: Beliefs) -> None:
    for start in np.flatnonzero(beliefs.first[:, 0] & beliefs.mask[:, 0])[1:]:
        ax.axvline(start, color=style.GRID, linewidth=0.8, zorder=0)


def _draw_maps(axes: list[Axes], beliefs: Beliefs, model: str) -> None:
    """Maps of the agent's belief above maps of the exact one, at moments of the first two episodes of one trial."""
    assert beliefs.cells is not None and beliefs.true is not None
    width, height = beliefs.cells
    starts = np.flatnonzero(beliefs.first[:, 0])
    end = int(starts[2]) if len(starts) > 2 else len(beliefs.mask)
    moments = np.linspace(0, end - 1, MAPS).astype(int)
    for column, moment in enumerate(moments):
        above, below = axes[column], axes[MAPS + column]
        for ax, source, name in ((above, beliefs.believed, "believed"), (below, beliefs.true, "true")):
            ax.set_axis_off()
            if source is not None:
                cells = source[moment, 0].reshape(height, width)
                shades = ax.imshow(cells, origin="lower", cmap="Blues", vmin=0, vmax=max(cells.max(), 1e-6))
                style.add_scale(ax, shades, "probability")
                style.title(ax, f"{model if column == 0 else ''} {name}, step {moment}".strip())
