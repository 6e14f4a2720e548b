"""The studies of ``metarl analyse``: each measures some memories, writes its files, and answers a short table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from metarl.analysis import attention, beliefs, embeddings, memory
from metarl.analysis.style import save_figure
from metarl.analysis.tables import Row, format_table
from metarl.errors import ConfigError
from metarl.evaluation import MakeEnv
from metarl.rollout import collect_trial, episode_returns
from metarl.runs.files import replace_file, replacing
from metarl.seeding import make_generator, split_seed, stream_seed
from metarl.types import Rollout


class Subject(NamedTuple):
    """A trained or untrained agent, and the environment it is for."""

    name: str
    agent: Any
    make_env: MakeEnv


class Findings(NamedTuple):
    """Result of a study."""

    rows: list[Row]
    paths: list[Path]


def memory_study(subjects: Sequence[Subject], folder: Path, seed: int, repeats: int) -> Findings:
    """Gradients, order, signal and noise on random inputs: ``memory.csv`` and ``memory.svg``."""
    measured = {}
    for name, agent, make_env in subjects:
        policy, steps = agent.policy, make_env(num_tasks=1, seed=0).trial_length
        width = policy.features.output_dim
        measured[name] = memory.analyse(policy.memory, width, steps, repeats, make_generator(seed))
    paths = memory.write_analysis(measured, folder)
    longest = max(len(values) for quantities in measured.values() for values in quantities.values())
    return Findings(memory.at_steps(measured, sorted({0, 1, longest // 10, longest // 2, longest - 1})), paths)


def attention_study(subjects: Sequence[Subject], folder: Path, seed: int, num_tasks: int) -> Findings:
    """Attention at each step of a trial, mean over held-out tasks.

    Writes ``attention.csv`` (a row per head), ``attention.svg`` and ``attention.npz`` (the maps, ``[heads, T, seen]``).

    Raises:
        ConfigError: a memory has no attention weights.
    """
    maps = {}
    for subject in subjects:
        trial = play(subject, seed, num_tasks)
        with torch.no_grad():
            x = subject.agent.policy.features(trial.timestep)
            maps[subject.name] = attention.attention_maps(subject.agent.policy.memory, x, trial.mask)
        if not maps[subject.name]:
            raise ConfigError(
                f"{subject.name}: its memory has no attention weights to show; "
                "--study memory and --study embeddings take any memory"
            )
    rows = attention.head_table(maps)
    arrays = {f"{name}-layer{i}": m.weights for name, layers in maps.items() for i, m in enumerate(layers)}
    return Findings(rows, _write(folder, "attention", rows, attention.draw(maps), arrays))


def embedding_study(
    subjects: Sequence[Subject], folder: Path, seed: int, num_tasks: int, method: embeddings.Method = "pca"
) -> Findings:
    """Output of the memory at each step of a trial on held-out tasks, in few dimensions.

    Writes ``embeddings.csv`` (the place of every step), ``embeddings.svg`` and ``embeddings.npz`` (the vectors
    themselves and what they belong to).
    """
    found = {subject.name: _embeddings(subject, seed, num_tasks) for subject in subjects}
    arrays = {f"{name}-{field}": getattr(e, field) for name, e in found.items() for field in e._fields}
    rows, figure = embeddings.points_table(found, method), embeddings.draw(found, method)
    paths = _write(folder, "embeddings", rows, figure, arrays)
    return Findings(embeddings.component_table(found), paths)


def belief_study(subjects: Sequence[Subject], folder: Path, seed: int, num_tasks: int) -> Findings:
    """Beliefs over trials on held-out tasks, for memories that are read as one.

    Writes ``beliefs.csv`` (means over tasks at every step), ``beliefs.svg`` and ``beliefs.npz`` (everything).

    Raises:
        ConfigError: a memory is not read as a belief.
    """
    found = {}
    for subject in subjects:
        if subject.agent.policy.latent_dim is None:
            raise ConfigError(f"{subject.name}: its memory is not read as a belief; set model.latent_dim")
        env = subject.make_env(num_tasks=num_tasks, seed=0)
        found[subject.name] = beliefs.measure(subject.agent, env, play(subject, seed, num_tasks), seed)
    arrays: dict[str, np.ndarray] = {}
    for name, measured in found.items():
        fields = measured._asdict()
        arrays |= {f"{name}-{field}": part for field, part in fields.items() if isinstance(part, np.ndarray)}
        arrays |= {f"{name}-{cost}": part for cost, part in measured.costs.items()}
    paths = _write(folder, "beliefs", beliefs.table(found), beliefs.draw(found), arrays)
    return Findings(beliefs.summary(found), paths)


def play(subject: Subject, seed: int, num_tasks: int) -> Rollout:
    """The query rollout of one trial on each of some held-out tasks, sampled actions."""
    env_seed, acting_seed = split_seed(stream_seed(seed, "command_line"), 2)
    env = subject.make_env(num_tasks=num_tasks, seed=env_seed)
    env.sample_tasks("held_out")
    return collect_trial(env, subject.agent, make_generator(acting_seed))[-1]


@torch.no_grad()
def _embeddings(subject: Subject, seed: int, num_tasks: int) -> embeddings.Embeddings:
    trial, policy = play(subject, seed, num_tasks), subject.agent.policy
    x = policy.features(trial.timestep)
    vectors, _ = policy.memory(x, policy.memory.initial_carry(x.shape[1]))
    episodes = subject.agent.rollouts[-1]
    step, task = trial.mask.nonzero(as_tuple=True)
    return embeddings.Embeddings(
        vectors=vectors[step, task].numpy(),
        task=task.numpy(),
        step=step.numpy(),
        episode=(trial.timestep.first.long().cumsum(0) - 1)[step, task].numpy(),
        descriptions=trial.tasks.description.numpy(),
        returns=episode_returns(trial, episodes).sum(0).numpy(),
    )


def _write(folder: Path, stem: str, rows: list[Row], figure: Any, arrays: dict[str, np.ndarray]) -> list[Path]:
    paths = [folder / f"{stem}.{ending}" for ending in ("csv", "svg", "npz")]
    replace_file(paths[0], format_table(rows, "csv"))
    save_figure(figure, paths[1])
    named: dict[str, Any] = {name.replace("/", "_"): values for name, values in arrays.items()}
    with replacing(paths[2]) as file:
        np.savez_compressed(file, **named)
    return paths
