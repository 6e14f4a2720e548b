"""Policies: features of a timestep, a memory, optionally a belief, and the heads of actor and critic."""

import inspect
from collections.abc import Callable
from typing import Any, Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from metarl.models.base import Carry, SequenceModel
from metarl.models.distributions import action_distribution
from metarl.models.features import Features, Inputs
from metarl.models.heads import Critic, HeadOutput, Heads, MemoryOutput, Trunk
from metarl.models.mlp import MLP
from metarl.models.normalization import ValueHead
from metarl.types import EnvSpec, Timestep


class Policy(nn.Module):
    """Actor and critic on one shared memory, or on one memory each.

    Args:
        spec: spaces and sizes of the environment.
        context_dim: size of a context (a task description, a belief, a latent) that the memory reads in place of the
            features; None for agents without context.
        memory: builds the memory from its input size and its options. An option ``context`` of a memory is the longest
            sequence it can process; None is replaced by the length of a trial.
        heads: builds actor and critic from a ``Trunk`` and their options, see ``metarl.models.heads``.
        critic: ``shared`` reads the memory of the actor; ``separate`` has its own memory; ``privileged`` reads the
            memory of the actor and the task description, which only training needs (asymmetric actor-critic, Pinto et
            al. 2018); ``memoryless`` reads the current step alone, as published with TrMRL.
        inputs, input_embedding_size, normalize_inputs, image_embedding_size: see ``Features``.
        latent_dim: dimensions of a Gaussian belief, whose mean and log variance are read from the memory; None uses
            the output of the memory directly.
        memory_and_heads_options: options of the memory and of the heads.

    Raises:
        ValueError: a memory's ``context`` is shorter than a trial, or options exclude each other.
    """

    def __init__(
        self,
        spec: EnvSpec,
        context_dim: int | None = None,
        *,
        memory: Callable[..., SequenceModel],
        heads: Callable[..., Heads],
        critic: Critic = "shared",
        inputs: Inputs = "action_reward",
        input_embedding_size: PositiveInt | None = None,
        normalize_inputs: bool = False,
        image_embedding_size: PositiveInt | None = None,
        latent_dim: PositiveInt | None = None,
        **memory_and_heads_options,
    ):
        super().__init__()
        memory_options, heads_options = _split(memory_and_heads_options, heads, spec.trial_length)
        self.features = Features(spec, inputs, input_embedding_size, normalize_inputs, image_embedding_size)
        self.distribution = action_distribution(spec.action_space)
        self.context_dim, self.latent_dim = context_dim, latent_dim
        input_dim = self.features.output_dim if context_dim is None else context_dim
        self.memory = memory(input_dim, **memory_options)
        self.critic_memory: SequenceModel | None = None
        if critic == "separate":
            self.critic_memory = memory(input_dim, **memory_options)
        elif critic == "memoryless":
            self.critic_memory = MLP(input_dim)
        self.belief = _belief(self.memory, latent_dim, critic)
        self.memory_dim = 2 * latent_dim if latent_dim else self.memory.output_dim
        critic_dim = None if self.critic_memory is None else self.critic_memory.output_dim
        trunk = Trunk(spec, self.features, self.memory, self.memory_dim, critic, critic_dim, context_dim, latent_dim)
        self.heads = heads(trunk, **heads_options)
        self.features_dim = self.heads.features_dim

    @property
    def value_head(self) -> ValueHead:
        """Last layer of the critic."""
        return self.heads.value_head

    def initial_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """The initial carries of ``batch_size`` lanes: the actor's, then the critic's if it has one."""
        memories = [self.memory] if self.critic_memory is None else [self.memory, self.critic_memory]
        return tuple(memory.initial_carry(batch_size) for memory in memories)

    def forward(
        self, timestep: Timestep, carry: tuple, task: Tensor, context: Tensor | None = None
    ) -> tuple[HeadOutput, tuple]:
        """A sequence: timestep ``[T, B, ...]``, task description ``[B, task_dim]``, context ``[T, B, context_dim]``."""
        memory, carry = self.encode(timestep, carry, context)
        return self.act_and_value(timestep, memory, task), carry

    def step(
        self, timestep: Timestep, carry: tuple, task: Tensor, context: Tensor | None = None
    ) -> tuple[HeadOutput, tuple]:
        """One step: timestep ``[B, ...]``, task description ``[B, task_dim]``, context ``[B, context_dim]``."""
        memory, carry = self.encode(timestep, carry, context, "step")
        return self.act_and_value(timestep, memory, task), carry

    def encode(
        self,
        timestep: Timestep,
        carry: tuple,
        context: Tensor | None = None,
        method: Literal["forward", "step"] = "forward",
    ) -> tuple[MemoryOutput, tuple]:
        """Features and memory outputs of a sequence (``forward``) or of one step, and the carry after it."""
        features = self.features(timestep)
        source = features if context is None else context
        y, *carries = getattr(self.memory, method)(source, carry[0])
        critic = y = y if self.belief is None else self.belief(y)
        if self.critic_memory is not None:
            critic, critic_carry = getattr(self.critic_memory, method)(source, carry[1])
            carries.append(critic_carry)
        return MemoryOutput(features, y, critic), tuple(carries)

    def act_and_value(self, timestep: Timestep, memory: MemoryOutput, task: Tensor, **conditions: Tensor) -> HeadOutput:
        """Action distribution and value of every step; for ``conditions`` see ``ConditionedHeads``."""
        output: HeadOutput = self.heads(memory, self.heads.observed(timestep, self.features), task, **conditions)
        return output


def _split(options: dict[str, Any], heads: Callable[..., Heads], trial_length: int) -> tuple[dict, dict]:
    """Options of the memory, its context filled in, and options of the heads."""
    of_heads = inspect.signature(heads).parameters
    memory_options = {name: value for name, value in options.items() if name not in of_heads}
    if "context" in memory_options:
        memory_options["context"] = _context(memory_options["context"], trial_length)
    return memory_options, {name: value for name, value in options.items() if name in of_heads}


def _belief(memory: SequenceModel, latent_dim: int | None, critic: Critic) -> nn.Module | None:
    """Map from memory outputs to means and log variances; the identity if the memory gives these."""
    if latent_dim is None:
        return None
    if critic in ("separate", "memoryless"):
        raise ValueError(
            f"model.critic={critic}: a belief is shared by actor and critic; use shared, or model.latent_dim=null"
        )
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
