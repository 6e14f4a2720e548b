"""Contract of memories: sequence models with an explicit carry."""

from abc import ABC, abstractmethod
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

Carry = Any  # a structure of tensors (``metarl.tree``), lanes on axis 0
Depth = Annotated[int, Field(gt=0, le=1000)]  # number of layers; limited because each takes time to build


class SequenceModel(nn.Module, ABC):
    """A causal map of sequences with an explicit carry.

    Memory law: feeding a sequence in pieces, handing the carry on, gives what feeding it whole gives,
    forward and in gradients; lanes do not interact. Without gradients ``step`` may write into the carry it is given,
    so only the one it returns may be used afterwards; copy a carry to branch.

    The last channel of the input is 1 where an episode starts.
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
        """One step, ``[B, input_dim]`` to ``[B, output_dim]``: ``forward`` on length one, overridden for speed."""
        y, carry = self.forward(x.unsqueeze(0), carry)
        return y.squeeze(0), carry


def initialize_recurrent(cells: nn.RNNBase) -> None:
    """Initialise each gate of a single layer: Xavier input weights, orthogonal recurrent weights, zero biases."""
    input_weight, hidden_weight, *biases = cells.all_weights[0]
    for rows in input_weight.data.split(cells.hidden_size):
        nn.init.xavier_uniform_(rows)
    for rows in hidden_weight.data.split(cells.hidden_size):
        nn.init.orthogonal_(rows)
    for bias in biases:
        nn.init.zeros_(bias)
