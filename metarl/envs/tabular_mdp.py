"""Random tabular MDPs (Duan et al. 2016, section 3.2)."""

import torch
from gymnasium import spaces
from pydantic import PositiveInt
from torch import Tensor

from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import KnownRegret
from metarl.envs.value_iteration import MDP, value_iteration
from metarl.types import Rollout, Step, Tasks


class TabularMDP(MetaEnv, KnownRegret):
    """S states, A actions, episodes of exactly ``horizon`` steps from state 0.

    A task has reward means N(1, 1) for each state and action, and for each a flat Dirichlet distribution of
    the next state. Rewards carry unit normal noise, fresh at every step.

    Args:
        num_states: number of states, S.
        num_actions: number of actions, A.
        horizon: steps of an episode, H.
        num_episodes: episodes of a trial, n.
        lanes: see ``MetaEnv``.
    """

    def __init__(
        self,
        num_states: PositiveInt,
        num_actions: PositiveInt,
        horizon: PositiveInt,
        num_episodes: PositiveInt,
        **lanes,
    ):
        super().__init__(num_episodes=num_episodes, horizon=horizon, **lanes)
        self.num_states = num_states
        self.num_actions = num_actions
        self.observation_space = spaces.Discrete(num_states)
        self.action_space = spaces.Discrete(num_actions)
        self.task_dim = num_states * num_actions * (1 + num_states)
        self._lane = torch.arange(self.num_lanes, device=self.device)
        self._start = torch.zeros(self.num_lanes, dtype=torch.long, device=self.device)
        self._state = self._start
        self._elapsed = 0  # episodes have one length, so one count serves all lanes

    def draw_tasks(self, num_tasks: int, task_set: str) -> Tasks:
        shape = (num_tasks, self.num_states, self.num_actions)
        mean = 1 + torch.randn(shape, generator=self.task_generator, device=self.device)
        # Normalised unit exponentials are a flat Dirichlet draw.
        weights = torch.empty((*shape, self.num_states), device=self.device).exponential_(generator=self.task_generator)
        return Tasks({"reward_mean": mean, "transition": weights / weights.sum(-1, keepdim=True)})

    def set_tasks(self, tasks: Tasks) -> Tasks:
        tasks = super().set_tasks(tasks)
        self._reward_mean = tasks.parameters["reward_mean"].flatten()
        # Cumulative rows [B * S * A, S - 1]: the next state is the number of thresholds a uniform draw passes.
        self._thresholds = tasks.parameters["transition"].cumsum(-1).flatten(0, 2)[:, :-1].contiguous()
        return tasks

    def reset(self) -> Tensor:
        self._elapsed = 0
        self._state = self._start
        return self._state

    def step(self, action: Tensor) -> Step:
        row = (self._lane * self.num_states + self._state) * self.num_actions + action
        noise = torch.randn(self.num_lanes, generator=self.generator, device=self.device)
        uniform = torch.rand(self.num_lanes, 1, generator=self.generator, device=self.device)
        reward = self._reward_mean.take(row) + noise
        # Indexing with brackets would wake all threads for a few thousand numbers.
        reached = (uniform > self._thresholds.index_select(0, row)).sum(1)
        self._elapsed += 1
        if self._elapsed == self.horizon:
            return Step(self.reset(), reward, self._false, self._true, None, reached)
        self._state = reached
        return Step(reached, reward, self._false, self._false, None, reached)

    def regrets(self, rollout: Rollout) -> Tensor:
        mdp = MDP(rollout.tasks.parameters["reward_mean"], rollout.tasks.parameters["transition"])
        action_values = value_iteration(mdp, self.horizon).movedim(-3, 0)  # [H, B, S, A]
        regrets = action_values.amax(-1, keepdim=True) - action_values
        state = rollout.timestep.observation.unflatten(0, (-1, self.horizon))  # [episodes, H, B]
        index = state[..., None, None].expand(*state.shape, 1, self.num_actions)
        return regrets.expand(len(state), *regrets.shape).gather(-2, index).squeeze(-2).flatten(0, 1)
