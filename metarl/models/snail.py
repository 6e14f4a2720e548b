"""SNAIL: temporal convolutions and attention (Mishra et al. 2018, arXiv 1707.03141)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.attention import Cache, causal_attention, empty_cache
from metarl.models.base import SequenceModel


class SNAILCarry(NamedTuple):
    """Inputs that convolutions still read, and the cache of attention."""

    recent: Tensor  # [B, max_dilation, channels], inputs of all convolutions; step t in row t modulo max_dilation
    cache: Cache


class SNAIL(SequenceModel):
    """Two blocks of dilated causal convolutions, concatenated with their inputs, then one attention head.

    A block has a convolution for each power of two below the context, so that its receptive field is a whole trial.
    Convolutions have two taps. The input of each is a prefix of the input of the next: one buffer serves all of them
    while acting.

    Args:
        input_dim: size of the input. The paper's 32-unit input layer is ``model.input_embedding_size=32``.
        hidden_size: channels that each convolution adds, and size of query, key and value.
        layer_norm: normalise the outputs of convolutions before their gates.
        context: the longest sequence.

    Raises:
        ValueError: ``context`` is missing.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_size: PositiveInt = 32,
        layer_norm: bool = True,
        context: PositiveInt | None = None,
    ):
        super().__init__()
        if context is None:
            raise ValueError("model.context=null: the dilations of snail follow the longest trial; set model.context")
        depth = max(1, math.ceil(math.log2(context)))
        self.hidden_size = hidden_size
        self.dilations = [2**layer for layer in range(depth)] * 2
        self.max_dilation = self.dilations[-1]
        widths = [input_dim + layer * hidden_size for layer in range(2 * depth)]
        self.convolutions = nn.ModuleList(GatedConv1d(width, hidden_size, layer_norm) for width in widths)
        self.channels = input_dim + 2 * depth * hidden_size
        self.project = nn.Linear(self.channels, 3 * hidden_size, bias=False)
        nn.init.xavier_normal_(self.project.weight)
        self.output_dim = self.channels + hidden_size

    def initial_carry(self, batch_size: int) -> SNAILCarry:
        like = self.project.weight
        # The output of the last convolution is no convolution's input.
        recent = like.new_zeros(batch_size, self.max_dilation, self.channels - self.hidden_size)
        return SNAILCarry(recent, empty_cache(batch_size, 1, self.hidden_size, self.hidden_size, like))

    def forward(self, x: Tensor, carry: SNAILCarry) -> tuple[Tensor, SNAILCarry]:
        start, steps = carry.cache.steps, len(x)
        earlier = self._earlier(carry.recent, start) if start else None
        for convolution, dilation in zip(self.convolutions, self.dilations, strict=True):
            before = None if earlier is None else earlier[-dilation:, :, : x.shape[-1]]
            x = torch.cat([x, convolution(x, dilation, before)], dim=-1)
        rows = x[-self.max_dilation :, :, : -self.hidden_size]
        slots = torch.arange(start + steps - len(rows), start + steps, device=x.device) % self.max_dilation
        recent = carry.recent.index_copy(1, slots, rows.transpose(0, 1))
        return self._attend(x, carry.cache, recent)

    def step(self, x: Tensor, carry: SNAILCarry) -> tuple[Tensor, SNAILCarry]:
        time = carry.cache.steps
        for convolution, dilation in zip(self.convolutions, self.dilations, strict=True):
            before = carry.recent[:, (time - dilation) % self.max_dilation, : x.shape[-1]]
            x = torch.cat([x, convolution(x, None, before)], dim=-1)
        row, slot = x[:, : -self.hidden_size], time % self.max_dilation
        if torch.is_grad_enabled():
            recent = carry.recent.index_copy(1, torch.tensor([slot], device=x.device), row.unsqueeze(1))
        else:
            recent = carry.recent
            recent[:, slot] = row
        y, carry = self._attend(x.unsqueeze(0), carry.cache, recent)
        return y.squeeze(0), carry

    def _attend(self, x: Tensor, cache: Cache, recent: Tensor) -> tuple[Tensor, SNAILCarry]:
        query, key, value = self.project(x).transpose(0, 1).unsqueeze(1).chunk(3, dim=-1)  # [B, 1, T, size]
        cache = cache.append(key, value)
        read = causal_attention(query, cache, self.hidden_size**-0.5)
        return torch.cat([x, read.squeeze(1).transpose(0, 1)], dim=-1), SNAILCarry(recent, cache)  # [T, B, output_dim]

    def _earlier(self, recent: Tensor, end: int) -> Tensor:
        """Inputs of the steps before ``end``, ``[max_dilation, B, channels]``, oldest first; zeros before the start."""
        return recent.roll(-(end % self.max_dilation), 1).transpose(0, 1)  # [max_dilation, B, channels]


class GatedConv1d(nn.Module):
    """Causal convolution of two taps with a sigmoid gate: ``[T, B, width]`` to ``[T, B, hidden_size]``.

    A dense block of the paper (section 3) without its concatenation.
    """

    def __init__(self, width: int, hidden_size: int, layer_norm: bool):
        super().__init__()
        self.size = 2 * hidden_size
        bound = (2 * width) ** -0.5  # torch's bound for a convolution with two taps
        # Weights of the current tap, then of the earlier one.
        self.weight = nn.Parameter(torch.empty(2 * self.size, width).uniform_(-bound, bound))
        self.bias = None if layer_norm else nn.Parameter(torch.empty(self.size).uniform_(-bound, bound))
        self.norm = nn.LayerNorm(self.size) if layer_norm else nn.Identity()

    def forward(self, x: Tensor, dilation: int | None, before: Tensor | None) -> Tensor:
        """Output of a sequence, or of one step.

        Args:
            x: ``[T, B, width]``, or one step ``[B, width]``.
            dilation: distance of the two taps; None for one step.
            before: the ``dilation`` steps ``[dilation, B, width]`` before the sequence, None at the start of a trial;
                for one step that of the earlier tap, ``[B, width]``.
        """
        if dilation is None:
            assert before is not None
            current, earlier = self.weight.chunk(2)
            return self._gate(torch.addmm(F.linear(x, current), before, earlier.T))
        # One product for both taps, then a shift: no copy of the input is made.
        current, earlier = F.linear(x, self.weight).chunk(2, dim=-1)  # [T, B, size]
        if before is None:
            shifted = F.pad(earlier[:-dilation], (0, 0, 0, 0, min(dilation, len(x)), 0))
        else:
            shifted = torch.cat([F.linear(before, self.weight[self.size :]), earlier])[: len(x)]
        return self._gate(current + shifted)

    def _gate(self, y: Tensor) -> Tensor:
        gate, value = self.norm(y if self.bias is None else y + self.bias).chunk(2, dim=-1)
        return torch.sigmoid(gate) * torch.tanh(value)
