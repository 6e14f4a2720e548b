"""No memory: the ablation that shows what memory brings."""

from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from metarl.models.base import SequenceModel
from metarl.models.stackable import StackableLinear


class MLP(SequenceModel):
    """Tanh layers on the present input alone; the carry is empty.

    Args:
        input_dim: size of the input.
        hidden_size: units of each layer.
        num_layers: layers; none passes the input on.
    """

    def __init__(
        self, input_dim: int, hidden_size: PositiveInt = 128, num_layers: Annotated[int, Field(ge=0, le=1000)] = 2
    ):
        super().__init__()
        layers: list[nn.Module] = []
        self.output_dim = input_dim
        for _ in range(num_layers):
            linear = StackableLinear(self.output_dim, hidden_size)
            nn.init.orthogonal_(linear.weight, gain=nn.init.calculate_gain("tanh"))
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.Tanh()]
            self.output_dim = hidden_size
        self.layers = nn.Sequential(*layers)

    def initial_carry(self, batch_size: int) -> tuple[()]:
        return ()

    def forward(self, x: Tensor, carry: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return self.layers(x), ()

    def step(self, x: Tensor, carry: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return self.layers(x), ()
