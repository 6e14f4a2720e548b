"""Synthetic run directories in the format of training, with given numbers."""

import json
from pathlib import Path

import numpy as np
import yaml

EPISODES = 10
# Overrides of a run of three iterations on the bandit, of which two checkpoints are kept, and the best.
BRIEF = ["training.total_steps=120", "meta_batch_size=4", "eval.num_tasks=4", "eval.final_num_tasks=4"]
BRIEF += ["env.num_episodes=10", "algorithm.num_epochs=1", "algorithm.num_minibatches=2", "eval.baselines=false"]
BRIEF += ["model.hidden_size=8", "training.keep_checkpoints=2", "training.eval_every=2", "algorithm.learning_rate=0.1"]


def write_run(
    path: Path,
    *,
    env: str = "bandit",
    model: str | None = "gru",
    algorithm: str = "rl2",
    seed: int = 0,
    final: float = 6.5,
    rows: int = 60,
    finished: bool = True,
    settings: dict | None = None,
    baselines: dict[str, float] | None = None,
    bounds: dict[str, float] | None = None,
) -> Path:
    """Write a run whose sampled return rises from 5 to exactly ``final``; the greedy one ends 0.05 higher.

    Args:
        settings: dotted configuration keys to change.
        baselines, bounds: returns of a trial by name.
    """
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(_config(env, model, algorithm, seed, settings or {})))
    history = _history(np.random.default_rng(seed), final, rows)
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    if finished:
        choices = {"env": env, "model": model, "algorithm": algorithm, "seed": seed}
        summary = choices | _summary(final, history, baselines, bounds)
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def evaluation(total: float, slope: float = 0.04) -> dict:
    """Evaluation of a trial with this return, each episode better by ``slope`` than the one before."""
    curve = total / EPISODES + slope * (np.arange(EPISODES) - (EPISODES - 1) / 2)
    return {
        "return_mean": total,
        "return_se": 0.0125,
        "adaptation_curve": curve.tolist(),
        "adaptation_se": [0.0034] * EPISODES,
        "episodes_met": list(range(EPISODES)),
        "num_tasks": 20000,
    }


def _config(env: str, model: str | None, algorithm: str, seed: int, settings: dict) -> dict:
    config = {
        "seed": seed,
        "device": "cpu",
        "meta_batch_size": 1000,
        "env": {"_target_": f"metarl.envs.{env}", "num_episodes": EPISODES, "num_arms": 5},
        "model": {"hidden_size": 128} if model else None,
        "algorithm": {"_target_": f"metarl.algorithms.{algorithm}", "discount": 0.99, "learning_rate": 0.001},
        "training": {"total_steps": 600_000, "eval_every": 5},
        "eval": {"num_tasks": 2000},
        "choices": {"env": env, "model": model, "algorithm": algorithm, "experiment": None},
    }
    for key, value in settings.items():
        *groups, leaf = key.split(".")
        node = config
        for group in groups:
            node = node[group]
        node[leaf] = value
    return config


def _history(rng: np.random.Generator, final: float, rows: int) -> list[dict]:
    history = []
    for i in range(1, rows + 1):
        level = 5 + (final - 5) * (1 - np.exp(-6 * i / rows)) / (1 - np.exp(-6))
        row = {
            "iteration": i,
            "env_steps": 10_000 * i,
            "wall_time": 1.5 * i,
            "train/return": level + 0.05 * rng.standard_normal(),
            "train/steps_per_second": 6500 + 300 * rng.standard_normal(),
            "update/policy_loss": 0.02 * rng.standard_normal(),
            "update/value_loss": float(np.exp(-i / 20) + 0.1 * rng.random()),
            "update/entropy": float(1.6 * np.exp(-i / 30)),
            "update/approx_kl": 0.01 * rng.random(),
        }
        if i % 5 == 0:
            for actions, better in (("sampled", 0.0), ("greedy", 0.05)):
                found = evaluation(level + better)
                row |= {f"eval/{actions}/{name}": value for name, value in found.items()}
        history.append(row)
    return history


def _summary(final: float, history: list[dict], baselines: dict | None, bounds: dict | None) -> dict:
    return {
        "env_steps": history[-1]["env_steps"],
        "iteration": history[-1]["iteration"],
        "wall_time": 4321.0,
        "parameters": 52_358,
        "hardware": "x86_64 CPU, 1 threads",
        "versions": "Python 3.11.7, torch 2.13.0",
        "commit": "abc1234",
        "command": "python run.py env=bandit",
        "num_tasks": 20000,
        "evaluation_seed": 7,
        "evaluation": {"sampled": evaluation(final), "greedy": evaluation(final + 0.05)},
        "baselines": {
            name: evaluation(total, 0.0 if name == "Random" else 0.02) for name, total in (baselines or {}).items()
        },
        "bounds": bounds or {},
    }


BANDIT_BASELINES = {"Random": 5.0, "Gittins index": 6.655, "Thompson sampling": 6.05, "UCB1": 5.77, "ε-greedy": 6.28}
BANDIT_BOUNDS = {"Bayes optimum": 6.65999}
