"""Actor and critic networks conditioned on a task representation: as an input, or through their weights."""

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.conditional_layers import (
    TANH_GAIN,
    ConditionalLayer,
    FilmInitialization,
    FilmLayer,
    HyperInitialization,
    HyperLinear,
    Initialization,
    UnconditionedLinear,
    initializer,
)
from metarl.models.mlp import mlp


class ActorCriticOutput(NamedTuple):
    """Output of the actor, and features before the last layers of actor and critic."""

    output: Tensor  # [..., num_outputs]
    actor: Tensor  # [..., output_dim]
    critic: Tensor  # [..., output_dim]


class Conditioning(nn.Module):
    """Actor and critic as two tanh networks on the current observation, changed by a condition.

    The condition is the output of tanh layers over the output of the memory. Actor and critic share these layers, and
    the layer over the observation (Beck et al. 2022, 2023).

    Args:
        observation_dim: size of the current observation.
        memory_dim: size of the memory output.
        num_outputs: outputs of the actor.
        actor_gain: initial gain of the last layer of the actor.
        layers: units of the layers of actor and critic.
        observation_embedding_size: units of the shared tanh layer over the observation; None: no layer.
        condition_layers: units of the layers over the memory output; the last is the size of the condition. An empty
            list makes the memory output the condition.
        weight_init: initialisation of ordinary layers.
    """

    conditions_inputs = False  # the condition is also an input of the networks
    one_hot = False  # whether the memory output must be one-hot

    def __init__(
        self,
        observation_dim: int,
        memory_dim: int,
        num_outputs: int,
        actor_gain: float,
        *,
        layers: list[PositiveInt],
        observation_embedding_size: PositiveInt | None,
        condition_layers: list[PositiveInt],
        weight_init: Initialization,
    ):
        super().__init__()
        width = observation_embedding_size or observation_dim
        self.observation_layer = (
            nn.Linear(observation_dim, observation_embedding_size) if observation_embedding_size else None
        )
        self.condition_layers = mlp([memory_dim, *condition_layers], nn.Tanh)
        self.condition_dim = ([memory_dim, *condition_layers])[-1]
        if self.conditions_inputs:
            width += self.condition_dim
        sizes = [width, *layers]
        self.output_dim = sizes[-1]
        self.actor_layers, self.critic_layers = (
            nn.ModuleList(
                self.layer(index, *shape, weight_init, TANH_GAIN)
                for index, shape in enumerate(zip(sizes, layers, strict=False))
            )
            for _ in range(2)
        )
        self.actor_output = self.layer(len(layers), self.output_dim, num_outputs, weight_init, actor_gain)
        self.critic_output = self.layer(len(layers), self.output_dim, 1, "kaiming", math.sqrt(2))

    @abstractmethod
    def layer(
        self, index: int, input_dim: int, output_dim: int, weight_init: Initialization, gain: float
    ) -> ConditionalLayer:
        """Layer ``index`` of actor or critic, counted from the input."""

    def condition(self, memory: Tensor) -> Tensor:
        """Memory output ``[..., memory_dim]`` to a condition ``[..., condition_dim]``."""
        return self.condition_layers(memory)

    def forward(self, observation: Tensor, condition: Tensor, critic_condition: Tensor) -> ActorCriticOutput:
        """Current observation ``[..., observation_dim]`` and conditions of both networks, ``[..., condition_dim]``."""
        if self.observation_layer is not None:
            observation = torch.tanh(self.observation_layer(observation))
        actor = self._run(self.actor_layers, observation, condition)
        critic = self._run(self.critic_layers, observation, critic_condition)
        return ActorCriticOutput(self.actor_output(actor, condition), actor, critic)

    def _run(self, layers: nn.ModuleList, x: Tensor, condition: Tensor) -> Tensor:
        if self.conditions_inputs:
            x = torch.cat([x, condition], dim=-1)
        for layer in layers:
            x = torch.tanh(layer(x, condition))
        return x


class Concatenate(Conditioning):
    """Networks with the condition as an additional input; see ``Conditioning``."""

    conditions_inputs = True

    def layer(self, index, input_dim, output_dim, weight_init, gain):
        return UnconditionedLinear(input_dim, output_dim, initializer(weight_init, gain))


class Hypernetwork(Conditioning):
    """Networks whose weights and biases are generated from the condition (Beck et al. 2022).

    Args:
        dims: ``observation_dim``, ``memory_dim``, ``num_outputs`` and ``actor_gain``.
        initialization: see ``HyperLinear``.
        generated_layers: whether each layer and the output layer is generated, not ordinary; None generates all.
        layers: units of the layers of actor and critic.
        inherited: see ``Conditioning``.

    Raises:
        ValueError: ``generated_layers`` does not have one value per layer, or generates none.
    """

    def __init__(
        self,
        *dims: Any,
        initialization: HyperInitialization,
        generated_layers: list[bool] | None,
        layers: list[PositiveInt],
        **inherited,
    ):
        count = len(layers) + 1
        if generated_layers is not None and (len(generated_layers) != count or not any(generated_layers)):
            raise ValueError(
                f"model.conditioning.generated_layers={generated_layers}: must be {count} times true or false, for "
                f"each of the {len(layers)} layers and the output layer, and true at least once"
            )
        self.initialization, self.is_generated = initialization, generated_layers or [True] * count
        super().__init__(*dims, layers=layers, **inherited)

    def layer(self, index, input_dim, output_dim, weight_init, gain):
        initialize = initializer(weight_init, gain)
        if not self.is_generated[index]:
            return UnconditionedLinear(input_dim, output_dim, initialize)
        return HyperLinear(input_dim, output_dim, self.condition_dim, self.initialization, initialize, gain)

    def hyper_layers(self) -> list[HyperLinear]:
        """Generated layers of actor and critic."""
        layers = [*self.actor_layers, self.actor_output, *self.critic_layers, self.critic_output]
        return [layer for layer in layers if isinstance(layer, HyperLinear)]

    def generate(self, condition: Tensor) -> Tensor:
        """Generated weights and biases, concatenated, for conditions ``[B, condition_dim]``: ``[B, total]``."""
        return torch.cat([layer.generate(condition) for layer in self.hyper_layers()], dim=1)


class Film(Conditioning):
    """Networks whose layers are scaled and shifted by the condition (FiLM, Perez et al. 2018).

    Args:
        dims: ``observation_dim``, ``memory_dim``, ``num_outputs`` and ``actor_gain``.
        initialization: see ``FilmLayer``.
        inherited: see ``Conditioning``.
    """

    def __init__(self, *dims: Any, initialization: FilmInitialization, **inherited):
        self.initialization = initialization
        super().__init__(*dims, **inherited)

    def layer(self, index, input_dim, output_dim, weight_init, gain):
        return FilmLayer(input_dim, output_dim, self.condition_dim, self.initialization, initializer(weight_init, gain))


class PerTask(Conditioning):
    """Separate networks for every task, selected by the one-hot index of the task, an input of the agent.

    Args:
        dims: ``observation_dim``, ``memory_dim``, ``num_outputs`` and ``actor_gain``.
        layers, observation_embedding_size, weight_init: see ``Conditioning``.
    """

    one_hot = True

    def __init__(
        self,
        *dims: Any,
        layers: list[PositiveInt],
        observation_embedding_size: PositiveInt | None,
        weight_init: Initialization,
    ):
        super().__init__(
            *dims,
            layers=layers,
            observation_embedding_size=observation_embedding_size,
            condition_layers=[],
            weight_init=weight_init,
        )

    def layer(self, index, input_dim, output_dim, weight_init, gain):
        initialize = initializer(weight_init, gain)
        return HyperLinear(input_dim, output_dim, self.condition_dim, "weight", initialize, gain, shared=False)
