"""Maps from actions that agents choose to actions that environments execute; imports no torch, see ``envs.vector``.

Agents act in ``Discrete`` or in a flat ``Box`` whose finite bounds are -1 and 1; a policy's log-probabilities are those
of these choices, and memories are fed them.
"""

import math

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from metarl.errors import ContractError

MOST_JOINT_ACTIONS = 4096  # of several discrete choices together


class BoxActions:
    """A box of actions whose finite bounds agents see as -1 and 1.

    A channel with an infinite bound, or one at the largest number of a float, is left as it is.

    Args:
        space: space of the actions that the environment executes.
        scale: whether bounds become -1 and 1; otherwise agents act in the box itself.

    Attributes:
        space: space of the actions that agents choose, of one axis.
    """

    def __init__(self, space: spaces.Box, scale: bool = True):
        self.executed = space
        self._low, self._high = (end.reshape(-1).astype(np.float64) for end in (space.low, space.high))
        bounded = (space.bounded_below & space.bounded_above).reshape(-1)
        if np.issubdtype(space.dtype, np.floating):
            most = float(np.finfo(str(space.dtype)).max)
            bounded &= (self._low > -most) & (self._high < most)
        self._scaled = bounded & ((self._low != -1) | (self._high != 1)) & scale
        self.is_identity = not self._scaled.any()
        low, high = np.where(self._scaled, -1.0, self._low), np.where(self._scaled, 1.0, self._high)
        self.space = spaces.Box(low.astype(np.float32), high.astype(np.float32))

    def scaled(self, action: NDArray) -> NDArray:
        """Actions ``[B, channels]`` in the units of the environment, from -1 at the low end to 1 at the high one.

        Both ends are reached exactly; what lies beyond them stays beyond.
        """
        if self.is_identity:
            return action
        part = np.where(self._scaled, action.astype(np.float64), 0.0)
        ends = np.where(self._scaled, (self._low, self._high), 0.0)
        return np.where(self._scaled, 0.5 * ((1 - part) * ends[0] + (1 + part) * ends[1]), action)

    def native(self, action: NDArray) -> NDArray:
        """Actions that the environment executes: ``[B, channels]`` clipped, in its units, shape and type."""
        given = self.scaled(action.clip(self.space.low, self.space.high))
        if np.issubdtype(self.executed.dtype, np.integer):
            given = np.rint(given)
        return given.reshape(-1, *self.executed.shape).astype(self._dtype)

    @property
    def _dtype(self) -> np.dtype:
        """Type of the space; single precision, exact and faster, if actions are not rescaled."""
        floating = np.issubdtype(self.executed.dtype, np.floating)
        return np.dtype(np.float32) if floating and self.is_identity else np.dtype(self.executed.dtype)


class JointActions:
    """Several discrete choices as one: every combination has a number.

    Args:
        space: ``MultiDiscrete`` or ``MultiBinary``.

    Raises:
        ValueError: there are too many combinations.

    Attributes:
        space: of the numbers.
    """

    def __init__(self, space: spaces.MultiDiscrete | spaces.MultiBinary):
        self.executed = space
        if isinstance(space, spaces.MultiDiscrete):
            self._sizes, self._first = space.nvec.reshape(-1), space.start.reshape(-1)
        else:
            self._sizes = np.full(math.prod(space.shape), 2)
            self._first = np.zeros_like(self._sizes)
        count = math.prod(map(int, self._sizes))
        if count > MOST_JOINT_ACTIONS:
            raise ValueError(f"actions of {space} have {count} combinations, and {MOST_JOINT_ACTIONS} can be learned")
        self.space = spaces.Discrete(count)

    def native(self, action: NDArray) -> NDArray:
        """The combinations ``[B, *shape]`` of numbers ``[B]``."""
        chosen = np.stack(np.unravel_index(action, self._sizes), axis=-1) + self._first
        return chosen.reshape(-1, *self.executed.shape).astype(self.executed.dtype)


class DiscreteActions:
    """One discrete choice, as it is.

    Args:
        space: of the actions, which may start at any number.
    """

    def __init__(self, space: spaces.Discrete):
        self.executed = self.space = space

    def native(self, action: NDArray) -> NDArray:
        """Actions ``[B]``, unchanged."""
        return action


Actions = BoxActions | JointActions | DiscreteActions


def check_bounds(space: spaces.Space, name: str) -> None:
    """Check that agents of an environment of metarl act between -1 and 1, where there are bounds.

    Raises:
        ContractError: the space has others; ``name`` is the environment's in the message.
    """
    if isinstance(space, spaces.Box) and not BoxActions(space).is_identity:
        raise ContractError(
            f"{name}.action_space={space}: agents act between -1 and 1; scale actions in step and declare Box(-1, 1), "
            "or set native_actions = True"
        )


def actions_of(space: spaces.Space, scale: bool = True) -> Actions:
    """Conversion from the actions that agents choose to those of a space.

    Raises:
        ValueError: actions of another kind, or too many.
    """
    if isinstance(space, spaces.Box):
        return BoxActions(space, scale)
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return JointActions(space)
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(space)
    raise ValueError(f"actions of {space} cannot be learned; use Discrete, Box, MultiDiscrete or MultiBinary")
