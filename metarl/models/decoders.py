"""Decoders of a latent: reward, next observation, and rewarding cells of a task."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from metarl.models.features import OneHot
from metarl.models.mlp import mlp

RewardDecoder = Literal["squared", "per_cell"]


class TransitionDecoder(nn.Module):
    """MLP with ReLU that predicts the reward or the next observation of a transition from a latent.

    The error is the squared error averaged over the predicted dimensions, as in VariBAD's code. (The ELBO of its paper,
    with a Gaussian of variance 1/2, sums over dimensions, which gives an observation more weight.)

    Args:
        latent_dim: size of the latent.
        observation_space, action_space: spaces of the environment.
        predicts: ``reward``, from latent, observation, action and next observation; or ``observation``, the next one,
            from latent, observation and action.
        layers: units of the hidden layers.
    """

    def __init__(
        self,
        latent_dim: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        predicts: Literal["reward", "observation"],
        layers: list[int],
    ):
        super().__init__()
        self.observation, self.action = OneHot(observation_space), OneHot(action_space, executed=True)
        self.predicts_reward = predicts == "reward"
        width = self.observation.output_dim * (2 if self.predicts_reward else 1) + self.action.output_dim
        output_dim = 1 if self.predicts_reward else self.observation.output_dim
        # The first layer in two parts: each latent is combined with each transition without a copy of both.
        self.of_latent = nn.Linear(latent_dim, layers[0])
        self.of_transition = nn.Linear(width, layers[0], bias=False)
        self.layers = mlp(layers, nn.ReLU, output_dim)

    def errors(
        self, latent: Tensor, observation: Tensor, action: Tensor, next_observation: Tensor, reward: Tensor
    ) -> Tensor:
        """Errors ``[E, D, B]`` of D transitions ``[D, B, ...]`` under E latents ``[E, B, latent_dim]``."""
        dtype = latent.dtype
        next_features = self.observation(next_observation).to(dtype)
        parts = [self.observation(observation).to(dtype), self.action(action).to(dtype)]
        if self.predicts_reward:
            parts.append(next_features)
        target = reward.unsqueeze(-1) if self.predicts_reward else next_features
        transition = self.of_transition(torch.cat(parts, dim=-1))
        predicted = self.layers(F.relu(self.of_latent(latent).unsqueeze(1) + transition))
        return (predicted - target).square().mean(-1)


class CellDecoder(nn.Module):
    """MLP with ReLU from a latent to the probability that each cell is rewarding.

    Args:
        latent_dim: size of the latent.
        num_cells: number of cells of the environment.
        cell: maps observations to indices of cells.
        goal_reward: smallest reward of a rewarding cell.
        layers: units of the hidden layers.
    """

    def __init__(
        self,
        latent_dim: int,
        num_cells: int,
        cell: Callable[[Tensor], Tensor],
        goal_reward: float,
        layers: list[int],
    ):
        super().__init__()
        self.cell, self.goal_reward = cell, goal_reward
        self.layers = mlp([latent_dim, *layers], nn.ReLU, num_cells)

    def errors(
        self, latent: Tensor, observation: Tensor, action: Tensor, next_observation: Tensor, reward: Tensor
    ) -> Tensor:
        """Negative log-likelihood ``[E, D, B]`` of rewards ``[D, B]`` that reach ``goal_reward`` or not."""
        logits = self.layers(latent)
        cells = self.cell(next_observation).unsqueeze(0).expand(len(latent), -1, -1)
        logits = logits.unsqueeze(1).expand(-1, cells.shape[1], -1, -1).gather(-1, cells.unsqueeze(-1)).squeeze(-1)
        target = (reward >= self.goal_reward).to(logits.dtype).expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")

    def probabilities(self, latent: Tensor) -> Tensor:
        """Probability that each cell is rewarding, ``[..., num_cells]``."""
        return self.layers(latent).sigmoid()
