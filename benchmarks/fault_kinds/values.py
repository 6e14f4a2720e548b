"""Fuzzed configuration values: each is accepted, or refused in one line that names its key.

Configurations are composed once; values are tried in forked workers with limited memory and time, so that a hang, a
crash or a full memory only costs the worker. Some accepted values also train for an iteration and evaluate, because a
value can be refused too late.
"""

import copy
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fault_kinds.cases import Case
from fault_kinds.runs import CONFIGURATIONS, SMALL, SMALL_MODEL

MORE = {
    "gaussian_bandit snail rl2": ("env=gaussian_bandit", "model=snail", SMALL_MODEL, "meta_batch_size=8"),
    "planning_game gtrxl rl2": ("env=planning_game", "model=gtrxl", SMALL_MODEL, "meta_batch_size=8"),
    "semicircle gru hyperx": ("env=semicircle", "algorithm=hyperx", SMALL_MODEL, "meta_batch_size=8"),
    "point_goal mlp promp": ("env=point_goal", "algorithm=promp", SMALL_MODEL, "meta_batch_size=3", "env.horizon=8"),
    "grid gru task_inference": ("env=grid", "algorithm=task_inference", SMALL_MODEL, "meta_batch_size=8"),
    "ant_dir splagger rl2": ("env=ant_dir", "model=splagger", SMALL_MODEL, "meta_batch_size=8", "env.horizon=8"),
    "point_navigation mlp maesn": ("env=point_navigation", "algorithm=maesn", SMALL_MODEL, "meta_batch_size=3"),
    "hall mingru multitask": ("env=hall", "algorithm=multitask", SMALL_MODEL, "meta_batch_size=8"),
}
STRANGE: tuple[Any, ...] = (
    *(None, "", "abc", " ", "ü漢", "1e3", "null", "-1", "../x", "a" * 3000, "\n", "${seed}", "???", "${oc.env:HOME}"),
    *(True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 2**70, -(2**63), 10**9, 10**30),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -0.1, 1e-30, 1e3, 1e9, 1e30, -1e30, 1e308, float("inf"), float("-inf"), float("nan")),
    *([], [1], [0], [-1], [1e30], ["a"], [None], [[1]], [10**9], list(range(200)), [1, 50], [float("nan")]),
    *({}, {"a": 1}, {"_target_": "metarl.models.gru.GRU"}, {"_target_": None}, {"_target_": "os"}, {1: 2}, {"": ""}),
    *("cpu", "cuda", "cuda:99", "meta", "mps", "cpu:0", "sampled", "all", "metarl.models.gru", "metarl.models.gru.GRU"),
)
MEMORY = 16 * 2**30  # bytes of address space, most of it for threads
SECONDS = 20  # CPU seconds for one value
PATIENCE = 300  # seconds of wall time for one value
BATCH = 100  # values per worker
PLAYED = 8  # every eighth accepted value also trains and evaluates
UNBUILT = object()


@dataclass(frozen=True)
class Value:
    """A value at some key of a configuration; ``UNBUILT`` removes the key."""

    combination: str
    key: tuple[str, ...]
    value: Any

    @property
    def name(self) -> str:
        """Override as typed on the command line."""
        given = "(taken away)" if self.value is UNBUILT else repr(self.value)[:60]
        return f"{self.combination}: {'.'.join(self.key)}={given}"


def run(number: int, dice: Random, folder: Path, short: bool = False) -> Iterator[Case]:
    """Try ``number`` values over all keys of all combinations."""
    folder.mkdir(parents=True, exist_ok=True)
    configurations = {name: small_config(overrides) for name, overrides in _combinations(short).items()}
    values = [_value(configurations, dice, index) for index in range(number)]
    left = values
    while left:
        answers = _try_batch(configurations, left[:BATCH], folder, dice.randrange(PLAYED))
        for value, problem in zip(left, answers, strict=False):
            yield Case(value.name, problem)
        left = left[len(answers) :]


def _combinations(short: bool) -> dict[str, tuple[str, ...]]:
    known = CONFIGURATIONS | MORE
    chosen = [name for name in known if "worker" not in name]
    return {name: known[name] for name in (chosen[:1] + chosen[4:5] if short else chosen)}


def small_config(overrides: tuple[str, ...]) -> dict[str, Any]:
    """A resolved configuration, as in ``run.py``."""
    from metarl.configuration.compose import compose, resolved

    pairs = (text.partition("=") for text in overrides)
    given = {name: option for name, _, option in pairs}
    choices = {"env": given["env"], "model": given.get("model", "gru"), "algorithm": given.get("algorithm", "rl2")}
    return resolved(compose([*SMALL, *overrides]), choices)


def _value(configurations: dict[str, dict], dice: Random, index: int) -> Value:
    names = list(configurations)
    name = names[index % len(names)]
    key = dice.choice(list(_keys(configurations[name])))
    value = dice.choice((*STRANGE, UNBUILT))
    return Value(name, key, value)


def _keys(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All keys of values and groups, and one unknown key for each group."""
    for name, value in node.items():
        if name not in ("choices", "hydra"):
            yield (*path, name)
        if isinstance(value, dict) and name not in ("choices", "hydra"):
            yield from _keys(value, (*path, name))
            yield (*path, name, "no_such_key")


def _try_batch(configurations: dict, values: list[Value], folder: Path, play: int) -> list[str | None]:
    """Problems of a batch in order; shorter than the batch if the worker died."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            _work(configurations, values, folder, theirs, play)
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        answers = [json.loads(line) for line in pipe]
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if len(answers) < len(values):
        answers.append("hangs" if -code in (signal.SIGALRM, signal.SIGPROF) else f"ends the process with {code}")
    return answers


def _work(configurations: dict, values: list[Value], folder: Path, pipe: int, play: int) -> None:
    """Try the values in a worker, and answer each with a line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silent, descriptor)
    for index, value in enumerate(values):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(PATIENCE)
        config = copy.deepcopy(configurations[value.combination])
        _set(config, value.key, copy.copy(value.value))
        problem = _try(config, value, folder / f"run{os.getpid()}", play=index % PLAYED == play)
        os.write(pipe, (json.dumps(problem) + "\n").encode())


def _set(config: dict, key: tuple[str, ...], value: Any) -> None:
    node = config
    for name in key[:-1]:
        node = node[name]
    if value is UNBUILT:
        node.pop(key[-1], None)
    else:
        node[key[-1]] = value


def _try(config: dict, value: Value, run_dir: Path, play: bool) -> str | None:
    """Build the value, and perhaps train for an iteration and evaluate."""
    from metarl.errors import MetarlError

    try:
        _build(config, run_dir, play)
    except MetarlError as error:
        message = str(error)
        if "\n" in message:
            return f"a message of several lines: {message[:200]}"
        keys = (".".join(value.key), value.key[-1], f"{'.'.join(value.key[:-1])}=")
        return None if any(key in message for key in keys) else f"the message does not name the key: {message[:200]}"
    except BaseException as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None


def _build(config: dict, run_dir: Path, play: bool) -> None:
    from metarl.configuration.build import build

    trainer = build(config, run_dir)
    if not play or not _is_short(trainer, config):
        return
    from metarl.experiment import final_summary
    from metarl.runs.files import to_json
    from metarl.system import StopRequest

    trainer = build(config | {"training": config["training"] | {"total_steps": 1}}, run_dir)
    trainer.run_dir.open(config)
    try:
        with StopRequest() as stop:
            trainer.train(stop)
        to_json(final_summary(trainer, config, {}))
    finally:
        trainer.run_dir.close()
        shutil.rmtree(run_dir, ignore_errors=True)


def _is_short(trainer: Any, config: dict) -> bool:
    """Whether an iteration and an evaluation are short."""
    steps = trainer.env.num_lanes * trainer.env.trial_length * len(trainer.algorithm.rollouts)
    tasks = max(trainer.eval_plan.num_tasks, trainer.eval_plan.final_num_tasks)
    sizes = [size for size in _numbers(config["algorithm"]) if size > 100]
    return steps <= 2000 and tasks <= 100 and not sizes


def _numbers(node: Any) -> Iterator[float]:
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from _numbers(value)
    elif isinstance(node, int | float):
        yield node
