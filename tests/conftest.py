"""Options of ``conf/`` as fixtures: a new YAML meets every law without a change here."""

import pytest
import torch
from helpers import combinations

from metarl.compose import options

torch.set_num_threads(1)

GROUP_OF_FIXTURE = {"env_option": "env", "model_option": "model", "algorithm_option": "algorithm"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``env_option`` and the like run over ``conf/``, ``combination`` over all options that fit together."""
    for fixture, group in GROUP_OF_FIXTURE.items():
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, options(group))
    if "combination" in metafunc.fixturenames:
        metafunc.parametrize("combination", combinations(), ids="-".join)
