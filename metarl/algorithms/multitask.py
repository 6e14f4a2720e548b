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
    """Memory, the task description ``[B, task_dim]``, and the oracle's input ``[B, context_dim]``."""

    carry: tuple
    task: Tensor
    told: Tensor


class Multitask(PolicyGradient):
    """A policy without memory, conditioned on the observation and on privileged task information.

    Args:
        information: ``task``, its description (the oracle of multi-task learning); its ``number``, one-hot, where tasks
            can be counted; ``belief``, what a perfect memory would know, where that has been worked out; ``nothing``,
            which leaves the one behaviour that is best on average.
        inherited: see ``PolicyGradient``.

    Raises:
        ValueError: the model has a memory, or the environment does not provide the information.
    """

    uses_memory = False

    def __init__(self, *world, oracle: Oracle = "task_description", **inherited):
        self.oracle = oracle
        super().__init__(*world, **inherited)

    def build_policy(self, env, model):
        context_dim = self._context_dim(env)
        if self.oracle in ("task_id", "belief"):
            self.env = env  # which alone knows
        policy = model(env.spec, context_dim)
        if not isinstance(policy.memory, MLP) or policy.critic_memory is not None:
            raise ValueError("algorithm=multitask is told what it needs; use model=mlp, which remembers nothing")
        if isinstance(policy.heads, ConditionedHeads) and policy.heads.networks.one_hot and self.oracle != "task_id":
            raise ValueError(f"algorithm.oracle={self.oracle}: conditioning=per_task needs task_id")
        if isinstance(policy.heads, PlainHeads) and policy.heads.readout.layer is None:
            raise ValueError("heads that read what they are told see no observation; use conditioning=concatenate")
        return policy

    def _context_dim(self, env: MetaEnv) -> int:
        unknown = f"algorithm.oracle={self.oracle}: {type(env).__name__} %s; use task_description or none"
        match self.oracle:
            case "task_description":
                return env.task_dim
            case "task_id":
                if env.num_tasks_total is None:
                    raise ValueError(unknown % "does not number its tasks")
                return env.num_tasks_total
            case "belief":
                world = exact_belief(env)
                if world is None:
                    raise ValueError(unknown % "has no exact belief")
                return world.initial_belief(1).shape[1]
            case "none":
                return 1

    def _told(self, tasks: Tasks) -> Tensor:
        """At the start of a trial."""
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
        return OracleState(self.policy.initial_carry(len(tasks)), tasks.description, self._told(tasks))

    def act(self, timestep, state, generator, greedy=False) -> tuple[Any, OracleState]:
        told = state.told if self.oracle != "belief" else self.env.update_belief(state.told, timestep)
        output, carry = self.policy.step(timestep, state.carry, state.task, told)
        return self.decision(output, generator, greedy), OracleState(carry, state.task, told)

    def extra_inputs(self, rollout: Rollout) -> dict[str, Tensor]:
        if self.oracle == "belief":
            return {"told": self.env.exact_beliefs(rollout.timestep)}
        return {"told": self._told(rollout.tasks).expand(len(rollout.reward), -1, -1)}

    def evaluate(self, batch: Batch) -> HeadOutput:
        carry = self.policy.initial_carry(batch.mask.shape[1])
        return self.policy(batch.timestep, carry, batch.task, batch.extras["told"])[0]
