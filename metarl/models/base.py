"""The memory contract."""

from abc import ABC, abstractmethod
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

Carry = Any  # a pytree of tensors, lanes on axis 0
Depth = Annotated[int, Field(gt=0, le=1000)]  # a number of layers: each is built by itself, which takes time


class SequenceModel(nn.Module, ABC):
    """A causal map of sequences, with its memory in the open.

    Memory law: feeding a sequence in pieces, handing the carry on, gives what feeding it whole gives,
    forward and in gradients; lanes do not interact. Without gradients ``step`` may write into the carry it is given,
    so only the one it returns is good for more; copy it to branch.

    The last channel of the input is 1 where an episode starts, for memories that care.
    """

    output_dim: int
    is_belief = False  # whether the output is mean and log variance of a Gaussian already

    @abstractmethod
    def initial_carry(self, batch_size: int) -> Carry:
        """The empty memory of ``batch_size`` lanes."""

    @abstractmethod
    def forward(self, x: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """``[T, B, input_dim]`` to ``[T, B, output_dim]``, and the memory after the last step."""

    def step(self, x: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """One step, ``[B, input_dim]`` to ``[B, output_dim]``: ``forward`` on length one, or the same faster."""
        y, carry = self.forward(x.unsqueeze(0), carry)
        return y.squeeze(0), carry


def initialize_recurrent(cells: nn.RNNBase) -> None:
    """Each gate of a single layer: Xavier input weights, orthogonal recurrent weights, zero biases."""
    input_weight, hidden_weight, *biases = cells.all_weights[0]
    for rows in input_weight.data.split(cells.hidden_size):
        nn.init.xavier_uniform_(rows)
    for rows in hidden_weight.data.split(cells.hidden_size):
        nn.init.orthogonal_(rows)
    for bias in biases:
        nn.init.zeros_(bias)
