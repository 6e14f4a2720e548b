"""Environments propose and methods decide: no choice of an environment changes what a method's own YAML states."""

from functools import cache
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from metarl.configuration.compose import CONF, compose, options, resolved

OF_AN_ENVIRONMENT = {"defaults", "env", "recipe", "model", "training", "eval"}


def files(group: str) -> list[Path]:
    """All files of a group, those that others share included."""
    return sorted((CONF / group).rglob("*.yaml"))


def stated(path: Path) -> dict:
    """The keys of a file as the top level of a configuration has them."""
    text = path.read_text()
    content = yaml.safe_load(text) or {}
    if "@package _global_" in text:
        return content
    return {"env" if path.parent.name == "env" else "algorithm": content}


@cache
def composed(*overrides: str) -> dict:
    """A configuration without its values of interpolations."""
    content = OmegaConf.to_container(compose(overrides), resolve=False)
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("path", files("env"), ids=lambda path: path.stem)
def test_an_environment_states_no_settings_of_methods(path):
    assert set(stated(path)) <= OF_AN_ENVIRONMENT


def test_environments_and_methods_state_different_settings_of_models():
    def keys(group):
        return {key for path in files(group) for key in stated(path).get("model", {})}

    assert not keys("env") & keys("algorithm")


@pytest.mark.parametrize("algorithm", options("algorithm"))
def test_a_method_keeps_its_own_settings(algorithm):
    small, large = (composed(f"env={env}", f"algorithm={algorithm}") for env in ("bandit", "cheetah_dir"))
    for key in ("algorithm", "meta_batch_size", "lanes_per_task"):
        assert small[key] == large[key]


def test_methods_that_take_proposals_follow_the_environment():
    found = resolved(compose(["env=cheetah_dir", "algorithm=rl2"]), {})
    assert (found["meta_batch_size"], found["algorithm"]["gae_lambda"]) == (40, 0.95)
    assert found["algorithm"]["entropy_coefficient"] == 0.005
    assert "recipe" not in found
    assert resolved(compose(["algorithm=rl2", "recipe.gae_lambda=0.5"]), {})["algorithm"]["gae_lambda"] == 0.5


def test_gradient_methods_keep_the_published_settings_on_every_body():
    found = resolved(compose(["algorithm=maml", "env=cheetah_dir"]), {})
    assert (found["meta_batch_size"], found["lanes_per_task"]) == (20, 20)
    assert (found["algorithm"]["gae_lambda"], found["algorithm"]["entropy_coefficient"]) == (1.0, 0.0)
