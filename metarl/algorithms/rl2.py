"""RL²: fast reinforcement learning via slow reinforcement learning (Duan et al. 2016, arXiv 1611.02779).

    at the start of a trial: h_0 = initial carry                            (PolicyGradient.initial_state)
    at every step of all its episodes:
        h_t = memory(h_t-1, o_t, a_t-1, r_t-1, first_t); a_t ~ pi(h_t)      (PolicyGradient.act)
    maximise the return of the whole trial by PPO                           (PolicyGradient.update; rewards)

The carry persists across the episodes of a trial, and advantages flow over their borders. Optional targets in
environments with exact solutions: minus the regret as reward (rewards), and a prediction of regrets (auxiliary_losses).
"""

from collections.abc import Callable
from typing import Literal

from pydantic import NonNegativeFloat
from torch import Generator, Tensor, nn

from metarl import parallel
from metarl.algorithms.policy_gradient import Batch, PolicyGradient, linear
from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import KnownRegret
from metarl.models.heads import HeadOutput
from metarl.types import Rollout


class RL2(PolicyGradient):
    """Memory and heads are trained together by the policy gradient.

    Args:
        objective: ``return``, or minus the ``regret``, whose expectation differs by a constant of the task and whose
            variance excludes the noise of rewards, transitions and tasks; for environments with exact solutions.
        regret_coefficient, final_regret_coefficient: weight of an auxiliary loss that predicts the regret of every
            action from the inputs of the actor's head, linear in progress. It is a dense training signal for the
            memory; later in training the policy learns faster without it. 0 at both ends: no prediction.
        inherited: see ``PolicyGradient``.
    """

    def __init__(
        self,
        *,
        objective: Literal["return", "regret"] = "return",
        regret_coefficient: NonNegativeFloat = 0.0,
        final_regret_coefficient: NonNegativeFloat = 0.0,
        **inherited,
    ):
        super().__init__(**inherited)
        self.objective, self.regret_coefficient = objective, (regret_coefficient, final_regret_coefficient)

    def build_auxiliary_modules(self, env):
        self.first_action = getattr(env.action_space, "start", 0)
        self.regrets = _regrets_of(env, self.objective, *self.regret_coefficient)
        self.regret_head = None
        if any(self.regret_coefficient):
            self.regret_head = nn.Linear(self.policy.features_dim, self.policy.distribution.num_parameters)

    def extra_inputs(self, rollout):
        return {} if self.regrets is None else {"regrets": self.regrets(rollout)}

    def rewards(self, rollout, extras):
        if self.objective == "return":
            return rollout.reward
        number = rollout.decision.action - self.first_action
        return -extras["regrets"].gather(-1, number.unsqueeze(-1)).squeeze(-1)

    def auxiliary_losses(self, batch: Batch, output: HeadOutput, progress: float, generator: Generator):
        if self.regret_head is None:
            return {}
        regrets = batch.extras["regrets"]
        error = batch.mean((self.regret_head(output.features) - regrets).square().sum(-1))
        scale = parallel.all_reduce_sum(batch.mean(regrets.square().sum(-1)))  # so that the loss has no unit
        return {"regret_loss": (linear(self.regret_coefficient, progress), error / scale)}


def _regrets_of(env: MetaEnv, objective: str, first: float, final: float) -> Callable[[Rollout], Tensor] | None:
    """The environment's ``regrets``, or None if neither the objective nor an auxiliary loss needs them.

    Raises:
        ValueError: they are needed and the environment does not provide them.
    """
    if objective == "return" and first == final == 0:
        return None
    if not isinstance(env, KnownRegret):
        raise ValueError(
            f"algorithm.objective={objective}, algorithm.regret_coefficient={first}, "
            f"algorithm.final_regret_coefficient={final}: "
            f"{type(env).__name__} does not provide regrets; use return, 0 and 0"
        )
    return env.regrets
