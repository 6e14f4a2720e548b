"""Oracle agents with privileged task information (upper bounds of adaptation), and a task-agnostic lower bound."""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metarl.algorithms.policy_gradient import Batch, PolicyGradient
from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import exact_belief
from metarl.models.heads import ConditionedHeads, HeadOutput, PlainHeads
from metarl.models.mlp import MLP
from metarl.types import Rollout, Tasks

Oracle = Literal["task_description", "task_id", "belief", "none"]


class OracleState(NamedTuple):
    """Carry, the task description ``[B, task_dim]``, and the oracle's input ``[B, context_dim]``."""

    carry: tuple
    task: Tensor
    context: Tensor


class Multitask(PolicyGradient):
    """A policy without memory, conditioned on the observation and on privileged task information.

    Args:
        oracle: the ``task_description`` (the usual multi-task policy); ``task_id``, its number, one-hot, in finite task
            sets; ``belief``, the exact posterior over tasks given the past, in environments that provide it; ``none``,
            for a single policy that is best on average.
        inherited: see ``PolicyGradient``.
    """

    uses_memory = False

    def __init__(self, *, oracle: Oracle = "task_description", **inherited):
        super().__init__(**inherited)
        self.oracle = oracle

    def build_policy(self, env, model):
        context_dim = self._context_dim(env)
        if self.oracle in ("task_id", "belief"):
            self.env = env  # computes these inputs
        policy = model(env.spec, context_dim)
        if not isinstance(policy.memory, MLP) or policy.critic_memory is not None:
            raise ValueError("algorithm=multitask needs a policy without memory; use model=mlp")
        if isinstance(policy.heads, ConditionedHeads) and policy.heads.networks.one_hot and self.oracle != "task_id":
            raise ValueError(f"algorithm.oracle={self.oracle}: conditioning=per_task needs task_id")
        if isinstance(policy.heads, PlainHeads) and policy.heads.readout.layer is None:
            raise ValueError("conditioning=none: such heads would ignore the observation; use conditioning=concatenate")
        return policy

    def _context_dim(self, env: MetaEnv) -> int:
        """Size of the oracle's input."""
        missing = f"algorithm.oracle={self.oracle}: {type(env).__name__} %s; use task_description or none"
        match self.oracle:
            case "task_description":
                return env.task_dim
            case "task_id":
                if env.num_tasks_total is None:
                    raise ValueError(missing % "does not number its tasks")
                return env.num_tasks_total
            case "belief":
                world = exact_belief(env)
                if world is None:
                    raise ValueError(missing % "has no exact belief")
                return world.initial_belief(1).shape[1]
            case "none":
                return 1

    def _context(self, tasks: Tasks) -> Tensor:
        """The oracle's input at the start of a trial, ``[B, context_dim]``."""
        match self.oracle:
            case "task_description":
                return tasks.description
            case "task_id":
                return F.one_hot(self.env.task_id(tasks), self.env.num_tasks_total).float()
            case "belief":
                return self.env.initial_belief(len(tasks))
            case "none":
                return torch.ones(len(tasks), 1, device=tasks.description.device)

    def initial_state(self, tasks):
        return OracleState(self.policy.initial_carry(len(tasks)), tasks.description, self._context(tasks))

    def act(self, timestep, state, generator, greedy=False) -> tuple[Any, OracleState]:
        context = state.context if self.oracle != "belief" else self.env.update_belief(state.context, timestep)
        output, carry = self.policy.step(timestep, state.carry, state.task, context)
        return self.decision(output, generator, greedy), OracleState(carry, state.task, context)

    def extra_inputs(self, rollout: Rollout) -> dict[str, Tensor]:
        if self.oracle == "belief":
            return {"context": self.env.exact_beliefs(rollout.timestep)}
        return {"context": self._context(rollout.tasks).expand(len(rollout.reward), -1, -1)}  # [T, B, context_dim]

    def evaluate(self, batch: Batch) -> HeadOutput:
        carry = self.policy.initial_carry(batch.mask.shape[1])
        return self.policy(batch.timestep, carry, batch.task, batch.extras["context"])[0]
