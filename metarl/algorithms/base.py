"""Contract of a learning algorithm."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Generator, nn

from metarl.envs.base import MetaEnv
from metarl.models.features import Features
from metarl.models.policy import Policy
from metarl.types import Agent, Decision, Rollout, State, Tasks, Timestep


class Algorithm(nn.Module, ABC):
    """An agent (see ``metarl.types.Agent``) that owns its networks and optimisers.

    A constructor takes options alone; ``setup`` then builds networks and optimisers for an environment.
    """

    rollouts: tuple[int, ...]
    uses_memory = True  # whether its policy may have a memory; otherwise it needs model=mlp

    @abstractmethod
    def setup(self, env: MetaEnv, model: Callable[..., Policy]) -> None:
        """Build the networks, then the optimisers; called once, after the constructor.

        Args:
            env: environment to learn in: its spaces, lanes and episodes.
            model: builds the policy from an ``EnvSpec`` and, where a method has further inputs, their size.

        Raises:
            ValueError: an option does not suit the environment or the policy.
        """

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
            progress: share of the training steps done before this update, 0 to 1; schedules depend on nothing else.
            generator: source of all randomness of the update, on the CPU.

        Returns:
            Diagnostics to log.
        """

    @property
    def behavior_policy(self) -> Agent:
        """Agent that collects the trials to learn from: the algorithm itself, unless a method uses another one."""
        return self

    def adapt(self, state: State, rollout: Rollout) -> State:
        """Agents that adapt only by memory keep their state unchanged."""
        return state

    def update_normalization(self, trial: list[Rollout]) -> None:
        """Update the statistics of standardised inputs, after ``update``, which uses the statistics of acting."""
        for features in self.modules():
            if isinstance(features, Features):
                for rollout in trial:
                    features.update_normalization(rollout.timestep, rollout.mask)

    @abstractmethod
    def training_state(self) -> dict:
        """State that a resumed run needs besides the weights, such as optimisers'; tensors and numbers only."""

    @abstractmethod
    def load_training_state(self, state: dict) -> None:
        """Restore ``training_state``."""
