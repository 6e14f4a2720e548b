"""Embeddings of the memory output at each step of a trial: principal components, or t-SNE."""

from typing import Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from metarl.analysis import style
from metarl.analysis.tables import Row
from metarl.extras import require

COMPONENTS = 3

Method = Literal["pca", "tsne"]


class Embeddings(NamedTuple):
    """Outputs of a memory at N steps of trials on some tasks."""

    vectors: np.ndarray  # [N, size]
    task: np.ndarray  # int [N], which task
    step: np.ndarray  # int [N], of the trial
    episode: np.ndarray  # int [N], of the trial
    descriptions: np.ndarray  # [tasks, task_dim]
    returns: np.ndarray  # [tasks], of the trials


class Projection(NamedTuple):
    """Principal components of points."""

    points: np.ndarray  # [N, k]
    share: np.ndarray  # [k], of the variance


def principal_components(points: np.ndarray, count: int = COMPONENTS) -> Projection:
    """Principal components of ``[N, size]``; the largest entry of each direction is positive, which settles the signs.

    Fewer than ``count`` where there are fewer points or sizes.
    """
    centred = (points - points.mean(0)).astype(np.float64)
    variance, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    count = min(count, *points.shape)
    directions = directions[:, ::-1][:, :count]
    largest = np.abs(directions).argmax(0)
    directions = directions * np.sign(directions[largest, np.arange(count)])
    share = variance[::-1][:count].clip(0) / max(variance.sum(), np.finfo(np.float64).tiny)
    return Projection(centred @ directions, share)


def project(points: np.ndarray, method: Method, count: int) -> tuple[list[str], np.ndarray]:
    """Names of at most ``count`` dimensions, and the points in them.

    ``tsne`` has two (van der Maaten and Hinton 2008): neighbours stay neighbours, distances mean nothing.
    """
    if method == "pca":
        flat = principal_components(points, count).points
        return [f"PC{i + 1}" for i in range(flat.shape[1])], flat
    require("sklearn", "--method tsne")
    from sklearn.manifold import TSNE

    neighbours = min(30.0, (len(points) - 1) / 3)
    flat = TSNE(perplexity=neighbours, init="pca", random_state=0).fit_transform(points.astype(np.float32))
    return ["t-SNE 1", "t-SNE 2"], flat


def component_table(embeddings: dict[str, Embeddings]) -> list[Row]:
    """A row per model: the share of variance of each principal component.

    Args:
        embeddings: by model.
    """
    shares = {model: principal_components(found.vectors).share for model, found in embeddings.items()}
    return [{"model": model} | _named(share) for model, share in shares.items()]


def points_table(embeddings: dict[str, Embeddings], method: Method = "pca") -> list[Row]:
    """A row per model, task and step with its place."""
    rows: list[Row] = []
    for model, found in embeddings.items():
        names, points = project(found.vectors, method, COMPONENTS)
        for task, step, episode, point in zip(found.task, found.step, found.episode, points.tolist(), strict=True):
            where = {"model": model, "task": int(task), "step": int(step), "episode": int(episode)}
            rows.append(where | dict(zip(names, point, strict=True)))
    return rows


def _named(components: np.ndarray) -> Row:
    return {f"PC{i + 1}": float(value) for i, value in enumerate(components)}


def draw(embeddings: dict[str, Embeddings], method: Method = "pca") -> Figure:
    """Per model the first two dimensions, coloured by step, by task and by the trial's return.

    The task's colour is the first principal component of the tasks' standardised descriptions.
    """
    figure, axes = style.panels(3 * len(embeddings), height=3.2)
    for row, (model, found) in enumerate(embeddings.items()):
        names, points = project(found.vectors, method, 2)
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
        spread = np.maximum(found.descriptions.std(0), np.finfo(np.float32).tiny)
        place = principal_components(found.descriptions / spread, 1).points[:, 0]
        colors = {
            "step of the trial": (found.step, "step"),
            "task": (place[found.task], "PC1 of the task"),
            "return of the trial": (found.returns[found.task], "return (reward)"),
        }
        for ax, (name, (values, scale)) in zip(axes[3 * row : 3 * row + 3], colors.items(), strict=True):
            style.draw_points(ax, points[:, 0], points[:, 1], values, scale)
            style.title(ax, f"{model}, by {name}")
            ax.set_xlabel(names[0], fontsize=style.NORMAL, color=style.INK)
            style.value_axis(ax, names[1] if len(names) > 1 else "")
    return figure
