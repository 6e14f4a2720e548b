"""Wrong configurations end in one line that names the key, the value and what is allowed; right ones build."""

import re
import resource
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from compositions import plain
from helpers import DEFAULTS, given_choices, same, small_config, trainer_of, tree
from wrong_configurations import WRONG

from metarl.configuration.build import build, build_algorithm
from metarl.configuration.capacity import free_memory
from metarl.configuration.compose import CONF, compose, options, resolved, unknown_key
from metarl.configuration.renamed import present
from metarl.configuration.reporting import report
from metarl.errors import ConfigError, MetarlError
from metarl.runs.checkpoint import save
from metarl.trust import TYPED


def configuration(overrides: tuple[str, ...]) -> dict:
    """Not cached and not shortened, errors included, as ``run.py`` makes it."""
    return resolved(compose(overrides), given_choices(overrides))


def complaint(overrides: tuple[str, ...], run_dir, capsys) -> str:
    """Error message after ``error: ``, which must be a single line."""
    capsys.readouterr()
    try:
        trainer_of(configuration(overrides), run_dir, TYPED)
    except Exception as error:
        if not report(error, overrides):
            raise
    else:
        pytest.fail(f"{' '.join(overrides)} was accepted")
    said = capsys.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", said.err), said.err
    return said.err.removeprefix("error: ").strip()


@pytest.mark.parametrize("logger", ["wandb", 3, ["wandb"], {"x": "wandb"}, {"x": ["wandb"]}])
def test_loggers_have_names(logger, tmp_path):
    with pytest.raises(ConfigError, match=r"^logger(\.x)?="):
        build(configuration(()) | {"logger": logger}, tmp_path / "run")


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="has the device")
def test_a_run_of_another_machine_names_the_device_to_evaluate_it_on(device):
    with pytest.raises(ConfigError, match=rf"device='{device}': not available here; available are cpu; .*--device cpu"):
        build_algorithm(configuration((f"device={device}",)))


def test_what_does_not_fit_is_refused_before_it_is_allocated(monkeypatch, tmp_path):
    """One byte more than is free is too much, and what is free may be used."""
    monkeypatch.setattr("metarl.configuration.build.free_memory", lambda device="cpu": 2**40)
    monkeypatch.setattr("metarl.configuration.capacity.free_memory", lambda device="cpu": 2**21)
    with pytest.raises(ConfigError, match=r"model.hidden_size=1000: needs .* and 0.0 GiB are free; lower it"):
        build(configuration((*PLAIN[2:], "meta_batch_size=4", "model.hidden_size=1000")), tmp_path / "run")
    build(configuration(PLAIN), tmp_path / "run")


def test_memory_is_limited_by_the_address_space_of_the_process(monkeypatch):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (used + 2**30, -1))
    assert 2**29 < free_memory() < 2**31
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, -1))
    assert free_memory() > 2**29


def test_what_a_message_quotes_does_not_steer_the_terminal(capsys):
    assert report(MetarlError("env.x=\x1b]0;title\x07: bad\nnext")) and capsys.readouterr().err.count("\n") == 1
    assert report(MetarlError("\x1b[2J")) and "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_configuration_is_refused_in_one_line_that_helps(line, tmp_path, capsys):
    message = complaint(tuple(line.split(" ")), tmp_path / "run", capsys)
    missing = [fragment for fragment in WRONG[line] if fragment not in message]
    assert not missing, message
    assert len(message) < 600
    assert tree(tmp_path) == {}


def test_only_keys_a_user_can_give_are_listed_as_allowed(tmp_path, capsys):
    for line, supplied in {
        "+env.foo=1": ("num_tasks", "lanes_per_task", "seed", "device"),
        "+algorithm.foo=1": ("env,", "model,"),
    }.items():
        message = complaint((line,), tmp_path / "run", capsys)
        assert not [name for name in supplied if name in message], message


def test_an_unknown_key_far_from_all_others_gets_no_guess():
    assert "did you mean" not in unknown_key("env.zzzz", 1, ["num_arms", "num_episodes"])


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("line", "group", "key", "expected"),
    [
        ("training.total_steps=1e6", "training", "total_steps", 1_000_000),
        ("training.eval_every=5.0", "training", "eval_every", 5),
        ("eval.num_tasks=1e2", "eval", "num_tasks", 100),
    ],
)
def test_whole_floats_are_integers(line, group, key, expected, tmp_path):
    trainer = build(configuration((line,)), tmp_path / "run")
    found = getattr({"training": trainer.plan, "eval": trainer.eval_plan}[group], key)
    assert found == expected and isinstance(found, int)


def test_whole_floats_are_integers_in_constructors_too(tmp_path):
    lines = ("env.num_arms=7.0", "model.hidden_size=1e1", "meta_batch_size=2e1", "algorithm.num_epochs=3.0", "seed=3.0")
    trainer = build(configuration((*PLAIN, *lines)), tmp_path / "run")
    env, algorithm = trainer.env, trainer.algorithm
    found = [env.num_arms, algorithm.policy.memory.hidden_size, env.num_tasks, algorithm.num_epochs]
    assert found == [7, 10, 20, 3] and all(isinstance(number, int) for number in found)


def test_whole_numbers_are_floats_where_floats_are_meant(tmp_path):
    trainer = build(configuration(("algorithm.discount=1", "algorithm.clip=1")), tmp_path / "run")
    assert trainer.algorithm.discount == 1 and trainer.algorithm.clip == 1


def test_building_writes_nothing(tmp_path):
    build(configuration(()), tmp_path / "run")
    assert tree(tmp_path) == {}


# ---------------------------------------------------------------- directories and checkpoints

PLAIN = ("meta_batch_size=8", "model.hidden_size=8", "algorithm.num_minibatches=2")


def refused(overrides: tuple[str, ...], run_dir, capsys) -> str:
    """``complaint`` that leaves every file as it was."""
    before = tree(run_dir) if run_dir.is_dir() else None
    message = complaint(overrides, run_dir, capsys)
    assert (tree(run_dir) if run_dir.is_dir() else None) == before
    assert str(run_dir) in message
    return message


def started(run_dir, *overrides: str) -> None:
    """A run directory as a run leaves it before its first iteration."""
    trainer_of(configuration(PLAIN + overrides), run_dir).run_dir.close()


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ("seed=1", ["seed=1", "seed=0"]),
        ("env.num_arms=6", ["env.num_arms=6", "env.num_arms=5"]),
        ("model=lstm", ["model=lstm", "has model=gru"]),
        ("algorithm=a2c", ["algorithm=a2c", "has algorithm=rl2"]),
        ("algorithm.clip=0.3", ["algorithm.clip=0.3", "algorithm.clip=0.2"]),
        ("meta_batch_size=9", ["meta_batch_size=9", "meta_batch_size=8"]),
    ],
)
def test_a_run_is_not_resumed_as_another_experiment(change, fragments, tmp_path, capsys):
    started(tmp_path / "run")
    message = refused((*PLAIN, change), tmp_path / "run", capsys)
    assert not [fragment for fragment in fragments if fragment not in message], message
    assert "another hydra.run.dir" in message


@pytest.mark.parametrize(
    "change",
    ["training.total_steps=99", "training.eval_every=7", "eval.num_tasks=9", "logger=tensorboard", "num_threads=1"],
)
def test_a_run_is_resumed_with_more_steps_or_other_eyes_on_it(change, tmp_path):
    threads = torch.get_num_threads()
    started(tmp_path / "run")
    started(tmp_path / "run", change)
    torch.set_num_threads(threads)


def test_a_path_below_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("here I am")
    message = complaint(PLAIN, tmp_path / "file" / "run", capsys)
    assert "hydra.run.dir" in message and str(tmp_path / "file") in message


def test_a_directory_without_write_permission_is_refused(tmp_path, capsys, monkeypatch):
    """By name rather than by ``chmod``, which root would not feel."""
    monkeypatch.setattr("metarl.runs.directory.os.access", lambda path, mode: False)
    message = complaint(PLAIN, tmp_path / "run", capsys)
    assert "hydra.run.dir" in message and "write" in message


@pytest.mark.parametrize("kind", ["truncated", "foreign", "text", "newer"])
def test_a_run_with_a_checkpoint_that_cannot_be_used_is_refused(kind, tmp_path, capsys):
    run_dir = tmp_path / "run"
    started(run_dir)
    path = run_dir / "checkpoints" / "00000001.pt"
    save({"algorithm": {}}, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "foreign":
        torch.save({"weights": torch.ones(3)}, path)
    elif kind == "text":
        path.write_text("hello\n")
    else:
        torch.save({"format": 99, "state": {}}, path)
    message = refused(PLAIN, run_dir, capsys)
    assert path.name in message


@pytest.mark.parametrize("content", ["- a\n- list\n", "a: [1\n", "", "hello"])
def test_a_directory_with_a_foreign_configuration_is_refused(content, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(content)
    assert "config.yaml" in refused(PLAIN, tmp_path / "run", capsys)


# ---------------------------------------------------------------- what is shipped


def shipped() -> list[str]:
    found = ["env", "model", "conditioning", "algorithm", "meta_optimizer", "logger", "experiment"]
    return [f"{group}={option}" for group in found for option in options(group)]


def nodes_with_a_late_target(node, key: str = ""):
    """Keys of nodes whose class is not the first thing that is said of them."""
    if isinstance(node, dict):
        if "_target_" in node and next(iter(node)) != "_target_":
            yield key
        for name, part in node.items():
            yield from nodes_with_a_late_target(part, f"{key}.{name}")
    for part in node if isinstance(node, list) else ():
        yield from nodes_with_a_late_target(part, key)


@pytest.mark.parametrize("model", options("model"))
@pytest.mark.parametrize("env", ["ml1", "rooms"])  # those of helpers.REPRESENTATIVE: tests/test_laws.py
def test_every_shipped_model_builds_with_environments_of_every_kind(model, env, tmp_path):
    build(small_config(f"model={model}", f"env={env}"), tmp_path / "run")


@pytest.mark.parametrize(
    "overrides",
    [
        ("meta_batch_size=7", "env=grid", "env.horizon=3", "+algorithm.extra=[1,a]"),
        ("algorithm=varibad", "model.hidden_size=5", "env=tmaze", "conditioning=film", "~logger"),
        ("experiment=maml/ml1", "algorithm.discount=0.5", "env=cheetah_dir", "meta_batch_size=3"),
    ],
)
def test_tests_set_values_in_kept_compositions_as_hydra_does(overrides):
    composed = resolved(compose(overrides), {})
    for _ in range(2):
        assert plain(overrides) | {"choices": {}} == composed


def test_other_groups_compose():
    for folder in CONF.iterdir():
        if folder.is_dir() and folder.name not in ("env", "model", "algorithm", "logger", "experiment", "hydra"):
            for option in options(folder.name):
                compose((f"{folder.name}={option}",))


def documented_commands() -> list[str]:
    """Every ``python run.py ...`` in the comments of a YAML, without what is said after it."""
    texts = [file.read_text() for file in sorted(CONF.rglob("*.yaml"))]
    return list(dict.fromkeys(found.strip() for text in texts for found in re.findall(COMMAND, text)))


COMMAND = re.compile(r"#\s*python run\.py((?: \S+)*)")


def overrides_of(command: str) -> tuple[str, ...]:
    """Overrides of a documented command; of a sweep, those of its first run."""
    words = [word for word in shlex.split(command) if word != "-m"]
    first = [re.sub(r"=(\w+),.*", r"=\1", word) if "[" not in word else word for word in words]
    return (*first, "device=cpu") if any(word.startswith("cluster=") for word in first) else tuple(first)


@pytest.mark.parametrize("command", documented_commands())
def test_every_command_in_a_comment_composes_and_builds(command, tmp_path):
    config = configuration(overrides_of(command))
    assert not list(nodes_with_a_late_target(config)) and present(config) == config
    trainer = build(config, tmp_path / "run")
    assert trainer.env.num_tasks >= 1 and not trainer.finished
    assert tree(tmp_path) == {}


def test_every_shipped_option_is_in_a_command():
    given = {override for command in documented_commands() for override in overrides_of(command)}
    default = {f"{group}={option}" for group, option in DEFAULTS.items()}
    assert set(shipped()) <= given | default


@pytest.mark.parametrize("grid", [name for name in options("experiment") if name.startswith("sweeps/")])
def test_every_value_of_a_grid_composes(grid):
    params = yaml.safe_load((CONF / "experiment" / f"{grid}.yaml").read_text())["hydra"]["sweeper"]["params"]
    for key, values in params.items():
        for value in str(values).split(","):
            assert plain((f"experiment={grid}", f"{key}={value}"))


def test_every_yaml_opens_with_the_command_that_runs_it():
    for file in sorted(CONF.rglob("*.yaml")):
        if not file.name.startswith("_") and "hydra" not in file.parts:
            opening = file.read_text().splitlines()[:3]
            assert any(line.startswith("# python run.py") for line in opening), file


def test_a_resolved_configuration_survives_yaml(tmp_path):
    started(tmp_path / "run")
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written == configuration(PLAIN)
    trainer = build(written, tmp_path / "run")
    assert isinstance(trainer.plan.total_steps, int)


def test_seeds_make_other_runs_and_the_same_seed_the_same(tmp_path):
    def weights(seed):
        return build(small_config(f"seed={seed}"), tmp_path / "run").state_dict()

    assert same(weights(1), weights(1)) and not same(weights(1), weights(2))


def test_errors_of_ours_are_told_and_others_keep_their_traceback(capsys):
    assert report(MetarlError("mend this")) and capsys.readouterr().err == "error: mend this\n"
    assert not report(ZeroDivisionError("a bug"))


def test_whole_numbers_written_as_floats_are_recorded_as_integers(tmp_path):
    config = configuration((*PLAIN, "seed=1e3", "model.hidden_size=8.0", "algorithm.discount=1"))
    build(config, tmp_path / "run")
    found = [config["seed"], config["model"]["hidden_size"], config["algorithm"]["discount"]]
    assert list(map(repr, found)) == ["1000", "8", "1"]
