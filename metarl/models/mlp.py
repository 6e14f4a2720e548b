"""Multilayer perceptrons, also as a memory: the memoryless ablation."""

import itertools
from collections.abc import Callable
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from metarl.models.base import SequenceModel
from metarl.models.batched_linear import BatchedLinear


def mlp(
    sizes: list[int],
    activation: Callable[[], nn.Module],
    output_dim: int | None = None,
    layer: Callable[[int, int], nn.Module] = nn.Linear,
) -> nn.Sequential:
    """Layers of ``sizes[1:]`` units on ``sizes[0]`` inputs, each followed by an activation.

    Args:
        sizes: input size, then units of each layer; an input size alone gives the identity.
        activation: makes the module after each layer.
        output_dim: outputs of a linear layer on top, without activation; None: no such layer.
        layer: makes an initialised linear layer from its input and output size.
    """
    modules: list[nn.Module] = []
    for width, size in itertools.pairwise(sizes):
        modules += [layer(width, size), activation()]
    return nn.Sequential(*modules, *([] if output_dim is None else [layer(sizes[-1], output_dim)]))


def tanh_linear(input_dim: int, output_dim: int) -> BatchedLinear:
    """A linear layer for a tanh after it: orthogonal initial weights and zero biases."""
    linear = BatchedLinear(input_dim, output_dim)
    nn.init.orthogonal_(linear.weight, gain=nn.init.calculate_gain("tanh"))
    nn.init.zeros_(linear.bias)
    return linear


class MLP(SequenceModel):
    """Tanh layers on the current input alone; the carry is empty.

    Args:
        input_dim: size of the input.
        hidden_size: units of each layer.
        num_layers: number of layers; 0 is the identity.
    """

    def __init__(
        self, input_dim: int, hidden_size: PositiveInt = 128, num_layers: Annotated[int, Field(ge=0, le=1000)] = 2
    ):
        super().__init__()
        self.layers = mlp([input_dim] + num_layers * [hidden_size], nn.Tanh, layer=tanh_linear)
        self.output_dim = hidden_size if num_layers else input_dim

    def initial_carry(self, batch_size: int) -> tuple[()]:
        return ()

    def forward(self, x: Tensor, carry: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return self.layers(x), ()

    def step(self, x: Tensor, carry: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return self.layers(x), ()
