"""Encoder of the episodes of a task into an embedding, with separate encoder weights for every task (TESP)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from metarl.models.conditional_layers import initializer

Gates = Literal["keras", "torch"]
Kernel = Literal["joint", "each"]
SMALL = 0.01  # initial norm of the rows of the projection


class Episodes(NamedTuple):
    """M episodes for each of N tasks."""

    features: Tensor  # [N, M, T, F]
    lengths: Tensor  # int64 [N, M], steps; 0: no episode
    returns: Tensor  # [N, M]


class EpisodeEncoder(nn.Module):
    """A GRU over each episode, a linear projection of its last state, and the mean over episodes (Lan et al. 2019).

    The recurrence is written out over batched weights, because ``vmap`` does not support ``nn.GRU``.

    Args:
        input_dim: features of a step.
        hidden_size: units of the GRU.
        output_dim: size of the embedding.
        gates: ``keras`` has hard sigmoids and resets the state before its matrix product, as published;
            ``torch`` is the form of ``nn.GRU``.
        kernel: initialisation of the recurrent weights: ``joint`` is one orthogonal matrix for both gates and the
            candidate, as published; ``each`` is an orthogonal matrix for each of the three, with three times the sum of
            squares.
    """

    def __init__(self, input_dim: int, hidden_size: int, output_dim: int, gates: Gates, kernel: Kernel = "joint"):
        super().__init__()
        self.gates = gates
        self.input_weight = nn.Parameter(torch.empty(3 * hidden_size, input_dim))
        self.recurrent_weight = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(3 * hidden_size))
        self.projection = nn.Parameter(torch.empty(output_dim, hidden_size))
        self.offset = nn.Parameter(torch.zeros(output_dim))
        nn.init.xavier_uniform_(self.input_weight)
        for rows in self.recurrent_weight.data.split(3 * hidden_size if kernel == "joint" else hidden_size):
            nn.init.orthogonal_(rows)
        initializer("normc", SMALL)(self.projection)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Episodes ``[N, M, T, F]`` of ``[N, M]`` steps to ``[N, output_dim]``; 0 for a task without episodes.

        To be called with weights of N tasks, ``[N, ...]`` each (``torch.func.functional_call``).
        """
        tasks, episodes, steps, _ = features.shape
        flat = features.flatten(1, 2).to(self.input_weight.dtype)  # [N, M T, F]
        inputs = torch.baddbmm(self.bias.unsqueeze(1), flat, self.input_weight.mT).unflatten(1, (episodes, steps))
        size = self.recurrent_weight.shape[2]
        hidden = inputs.new_zeros(tasks, episodes, size)
        gate_weight, candidate_weight = self.recurrent_weight.mT.split([2 * size, size], dim=2)
        step = self._keras if self.gates == "keras" else self._torch
        shortest, longest = (int(length) for length in lengths.aminmax()) if episodes else (0, 0)
        for t, now in enumerate(inputs[:, :, :longest].unbind(2)):
            after = step(now, hidden, gate_weight, candidate_weight)
            hidden = after if t < shortest else torch.where((t < lengths).unsqueeze(2), after, hidden)
        each = torch.baddbmm(self.offset.unsqueeze(1), hidden, self.projection.mT)
        there = (lengths > 0).unsqueeze(2)
        return (each * there).sum(1) / there.sum(1).clamp(min=1)

    def _keras(self, inputs: Tensor, hidden: Tensor, gate_weight: Tensor, candidate_weight: Tensor) -> Tensor:
        gates_in, candidate_in = inputs.split(gate_split(hidden), dim=2)
        gates = torch.baddbmm(gates_in, hidden, gate_weight, beta=0.2, alpha=0.2).add(0.5).clamp(0, 1)
        update, reset = gates.chunk(2, dim=2)
        candidate = torch.tanh(torch.baddbmm(candidate_in, reset * hidden, candidate_weight))
        return torch.lerp(candidate, hidden, update)

    def _torch(self, inputs: Tensor, hidden: Tensor, gate_weight: Tensor, candidate_weight: Tensor) -> Tensor:
        gates_in, candidate_in = inputs.split(gate_split(hidden), dim=2)
        update, reset = torch.sigmoid(torch.baddbmm(gates_in, hidden, gate_weight)).chunk(2, dim=2)
        candidate = torch.tanh(torch.addcmul(candidate_in, reset, torch.bmm(hidden, candidate_weight)))
        return torch.lerp(candidate, hidden, update)


def gate_split(hidden: Tensor) -> list[int]:
    """Sizes of the inputs of both gates and of the candidate."""
    return [2 * hidden.shape[2], hidden.shape[2]]


def empty_episodes(tasks: int, steps: int, features: int, device: torch.device) -> Episodes:
    """No episodes for each of the tasks."""
    shape = (tasks, 0, steps, features)
    lengths = torch.zeros(tasks, 0, dtype=torch.long, device=device)
    return Episodes(torch.zeros(shape, device=device), lengths, torch.zeros(tasks, 0, device=device))


def best_episodes(stored: Episodes, new: Episodes, count: int) -> Episodes:
    """The ``count`` episodes with the highest returns, older ones first among equal returns."""
    both = Episodes(*(torch.cat(parts, dim=1) for parts in zip(stored, new, strict=True)))
    rank = both.returns.nan_to_num(nan=-torch.inf)
    order = rank.sort(dim=1, descending=True, stable=True).indices[:, :count]
    lanes = torch.arange(len(order), device=order.device).unsqueeze(1)
    return Episodes(*(part[lanes, order] for part in both))
