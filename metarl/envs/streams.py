"""The global random generators of Python, NumPy and PyTorch, one set for each lane.

Environments of others may draw from them. A lane that has its own depends neither on the lanes that are stepped before
it nor on the process that steps it, and what the program draws does not depend on environments. Imports no torch, see
``metarl.envs.vector``: where an environment does not either, there is no such generator.
"""

import ctypes
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

PYTHON: random.Random = random._inst  # type: ignore[attr-defined]  # the one behind the functions of the module


class PythonState:
    """State of a ``random.Random``, copied in half a microsecond where the interpreter allows it.

    ``getstate`` makes 625 Python numbers, which takes longer than many an environment's step; the same numbers lie side
    by side in the object.
    """

    _size = random.Random.__base__.__basicsize__ - object.__basicsize__  # type: ignore[union-attr]
    _quick = False

    def __init__(self, generator: random.Random):
        self._held: Any = self._numbers(generator)
        self._gauss = generator.gauss_next  # type: ignore[attr-defined]

    def restore(self, generator: random.Random) -> None:
        """Put the state back."""
        if self._quick:
            ctypes.memmove(id(generator) + object.__basicsize__, self._held, self._size)
        else:
            generator.setstate(self._held)
        generator.gauss_next = self._gauss  # type: ignore[attr-defined]

    @classmethod
    def _numbers(cls, generator: random.Random) -> Any:
        if cls._quick:
            return ctypes.string_at(id(generator) + object.__basicsize__, cls._size)
        return generator.getstate()

    @classmethod
    def try_quick(cls) -> None:
        """Copy memory from now on, if that keeps a state."""
        cls._quick = sys.implementation.name == "cpython" and cls._size >= 625 * 4
        if cls._quick:
            one = random.Random(3)
            held, expected = cls(one), [one.random() for _ in range(700)]
            held.restore(one)
            cls._quick = [one.random() for _ in range(700)] == expected


PythonState.try_quick()


class GlobalStreams:
    """States of the global generators of one lane.

    Args:
        seed: see ``seed``.
    """

    def __init__(self, seed: int):
        self._numpy = np.random.MT19937(0)
        self._torch: Any = None
        with program_streams():
            self._python = PythonState(PYTHON)
            self.seed(seed)

    def seed(self, seed: int) -> None:
        """Start all anew. Leaves them in place, see ``program_streams``."""
        self.enter()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.random.default_generator.manual_seed(seed)
        self.leave()

    def enter(self) -> None:
        """Put them in place. What was there before is lost, see ``program_streams``."""
        self._python.restore(PYTHON)
        np.random.set_bit_generator(self._numpy)  # type: ignore[attr-defined]
        if self._torch is not None:
            sys.modules["torch"].random.default_generator.set_state(self._torch)

    def leave(self) -> None:
        """Keep how far they have come."""
        self._python = PythonState(PYTHON)
        torch = sys.modules.get("torch")
        if torch is not None:
            self._torch = torch.random.default_generator.get_state()


class _NumpyState:
    """State of NumPy's global generator.

    Reading all of it takes 50 microseconds, more than stepping several environments, so it is read again only where it
    can have changed: its numbers have, or a normal number that was drawn along with another waited in it.
    """

    def __init__(self) -> None:
        self._last: tuple[bytes, dict] | None = None

    def read(self) -> tuple[Any, dict]:
        """The bit generator, and the state if a number waits."""
        generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
        address = generator.ctypes.state_address
        numbers = ctypes.string_at(address, 625 * 4) if isinstance(generator, np.random.MT19937) else b""
        if self._last is None or not numbers or self._last[0] != numbers or self._last[1]["has_gauss"]:
            self._last = numbers, np.random.get_state(legacy=False)  # type: ignore[assignment]
        return generator, self._last[1]


_numpy_state = _NumpyState()


@contextmanager
def program_streams() -> Iterator[None]:
    """Give the program its own generators back afterwards; in here ``GlobalStreams`` may be put in their place."""
    python, (bits, numpy_state) = PythonState(PYTHON), _numpy_state.read()
    torch = sys.modules.get("torch")
    torch_state = None if torch is None else torch.random.default_generator.get_state()
    try:
        yield
    finally:
        python.restore(PYTHON)
        np.random.set_bit_generator(bits)  # type: ignore[attr-defined]
        if numpy_state["has_gauss"]:
            np.random.set_state(numpy_state)
        if torch is not None:
            torch.random.default_generator.set_state(torch_state)


@contextmanager
def seeded_streams(seed: int) -> Iterator[None]:
    """The global generators start from ``seed`` in here, and are afterwards as they were before."""
    streams = GlobalStreams(seed)
    with program_streams():
        streams.enter()
        yield
