"""RL²: fast reinforcement learning by slow reinforcement learning (Duan et al. 2016, arXiv 1611.02779).

The agent's memory lives through all episodes of a trial and the return of the whole trial is maximised, here
with the clipped surrogate of PPO (Schulman et al. 2017, arXiv 1707.06347).
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn

from metarl.advantages import generalized_advantages
from metarl.algorithms.base import Algorithm
from metarl.envs.base import MetaEnv, Tasks
from metarl.models.policy import Policy
from metarl.rollout import Decision, Rollout, Timestep

UnitInterval = Annotated[float, Field(ge=0, le=1)]


class RL2State(NamedTuple):
    """Memory, and the task description ``[B, task_dim]`` that a privileged critic reads in training."""

    carry: tuple
    task: Tensor


class RL2(Algorithm):
    """One memory over all episodes of a trial, trained on the return of the whole trial.

    Args:
        env: gives spaces, episodes, the size of a task and, where asked for, regrets.
        model: builds the policy from observation space, action space, task size and trial length.
        objective: ``return``, or minus the ``regret``, whose expectation differs by a constant of the task and which
            is free of the luck of rewards, transitions and tasks; for environments that know it.
        regret_coefficient, final_regret_coefficient: weight of predicting, from what the actor's head reads, the regret
            of every action, linear in progress. A dense target that teaches the memory what of the past matters; once
            it does, the policy learns faster without. 0 at both ends predicts nothing.
        discount: per step, over the whole trial.
        gae_lambda: of the advantage estimate.
        learning_rate, final_learning_rate: Adam's, linear in progress.
        entropy_coefficient, final_entropy_coefficient: linear in progress.
        clip: range of the probability ratio.
        num_epochs, num_minibatches: passes over the trials, and parts of whole trials per pass.
        value_loss: half the ``squared`` error, or ``huber``, linear beyond one (standard deviation of the returns).
        value_coefficient: weight of the value loss.
        standardize_advantages: to zero mean and unit variance over the batch.
        normalize_returns: learn values on standardised returns (PopArt).
        max_gradient_norm: gradients are scaled down to this norm; null leaves them.
        target_kl: no further epoch once the mean KL divergence from the acting policy exceeds it; null never stops.

    Raises:
        ValueError: more minibatches than trials, or regrets of an environment that does not know them.
    """

    def __init__(
        self,
        env: MetaEnv,
        model: Callable[..., Policy],
        *,
        objective: Literal["return", "regret"] = "return",
        regret_coefficient: NonNegativeFloat = 0.0,
        final_regret_coefficient: NonNegativeFloat = 0.0,
        discount: UnitInterval = 0.99,
        gae_lambda: UnitInterval = 0.95,
        learning_rate: PositiveFloat = 1e-3,
        final_learning_rate: NonNegativeFloat = 1e-4,
        entropy_coefficient: NonNegativeFloat = 0.01,
        final_entropy_coefficient: NonNegativeFloat = 0.0,
        clip: PositiveFloat = 0.2,
        num_epochs: PositiveInt = 4,
        num_minibatches: PositiveInt = 4,
        value_loss: Literal["squared", "huber"] = "squared",
        value_coefficient: NonNegativeFloat = 1.0,
        standardize_advantages: bool = True,
        normalize_returns: bool = True,
        max_gradient_norm: PositiveFloat | None = 0.5,
        target_kl: PositiveFloat | None = None,
    ):
        super().__init__()
        if num_minibatches > env.num_lanes:
            raise ValueError(
                f"algorithm.num_minibatches={num_minibatches} exceeds the {env.num_lanes} trials of an iteration; "
                "lower it or raise meta_batch_size"
            )
        self.policy = model(env.observation_space, env.action_space, env.task_dim, env.trial_length)
        self.rollouts = (env.num_episodes,)
        self.objective, self.regret_coefficient = objective, (regret_coefficient, final_regret_coefficient)
        self.regrets = _regrets_of(env, objective, *self.regret_coefficient)
        self.regret_head = None
        if any(self.regret_coefficient):
            self.regret_head = nn.Linear(self.policy.readout.output_dim, self.policy.distribution.num_parameters)
        self.discount, self.gae_lambda = discount, gae_lambda
        self.learning_rate = (learning_rate, final_learning_rate)
        self.entropy_coefficient = (entropy_coefficient, final_entropy_coefficient)
        self.clip, self.num_epochs, self.num_minibatches = clip, num_epochs, num_minibatches
        self.huber = value_loss == "huber"
        self.value_coefficient = value_coefficient
        self.standardize_advantages, self.normalize_returns = standardize_advantages, normalize_returns
        self.max_gradient_norm, self.target_kl = max_gradient_norm, target_kl
        self.optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate, eps=1e-5, fused=True)

    def initial_state(self, tasks: Tasks) -> RL2State:
        return RL2State(self.policy.initial_carry(len(tasks)), tasks.description)

    def act(
        self, timestep: Timestep, state: RL2State, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, RL2State]:
        output, carry = self.policy.step(timestep, state.carry, state.task)
        distribution = self.policy.distribution
        action = distribution.mode(output.parameters) if greedy else distribution.sample(output.parameters, generator)
        log_prob = distribution.log_prob(output.parameters, action)
        return Decision(action, log_prob, output.value), RL2State(carry, state.task)

    def update(self, trial: list[Rollout], progress: float, generator: Generator) -> dict[str, float]:
        (rollout,) = trial
        for group in self.optimizer.param_groups:
            group["lr"] = _linear(self.learning_rate, progress)
        batch = self._batch(rollout)
        num_lanes = rollout.reward.shape[1]
        logs: list[dict[str, Tensor]] = []
        for _ in range(self.num_epochs):
            order = torch.randperm(num_lanes, generator=generator).to(rollout.reward.device)
            epoch = [
                self._minibatch_step(batch.select(lanes), progress)
                for lanes in order.tensor_split(self.num_minibatches)
            ]
            logs += epoch
            if self.target_kl is not None and torch.stack([row["kl"] for row in epoch]).mean() > self.target_kl:
                break
        means = {name: torch.stack([row[name] for row in logs]).mean().item() for name in logs[0]}
        means["updates"] = float(len(logs))
        return means

    def _batch(self, rollout: Rollout) -> "Batch":
        """Advantages over the whole trial, episode boundaries included, and their value targets."""
        mask = rollout.mask
        values = rollout.decision.value * mask
        regrets = None if self.regrets is None else self.regrets(rollout)
        reward = rollout.reward
        if regrets is not None and self.objective == "regret":
            reward = -regrets.gather(-1, rollout.decision.action.unsqueeze(-1)).squeeze(-1)
        advantages = generalized_advantages(reward * mask, values, self.discount, self.gae_lambda)
        returns = advantages + values
        if self.normalize_returns:
            self.policy.value_head.update(returns[mask])
        if self.standardize_advantages:
            advantages = (advantages - advantages[mask].mean()) / (advantages[mask].std(correction=0) + 1e-8)
        description = rollout.tasks.description
        return Batch(
            rollout.timestep,
            rollout.decision.action,
            rollout.decision.log_prob,
            advantages,
            returns,
            mask,
            regrets,
            description,
        )

    def losses(self, batch: "Batch") -> dict[str, Tensor]:
        """Policy loss, value loss, entropy and diagnostics, means over the steps of a batch."""
        carry = self.policy.initial_carry(batch.mask.shape[1])
        output, _ = self.policy(batch.timestep, carry, batch.task)
        distribution, head = self.policy.distribution, self.policy.value_head
        log_ratio = distribution.log_prob(output.parameters, batch.action) - batch.log_prob
        ratio = log_ratio.exp()
        surrogate = ratio * batch.advantage
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip) * batch.advantage
        error = head.normalize(output.value) - head.normalize(batch.returns)
        value_error = _huber(error) if self.huber else 0.5 * error.square()
        mean = _masked_mean(batch.mask)
        extra = {}
        if self.regret_head is not None and batch.regrets is not None:
            missed = self.regret_head(output.features) - batch.regrets
            # Of the regrets' mean square: the share that is not explained.
            extra["regret_loss"] = mean(missed.square().sum(-1)) / mean(batch.regrets.square().sum(-1))
        return extra | {
            "policy_loss": -mean(torch.minimum(surrogate, clipped)),
            "value_loss": mean(value_error),
            "entropy": mean(distribution.entropy(output.parameters)),
            "kl": mean(ratio.detach() - 1 - log_ratio.detach()),
            "clip_fraction": mean((surrogate > clipped).float()),
        }

    def _minibatch_step(self, batch: "Batch", progress: float) -> dict[str, Tensor]:
        losses = self.losses(batch)
        entropy_coefficient = _linear(self.entropy_coefficient, progress)
        total = losses["policy_loss"] + self.value_coefficient * losses["value_loss"]
        total = total - entropy_coefficient * losses["entropy"]
        if "regret_loss" in losses:
            total = total + _linear(self.regret_coefficient, progress) * losses["regret_loss"]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters(), self.max_gradient_norm or float("inf"))
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()} | {"gradient_norm": norm.detach()}

    def training_state(self) -> dict:
        return {"optimizer": self.optimizer.state_dict()}

    def load_training_state(self, state: dict) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


class Batch(NamedTuple):
    """Whole trials, ``[T, B, ...]``; task ``[B, task_dim]``."""

    timestep: Timestep
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    returns: Tensor
    mask: Tensor
    regrets: Tensor | None
    task: Tensor

    def select(self, lanes: Tensor) -> "Batch":
        """The trials of some lanes."""

        def of(part: Tensor) -> Tensor:
            return part.index_select(1, lanes)

        timestep, regrets = Timestep(*map(of, self.timestep)), None if self.regrets is None else of(self.regrets)
        action, log_prob, advantage, returns, mask = map(of, self[1:6])
        return Batch(timestep, action, log_prob, advantage, returns, mask, regrets, self.task[lanes])


def _regrets_of(env: MetaEnv, objective: str, first: float, final: float) -> Callable[[Rollout], Tensor] | None:
    """How to know regrets, where the objective or a weight of predicting them asks for it."""
    if objective == "return" and first == final == 0:
        return None
    if not env.knows_regrets:
        raise ValueError(
            f"algorithm.objective={objective}, algorithm.regret_coefficient={first}, "
            f"algorithm.final_regret_coefficient={final}: "
            f"{type(env).__name__} does not know the regrets of its actions; use return, 0 and 0"
        )
    return env.regrets


def _linear(ends: tuple[float, float], progress: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * min(max(progress, 0.0), 1.0)


def _huber(error: Tensor) -> Tensor:
    """Half the square within one unit, linear beyond."""
    size = error.abs()
    return torch.where(size < 1, 0.5 * size.square(), size - 0.5)


def _masked_mean(mask: Tensor) -> Callable[[Tensor], Tensor]:
    weight = mask / mask.sum()
    return lambda values: (values * weight).sum()
