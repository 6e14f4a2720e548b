"""Linear recurrences over time without a step per time step."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def linear_scan(decay: Tensor, inputs: Tensor, initial: Tensor) -> Tensor:
    """All states of ``state[t] = decay[t] * state[t - 1] + inputs[t]``.

    Time is cut into about sqrt(T) chunks of sqrt(T) steps: all chunks are computed in parallel from zero, then their
    last states are chained, then each chunk adds the contribution of the state before it. This takes about 2 sqrt(T)
    sequential operations instead of T, with twice the arithmetic; products of decays may vanish, but nothing overflows
    or is divided. The gradient is the same recurrence backwards in time.

    Args:
        decay: ``[T, B, ...]``, with absolute values of at most 1.
        inputs: ``[T, B, ...]``.
        initial: ``[B, ...]``, the state before the first step.

    Returns:
        ``[T, B, ...]``.
    """
    return LinearScan.apply(decay, inputs, initial)


class LinearScan(Function):
    """``linear_scan`` with a backward pass that needs the states alone."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, inputs: Tensor, initial: Tensor) -> Tensor:
        states = _scan(decay, inputs, initial)
        ctx.save_for_backward(decay, initial, states)
        return states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``g[t] = gradient[t] + decay[t + 1] g[t + 1]`` is the gradient of ``inputs[t]``."""
        decay, initial, states = ctx.saved_tensors
        (gradient,) = gradients
        later = torch.cat([decay[1:], torch.zeros_like(decay[:1])])
        of_inputs = linear_scan(later.flip(0), gradient.flip(0), torch.zeros_like(initial)).flip(0)
        before = torch.cat([initial.unsqueeze(0), states[:-1]])
        return of_inputs * before, of_inputs, of_inputs[0] * decay[0]


def _scan(decay: Tensor, inputs: Tensor, initial: Tensor) -> Tensor:
    steps = len(inputs)
    size = max(1, math.isqrt(steps))
    missing = -steps % size
    if missing:
        decay = torch.cat([decay, decay.new_ones(missing, *decay.shape[1:])])
        inputs = torch.cat([inputs, inputs.new_zeros(missing, *inputs.shape[1:])])
    decay, inputs = decay.unflatten(0, (-1, size)), inputs.unflatten(0, (-1, size))  # [chunks, size, B, ...]
    states, shares = torch.empty_like(inputs), torch.empty_like(decay)  # states from zero, products of decays
    states[:, 0], shares[:, 0] = inputs[:, 0], decay[:, 0]
    for t in range(1, size):
        torch.addcmul(inputs[:, t], decay[:, t], states[:, t - 1], out=states[:, t])
        torch.mul(shares[:, t - 1], decay[:, t], out=shares[:, t])
    inherited = torch.empty_like(states[:, 0])
    inherited[0] = initial
    for chunk in range(1, len(states)):
        torch.addcmul(states[chunk - 1, -1], shares[chunk - 1, -1], inherited[chunk - 1], out=inherited[chunk])
    return states.addcmul_(shares, inherited.unsqueeze(1)).flatten(0, 1)[:steps]  # [T, B, ...]
