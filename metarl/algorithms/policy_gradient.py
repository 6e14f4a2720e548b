"""Policy gradients on whole trials: the clipped surrogate of PPO (Schulman et al. 2017, arXiv 1707.06347).

Base class of methods with a memory:

    collect trials with the current policy                                  (act)
    A_t: generalised advantages over the whole trial; R_t = A_t + V_t       (_batch)
    num_epochs times, for every minibatch of whole trials:                  (update_policy)
        r_t = pi(a_t | history) / pi_old(a_t | history)                     (evaluate)
        L = -mean min(r_t A_t, clip(r_t, 1 - eps, 1 + eps) A_t)             (losses: policy_loss)
            + c_V mean (V_t - R_t)^2 / 2 - c_H mean entropy                 (losses: value_loss, entropy)
            + other terms of a method                                       (auxiliary_losses)
        one Adam step along the gradient of L                               (_minibatch_step)

Methods differ in their networks (setup: build_policy, build_auxiliary_modules), in the inputs of the policy
(extra_inputs, evaluate), in the reward (rewards) and in auxiliary losses.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn

from metarl import parallel
from metarl.algorithms.advantages import generalized_advantages
from metarl.algorithms.base import Algorithm
from metarl.envs.base import MetaEnv
from metarl.models.heads import HeadOutput
from metarl.models.policy import Policy
from metarl.tree import tree_map
from metarl.types import Decision, Rollout, Tasks, Timestep

UnitInterval = Annotated[float, Field(ge=0, le=1)]


class MemoryState(NamedTuple):
    """Memories, and the task description ``[B, task_dim]`` that a privileged critic reads in training."""

    carry: tuple
    task: Tensor


class PolicyGradient(Algorithm):
    """One memory over all episodes of a trial, trained on the return of the whole trial.

    Args:
        discount: discount per step, over the whole trial.
        gae_lambda: lambda of the advantage estimates.
        learning_rate, final_learning_rate: Adam's learning rate, linear in progress.
        entropy_coefficient, final_entropy_coefficient: weight of the entropy bonus, linear in progress.
        clip: range of the probability ratio.
        num_epochs, num_minibatches: passes over the trials, and parts of whole trials per pass. One of each is A2C
            (Huang et al. 2022): the first step takes the gradient of the plain policy gradient.
        value_loss: half the ``squared`` error, or ``huber``, linear beyond one (standard deviation of the returns).
        value_coefficient: weight of the value loss.
        standardize_advantages: advantages get zero mean and unit variance over the batch.
        normalize_returns: learn values on standardised returns (PopArt).
        max_gradient_norm: gradients are scaled down to this norm; null leaves them.
        target_kl: no further epoch once the mean KL divergence from the acting policy exceeds it; null never stops.
    """

    def __init__(
        self,
        *,
        discount: UnitInterval = 0.99,
        gae_lambda: UnitInterval = 0.3,
        learning_rate: PositiveFloat = 2e-3,
        final_learning_rate: NonNegativeFloat = 1e-4,
        entropy_coefficient: NonNegativeFloat = 0.05,
        final_entropy_coefficient: NonNegativeFloat = 0.0,
        clip: PositiveFloat = 0.2,
        num_epochs: PositiveInt = 2,
        num_minibatches: PositiveInt = 8,
        value_loss: Literal["squared", "huber"] = "squared",
        value_coefficient: NonNegativeFloat = 1.0,
        standardize_advantages: bool = True,
        normalize_returns: bool = True,
        max_gradient_norm: PositiveFloat | None = 0.5,
        target_kl: PositiveFloat | None = None,
    ):
        super().__init__()
        self.discount, self.gae_lambda = discount, gae_lambda
        self.learning_rate = (learning_rate, final_learning_rate)
        self.entropy_coefficient = (entropy_coefficient, final_entropy_coefficient)
        self.clip, self.num_epochs, self.num_minibatches = clip, num_epochs, num_minibatches
        self.huber = value_loss == "huber"
        self.value_coefficient = value_coefficient
        self.standardize_advantages, self.normalize_returns = standardize_advantages, normalize_returns
        self.max_gradient_norm, self.target_kl = max_gradient_norm, target_kl

    def setup(self, env: MetaEnv, model: Callable[..., Policy]) -> None:
        if self.num_minibatches > env.num_lanes:
            raise ValueError(
                f"algorithm.num_minibatches={self.num_minibatches} exceeds the {env.num_lanes} trials of an iteration"
                f"{' in each process' if parallel.world_size() > 1 else ''}; lower it or raise meta_batch_size"
            )
        self.rollouts = (env.num_episodes,)
        self.policy = self.build_policy(env, model)
        self.build_auxiliary_modules(env)
        self.optimizer = torch.optim.Adam(self.policy_parameters(), lr=self.learning_rate[0], eps=1e-5, fused=True)

    # ------------------------------------------------------------ hooks of methods

    def build_policy(self, env: MetaEnv, model: Callable[..., Policy]) -> Policy:
        """The policy for an environment."""
        return model(env.spec)

    def build_auxiliary_modules(self, env: MetaEnv) -> None:
        """Build further modules of a method; the policy exists already."""

    def policy_parameters(self) -> list[nn.Parameter]:
        """Parameters that the policy gradient trains."""
        return list(self.parameters())

    def evaluate(self, batch: "Batch") -> HeadOutput:
        """The policy at every step of a batch, from the start of its trials."""
        carry = self.policy.initial_carry(batch.mask.shape[1])
        return self.policy(batch.timestep, carry, batch.task)[0]

    def extra_inputs(self, rollout: Rollout) -> dict[str, Tensor]:
        """Further inputs of ``evaluate`` and losses for every step, each ``[T, B, ...]``."""
        return {}

    def rewards(self, rollout: Rollout, extras: dict[str, Tensor]) -> Tensor:
        """Rewards that the policy gradient maximises, ``[T, B]``."""
        return rollout.reward

    def auxiliary_losses(
        self, batch: "Batch", output: HeadOutput, progress: float, generator: Generator
    ) -> dict[str, tuple[float, Tensor]]:
        """Further losses by name, each with its weight."""
        return {}

    # ------------------------------------------------------------ acting

    def initial_state(self, tasks: Tasks) -> Any:
        return MemoryState(self.policy.initial_carry(len(tasks)), tasks.description)

    def act(self, timestep: Timestep, state: Any, generator: Generator, greedy: bool = False) -> tuple[Decision, Any]:
        output, carry = self.policy.step(timestep, state.carry, state.task)
        return self.decision(output, generator, greedy), MemoryState(carry, state.task)

    def decision(self, output: HeadOutput, generator: Generator, greedy: bool) -> Decision:
        """An action sampled from the policy's distribution, or its mode if ``greedy``."""
        distribution, params = self.policy.distribution, output.distribution_params
        action = distribution.mode(params) if greedy else distribution.sample(params, generator)
        return Decision(action, distribution.log_prob(params, action), output.value)

    # ------------------------------------------------------------ learning

    def update(self, trial: list[Rollout], progress: float, generator: Generator) -> dict[str, float]:
        (rollout,) = trial
        return self.update_policy(rollout, self.extra_inputs(rollout), progress, generator)

    def update_policy(
        self, rollout: Rollout, extras: dict[str, Tensor], progress: float, generator: Generator
    ) -> dict[str, float]:
        """PPO on the trials of a rollout, with the ``extra_inputs`` of its steps; returns diagnostics."""
        for group in self.optimizer.param_groups:
            group["lr"] = linear(self.learning_rate, progress)
        batch = self._batch(rollout, extras)
        num_lanes = rollout.reward.shape[1]
        logs: list[dict[str, Tensor]] = []
        for _ in range(self.num_epochs):
            order = torch.randperm(num_lanes, generator=generator).to(rollout.reward.device)
            epoch = [
                self._minibatch_step(batch.select(lanes), progress, generator)
                for lanes in order.tensor_split(self.num_minibatches)
            ]
            logs += epoch
            approx_kl = [{"approx_kl": row["approx_kl"]} for row in epoch]
            if self.target_kl is not None and mean_of(approx_kl)["approx_kl"] > self.target_kl:
                break
        explained = log_entries({}, explained_variance=explained_variance(batch, rollout.decision.value))
        logs = [row | explained for row in logs]
        return mean_of(logs) | {"learning_rate": linear(self.learning_rate, progress), "updates": float(len(logs))}

    def _batch(self, rollout: Rollout, extras: dict[str, Tensor]) -> "Batch":
        """The trials with their advantages, which cross the borders of episodes, and value targets."""
        mask = rollout.mask
        values = rollout.decision.value * mask
        rewards = self.rewards(rollout, extras) * mask
        advantages = generalized_advantages(rewards, values, self.discount, self.gae_lambda)
        returns = advantages + values
        if self.normalize_returns:
            self.policy.value_head.update(returns[mask])
        if self.standardize_advantages:
            advantages = (advantages - advantages[mask].mean()) / (advantages[mask].std(correction=0) + 1e-8)
        decision, task = rollout.decision, rollout.tasks.description
        action, log_prob = decision.action, decision.log_prob
        return Batch(rollout.timestep, action, log_prob, advantages, returns, mask, task, extras, mask.sum())

    def losses(self, batch: "Batch", output: HeadOutput) -> dict[str, Tensor]:
        """Policy loss, value loss, entropy and diagnostics, see ``Batch.mean``."""
        distribution, head = self.policy.distribution, self.policy.value_head
        log_ratio = distribution.log_prob(output.distribution_params, batch.action) - batch.log_prob
        ratio = log_ratio.exp()
        surrogate = ratio * batch.advantage
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip) * batch.advantage
        error = head.normalize(output.value) - head.normalize(batch.returns)
        value_error = _huber(error) if self.huber else 0.5 * error.square()
        mean = batch.mean
        return {
            "policy_loss": -mean(torch.minimum(surrogate, clipped)),
            "value_loss": mean(value_error),
            "entropy": mean(distribution.entropy(output.distribution_params)),
            "approx_kl": mean(ratio.detach() - 1 - log_ratio.detach()),
            "clip_fraction": mean((surrogate > clipped).float()),
        }

    def _minibatch_step(self, batch: "Batch", progress: float, generator: Generator) -> dict[str, Tensor]:
        batch = batch.local_part()
        output = self.evaluate(batch)
        losses = self.losses(batch, output)
        total = losses["policy_loss"] + self.value_coefficient * losses["value_loss"]
        total = total - linear(self.entropy_coefficient, progress) * losses["entropy"]
        for name, (weight, loss) in self.auxiliary_losses(batch, output, progress, generator).items():
            losses[name] = loss
            total = total + weight * loss
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        return log_entries(losses, gradient_norm=self._step())

    def _step(self) -> Tensor:
        """Step along the gradients of all processes; returns their norm before clipping."""
        parameters = self.policy_parameters()
        parallel.all_reduce_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm or float("inf"))
        self.optimizer.step()
        return norm.detach()

    def training_state(self) -> dict:
        return {"optimizer": self.optimizer.state_dict()}

    def load_training_state(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


class Batch(NamedTuple):
    """Whole trials ``[T, B, ...]``, task descriptions ``[B, task_dim]``, and the number of steps of a ``mean``."""

    timestep: Timestep
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    returns: Tensor
    mask: Tensor
    task: Tensor
    extras: dict[str, Tensor]
    num_steps: Tensor

    def select(self, lanes: Tensor) -> "Batch":
        """The trials of some lanes."""
        steps = self._replace(task=None, num_steps=None)  # type: ignore[arg-type]
        selected: Batch = tree_map(lambda part: part.index_select(1, lanes), steps)
        return selected._replace(task=self.task[lanes], num_steps=selected.mask.sum())

    def local_part(self) -> "Batch":
        """The trials that this process computes gradients of."""
        if parallel.world_size() == 1:
            return self
        return self.select(parallel.local_shard(self.mask))._replace(num_steps=self.num_steps)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the steps of the mask; for a ``local_part``, its contribution to the mean over all processes."""
        return (values * (self.mask / self.num_steps)).sum()


def explained_variance(batch: Batch, values: Tensor) -> Tensor:
    """Share of the variance of value targets that the behavior policy's ``values [T, B]`` explain; at most 1."""
    mask, returns = batch.mask, batch.returns.double()

    def variance(of: Tensor) -> Tensor:
        mean = (of * mask).sum() / batch.num_steps
        return ((of - mean).square() * mask).sum() / batch.num_steps

    return (1 - variance(returns - values) / variance(returns).clamp(min=1e-8)).float()


def log_entries(losses: dict[str, Tensor], **common: Tensor) -> dict[str, Tensor]:
    """Contribution of this process to the logs of a step: its parts of losses, and its share of common values."""
    parts = {name: loss.detach() for name, loss in losses.items()}
    return parts | {name: value.detach() / parallel.world_size() for name, value in common.items()}


def mean_of(logs: list[dict[str, Tensor]]) -> dict[str, float]:
    """Means over the steps of an update, summed over the contributions of all processes; empty without steps."""
    if not logs:
        return {}
    means = torch.stack([torch.stack([row[name] for row in logs]).mean() for name in logs[0]])
    return dict(zip(logs[0], parallel.all_reduce_sum(means).tolist(), strict=True))


def linear(ends: tuple[float, float], progress: float) -> float:
    """Linear schedule between two values, at ``progress`` from 0 to 1."""
    return ends[0] + (ends[1] - ends[0]) * min(max(progress, 0.0), 1.0)


def _huber(error: Tensor) -> Tensor:
    """Huber loss: half the square up to 1, linear beyond."""
    size = error.abs()
    return torch.where(size < 1, 0.5 * size.square(), size - 0.5)
