"""From what an agent sees to actions and values: features, a memory, perhaps a belief, two heads."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from gymnasium import spaces
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from metarl.models.base import Carry, SequenceModel
from metarl.models.conditioning import Conditioning
from metarl.models.distributions import action_distribution
from metarl.models.features import Features, Inputs, Pictures
from metarl.models.heads import ActionStd, ConditionedHeads, DirectHeads, HeadOutput, Known
from metarl.models.mlp import MLP
from metarl.models.normalization import ValueHead
from metarl.types import Timestep

Critic = Literal["shared", "separate", "privileged", "present"]


class Policy(nn.Module):
    """Actor and critic over one memory, or over one memory each.

    Args:
        observation_space, action_space: of the environment.
        task_dim: size of ``Tasks.description``.
        trial_length: most steps of a trial.
        told_dim: size of what the policy is told of its task, in place of what a trial shows; None for agents that
            have to find out.
        memory: class of the memory, built with the input size and ``memory_options``.
        critic: ``shared`` reads the actor's memory; ``separate`` has a memory of its own; ``privileged``
            reads the actor's memory and the task's description, which only training ever needs
            (asymmetric actor-critic, Pinto et al. 2018); ``present`` sees the present step alone, as published with
            TrMRL.
        inputs, encoder_size, normalize_inputs, image_size: see ``Features``.
        latent_dim: the memory is read as mean and log variance of a Gaussian belief of this size; None reads it as it
            is.
        conditioning: builds the networks of actor and critic, see ``metarl.models.conditioning``; None lets plain heads
            read the memory.
        head_size: units of a rectified layer over memory and features together, below plain heads: the memory need
            not also pass on what it is fed. None lets the heads read the memory alone.
        actor_gain: of the actor's last weights at first; small ones start close to uniform or zero-mean actions.
        initial_std, action_std: of continuous actions, see ``GaussianHead``; None is 1 and ``free``.
        memory_options: constructor arguments of the memory. A memory that has a ``context``, the longest sequence it
            can meet, is given that of a trial where the option is None.

    Raises:
        ValueError: ``context`` is shorter than a trial, or options exclude each other.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        task_dim: int,
        trial_length: int,
        told_dim: int | None = None,
        *,
        memory: type[SequenceModel],
        critic: Critic = "shared",
        inputs: Inputs = "step",
        encoder_size: PositiveInt | None = None,
        normalize_inputs: bool = False,
        image_size: PositiveInt | None = None,
        latent_dim: PositiveInt | None = None,
        conditioning: Callable[..., Conditioning] | None = None,
        head_size: PositiveInt | None = None,
        actor_gain: PositiveFloat = 0.01,
        initial_std: PositiveFloat | None = None,
        action_std: ActionStd | None = None,
        **memory_options,
    ):
        super().__init__()
        _check(critic, latent_dim, conditioning, head_size, action_std)
        self.features = Features(observation_space, action_space, inputs, encoder_size, normalize_inputs, image_size)
        self.distribution = action_distribution(action_space)
        if "context" in memory_options:
            memory_options["context"] = _context(memory_options["context"], trial_length)
        features_dim = self.features.output_dim
        inputs_dim = features_dim if told_dim is None else told_dim
        self.memory = memory(inputs_dim, **memory_options)
        self.critic_memory: SequenceModel | None = None
        if critic == "separate":
            self.critic_memory = memory(inputs_dim, **memory_options)
        elif critic == "present":
            self.critic_memory = MLP(inputs_dim)
        self.told_dim, self.latent_dim = told_dim, latent_dim
        self.belief = _belief(self.memory, latent_dim)
        self.known_dim = 2 * latent_dim if latent_dim else self.memory.output_dim
        privileged_dim = task_dim if critic == "privileged" else None
        self.heads: DirectHeads | ConditionedHeads
        if conditioning is None:
            self.heads = DirectHeads(
                action_space,
                self.distribution.num_parameters,
                features_dim,
                self.known_dim,
                None if self.critic_memory is None else self.critic_memory.output_dim,
                head_size,
                privileged_dim,
                actor_gain,
                initial_std,
                action_std,
            )
        else:
            networks = self._networks(conditioning, action_space, actor_gain, critic)
            # Of its own, because what the memory sees may be trained by other losses.
            pictures = Pictures(observation_space, image_size) if image_size else None
            self.heads = ConditionedHeads(action_space, networks, privileged_dim, initial_std, pictures)
        self.features_dim = self.heads.features_dim

    def _networks(
        self, conditioning: Callable[..., Conditioning], action_space: spaces.Space, actor_gain: float, critic: Critic
    ) -> Conditioning:
        if self.told_dim is not None and (self.features.encoder is not None or self.features.inputs != "observation"):
            raise ValueError(
                f"model.inputs={self.features.inputs}, model.encoder_size: networks that are told the task see the "
                "present observation alone; use model.inputs=observation model.encoder_size=null"
            )
        of_actor = self.distribution.num_parameters // (2 if isinstance(action_space, spaces.Box) else 1)
        networks = conditioning(self.features.present_dim, self.known_dim, of_actor, actor_gain)
        passes_on = isinstance(self.memory, MLP) and not self.memory.layers
        if networks.one_hot and (self.told_dim is None or not passes_on or self.latent_dim or critic != "shared"):
            raise ValueError(
                "conditioning=per_task needs the number of the task, just as it is told; use algorithm=multitask "
                "algorithm.oracle=task_id model.num_layers=0 model.critic=shared, or another conditioning"
            )
        return networks

    @property
    def value_head(self) -> ValueHead:
        """What turns the critic's last features into a value."""
        return self.heads.value_head

    def initial_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """The empty memories of ``batch_size`` lanes, one per trunk."""
        trunks = [self.memory] if self.critic_memory is None else [self.memory, self.critic_memory]
        return tuple(trunk.initial_carry(batch_size) for trunk in trunks)

    def forward(self, timestep: Timestep, carry: tuple, task: Tensor, told: Tensor | None = None) -> tuple[Any, tuple]:
        """A sequence: timestep ``[T, B, ...]``, task description ``[B, task_dim]``, told ``[T, B, told_dim]``."""
        known, carry = self.remember(timestep, carry, told)
        return self.decide(timestep, known, task), carry

    def step(self, timestep: Timestep, carry: tuple, task: Tensor, told: Tensor | None = None) -> tuple[Any, tuple]:
        """One step: timestep ``[B, ...]``, task description ``[B, task_dim]``, told ``[B, told_dim]``."""
        known, carry = self.remember(timestep, carry, told, "step")
        return self.decide(timestep, known, task), carry

    def remember(
        self,
        timestep: Timestep,
        carry: tuple,
        told: Tensor | None = None,
        method: Literal["forward", "step"] = "forward",
    ) -> tuple[Known, tuple]:
        """What is known at every step, of a sequence or of one step, and the memories after it."""
        x = self.features(timestep)
        source = x if told is None else told
        y, *carries = getattr(self.memory, method)(source, carry[0])
        critic = y = y if self.belief is None else self.belief(y)
        if self.critic_memory is not None:
            critic, critic_carry = getattr(self.critic_memory, method)(source, carry[1])
            carries.append(critic_carry)
        return Known(x, y, critic), tuple(carries)

    def decide(self, timestep: Timestep, known: Known, task: Tensor, **conditions: Tensor) -> HeadOutput:
        """Action distribution and value of every step; ``conditions`` as ``ConditionedHeads`` has them."""
        if not isinstance(self.heads, ConditionedHeads):
            return self.heads(known, known.features, task)
        if self.heads.pictures is None:
            return self.heads(known, self.features.present(timestep), task, **conditions)
        seen = [self.heads.pictures(timestep.observation), timestep.first.unsqueeze(-1).float()]
        return self.heads(known, torch.cat(seen, dim=-1), task, **conditions)


def _check(
    critic: Critic,
    latent_dim: int | None,
    conditioning: Any,
    head_size: int | None,
    action_std: ActionStd | None,
) -> None:
    """Options that exclude each other, or need one another."""
    own = critic in ("separate", "present")
    if latent_dim is not None and own:
        raise ValueError(f"model.critic={critic}: a belief is the critic's too; use shared, or model.latent_dim=null")
    if conditioning is not None:
        if critic == "present":
            raise ValueError("model.critic=present: has nothing to condition on; use shared, or conditioning=none")
        for name, value in (("head_size", head_size), ("action_std", action_std)):
            if value is not None:
                raise ValueError(f"model.{name}={value} is of plain heads; leave it null, or use conditioning=none")


def _belief(memory: SequenceModel, latent_dim: int | None) -> nn.Module | None:
    """From a memory to means and log variances; nothing has to be done where it is these already."""
    if latent_dim is None:
        return None
    if not memory.is_belief:
        return nn.Linear(memory.output_dim, 2 * latent_dim)
    if memory.output_dim != 2 * latent_dim:
        raise ValueError(
            f"model.latent_dim={latent_dim}: this memory is a belief of {memory.output_dim // 2} dimensions; set "
            f"model.latent_dim={memory.output_dim // 2}, or model.hidden_size={2 * latent_dim}"
        )
    return nn.Identity()


def _context(configured: int | None, trial_length: int) -> int:
    if configured is not None and configured < trial_length:
        raise ValueError(
            f"model.context={configured} is shorter than a trial of {trial_length} steps; raise it, or leave it null"
        )
    return configured or trial_length
