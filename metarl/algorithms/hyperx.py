"""HyperX: exploration bonuses on top of VariBAD (Zintgraf et al. 2021, arXiv 2010.01062).

r+_t = r_t + c_1 |f(o_t, b_t) - g(o_t, b_t)|^2                          (bonuses: novelty, by RND)
           + c_2 error of decoding r_t from the belief b_t              (bonuses: error)
with bonuses scaled to unit size and annealed linearly to 0             (scaled_bonus)
train g to predict the random network f on these states                 (learn_novelty)
Only the policy is trained on these rewards; the VAE of VariBAD decodes r_t     (update_policy)
"""

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from metarl.algorithms.elbo import as_belief
from metarl.algorithms.varibad import VariBAD
from metarl.models.mlp import mlp
from metarl.models.normalization import RunningMeanStd
from metarl.types import Rollout

SIZE = 128  # outputs of the random network and of the one that predicts it


class HyperX(VariBAD):
    """VariBAD with reward bonuses for novel states and beliefs, and for rewards that the decoder cannot predict yet.

    Both bonuses are divided by their running root mean square and fade out linearly over training.

    Args:
        novelty_coefficient: weight of the error in predicting a random network of observation and belief (random
            network distillation, Burda et al. 2019).
        reward_error_coefficient: weight of the error in predicting the reward just earned.
        novelty_learning_rate: Adam's learning rate of the predicting network, one step per 64 trials of an iteration.
        inherited: see ``VariBAD``.

    Raises:
        ValueError: there is a bonus for reward errors and no decoder of rewards.
    """

    def __init__(
        self,
        *,
        novelty_coefficient: NonNegativeFloat = 1.0,
        reward_error_coefficient: NonNegativeFloat = 1.0,
        novelty_learning_rate: PositiveFloat = 1e-4,
        **inherited,
    ):
        if reward_error_coefficient and inherited.get("reward_coefficient") == 0:
            raise ValueError(
                "algorithm.reward_error_coefficient: rewards are not decoded; raise algorithm.reward_coefficient"
            )
        super().__init__(**inherited)
        self.bonus_coefficients = (novelty_coefficient, reward_error_coefficient)
        self.novelty_learning_rate = novelty_learning_rate

    def build_auxiliary_modules(self, env):
        super().build_auxiliary_modules(env)
        width = self.policy.features.current_dim + self.policy.memory_dim
        self.random_network, self.predictor = (mlp([width, 256, 256], nn.ReLU, SIZE) for _ in range(2))
        for parameter in self.random_network.parameters():
            parameter.requires_grad_(False).mul_(10)  # scaled up so that the initial prediction error is large
        self.bonus_scales = RunningMeanStd(2, center=False)
        parameters = self.predictor.parameters()
        self.novelty_optimizer = torch.optim.Adam(parameters, lr=self.novelty_learning_rate, fused=True)

    def policy_parameters(self):
        others = {id(p) for module in (self.random_network, self.predictor) for p in module.parameters()}
        return [parameter for parameter in super().policy_parameters() if id(parameter) not in others]

    def update_policy(self, rollout, extras, progress, generator):
        states, belief = self.hyperstates(rollout, extras)
        bonus = self.scaled_bonus(self.bonuses(rollout, states, belief), rollout.mask, progress)
        rewarded = rollout._replace(reward=rollout.reward + bonus)
        logs = super().update_policy(rewarded, extras, progress, generator)
        return logs | self.learn_novelty(states, rollout.mask) | {"bonus": bonus[rollout.mask].mean().item()}

    def scaled_bonus(self, bonuses: tuple[Tensor, Tensor], mask: Tensor, progress: float) -> Tensor:
        """Weighted sum of the bonuses, each divided by its running root mean square, ``[T, B]``; 0 at progress 1."""
        bonus = torch.stack(bonuses)  # [2, T, B]
        self.bonus_scales.update(bonus[:, mask].T)
        scaled = self.bonus_scales(bonus.movedim(0, -1)).movedim(-1, 0)  # [2, T, B]
        weights = torch.tensor(self.bonus_coefficients, device=mask.device).view(2, 1, 1)
        return (1 - min(progress, 1.0)) * (weights * scaled).sum(0)

    @torch.no_grad()
    def bonuses(self, rollout: Rollout, states: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Novelty of each step's observation and belief, and error in predicting its reward, ``[T, B]`` each."""
        novelty = (self.random_network(states) - self.predictor(states)).square().mean(-1)
        error = torch.zeros_like(novelty)
        if "reward" in self.decoders:
            step = (rollout.timestep.observation, rollout.decision.action, rollout.next_observation, rollout.reward)
            flat = [part.flatten(0, 1).unsqueeze(0) for part in step]  # [1, T * B, ...]
            latent = as_belief(belief).mean.flatten(0, 1).unsqueeze(0)  # [1, T * B, latent_dim]
            _, decoder = self.transition_decoders()[0]
            error = decoder.errors(latent, *flat).view_as(novelty)  # [T, B]
        return novelty, error

    @torch.no_grad()
    def hyperstates(self, rollout: Rollout, extras: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Observation and belief concatenated ``[T, B, width]``, and the belief, if possible taken from ``extras``."""
        belief = extras.get("belief")
        if belief is None:
            carry = self.policy.initial_carry(rollout.mask.shape[1])
            belief = self.policy.encode(rollout.timestep, carry)[0].actor
        return torch.cat([self.policy.features.current(rollout.timestep), belief], dim=-1), belief

    def learn_novelty(self, states: Tensor, masks: Tensor) -> dict[str, float]:
        """Train the predictor at ``states [T, B, width]``, which makes them less novel."""
        total = 0.0
        for part, mask in zip(states.split(64, dim=1), masks.split(64, dim=1), strict=True):
            error = (self.random_network(part[mask]) - self.predictor(part[mask])).square().mean()
            self.novelty_optimizer.zero_grad(set_to_none=True)
            error.backward()
            self.novelty_optimizer.step()
            total += error.item() * part.shape[1]
        return {"novelty": total / states.shape[1]}

    def training_state(self):
        return super().training_state() | {"novelty_optimizer": self.novelty_optimizer.state_dict()}

    def load_training_state(self, state):
        super().load_training_state(state)
        self.novelty_optimizer.load_state_dict(state["novelty_optimizer"])
