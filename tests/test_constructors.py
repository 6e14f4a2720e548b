"""The constructor is the schema: it has to say which keys it takes."""

import pytest
from helpers import config_of

from metarl.algorithms.rl2 import RL2
from metarl.configuration.build import build
from metarl.errors import ConfigError
from metarl.trust import TYPED


class Hiding(RL2):
    def __init__(self, *, bonus: float = 0.1, **kwargs):
        super().__init__(**kwargs)


class Inheriting(RL2):
    def __init__(self, *, bonus: float = 0.1, **inherited):
        super().__init__(**inherited)


@pytest.mark.parametrize("line", [(), ("algorithm.discount=0.9",)])
def test_a_constructor_that_hides_its_keys_is_refused_with_the_rule(line, tmp_path):
    config = config_of(*line)
    config["algorithm"]["_target_"] = f"{__name__}.Hiding"
    with pytest.raises(ConfigError, match=r"test_constructors\.Hiding: \*\*kwargs hides .*call it \*\*inherited"):
        build(config, tmp_path, TYPED)
    config["algorithm"]["_target_"] = f"{__name__}.Inheriting"
    assert build(config, tmp_path, TYPED).algorithm.discount == config["algorithm"]["discount"]
