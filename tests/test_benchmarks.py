"""Benchmarks build what they measure."""

import pytest
from processes import REPOSITORY


@pytest.mark.parametrize("memory", [None, "learning.CellLoop"])
def test_an_agent_to_measure_is_built_also_around_a_memory_of_the_benchmarks(memory, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import learning
    import timing

    algorithm, env = timing.learner("env=bandit", "meta_batch_size=8", "model.hidden_size=8", memory=memory)
    assert timing.trial_of(algorithm, env)
    assert memory is None or isinstance(algorithm.policy.memory, learning.CellLoop)


def test_the_page_of_models_is_the_one_that_is_written(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import models

    assert models.PAGE.read_text() == models.page(), "run python benchmarks/models.py page"
