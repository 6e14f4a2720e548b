"""The agents of the zoo: small, with a card that holds, and accepted wherever a run directory is."""

import json
import math
import re

import pytest
import torch
from processes import REPOSITORY
from run_directories import BRIEF

import metarl
from metarl.cli import main
from metarl.errors import ConfigError, MetarlError
from metarl.runs import zoo
from metarl.runs.exported import export, read_exported
from metarl.runs.tensors import read_tensors, write_tensors

MOST_BYTES = 20_000_000
STEPS, SIMULATED_STEPS = 30_000, 8_000  # of the evaluation of one agent with one kind of actions
SEED = 20_000  # of these evaluations, unlike those of training
ON_CARD = {"name", "about", "licence", "command", "commit", "metarl", "seed", "env", "model", "algorithm", "config"}
ON_CARD |= {"evaluation", "evaluation_seed", "hardware", "versions", "wall_time", "env_steps", "parameters"}


@pytest.fixture
def page_writer(monkeypatch):
    """``benchmarks/zoo.py``."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import zoo

    return zoo


# ---------------------------------------------------------------- the agents that are there


def test_the_zoo_is_small_and_holds_pairs_of_files():
    files = sorted(zoo.ZOO.iterdir())
    assert zoo.names() and sum(file.stat().st_size for file in files) < MOST_BYTES
    assert [file.name for file in files] == sorted(f"{name}{s}" for name in zoo.names() for s in (".json", zoo.SUFFIX))


@pytest.mark.parametrize("name", zoo.names())
def test_a_card_says_what_the_agent_is(name):
    card = zoo.card(name)
    exported = read_exported(zoo.agent_path(f"zoo:{name}"))
    assert {key: value for key, value in card.items() if key != "size"} == exported.card
    assert set(card) >= ON_CARD and card["name"] == name and 0 < len(card["about"]) <= 80
    assert card["commit"].isalnum() and card["licence"] == "MIT" and card["command"].startswith("python run.py")
    for evaluation in card["evaluation"].values():
        assert {"return_mean", "return_se", "num_tasks"} <= set(evaluation)
    assert {tensor.dtype for tensor in exported.tensors.values() if tensor.numel() > 1000} == {torch.float32}
    assert not re.findall(r"(?<![\w.)])/\w+/", json.dumps(card))  # a path of the machine it was trained on


@pytest.mark.parametrize("name", zoo.names())
def test_the_score_of_a_card_holds_on_other_tasks(name):
    card = zoo.card(name)
    if card["env"].startswith("ml"):
        pytest.importorskip("metaworld")
    agent = metarl.load(f"zoo:{name}")
    steps_of_task = sum(agent.rollouts) * agent.horizon * card["config"]["lanes_per_task"]
    steps = SIMULATED_STEPS if "num_threads" in card["config"]["env"] else STEPS
    found = agent.evaluate(min(max(steps // steps_of_task, 20), 1000), seed=SEED)
    for actions, there in card["evaluation"].items():
        here, error = found[actions], combined_error(there, found[actions])
        assert abs(here["return_mean"] - there["return_mean"]) <= 3 * error + 1e-4 * abs(there["return_mean"])
        random = card["baselines"].get("Random")
        assert random is None or there["return_mean"] - random["return_mean"] > 3 * error, "chance would pass, too"


def combined_error(there: dict, here: dict) -> float:
    """Error of the difference of two evaluations; few tasks may miss rare failures, which the card has counted."""
    trials = [evaluation["num_tasks"] * evaluation.get("trials_per_task", 1) for evaluation in (there, here)]
    expected = there["return_se"] * math.sqrt(trials[0] / trials[1])
    return math.hypot(there["return_se"], max(here["return_se"], expected))


def test_the_page_of_the_zoo_is_the_one_that_is_written(page_writer):
    assert page_writer.PAGE.read_text() == page_writer.page(), "run python benchmarks/zoo.py page"


# ---------------------------------------------------------------- zoo:NAME


@pytest.fixture
def own_zoo(brief_run, tmp_path, monkeypatch, page_writer):
    """A zoo of one agent, ``small``, which is that of the brief run."""
    monkeypatch.setattr(zoo, "ZOO", tmp_path / "zoo")
    page_writer.add(brief_run.path, "small", "a small agent", zoo.ZOO)
    return brief_run


def test_an_agent_of_the_zoo_is_evaluated_as_its_run_is(own_zoo, capsys):
    assert metarl.load("zoo:small").evaluate(50, seed=1) == own_zoo.evaluate(50, seed=1)
    found = []
    for source in ("zoo:small", str(own_zoo.path)):
        main(["evaluate", source, "--num-tasks", "50", "--format", "json", "--checkpoint", "latest"])
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    main(["evaluate", "zoo:small", "--num-tasks", "5", "--checkpoint", "all"])
    main(["analyse", "zoo:small", "--output", str(zoo.ZOO.parent / "analysis"), "--repeats", "1"])
    assert "zoo:small" in capsys.readouterr().out


def test_a_run_starts_from_an_agent_of_the_zoo(own_zoo, tmp_path):
    started = [*BRIEF, "training.start_from=zoo:small", "seed=5"]
    rates = ["algorithm.learning_rate=1e-12", "algorithm.final_learning_rate=1e-12"]
    run = metarl.train([*started, *rates], tmp_path / "run")
    record = json.loads((run.path / "start.json").read_text())
    assert record["source"] == "zoo:small" and record["file"].endswith("small.safetensors")
    assert record["not_taken"] == [] and record["iteration"] == 3
    memories = [agent.algorithm.policy.memory.parameters() for agent in (run.agent(), own_zoo.agent())]
    assert all(torch.allclose(new, old, atol=1e-6) for new, old in zip(*memories, strict=True))


def test_exported_agents_are_watched(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "ZOO", tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = ["env=point_goal", "env.horizon=4", *BRIEF, "env.num_episodes=2", "algorithm.num_minibatches=1"]
    export(metarl.train(settings, tmp_path / "run").path, "latest", tmp_path / "point.safetensors")
    monkeypatch.setattr("metarl.cli.watch.require", lambda *_: None)
    written = []
    monkeypatch.setattr("metarl.analysis.video.write_video", lambda recording, path, fps: written.append(path))
    for source in ("zoo:point", "point.safetensors"):
        main(["watch", source, "--paths"])
        assert str(written.pop()) == "point.mp4" and "episode 2: return" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("zoo:smal", r"zoo:smal: no such agent; did you mean zoo:small\?"),
        ("zoo:../small", r"zoo:\.\./small: no such agent; did you mean zoo:small\?"),
        ("zoo:", "zoo:: no such agent; there are small"),
        ("zoo:xyz", "zoo:xyz: no such agent; there are small"),
    ],
)
def test_an_unknown_agent_is_answered_with_those_that_are_there(source, message, own_zoo, tmp_path):
    for use in (metarl.load, zoo.agent_path):
        with pytest.raises(MetarlError, match=message):
            use(source)
    with pytest.raises(MetarlError, match=message):
        metarl.train([*BRIEF, f"training.start_from='{source}'"], tmp_path / "run")


def test_an_agent_of_the_zoo_is_data(own_zoo):
    file = zoo.agent_path("zoo:small")
    tensors, metadata = read_tensors(file)
    card = json.loads(metadata["metarl"])
    card["config"]["env"]["_target_"] = "elsewhere.Env"
    write_tensors(file, tensors, {"metarl": json.dumps(card)})
    with pytest.raises(MetarlError, match=r"env\._target_=elsewhere\.Env: is code outside metarl"):
        metarl.load("zoo:small")


# ---------------------------------------------------------------- metarl zoo


def test_the_command_lists_agents_and_shows_a_card(own_zoo, capsys):
    main(["zoo", "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)
    score = own_zoo.summary()["evaluation"]["sampled"]
    assert row["name"] == "small" and row["about"] == "a small agent" and row["size"].endswith(" MB")
    assert (row["return"], row["standard_error"]) == (score["return_mean"], score["return_se"])
    main(["zoo"])
    head, about = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"small  bandit  gru/rl2  \d\.\d+ ± \d\.\d+  0\.\d\d MB", head) and about == "    a small agent"
    for name in ("small", "zoo:small"):
        main(["zoo", name])
        said = capsys.readouterr().out
        assert "zoo:small: a small agent" in said and "gru/rl2 (greedy)" in said and "MIT" in said
    main(["zoo", "small", "--format", "json"])
    card = json.loads(capsys.readouterr().out)
    assert card["evaluation"] == own_zoo.summary()["evaluation"]
    with pytest.raises(SystemExit):
        main(["zoo", "smalll"])
    assert capsys.readouterr().err == "error: zoo:smalll: no such agent; did you mean zoo:small?\n"


@pytest.mark.parametrize("damage", [None, "{", "[]", '{"evaluation": 3}'])
def test_a_damaged_card_is_one_message(damage, own_zoo, capsys):
    path = zoo.agent_path("zoo:small").with_suffix(".json")
    path.unlink() if damage is None else path.write_text(damage)
    with pytest.raises(SystemExit):
        main(["zoo"])
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}") and said.endswith("; install metarl again\n")


# ---------------------------------------------------------------- benchmarks/zoo.py


def test_an_agent_is_added_from_a_finished_run_alone(brief_run, tmp_path, page_writer, capsys):
    for name, about, fragment in (("A b", "x", "letters"), ("a", "x" * 81, "at most 80"), ("a", "", "one line")):
        with pytest.raises(ConfigError, match=fragment):
            page_writer.add(brief_run.path, name, about, tmp_path)
    file = page_writer.add(brief_run.path, "a", "x", tmp_path, num_tasks=30)
    card = read_exported(file).card
    _, *command = card["evaluation_command"].replace("zoo:a", str(file)).split()
    main([*command, "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert {kind: found[kind] for kind in ("sampled", "greedy")} == card["evaluation"]
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match=r"no summary\.json; let the run finish"):
        page_writer.add(tmp_path / "run", "a", "x", tmp_path)


def test_commands_on_cards_name_no_place_of_a_machine(page_writer):
    given = "python /a/run.py env=bandit 'logger=[jsonl]' cluster=local_pool hydra.run.dir='/b/c' seed=3 -m"
    assert page_writer.public(given) == "python run.py env=bandit 'logger=[jsonl]' seed=3"
    assert page_writer.public("/v/bin/metarl train seed=1") == "python run.py seed=1"
