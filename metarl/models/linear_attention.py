"""Gated linear attention: attention whose state is one matrix per head (Yang et al. 2024, arXiv 2312.06635).

The gate is one number per head and step, as in Mamba-2 (Dao & Gu 2024, arXiv 2405.21060): decays then enter chunks
as ratios between two steps, which never overflow.
"""

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.attention import join_heads, split_heads
from metarl.models.base import Depth, SequenceModel
from metarl.models.transformer import check_sizes, feed_forward

CHUNK = 64  # steps; attention is quadratic within a chunk and linear over chunks


class LinearAttention(SequenceModel):
    """Residual layers of gated linear attention and feed-forward networks, normalised at their inputs.

    The cost of acting does not grow with the step of a trial; that of training is linear in the length of a trial.

    Args:
        input_dim: size of the input.
        hidden_size: size of the embedding of a step, and of each layer.
        num_layers: number of pairs of an attention and a feed-forward layer.
        num_heads: number of attention heads; divides ``hidden_size``.
        feedforward_size: units of the feed-forward layers.
        timescale: longest initial memory in steps: time constants of the heads lie between 1 and this number. None: the
            context.
        context: the longest sequence; used by ``timescale`` alone.

    Raises:
        ValueError: ``num_heads`` does not divide ``hidden_size``.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_size: PositiveInt = 128,
        num_layers: Depth = 2,
        num_heads: PositiveInt = 4,
        feedforward_size: PositiveInt = 256,
        timescale: PositiveInt | None = None,
        context: PositiveInt | None = None,
    ):
        super().__init__()
        check_sizes(hidden_size, num_heads)
        self.output_dim, self.num_heads = hidden_size, num_heads
        self.embed = nn.Linear(input_dim, hidden_size)
        self.layers = nn.ModuleList(
            LinearAttentionLayer(hidden_size, num_heads, feedforward_size, timescale or context or 1)
            for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(hidden_size)

    def initial_carry(self, batch_size: int) -> tuple[Tensor, ...]:
        head_dim = self.output_dim // self.num_heads
        shape = (batch_size, self.num_heads, head_dim, head_dim)
        return tuple(self.embed.weight.new_zeros(shape) for _ in self.layers)

    def forward(self, x: Tensor, carry: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        x, last = self.embed(x), []
        for layer, state in zip(self.layers, carry, strict=True):
            x, state = layer(x, state)
            last.append(state)
        return self.final_norm(x), tuple(last)


class LinearAttentionLayer(nn.Module):
    """One attention and one feed-forward layer: ``[T, B, size]`` to ``[T, B, size]``."""

    def __init__(self, size: int, num_heads: int, feedforward_size: int, timescale: int):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, size // num_heads
        self.norm, self.feed_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.project = nn.Linear(size, 4 * size, bias=False)  # query, key, value and the gate of the output
        self.decay = nn.Linear(size, num_heads)
        # Timescales evenly spaced in their logarithm, the longest for the last head.
        steps = timescale ** (torch.arange(1, num_heads + 1) / num_heads)
        self.decay.bias.data = steps.log()
        self.read_norm = nn.RMSNorm(self.head_dim)
        self.output = nn.Linear(size, size, bias=False)
        self.feed = feed_forward(size, feedforward_size, size)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Output of a sequence after a state ``[B, heads, key_dim, value_dim]``, and the state after the sequence."""
        normed = self.norm(x)
        stacked, gate = self.project(normed).split([3 * x.shape[-1], x.shape[-1]], dim=-1)
        query, key, value = split_heads(stacked, self.num_heads)
        log_decay = F.logsigmoid(self.decay(normed)).permute(1, 2, 0)  # [B, heads, T]
        read, state = gated_linear_attention(query, key * self.head_dim**-0.5, value, log_decay, state)
        read = join_heads(self.read_norm(read))
        x = x + self.output(read * F.silu(gate))
        return x + self.feed(self.feed_norm(x)), state


def gated_linear_attention(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, state: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """``S[t] = decay[t] S[t-1] + key[t] value[t]^T`` and ``query[t] S[t]``, in chunks of time.

    Args:
        query, key, value: ``[B, heads, T, dim]``.
        log_decay: ``[B, heads, T]``, not positive.
        state: ``[B, heads, key_dim, value_dim]``, S before the first step.
        chunk: steps of a chunk; changes the cost, not the result.

    Returns:
        The output ``[B, heads, T, value_dim]``, and S after the last step.
    """
    outputs = []
    causal = torch.ones(min(chunk, query.shape[2]), min(chunk, query.shape[2]), dtype=torch.bool, device=query.device)
    causal = causal.tril()
    for q, k, v, step in zip(*(part.split(chunk, 2) for part in (query, key, value, log_decay)), strict=True):
        total = step.cumsum(-1)  # log of the decay since the chunk's start
        between = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(
            ~causal[: q.shape[2], : q.shape[2]], -torch.inf
        )
        inside = ((q @ k.transpose(-1, -2)) * between.exp()) @ v
        outputs.append(inside + (q * total.exp().unsqueeze(-1)) @ state)
        remaining = (total[..., -1:] - total).exp().unsqueeze(-1)
        state = state * total[..., -1, None, None].exp() + (k * remaining).transpose(-1, -2) @ v
    return torch.cat(outputs, 2), state
