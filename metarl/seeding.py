"""Every random stream of a run comes from one seed.

Streams are named, so adding one never shifts another: training tasks, acting noise, minibatch order and
evaluation stay the same numbers when something else starts to draw.
"""

import numpy as np
import torch

STREAMS = {  # numbers are for ever: a changed one changes the results of every run
    "weights": 0,
    "environment": 1,
    "acting": 2,
    "update": 3,
    "evaluation": 4,
    "final_evaluation": 5,
    "command_line": 6,
}


def stream_seed(seed: int, stream: str, rank: int = 0) -> int:
    """63-bit seed of one named stream; every process of a run has its own where it gives its rank.

    Raises:
        KeyError: the stream has no number in ``STREAMS``.
    """
    place = (STREAMS[stream],)
    sequence = np.random.SeedSequence(seed, spawn_key=place if rank == 0 else (*place, rank))
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def split_seed(seed: int, count: int) -> list[int]:
    """Seeds of ``count`` independent streams that belong together."""
    words = np.random.SeedSequence(seed).generate_state(count, np.uint64)
    return [int(word >> np.uint64(1)) for word in words]


def make_generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator on ``device`` that starts from ``seed``."""
    generator = torch.Generator(device)
    generator.manual_seed(seed)
    return generator
