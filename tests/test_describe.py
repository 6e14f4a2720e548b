"""``metarl describe``, ``metarl list``, ``--help``, and answers to names that other codes use."""

import json

import pytest
from compositions import plain
from omegaconf import OmegaConf

import metarl
from metarl import cli
from metarl.configuration import describing, descriptions
from metarl.configuration.compose import CONF, compose, explain, options, unknown_key
from metarl.errors import ConfigError


@pytest.fixture
def quick(monkeypatch):
    """Compositions that are kept between tests, but for those with Hydra's own settings."""

    def composed(overrides, hydra_node=False):
        return compose(overrides, True) if hydra_node else OmegaConf.create(plain(tuple(overrides)))

    monkeypatch.setattr(describing, "compose", composed)


@pytest.mark.parametrize("group", [*describing.NODES, *describing.PLANS, describing.TOP])
def test_every_key_of_every_option_has_a_meaning_and_a_type(group, quick):
    names = [f"{group}={option}" for option in options(group)] if group in describing.NODES else [group]
    rows = {name: describing.describe(name) for name in names}
    assert not [(name, row["key"]) for name in names for row in rows[name] if len(row["meaning"]) < 8]
    assert not [(name, row["key"]) for name in names for row in rows[name] if row["meaning"].startswith("of ")]
    assert sum(map(len, rows.values())) > 0
    untyped = [(name, row["key"]) for name in names for row in rows[name] if not row["type"] and row["value"] != "null"]
    assert not untyped


def test_keys_are_those_of_the_composed_configuration(quick):
    for name, path in {
        "env=cheetah_vel": "env",
        "model=transformer": "model",
        "algorithm=varibad": "algorithm",
    }.items():
        config = plain((name,))[path]
        shown = {row["key"].removeprefix(f"{path}."): row["value"] for row in describing.describe(name)}
        assert {key for key in config if not key.startswith("_")} <= set(shown)
        assert not set(shown) & {"num_tasks", "seed", "device", "spec", "context_dim"}
        numbers = {key: value for key, value in config.items() if type(value) is int}
        assert numbers and all(shown[key] == str(value) for key, value in numbers.items())


def test_types_are_in_words(quick):
    types = {row["key"]: row["type"] for row in describing.describe("algorithm=rl2")}
    assert types["algorithm.num_epochs"] == "whole number > 0"
    assert types["algorithm.discount"] == "number >= 0 <= 1"
    assert types["algorithm.target_kl"] == "number > 0 or null"
    assert types["algorithm.objective"] == "return | regret"


def test_describe_prints_keys_with_overrides_in_force(capsys):
    cli.main(["describe", "env=bandit", "env.num_arms=7"])
    out = capsys.readouterr().out
    assert "env.num_arms=7" in out and "whole number" in out and "Bernoulli bandit" in out
    cli.main(["describe", "training", "--format", "json"])
    rows = json.loads(capsys.readouterr().out)
    assert {"training.total_steps", "training.eval_every"} <= {row["key"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["describe", "env"], "env has ant_dir"),
        (["describe", "experiment=rl2/bandit_n10"], "describe takes env=..."),
        (["describe", "model=rnn"], "model=gru or model=lstm"),
        (["evalute", "run"], "did you mean metarl evaluate?"),
        (["zzz"], "there are"),
    ],
)
def test_wrong_names_are_answered_in_one_line(arguments, expected, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    err = capsys.readouterr().err
    assert stopped.value.code == 1 and expected in err and err.count("\n") == 1


def test_the_version(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == f"metarl {metarl.__version__}"


def test_the_list_has_a_line_on_each_option_and_no_private_file():
    rows = descriptions.rows()
    assert {row["kind"] for row in rows} == {folder.name for folder in CONF.iterdir() if folder.is_dir()} - {"hydra"}
    assert not [row for row in rows if len(row["description"]) < 8 or "\n" in row["description"]]
    assert max(len(row["description"]) for row in rows) <= descriptions.WIDTH
    assert not [row["name"] for row in rows if row["name"].rpartition("/")[2].startswith("_")]


def test_help_fits_a_screen_and_names_every_group():
    lines = OmegaConf.load(CONF / "hydra" / "help" / "metarl.yaml").template.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 120
    named = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert set(descriptions.groups()) <= set(named)
    assert sum(line.startswith(("  metarl train ", "  python run.py ")) for line in lines) >= 5
    words = " ".join(named[group] for group in ("env", "algorithm", "model", "logger", "cluster")).replace(",", " ")
    for group in ("logger", "cluster", "conditioning", "meta_optimizer"):
        listed = named[group].rpartition(": ")[2] if ": " in named[group] else named[group][19:]
        assert {word.strip() for word in listed.split(",")} - {"..."} <= set(options(group)), listed
    assert "rl2" in words and "cheetah_vel" in words


MEANT = {
    "lr": "algorithm.learning_rate",
    "total_steps": "training.total_steps",
    "total_timesteps": "training.total_steps",
    "gamma": "algorithm.discount",
    "hidden_size": "model.hidden_size",
    "num_episodes": "env.num_episodes",
}


@pytest.mark.parametrize("name", MEANT)
def test_keys_of_other_codes_and_keys_without_their_node_are_recognised(name):
    assert unknown_key(name, 1, ["seed", "device"]).endswith(f"did you mean {MEANT[name]}?")


def test_suggested_keys_exist():
    from metarl.configuration.renamed import ELSEWHERE, OPTIONS_ELSEWHERE

    config = plain(("env=cheetah_vel",))
    for key in ELSEWHERE.values():
        assert OmegaConf.select(OmegaConf.create(config), key) is not None, key
    for group, remarks in OPTIONS_ELSEWHERE.items():
        assert not set(remarks) & set(options(group))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("algorithm=ppo", "rl2 is PPO"),
        ("algorithm=sac", "not there yet; algorithm has a2c"),
        ("model=rnn", "model=gru or model=lstm"),
        ("env=halfcheetah_vel", "did you mean env=cheetah_vel?"),
    ],
)
def test_options_of_other_codes_are_answered(given, expected):
    assert expected in explain(ConfigError(""), [given])
