"""A causal transformer with dense connections, as a memory: the transformer of a published RL² code.

The code (github.com/lucaslingle/pytorch_rl2) concatenates the output of every layer to its input, as DenseNets do
(Huang et al. 2017) and SNAIL's convolutions, and attends sparsely (``metarl.models.sparse_transformer``).
"""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.attention import Positions
from metarl.models.base import Depth
from metarl.models.sparse_transformer import SparseSelfAttention, fold
from metarl.models.transformer import CausalTransformer, Norm, SelfAttention, feed_forward


class DenseTransformer(CausalTransformer):
    """Layers of attention whose outputs are concatenated to their inputs: each adds ``hidden_size`` channels.

    Args:
        input_dim: size of the input.
        hidden_size: size of the embedding of a step, and of the output of each layer.
        num_layers: number of pairs of an attention and a feed-forward layer.
        num_heads: number of attention heads; divides ``hidden_size``.
        feedforward_size: units of the feed-forward layers.
        attention: ``sparse``, as published, or ``full``.
        positions: see ``metarl.models.transformer.Transformer``; codes of absolute positions are concatenated to the
            embedding.
        norm: layer normalisation of each layer's input (``pre``), or of its output (``post``), as published.
        context: the longest sequence; learned positions and sparse attention need it.

    Raises:
        ValueError: sizes that do not fit each other, or no ``context`` where it is needed.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_size: PositiveInt = 256,
        num_layers: Depth = 9,
        num_heads: PositiveInt = 2,
        feedforward_size: PositiveInt = 256,
        attention: Literal["sparse", "full"] = "sparse",
        positions: Positions = "sinusoidal",
        norm: Norm = "post",
        context: PositiveInt | None = None,
    ):
        super().__init__(input_dim, hidden_size, num_heads, positions, context)
        width = hidden_size * (1 if self.position is None else 2)
        row = fold(context) if attention == "sparse" else None
        for index in range(num_layers):
            sizes = (width, hidden_size, num_heads, positions)
            attend = SelfAttention(*sizes) if row is None else SparseSelfAttention(*sizes, index, row)
            self.attentions.append(Dense(attend, width, hidden_size, norm))
            width += hidden_size
            self.feeds.append(Dense(feed_forward(width, feedforward_size, hidden_size), width, hidden_size, norm))
            width += hidden_size
        self.finish(width, norm)

    def with_position(self, x: Tensor, code: Tensor) -> Tensor:
        """Embeddings ``[T, B, hidden_size]`` and position codes ``[T, 1, hidden_size]``, concatenated."""
        return torch.cat([x, code.expand_as(x)], dim=-1)  # [T, B, 2 hidden_size]


class Dense(nn.Module):
    """A layer whose output is concatenated to its input: ``[..., width]`` to ``[..., width + hidden_size]``."""

    def __init__(self, function: nn.Module, width: int, hidden_size: int, norm: Norm):
        super().__init__()
        self.function = function
        self.before = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        self.after = nn.LayerNorm(hidden_size) if norm == "post" else nn.Identity()

    def forward(self, x: Tensor, *memory) -> tuple:
        """The output, followed by the new cache if the layer takes a cache and positions."""
        y, *cache = self.function(self.before(x), *memory) if memory else (self.function(self.before(x)),)
        return (torch.cat([x, self.after(y)], dim=-1), *cache)
