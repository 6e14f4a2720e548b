"""How actor and critic are told what is known of the task: beside the observation, or through their own weights."""

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
    FreeLayer,
    GeneratedLayer,
    HyperInitialization,
    Initialization,
    initializer,
)


class Conditioned(NamedTuple):
    """What the actor answers ``[..., num_outputs]``; what both read last ``[..., output_dim]``."""

    output: Tensor
    actor: Tensor
    critic: Tensor


class Conditioning(nn.Module):
    """Actor and critic as two networks of tanh layers on the present observation, which a condition changes.

    The condition is what tanh layers make of what is known of the task. Both networks share these, and the layer over
    the observation (Beck et al. 2022, 2023).

    Args:
        observation_dim: of the present observation.
        known_dim: of what is known of the task.
        num_outputs: of the actor.
        actor_gain: of the actor's last layer at first.
        layers: units of the layers of actor and critic.
        observation_size: units of the shared tanh layer over the observation; None passes it on.
        condition_layers: units of the layers over what is known, the condition's size last; none pass it on.
        base: how ordinary layers are filled.
    """

    conditions_inputs = False  # the condition is also an input of the networks
    one_hot = False  # what is known must be one-hot

    def __init__(
        self,
        observation_dim: int,
        known_dim: int,
        num_outputs: int,
        actor_gain: float,
        *,
        layers: list[PositiveInt],
        observation_size: PositiveInt | None,
        condition_layers: list[PositiveInt],
        base: Initialization,
    ):
        super().__init__()
        width = observation_size or observation_dim
        self.observation_layer = nn.Linear(observation_dim, observation_size) if observation_size else None
        self.condition_layers = tanh_layers(known_dim, condition_layers)
        self.condition_dim = ([known_dim, *condition_layers])[-1]
        if self.conditions_inputs:
            width += self.condition_dim
        sizes = [width, *layers]
        self.output_dim = sizes[-1]
        self.actor_layers, self.critic_layers = (
            nn.ModuleList(
                self.layer(index, *shape, base, TANH_GAIN)
                for index, shape in enumerate(zip(sizes, layers, strict=False))
            )
            for _ in range(2)
        )
        self.actor_output = self.layer(len(layers), self.output_dim, num_outputs, base, actor_gain)
        self.critic_output = self.layer(len(layers), self.output_dim, 1, "kaiming", math.sqrt(2))

    @abstractmethod
    def layer(self, index: int, input_dim: int, output_dim: int, base: Initialization, gain: float) -> ConditionalLayer:
        """The layer after ``index`` others, of actor or critic."""

    def condition(self, known: Tensor) -> Tensor:
        """What is known ``[..., known_dim]`` to a condition ``[..., condition_dim]``."""
        return self.condition_layers(known)

    def forward(self, observation: Tensor, condition: Tensor, critic_condition: Tensor) -> Conditioned:
        """Of the present observation ``[..., observation_dim]`` and two conditions ``[..., condition_dim]``."""
        if self.observation_layer is not None:
            observation = torch.tanh(self.observation_layer(observation))
        actor = self._run(self.actor_layers, observation, condition)
        critic = self._run(self.critic_layers, observation, critic_condition)
        return Conditioned(self.actor_output(actor, condition), actor, critic)

    def _run(self, layers: nn.ModuleList, x: Tensor, condition: Tensor) -> Tensor:
        if self.conditions_inputs:
            x = torch.cat([x, condition], dim=-1)
        for layer in layers:
            x = torch.tanh(layer(x, condition))
        return x


class Concatenate(Conditioning):
    """The condition is one more input; see ``Conditioning``."""

    conditions_inputs = True

    def layer(self, index, input_dim, output_dim, base, gain):
        return FreeLayer(input_dim, output_dim, initializer(base, gain))


class Hypernetwork(Conditioning):
    """The condition generates weights and biases of actor and critic (Beck et al. 2022).

    Args:
        dims: ``observation_dim``, ``known_dim``, ``num_outputs`` and ``actor_gain``.
        initialization: see ``GeneratedLayer``.
        generated: for each layer and the last one, whether it is generated or ordinary; None generates all.
        layers: of actor and critic.
        inherited: see ``Conditioning``.

    Raises:
        ValueError: ``generated`` has another length than there are layers, or generates none.
    """

    def __init__(
        self,
        *dims: Any,
        initialization: HyperInitialization,
        generated: list[bool] | None,
        layers: list[PositiveInt],
        **inherited,
    ):
        count = len(layers) + 1
        if generated is not None and (len(generated) != count or not any(generated)):
            raise ValueError(
                f"model.conditioning.generated={generated}: say true or false for each of the {len(layers)} layers and "
                "for the last one, and true at least once"
            )
        self.initialization, self.generated = initialization, generated or [True] * count
        super().__init__(*dims, layers=layers, **inherited)

    def layer(self, index, input_dim, output_dim, base, gain):
        initialize = initializer(base, gain)
        if not self.generated[index]:
            return FreeLayer(input_dim, output_dim, initialize)
        return GeneratedLayer(input_dim, output_dim, self.condition_dim, self.initialization, initialize, gain)

    def generated_layers(self) -> list[GeneratedLayer]:
        """Of actor and critic."""
        layers = [*self.actor_layers, self.actor_output, *self.critic_layers, self.critic_output]
        return [layer for layer in layers if isinstance(layer, GeneratedLayer)]

    def generate(self, condition: Tensor) -> Tensor:
        """All weights and biases that conditions ``[B, condition_dim]`` make, side by side, ``[B, total]``."""
        return torch.cat([layer.generate(condition) for layer in self.generated_layers()], dim=1)


class Film(Conditioning):
    """The condition scales and shifts the outputs of ordinary layers (Perez et al. 2018).

    Args:
        dims: ``observation_dim``, ``known_dim``, ``num_outputs`` and ``actor_gain``.
        initialization: see ``FilmLayer``.
        inherited: see ``Conditioning``.
    """

    def __init__(self, *dims: Any, initialization: FilmInitialization, **inherited):
        self.initialization = initialization
        super().__init__(*dims, **inherited)

    def layer(self, index, input_dim, output_dim, base, gain):
        return FilmLayer(input_dim, output_dim, self.condition_dim, self.initialization, initializer(base, gain))


class PerTask(Conditioning):
    """Networks of its own for every task, chosen by a one-hot number; for agents that are told it.

    Args:
        dims: ``observation_dim``, ``known_dim``, ``num_outputs`` and ``actor_gain``.
        layers, observation_size, base: see ``Conditioning``.
    """

    one_hot = True

    def __init__(
        self, *dims: Any, layers: list[PositiveInt], observation_size: PositiveInt | None, base: Initialization
    ):
        super().__init__(*dims, layers=layers, observation_size=observation_size, condition_layers=[], base=base)

    def layer(self, index, input_dim, output_dim, base, gain):
        initialize = initializer(base, gain)
        return GeneratedLayer(input_dim, output_dim, self.condition_dim, "weight", initialize, gain, shared=False)


def tanh_layers(input_dim: int, sizes: list[int]) -> nn.Sequential:
    """Linear layers of torch's own start, each followed by a tanh."""
    layers: list[nn.Module] = []
    for width, size in zip([input_dim, *sizes], sizes, strict=False):
        layers += [nn.Linear(width, size), nn.Tanh()]
    return nn.Sequential(*layers)
