"""Former names of a configuration are answered with the present ones, and read in what earlier versions wrote."""

from importlib.util import find_spec

import pytest
import yaml
from helpers import StopAt, config_of, same, small_config, trainer_of

from metarl.analysis.runs import load_run
from metarl.analysis.selection import select
from metarl.cli import main
from metarl.configuration import renamed
from metarl.configuration.build import build
from metarl.configuration.compose import CONF, compose, options
from metarl.configuration.renamed import MOVED, RENAMED, RENAMED_IN, RENAMED_VALUES, present, present_name
from metarl.configuration.trained import load_source
from metarl.errors import CheckpointError, ConfigError
from metarl.launching.proposals import Proposals
from metarl.runs.checkpoint import load, save
from metarl.trust import TYPED, locate


@pytest.fixture
def table(monkeypatch):
    """Some keys that have other names than they had."""
    monkeypatch.setitem(renamed.RENAMED, "env.arm_count", "env.num_arms")
    monkeypatch.setitem(renamed.RENAMED, "eval.tasks", "eval.num_tasks")
    monkeypatch.setitem(renamed.RENAMED, "brain", "model")
    monkeypatch.setitem(renamed.RENAMED_IN, ("env", "bandit"), {"env.episodes": "env.num_episodes"})
    monkeypatch.setitem(renamed.RENAMED_VALUES, "model.critic", {"joint": "shared"})
    monkeypatch.setitem(renamed.RENAMED_VALUES, "env", {"slot_machine": "bandit"})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["env.arm_count=3"], "env.arm_count: is now called env.num_arms"),
        (["++env.arm_count=3"], "env.arm_count: is now called env.num_arms"),
        (["eval.tasks=3"], "eval.tasks: is now called eval.num_tasks"),
        (["env.episodes=3"], "env.episodes: is now called env.num_episodes"),
        (["brain=lstm"], "brain=lstm: is now called model"),
        (["env=slot_machine"], "env=slot_machine: is now called bandit"),
        (["model.critic=joint"], "model.critic=joint: is now called shared"),
    ],
)
def test_a_former_name_is_answered_with_the_present_one(overrides, message, table, tmp_path):
    with pytest.raises(ConfigError) as caught:
        build(config_of(*overrides), tmp_path, TYPED)
    assert str(caught.value) == message


def test_a_former_name_of_another_option_is_no_answer(table):
    with pytest.raises(ConfigError, match=r"env.arm_count=3: no such key"):
        compose(["env=tabular_mdp", "env.arm_count=3"])


def test_a_search_answers_a_former_name(table):
    space = {"settings": {"space": {"env.arm_count": [3, 4]}}, "fixed": [], "bases": [{"given": {}, "choices": {}}]}
    space["bases"][0]["config"] = {"env": {"num_arms": 5}}
    with pytest.raises(ConfigError, match=r"^env.arm_count: is now called env.num_arms$"):
        Proposals(**space).config(["env.arm_count=3"])


def old_run(directory, **changes):
    """A run directory as a version with the former names of ``table`` wrote it."""
    trainer_of(small_config() | {"logger": {}}, directory).run_dir.close()
    path = directory / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["env"]["arm_count"] = config["env"].pop("num_arms")
    config["env"]["episodes"] = config["env"].pop("num_episodes")
    config["model"]["critic"] = "joint"
    config["choices"] |= {"env": "slot_machine", "brain": config["choices"].pop("model")}
    path.write_text(yaml.safe_dump(config | changes, sort_keys=False))


def test_a_run_with_former_names_is_resumed(table, tmp_path):
    old_run(tmp_path / "run")
    trainer_of(small_config() | {"logger": {}}, tmp_path / "run").run_dir.close()


def test_best_answers_a_former_name(table, tmp_path):
    old_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"^--best env.arm_count: is now called env.num_arms$"):
        select([load_run(tmp_path / "run")], "env.arm_count")


def test_names_that_were_never_others_stay(table):
    config = config_of("env=tabular_mdp", "algorithm=varibad")
    assert present(config) == config
    assert present_name("env.num_arms") is None and present_name("nothing.at_all") is None


def test_keys_of_a_renamed_node_follow_it(monkeypatch):
    monkeypatch.setitem(renamed.RENAMED, "a.node", "a.part")
    monkeypatch.setitem(renamed.RENAMED, "a.part.key", "a.part.name")
    assert present_name("a.node.key") == "a.part.name"
    assert present({"a": {"node": {"key": 1, "x": 2}}}) == {"a": {"part": {"name": 1, "x": 2}}}


def test_every_entry_leads_to_a_name_there_is():
    for former, new in [*RENAMED.items(), *(pair for table in RENAMED_IN.values() for pair in table.items())]:
        assert former.rpartition(".")[0] == new.rpartition(".")[0] and former != new
    for key, values in RENAMED_VALUES.items():
        assert not (CONF / key).is_dir() or set(values.values()) <= set(options(key))
    for name in MOVED.values():
        module, _, last = name.rpartition(".")
        assert find_spec(name) if last.islower() else locate(name, "_target_", TYPED), module


def test_a_moved_class_is_found():
    config = present({"logger": {"wandb": {"_target_": "metarl.logging.WandbLogger"}}})
    assert config["logger"]["wandb"]["_target_"] == "metarl.runs.loggers.WandbLogger"


def test_a_former_option_of_a_command_is_answered(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "run", "--tasks-at-once=3"])
    assert capsys.readouterr().err == "error: --tasks-at-once: is now called --batch-size\n"


def test_a_run_of_an_earlier_version_is_evaluated_and_resumed(tmp_path):
    """With keys, classes and counters under the names they had."""
    config = small_config("logger=tensorboard", "training.total_steps=1e6")
    trainer = trainer_of(config, tmp_path / "run")
    trainer.train(StopAt(trainer, 1))
    trainer.run_dir.close()
    path, checkpoint = tmp_path / "run" / "config.yaml", trainer.run_dir.checkpoints.path("latest")
    old = yaml.safe_load(path.read_text())
    old["eval"]["tasks_at_once"] = old["eval"].pop("batch_size")
    old["logger"]["tensorboard"]["_target_"] = "metarl.logging.TensorboardLogger"
    path.write_text(yaml.safe_dump(old, sort_keys=False))
    state = load(checkpoint)
    state["progress"]["given_up"] = state["progress"].pop("pruned")
    save(state, checkpoint)
    agent, _, _ = load_source(tmp_path / "run", "latest")
    assert same(agent.state_dict(), trainer.algorithm.state_dict())
    again = trainer_of(config, tmp_path / "run")
    again.run_dir.close()
    assert again.progress.iteration == 1 and again.progress.pruned is False


def test_weights_of_another_version_are_one_message(tmp_path):
    trainer = trainer_of(small_config(), tmp_path / "run")
    trainer.train(StopAt(trainer, 1))
    trainer.run_dir.close()
    checkpoint = trainer.run_dir.checkpoints.path("latest")
    state = load(checkpoint)
    state["algorithm"] = {f"former.{name}": value for name, value in state["algorithm"].items()}
    save(state, checkpoint)
    with pytest.raises(CheckpointError, match=r"a run of an earlier version needs the commit in its summary"):
        load_source(tmp_path / "run", "latest")


@pytest.mark.parametrize(
    ("former", "kind", "attention"),
    [
        ({"connections": "residual", "attention": "full"}, "transformer", None),
        ({"connections": "residual", "attention": "sparse"}, "sparse_transformer", None),
        ({"connections": "dense", "attention": "sparse"}, "dense_transformer", "sparse"),
        ({"connections": "dense", "attention": "full"}, "dense_transformer", "full"),
    ],
)
def test_a_former_transformer_is_read_as_the_model_it_is(former, kind, attention):
    config = config_of("model=transformer")
    config["model"] |= former
    found = present(config)
    assert found["choices"]["model"] == kind
    assert found["model"]["memory"]["_target_"] == config_of(f"model={kind}")["model"]["memory"]["_target_"]
    assert "connections" not in found["model"] and found["model"].get("attention") == attention


def test_former_values_of_memories_are_read():
    config = config_of("model=trmrl")
    config["model"] |= {"past": "banded", "initialization": "published"}
    del config["model"]["attention"], config["model"]["tfixup"]
    assert {"attention": "sliding", "tfixup": "code"}.items() <= present(config)["model"].items()
    config = config_of("model=splagger")
    config["model"] |= {"encoder": "invariant_lstm", "skip": "half"}
    expected = {"encoder": "permutation_invariant_lstm", "skip": "split"}
    assert expected.items() <= present(config)["model"].items()
