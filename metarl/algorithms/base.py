"""The contract of a learner."""

from abc import ABC, abstractmethod

from torch import Generator, nn

from metarl.models.features import Features
from metarl.types import Agent, Decision, Rollout, State, Tasks, Timestep


class Algorithm(nn.Module, ABC):
    """An agent (see ``metarl.rollout.Agent``) that owns its networks and optimisers."""

    rollouts: tuple[int, ...]
    uses_memory = True  # whether its policy may have a memory; otherwise it needs model=mlp

    @abstractmethod
    def initial_state(self, tasks: Tasks) -> State:
        """See ``Agent``."""

    @abstractmethod
    def act(
        self, timestep: Timestep, state: State, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, State]:
        """See ``Agent``."""

    @abstractmethod
    def update(self, trial: list[Rollout], progress: float, generator: Generator) -> dict[str, float]:
        """Learn from one trial per lane.

        Args:
            trial: the rollouts of ``collect_trial``.
            progress: share of the training steps done before this update, 0 to 1; schedules depend on it alone.
            generator: source of all randomness of the update, on the CPU.

        Returns:
            Diagnostics to log.
        """

    @property
    def behavior_policy(self) -> Agent:
        """Agent that collects the trials to learn from: the algorithm itself, unless a method uses another one."""
        return self

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Agents that learn by memory alone carry their state on unchanged."""
        return state

    def update_normalization(self, trial: list[Rollout]) -> None:
        """Update the statistics of networks that standardise inputs; after the update, which uses those of acting."""
        for features in self.modules():
            if isinstance(features, Features):
                for rollout in trial:
                    features.update_normalization(rollout.timestep, rollout.mask)

    @abstractmethod
    def training_state(self) -> dict:
        """All that a resumed run needs beside the weights: optimisers and the like, tensors and numbers only."""

    @abstractmethod
    def load_training_state(self, state: dict) -> None:
        """Restore ``training_state``."""
