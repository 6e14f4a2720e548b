"""Task inference: the encoder is trained with privileged task information.

Targets of the decoder: the task description (Humplik et al. 2019, arXiv 1905.06424), or an embedding of it learned by a
multi-task policy, or the weights that its hypernetwork generates for it (Beck et al. 2023, arXiv 2309.14970).

    warm-up: PPO on the policy conditioned on e(task), e learned            (TaskConditionedAgent, evaluate)
    then PPO on the policy conditioned on the belief                        (VariBAD.evaluate)
    at every iteration: squared error of task target and decoded belief     (task_target, elbo.task_error)
"""

import copy
from typing import Literal, cast

import torch
from pydantic import NonNegativeInt
from torch import Tensor, nn

from metarl.algorithms.policy_gradient import Batch, MemoryState
from metarl.algorithms.varibad import VariBAD
from metarl.models.conditioning import Hypernetwork
from metarl.models.heads import ConditionedHeads, HeadOutput, MemoryOutput
from metarl.models.mlp import mlp
from metarl.types import Agent

Target = Literal["task", "embedding", "weights"]


class TaskInference(VariBAD):
    """VariBAD whose latent also predicts the task, optionally after a warm-up with a task-conditioned policy.

    During the warm-up the policy is conditioned on an embedding of the task description, one layer, not on the memory.

    Args:
        target: target of the task decoder: the ``task`` description; its ``embedding``, learned in the warm-up; or the
            ``weights`` that a hypernetwork generates for that embedding.
        warm_up_iterations: iterations of the warm-up; 0 for none.
        hard_reset: re-initialise the heads of the policy after the warm-up, and keep the embedding.
        train_encoder_in_warm_up: train encoder and decoders during the warm-up, too.
        inherited: see ``VariBAD``.

    Raises:
        ValueError: an option needs a warm-up, or there is no loss of the task.
    """

    def __init__(
        self,
        *,
        target: Target = "task",
        warm_up_iterations: NonNegativeInt = 0,
        hard_reset: bool = False,
        train_encoder_in_warm_up: bool = True,
        **inherited,
    ):
        if inherited.get("task_coefficient") == 0:
            raise ValueError("algorithm.task_coefficient=0: the task has no loss; raise it, or use algorithm=varibad")
        super().__init__(**inherited)
        self.target, self.warm_up_iterations = target, warm_up_iterations
        self.hard_reset, self.train_encoder_in_warm_up = hard_reset, train_encoder_in_warm_up
        if warm_up_iterations == 0:
            wrong = {"target": target != "task", "hard_reset": hard_reset}
            wrong["train_encoder_in_warm_up"] = not train_encoder_in_warm_up
            for name in (name for name, given in wrong.items() if given):
                raise ValueError(
                    f"algorithm.{name}={getattr(self, name)} needs a warm-up; raise algorithm.warm_up_iterations"
                )

    def build_auxiliary_modules(self, env):
        heads = self.policy.heads
        if self.warm_up_iterations and not isinstance(heads, ConditionedHeads):
            raise ValueError(
                "algorithm.warm_up_iterations: plain heads are not conditioned; use conditioning=concatenate"
            )
        if self.target == "weights" and not isinstance(getattr(heads, "networks", None), Hypernetwork):
            raise ValueError("algorithm.target=weights: the policy has no hypernetwork; use conditioning=hypernetwork")
        self.iterations: Tensor
        self.register_buffer("iterations", torch.zeros((), dtype=torch.long))
        if isinstance(heads, ConditionedHeads) and self.warm_up_iterations:
            self.task_encoder = mlp([env.task_dim, heads.networks.condition_dim], nn.Tanh)
        super().build_auxiliary_modules(env)
        self._initial_heads = copy.deepcopy(heads.state_dict()) if self.hard_reset else None

    def task_decoder(self, env, latent_dim):
        size = self.task_target_of(torch.zeros(1, env.task_dim)).shape[1]
        return mlp([latent_dim, *self.decoder_layers], nn.ReLU, size)

    def task_target(self, trials):
        return self.task_target_of(trials.task)

    @torch.no_grad()
    def task_target_of(self, task: Tensor) -> Tensor:
        """Target of the task decoder for descriptions ``[B, task_dim]``."""
        if self.target == "task":
            return task
        embedding = self.task_encoder(task)
        if self.target == "embedding":
            return embedding
        return cast(Hypernetwork, cast(ConditionedHeads, self.policy.heads).networks).generate(embedding)

    def policy_parameters(self):
        parameters = super().policy_parameters()
        if self.shared or not self.warm_up_iterations:
            return parameters
        return parameters + list(self.task_encoder.parameters())

    @property
    def warming_up(self) -> bool:
        """Whether the policy is still conditioned on the task description."""
        return int(self.iterations) < self.warm_up_iterations

    @property
    def behavior_policy(self) -> Agent:
        return TaskConditionedAgent(self) if self.warming_up else self

    def extra_inputs(self, rollout):
        return {} if self.warming_up else super().extra_inputs(rollout)

    def evaluate(self, batch: Batch) -> HeadOutput:
        return self.task_conditioned_output(batch.timestep, batch.task) if self.warming_up else super().evaluate(batch)

    def task_conditioned_output(self, timestep, task: Tensor) -> HeadOutput:
        """Output of the policy conditioned on ``task [B, task_dim]``, for one step ``[B]`` or a sequence ``[T, B]``."""
        features = self.policy.features(timestep)
        condition = self.task_encoder(task).expand(*features.shape[:-1], -1)  # [..., B, condition_dim]
        no_memory = features.new_zeros(*features.shape[:-1], self.policy.memory_dim)  # [..., B, memory_dim]
        memory = MemoryOutput(features, no_memory, no_memory)
        return self.policy.act_and_value(timestep, memory, task, condition=condition)

    def update(self, trial, progress, generator):
        logs = super().update(trial, progress, generator)
        logs["warming_up"] = float(self.warming_up)
        self.iterations += 1
        if self._initial_heads is not None and int(self.iterations) == self.warm_up_iterations:
            self.policy.heads.load_state_dict(self._initial_heads)
            for parameter in self.policy.heads.parameters():
                self.optimizer.state.pop(parameter, None)
        return logs

    @property
    def trains_vae(self):
        return self.train_encoder_in_warm_up or not self.warming_up

    def training_state(self):
        initial = {} if self._initial_heads is None else {"fresh_heads": self._initial_heads}
        return super().training_state() | initial

    def load_training_state(self, state):
        super().load_training_state(state)
        if self._initial_heads is not None:
            self._initial_heads = state["fresh_heads"]


class TaskConditionedAgent:
    """Agent of the warm-up, whose policy is conditioned on the task description.

    Args:
        learner: algorithm whose policy and task embedding it uses.
    """

    def __init__(self, learner: TaskInference):
        self.learner = learner
        self.rollouts = learner.rollouts

    def initial_state(self, tasks):
        return MemoryState((), tasks.description)

    def act(self, timestep, state, generator, greedy=False):
        return self.learner.decision(
            self.learner.task_conditioned_output(timestep, state.task), generator, greedy
        ), state

    def adapt(self, state, rollout):
        return state
