"""Attention maps: weights of earlier steps at each step of a trial, by layer and head."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metarl.analysis import style
from metarl.analysis.tables import Row
from metarl.models.attention_recorder import AttentionRecord, Unit, record_attention
from metarl.models.base import SequenceModel


class AttentionMap(NamedTuple):
    """Attention of one layer at each step, means over lanes; NaN where there is none."""

    weights: np.ndarray  # [heads, T, T], by step seen, or [heads, T, E], by episode seen
    distance: np.ndarray  # [heads, T], how far back on average, in units
    entropy: np.ndarray  # [heads, T], of the weights, nats
    unit: Unit


@torch.no_grad()
def attention_maps(memory: SequenceModel, x: Tensor, mask: Tensor) -> list[AttentionMap]:
    """Attention of a memory stepping through ``x [T, B, input_dim]``; ``mask``, bool ``[T, B]``, selects the steps.

    A map per attention layer, in the order in which the layers act; none where a memory has no attention weights.
    """
    episode = (x[..., -1] > 0.5).long().cumsum(0) - 1
    carry, steps = memory.initial_carry(x.shape[1]), []
    units: list[Unit] = []
    for t, row in enumerate(x):
        with record_attention() as records:
            _, carry = memory.step(row, carry)
        units = [record.unit for record in records]
        steps.append(list(_summaries(records, t, len(x), episode, mask[t])))
    maps = []
    for unit, layer in zip(units, zip(*steps, strict=True), strict=True):
        weights, distance, entropy = (np.stack(column, axis=1) for column in zip(*layer, strict=True))
        maps.append(AttentionMap(weights, distance, entropy, unit))
    return maps


def _summaries(
    records: list[AttentionRecord], t: int, steps: int, episode: Tensor, mask: Tensor
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Attention of one step, per layer: weights ``[heads, T or E]``, distance and entropy ``[heads]``."""
    for weights, distance, unit in records:
        now = episode[t, mask] if unit == "episode" else torch.full_like(episode[t, mask], t)
        size = int(episode.max()) + 1 if unit == "episode" else steps
        distance = distance[mask] if distance.ndim == 2 else distance.expand(len(now), -1)
        source = (now.unsqueeze(1) - distance).clamp(0, size - 1)  # what is not there has no weight
        by_head = weights[mask].double().transpose(0, 1)  # [heads, lanes, n]
        whole = by_head.new_zeros(len(by_head), size).index_add(1, source.flatten(), by_head.flatten(1)) / len(now)
        nothing = torch.nan if by_head.shape[2] == 0 else 0.0
        back = (by_head * distance).sum(-1).mean(-1) + nothing
        entropy = torch.special.entr(by_head).sum(-1).mean(-1) + nothing
        yield whole.float().numpy(), back.numpy(), entropy.numpy()


def head_table(maps: dict[str, list[AttentionMap]]) -> list[Row]:
    """A row per head: mean distance of attended steps, and entropy of the weights in nats, averaged over steps.

    Args:
        maps: by model.
    """
    return [
        {"model": model, "layer": layer, "head": head, "unit": m.unit}
        | {"distance": float(np.nanmean(m.distance[head])), "entropy": float(np.nanmean(m.entropy[head]))}
        for model, layers in maps.items()
        for layer, m in enumerate(layers)
        for head in range(len(m.weights))
    ]


def draw(maps: dict[str, list[AttentionMap]]) -> Figure:
    """A panel per model and layer: the mean weight over heads, present step downwards, what it saw to the right."""
    layers = [(model, layer, m) for model, found in maps.items() for layer, m in enumerate(found)]
    figure, axes = style.panels(len(layers), height=3.2)
    for ax, (model, layer, m) in zip(axes, layers, strict=True):
        style.draw_map(ax, m.weights.mean(0), "attention weight")
        style.title(ax, f"{model}, layer {layer}")
        ax.set_xlabel(f"{m.unit} seen", fontsize=style.NORMAL, color=style.INK)
        style.value_axis(ax, "step of the trial")
    return figure
