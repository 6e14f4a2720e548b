"""Shared helpers of tests: tiny configurations, objects built from them, and a small environment and agent."""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from compositions import plain
from gymnasium import spaces
from hydra.utils import instantiate
from torch import Tensor

from metarl.algorithms.policy_gradient import Batch, PolicyGradient
from metarl.checking.algorithms import Learner, collected  # noqa: F401 -- one implementation for tests and command
from metarl.checking.comparing import global_randomness, perturb, random_actions, same  # noqa: F401
from metarl.checking.runs import StopAt, timeless, timeless_states, trainer_of  # noqa: F401
from metarl.configuration.build import build_algorithm, build_env_factory
from metarl.configuration.compose import options
from metarl.envs.base import MetaEnv
from metarl.trust import TYPED, locate
from metarl.types import Decision, EnvSpec, Rollout, Step, Tasks

# Sizes that keep the laws quick, whatever is the default; each is set wherever a configuration has the key.
SMALL = {
    "env": {"num_arms": 3, "num_states": 4, "num_actions": 3, "horizon": 5, "num_episodes": 3, "num_workers": 0}
    | {"num_doors": 3, "length": 2},
    "model": {"hidden_size": 8, "num_heads": 2, "memory_length": 3, "window": 2, "num_slots": 2},
    "algorithm": {"num_epochs": 2, "num_minibatches": 2}
    | {"decoder_layers": [7, 6], "buffer_size": 20, "batch_size": 5, "num_vae_updates": 2, "encoder_hidden_size": 5},
    "conditioning": {"layers": [8, 6], "observation_embedding_size": 5, "condition_layers": [4]},
}
# What some environments need in addition.
SMALL_ENVS = {"rooms": {"num_rooms": 1, "horizon": 9}}
DEFAULTS = {"env": "bandit", "model": "gru", "algorithm": "rl2", "meta_optimizer": "none", "logger": "jsonl"}


def given_choices(overrides) -> dict[str, str]:
    """Chosen option of each group, as ``run.py`` records it."""
    pairs = (override.partition("=") for override in overrides)
    return DEFAULTS | {name: option for name, _, option in pairs if name in DEFAULTS}


def config_of(*overrides: str) -> dict:
    """The configuration ``run.py`` would use with these overrides."""
    return plain(overrides) | {"choices": given_choices(overrides)}


def small_config(*overrides: str, lanes: int = 6) -> dict:
    """``config_of``, with small sizes except where an override sets them."""
    config = config_of(*overrides)
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    nodes = {"conditioning": config["model"].get("conditioning", {})} | config
    for group, sizes in SMALL.items():
        sizes = sizes | (SMALL_ENVS.get(config["choices"]["env"], {}) if group == "env" else {})
        if group == "model":
            sizes = sizes | {"num_layers": min(4, config["model"].get("num_layers", 0))}
        path = "model.conditioning" if group == "conditioning" else group
        for name, size in sizes.items():
            if name in nodes[group] and f"{path}.{name}" not in given:
                nodes[group][name] = size
    if "meta_batch_size" not in given:
        config["meta_batch_size"] = lanes
    if "lanes_per_task" not in given:
        config["lanes_per_task"] = min(config["lanes_per_task"], 2)
    return config


def env_class(env_option: str) -> type:
    """The class that the YAML of an environment names."""
    return locate(config_of(f"env={env_option}")["env"]["_target_"], "env._target_", TYPED)


def own_options(config: dict) -> set[str]:
    """Names of the options of a node, without Hydra's own."""
    return {name for name in config if not name.startswith("_")}


def make_env(*overrides: str, num_tasks: int = 4, lanes_per_task: int = 1, seed: int = 0) -> MetaEnv:
    """An environment as its YAML describes it; add overrides to change it."""
    config = config_of(*overrides) | {"lanes_per_task": lanes_per_task}
    return build_env_factory(config)(num_tasks=num_tasks, seed=seed)


def make_policy(
    *overrides: str, observation_space=None, action_space=None, task_dim: int = 3, trial_length: int = 50, seed: int = 0
):
    """A small policy as the model's YAML describes it."""
    torch.manual_seed(seed)
    observation_space = observation_space or spaces.Box(-1, 1, (4,))
    action_space = action_space or spaces.Discrete(3)
    partial = instantiate(small_config(*overrides)["model"], _convert_="all")
    return partial(EnvSpec(observation_space, action_space, task_dim, trial_length))


def make_algorithm(*overrides: str, lanes: int = 6):
    """A small untrained agent and an environment for it, as the trainer would build them."""
    config = small_config(*overrides, lanes=lanes)
    algorithm, built = build_algorithm(config)
    return algorithm, built.make_env(num_tasks=config["meta_batch_size"], seed=1)


LONG = ("rooms", "tmaze_copying")  # walks to their junctions


def brief(env_option: str) -> tuple[str, ...]:
    """Overrides for short episodes where a step takes long; bodies that can fall do so within them."""
    if env_option in ("ml1", "ml10", "ml45"):
        return ("env.horizon=4", "env.num_workers=0")
    long = config_of(f"env={env_option}")["env"].get("horizon", 0) >= 100 and env_option not in LONG
    return ("env.horizon=25",) if long else ()


def batch_of(agent: PolicyGradient, rollout: Rollout) -> Batch:
    """Training batch of an agent from a rollout; updates its statistics of returns."""
    return agent._batch(rollout, agent.extra_inputs(rollout))


# What makes tasks that hide at first show in a few random steps.
SHOWN = {
    "ant_goal_sparse": "env.sparse_distance=null",
    "cheetah_dir_sparse": "env.sparse_distance=0",
    "sparse_point": "env.goal_radius=2.5",
    "semicircle": "env.goal_radius=0.15",
    "tmaze": "env.length=3",
    "tmaze_copying": "env.length=3",
    "rooms": "env.num_rooms=1",
}
# Discrete and continuous, of fixed and of varying length, in tensors and simulated: every model meets these.
REPRESENTATIVE = ("bandit", "tabular_mdp", "point_goal", "cheetah_vel")
# What algorithms other than RL² meet with models other than the GRU: of varying length.
PROVING_GROUND = "tmaze_copying"
CONTINUOUS = "point_goal"  # actions
# Also where bodies fall, where success ends an episode, and in processes of their own.
KINDS = (*REPRESENTATIVE, PROVING_GROUND, "ant_dir", "sparse_point", "ml1")


@cache
def combinations() -> list[tuple[str, str, str]]:
    """Every algorithm with every model it can use, one model in representative environments, RL² in all.

    An algorithm goes with every memory, or with none.
    """
    return [
        (algorithm, model, env)
        for algorithm in options("algorithm")
        for model in (options("model") if _uses_memory(algorithm) else ["mlp"])
        for env in options("env")
        if _meet(algorithm, model, env)
    ]


def usual_combinations() -> list[tuple[str, str, str]]:
    """Every algorithm with a recurrent, an attending or no memory; RL² with each memory, in environments of each kind.

    For laws that do not depend on which environment of a kind it is. Environments keep laws of their own in test_envs.
    """
    memories = ("gru", "transformer", "mlp")
    return [found for found in combinations() if found[2] in KINDS and (found[1] in memories or _in_turn(*found))]


def few_combinations() -> list[tuple[str, str, str]]:
    """Combinations that are usual: algorithms other than RL² with one environment of each kind of action.

    For laws that do not depend on how an algorithm and an environment fit together.
    """
    kinds = (PROVING_GROUND, CONTINUOUS)
    return [found for found in usual_combinations() if found[0] == "rl2" or found[2] in kinds]


def _in_turn(algorithm: str, model: str, env: str) -> bool:
    """Whether it is RL² in the representative environment that comes with this model where each comes with one."""
    return algorithm == "rl2" and env == REPRESENTATIVE[options("model").index(model) % len(REPRESENTATIVE)]


@cache
def _uses_memory(algorithm: str) -> bool:
    return locate(config_of(f"algorithm={algorithm}")["algorithm"]["_target_"], "_target_", TYPED).uses_memory


def _meet(algorithm: str, model: str, env: str) -> bool:
    if algorithm == "rl2":
        return model == "gru" or env in REPRESENTATIVE
    usual = "gru" if _uses_memory(algorithm) else "mlp"
    return env == PROVING_GROUND or (model == usual and env in REPRESENTATIVE)


def read_rows(path: Path) -> list[dict]:
    """All complete rows of a ``metrics.jsonl``."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def tree(directory: Path) -> dict[str, bytes]:
    """Every file below a directory with its content, and every folder."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b"<folder>"
        for path in sorted(directory.rglob("*"))
    }


class Corridor(MetaEnv):
    """A test environment with episodes of unequal length, whose results can be computed by hand.

    A task has a ``length``: the episode terminates after that many steps, or is truncated at the horizon.
    The reward is ``bonus + elapsed / 8 + action``; the observation is ``(elapsed, length)``.
    """

    fixed_length = False

    def __init__(self, *, num_tasks: int, num_episodes: int = 3, horizon: int = 5, seed: int = 0, **lanes):
        super().__init__(num_tasks=num_tasks, num_episodes=num_episodes, horizon=horizon, seed=seed, **lanes)
        self.observation_space = spaces.Box(0, 100, (2,))
        self.action_space = spaces.Discrete(2)
        self.task_dim = 2

    def draw_tasks(self, num_tasks: int, task_set: str) -> Tasks:
        length = torch.randint(1, self.horizon + 3, (num_tasks, 1), generator=self.generator)
        bonus = torch.randn(num_tasks, 1, generator=self.generator)
        return Tasks({"length": length, "bonus": bonus})

    def reset(self) -> Tensor:
        self.elapsed = torch.zeros(self.num_lanes, dtype=torch.long)
        return self._observe()

    def _observe(self) -> Tensor:
        return torch.stack([self.elapsed, self.tasks.parameters["length"].squeeze(1)], 1).float()

    def step(self, action: Tensor) -> Step:
        reward = self.tasks.parameters["bonus"].squeeze(1) + self.elapsed / 8 + action
        self.elapsed = self.elapsed + 1
        terminated = self.elapsed == self.tasks.parameters["length"].squeeze(1)
        truncated = (self.elapsed == self.horizon) & ~terminated
        final = self._observe()
        self.elapsed = torch.where(terminated | truncated, 0, self.elapsed)
        return Step(self._observe(), reward, terminated, truncated, terminated, final)


class Counts(NamedTuple):
    """State of ``Counter``, each ``[B]``."""

    steps: Tensor
    adapted: Tensor


class Counter:
    """A test agent that counts its calls; it acts 1 once it has adapted (on ``parity`` lanes: by lane)."""

    def __init__(self, *rollouts: int, parity: bool = False):
        self.rollouts = rollouts
        self.parity = parity
        self.greedy: list[bool] = []
        self.adapted_on: list = []

    def initial_state(self, tasks: Tasks) -> Counts:
        zeros = torch.zeros(len(tasks), dtype=torch.long)
        return Counts(zeros, zeros)

    def act(self, timestep, state: Counts, generator, greedy: bool = False):
        self.greedy.append(greedy)
        action = (state.adapted > 0).long()
        if self.parity:
            action = torch.arange(len(action)) % 2
        value = state.steps.float()
        return Decision(action, torch.zeros_like(value), value), Counts(state.steps + 1, state.adapted)

    def adapt(self, state: Counts, rollout) -> Counts:
        self.adapted_on.append(rollout)
        return Counts(state.steps, state.adapted + 1)


def corridor_with(lengths: list[int], bonus: list[float] | None = None, **options) -> Corridor:
    """A corridor with tasks of given lengths."""
    env = Corridor(num_tasks=len(lengths), **options)
    bonuses = torch.tensor(bonus or [0.0] * len(lengths)).unsqueeze(1)
    env.set_tasks(Tasks({"length": torch.tensor(lengths).unsqueeze(1), "bonus": bonuses}))
    return env


def whole_and_resumed(config: dict, folder: Path, stop_at: int) -> list:
    """A finished run, and one that was stopped after some iterations and is about to resume."""
    whole, first = trainer_of(config, folder / "whole"), trainer_of(config, folder / "parts")
    finish(whole)
    first.train(StopAt(first, stop_at))
    first.run_dir.close()
    second = trainer_of(config, folder / "parts")
    assert second.progress.iteration == stop_at
    return [whole, second]


def finish(trainer) -> None:
    """Train to the end."""
    assert trainer.train(StopAt(trainer, 10**9))
