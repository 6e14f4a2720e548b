"""Loading trained agents."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from gymnasium import spaces

from metarl.algorithms.base import Algorithm
from metarl.api.results import Evaluations, evaluations
from metarl.api.session import Session
from metarl.configuration.build import Parts
from metarl.configuration.trained import load_source
from metarl.envs.base import MetaEnv
from metarl.types import Tasks


class TrainedAgent:
    """A trained agent, ready to act.

    Args:
        algorithm: networks with their weights; a ``torch.nn.Module``.
        parts: components of the configuration it was trained with.

    Attributes:
        algorithm: see above.
    """

    def __init__(self, algorithm: Algorithm, parts: Parts):
        self.algorithm, self._parts = algorithm, parts

    @cached_property
    def _env(self) -> MetaEnv:
        """One task of the environment of training."""
        return self._parts.make_env(num_tasks=1, seed=0)

    @property
    def observation_space(self) -> spaces.Space:
        """Space of the observations of training."""
        return self._env.observation_space

    @property
    def action_space(self) -> spaces.Space:
        """Space of the actions that ``Session.act`` gives; finite bounds are -1 and 1."""
        return self._env.action_space

    @property
    def native_actions(self) -> bool:
        """Whether it acts in the units of its environment, whatever its bounds."""
        return self._env.native_actions

    @property
    def horizon(self) -> int:
        """Maximum number of steps of an episode in training."""
        return self._env.horizon

    @property
    def rollouts(self) -> tuple[int, ...]:
        """Episodes of each rollout of a trial; the agent adapts between rollouts."""
        return self.algorithm.rollouts

    def start(
        self,
        batch_size: int = 1,
        greedy: bool = False,
        *,
        seed: int = 0,
        lanes_per_task: int = 1,
        tasks: Tasks | None = None,
    ) -> Session:
        """Begin a trial: fresh memory, for ``batch_size`` lanes with a new task each. See ``Session``.

        The sampled actions are those of ``metarl evaluate --seed SEED``.
        """
        return Session(
            self.algorithm,
            self._env,
            batch_size=batch_size,
            greedy=greedy,
            seed=seed,
            lanes_per_task=lanes_per_task,
            tasks=tasks,
        )

    def evaluate(
        self, num_tasks: int = 1000, *, seed: int = 0, task_set: str = "held_out", batch_size: int = 2000
    ) -> Evaluations:
        """Evaluations with ``sampled`` and with ``greedy`` actions, as ``metarl evaluate --format json`` prints them.

        Args:
            num_tasks: how many tasks to play, one trial each.
            seed: seed of tasks, noise and actions.
            task_set: set of the tasks.
            batch_size: tasks side by side.
        """
        return evaluations(self.algorithm, self._parts.make_env, self._env, num_tasks, seed, task_set, batch_size)


def load(
    source: str | Path,
    *,
    checkpoint: str | int = "latest",
    overrides: Sequence[str] = (),
    trust: str | Iterable[str] = (),
    device: str | None = None,
) -> TrainedAgent:
    """The trained agent of a run directory, of an exported file, or of the zoo.

    Args:
        source: run directory that training wrote, a file that ``metarl export`` wrote, or ``zoo:NAME``.
        checkpoint: ``latest``, ``best``, or the number of an iteration whose checkpoint was kept.
        overrides: settings of its environment that keep the shapes of its networks, such as ``env.num_episodes=20``.
        trust: packages outside metarl whose code the configuration may name, as for ``--trust``.
        device: in place of the device of the run.

    Raises:
        MetarlError: there is no such run or checkpoint, or it cannot be used here.
    """
    packages = (trust,) if isinstance(trust, str) else trust
    algorithm, parts, _ = load_source(Path(source), str(checkpoint), packages, device, overrides)
    return TrainedAgent(algorithm, parts)
