"""Multi-armed bandits (Duan et al. 2016, section 3.1): an episode is one pull, a trial n pulls of one bandit."""

import torch
from gymnasium import spaces
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import KnownRegret, MultiArmed
from metarl.types import Rollout, Step, Tasks


class Bandit(MetaEnv, KnownRegret, MultiArmed):
    """k arms whose mean rewards are the task, drawn from U[0, 1]; the observation is constant.

    Args:
        num_arms: number of arms, k.
        num_episodes: pulls of a trial, n.
        lanes: see ``MetaEnv``.
    """

    def __init__(self, num_arms: PositiveInt, num_episodes: PositiveInt, **lanes):
        super().__init__(num_episodes=num_episodes, horizon=1, **lanes)
        self.num_arms = num_arms
        self.observation_space = spaces.Discrete(1)
        self.action_space = spaces.Discrete(num_arms)
        self.task_dim = num_arms
        self._observation = torch.zeros(self.num_lanes, dtype=torch.long, device=self.device)

    def draw_tasks(self, num_tasks: int, task_set: str) -> Tasks:
        return Tasks({"mean": torch.rand(num_tasks, self.num_arms, generator=self.task_generator, device=self.device)})

    def reset(self) -> Tensor:
        return self._observation

    def step(self, action: Tensor) -> Step:
        mean = self.tasks.parameters["mean"].gather(1, action.unsqueeze(1)).squeeze(1)
        reward = self.draw_reward(mean)
        return Step(self._observation, reward, self._true, self._false, None, self._observation)

    def regrets(self, rollout: Rollout) -> Tensor:
        mean = rollout.tasks.parameters["mean"]
        return (mean.amax(1, keepdim=True) - mean).expand(len(rollout.reward), -1, -1)

    def expected_rewards(self, lane=0):
        return self.tasks.parameters["mean"][lane]

    def draw_reward(self, mean: Tensor) -> Tensor:
        """Rewards ``[B]`` of arms with these means."""
        raise NotImplementedError


class BernoulliBandit(Bandit):
    """Reward 1 with the arm's probability, else 0."""

    def draw_reward(self, mean: Tensor) -> Tensor:
        return (torch.rand(mean.shape, generator=self.generator, device=self.device) < mean).float()


class GaussianBandit(Bandit):
    """Reward is the arm's mean plus normal noise of standard deviation ``reward_std``.

    Args:
        reward_std: standard deviation of the noise.
    """

    def __init__(self, num_arms: PositiveInt, num_episodes: PositiveInt, reward_std: PositiveFloat = 1.0, **lanes):
        super().__init__(num_arms, num_episodes, **lanes)
        self.reward_std = reward_std

    def draw_reward(self, mean: Tensor) -> Tensor:
        noise = torch.randn(mean.shape, generator=self.generator, device=self.device)
        return mean + self.reward_std * noise
