"""Linear recurrences over time without a step per time step."""

import math

import torch
from torch import Tensor


def linear_scan(decay: Tensor, inputs: Tensor, initial: Tensor) -> Tensor:
    """All states of ``state[t] = decay[t] * state[t - 1] + inputs[t]``.

    Time is cut into about sqrt(T) chunks of sqrt(T) steps: all chunks run side by side from zero, then their last
    states are chained, then each chunk adds what it inherited. About 2 sqrt(T) operations in a row instead of T,
    twice the arithmetic; products of decays may vanish, nothing overflows, nothing is divided.

    Args:
        decay: ``[T, B, ...]``, of size one at most in each element.
        inputs: ``[T, B, ...]``.
        initial: ``[B, ...]``, the state before the first step.

    Returns:
        ``[T, B, ...]``.
    """
    steps = len(inputs)
    size = max(1, math.isqrt(steps))
    missing = -steps % size
    if missing:
        decay = torch.cat([decay, decay.new_ones(missing, *decay.shape[1:])])
        inputs = torch.cat([inputs, inputs.new_zeros(missing, *inputs.shape[1:])])
    decay, inputs = decay.unflatten(0, (-1, size)), inputs.unflatten(0, (-1, size))
    local, shares = [inputs[:, 0]], [decay[:, 0]]  # [chunks, B, ...] each: states from zero, products of decays
    for t in range(1, size):
        local.append(torch.addcmul(inputs[:, t], decay[:, t], local[-1]))
        shares.append(shares[-1] * decay[:, t])
    inherited, state = [], initial
    for share, last in zip(shares[-1].unbind(0), local[-1].unbind(0), strict=True):
        inherited.append(state)
        state = torch.addcmul(last, share, state)
    states = torch.addcmul(torch.stack(local, 1), torch.stack(shares, 1), torch.stack(inherited).unsqueeze(1))
    return states.flatten(0, 1)[:steps]
