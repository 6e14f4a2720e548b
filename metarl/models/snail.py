"""SNAIL: temporal convolutions and attention (Mishra et al. 2018, arXiv 1707.03141)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.attention import Cache, attend, empty_cache
from metarl.models.base import SequenceModel


class SNAILCarry(NamedTuple):
    """What the convolutions may still look back to, and the keys and values of attention."""

    recent: Tensor  # [B, reach, channels], inputs of all convolutions side by side; step t at t modulo reach
    cache: Cache


class SNAIL(SequenceModel):
    """Two blocks of dilated causal convolutions, concatenated with their inputs, then one attention head.

    A block has a convolution for each power of two below the context, so that it sees a whole trial. Convolutions have
    two taps. As the input of each is a prefix of the input of the next, one buffer serves all of them while acting.

    Args:
        input_dim: size of the input. The paper's 32-unit input layer is ``model.input_embedding_size=32``.
        hidden_size: channels each convolution adds, and size of attention's query, key and value.
        layer_norm: normalise the convolutions before their gates.
        context: the longest sequence.

    Raises:
        ValueError: no context.
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
        self.reach = self.dilations[-1]
        widths = [input_dim + layer * hidden_size for layer in range(2 * depth)]
        self.convolutions = nn.ModuleList(GatedConvolution(width, hidden_size, layer_norm) for width in widths)
        self.channels = input_dim + 2 * depth * hidden_size
        self.project = nn.Linear(self.channels, 3 * hidden_size, bias=False)
        nn.init.xavier_normal_(self.project.weight)
        self.output_dim = self.channels + hidden_size

    def initial_carry(self, batch_size: int) -> SNAILCarry:
        like = self.project.weight
        # The last convolution's own output is nobody's input.
        recent = like.new_zeros(batch_size, self.reach, self.channels - self.hidden_size)
        return SNAILCarry(recent, empty_cache(batch_size, 1, self.hidden_size, self.hidden_size, like))

    def forward(self, x: Tensor, carry: SNAILCarry) -> tuple[Tensor, SNAILCarry]:
        start, steps = carry.cache.steps, len(x)
        past = self._past(carry.recent, start) if start else None
        for convolution, dilation in zip(self.convolutions, self.dilations, strict=True):
            before = None if past is None else past[-dilation:, :, : x.shape[-1]]
            x = torch.cat([x, convolution(x, dilation, before)], dim=-1)
        rows = x[-self.reach :, :, : -self.hidden_size]
        slots = torch.arange(start + steps - len(rows), start + steps, device=x.device) % self.reach
        recent = carry.recent.index_copy(1, slots, rows.transpose(0, 1))
        return self._attend(x, carry.cache, recent)

    def step(self, x: Tensor, carry: SNAILCarry) -> tuple[Tensor, SNAILCarry]:
        time = carry.cache.steps
        for convolution, dilation in zip(self.convolutions, self.dilations, strict=True):
            before = carry.recent[:, (time - dilation) % self.reach, : x.shape[-1]]
            x = torch.cat([x, convolution(x, None, before)], dim=-1)
        row, slot = x[:, : -self.hidden_size], time % self.reach
        if torch.is_grad_enabled():
            recent = carry.recent.index_copy(1, torch.tensor([slot], device=x.device), row.unsqueeze(1))
        else:
            recent = carry.recent
            recent[:, slot] = row
        y, carry = self._attend(x.unsqueeze(0), carry.cache, recent)
        return y.squeeze(0), carry

    def _attend(self, x: Tensor, cache: Cache, recent: Tensor) -> tuple[Tensor, SNAILCarry]:
        query, key, value = self.project(x).transpose(0, 1).unsqueeze(1).chunk(3, dim=-1)
        cache = cache.append(key, value)
        read = attend(query, cache, self.hidden_size**-0.5)
        return torch.cat([x, read.squeeze(1).transpose(0, 1)], dim=-1), SNAILCarry(recent, cache)

    def _past(self, recent: Tensor, end: int) -> Tensor:
        """The last steps before ``end``, oldest first: ``[reach, B, channels]``; zeros before the start."""
        return recent.roll(-(end % self.reach), 1).transpose(0, 1)


class GatedConvolution(nn.Module):
    """Two taps, a sigmoid gate and a tanh: ``[T, B, width]`` to ``[T, B, hidden_size]`` (section 3, dense block)."""

    def __init__(self, width: int, hidden_size: int, layer_norm: bool):
        super().__init__()
        self.size = 2 * hidden_size
        bound = (2 * width) ** -0.5  # of a convolution with two taps
        self.weight = nn.Parameter(torch.empty(2 * self.size, width).uniform_(-bound, bound))  # now, then past
        self.bias = None if layer_norm else nn.Parameter(torch.empty(self.size).uniform_(-bound, bound))
        self.norm = nn.LayerNorm(self.size) if layer_norm else nn.Identity()

    def forward(self, x: Tensor, dilation: int | None, before: Tensor | None) -> Tensor:
        """A sequence and the ``dilation`` steps ``[dilation, B, width]`` before it, None at the start of a trial.

        Without a dilation, one step ``[B, width]`` and the one that its past tap sees.
        """
        if dilation is None:
            assert before is not None
            now, past = self.weight.chunk(2)
            return self._gate(torch.addmm(F.linear(x, now), before, past.T))
        # One product for both taps, then a shift: no copy of the input is made.
        now, past = F.linear(x, self.weight).chunk(2, dim=-1)
        if before is None:
            shifted = F.pad(past[:-dilation], (0, 0, 0, 0, min(dilation, len(x)), 0))
        else:
            shifted = torch.cat([F.linear(before, self.weight[self.size :]), past])[: len(x)]
        return self._gate(now + shifted)

    def _gate(self, y: Tensor) -> Tensor:
        gate, value = self.norm(y if self.bias is None else y + self.bias).chunk(2, dim=-1)
        return torch.sigmoid(gate) * torch.tanh(value)
