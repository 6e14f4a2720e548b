"""Former names of keys, groups, options, values and classes of configurations. Imports nothing.

A former name on the command line or in a YAML file is answered with the present one; the configuration of a run or a
sweep that an earlier version wrote is read under present names. Whoever renames something adds a line here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# Former dotted key or group: present one, with the same parent; keys below a renamed node follow it.
RENAMED: dict[str, str] = {
    "algorithm.encoder_size": "algorithm.encoder_hidden_size",
    "algorithm.error_coefficient": "algorithm.reward_error_coefficient",
    "algorithm.gates": "algorithm.gru_variant",
    "algorithm.information": "algorithm.oracle",
    "algorithm.inner_gradient_norm": "algorithm.max_inner_gradient_norm",
    "algorithm.latent_size": "algorithm.latent_dim",
    "algorithm.learn_memory_in_warm_up": "algorithm.train_encoder_in_warm_up",
    "algorithm.max_model_gradient_norm": "algorithm.max_vae_gradient_norm",
    "algorithm.memory": "algorithm.episode_memory",
    "algorithm.memory_size": "algorithm.num_best_episodes",
    "algorithm.model_learning_rate": "algorithm.vae_learning_rate",
    "algorithm.num_beliefs": "algorithm.num_elbo_terms",
    "algorithm.num_model_updates": "algorithm.num_vae_updates",
    "algorithm.num_transitions": "algorithm.num_reconstruction_terms",
    "algorithm.past_alone": "algorithm.decode_only_past",
    "algorithm.task_chunk": "algorithm.tasks_per_chunk",
    "algorithm.through_memory": "algorithm.rl_loss_through_encoder",
    "env.nearest": "env.min_radius",
    "env.border": "env.train_radius",
    "env.farthest": "env.ood_radius",
    "env.spacing": "env.min_goal_distance",
    "env.circle": "env.circle_radius",
    "env.show_position": "env.position_encoding",
    "env.ends_when_unhealthy": "env.terminate_when_unhealthy",
    "env.sees_position": "env.observe_position",
    "env.sees_contacts": "env.observe_contacts",
    "env.torso_position": "env.observe_torso_position",
    "eval.task_set": "eval.task_sets",
    "eval.tasks_at_once": "eval.batch_size",
    "hydra.sweeper.at_once": "hydra.sweeper.batch_size",
    "outer": "meta_optimizer",
    "algorithm.outer": "algorithm.meta_optimizer",
    "algorithm.meta_optimizer.conjugate_steps": "algorithm.meta_optimizer.num_cg_steps",
    "algorithm.meta_optimizer.line_steps": "algorithm.meta_optimizer.max_backtracks",
    "algorithm.meta_optimizer.shrink": "algorithm.meta_optimizer.backtrack_ratio",
    "model.encoder_size": "model.input_embedding_size",
    "model.image_size": "model.image_embedding_size",
    "model.action_std": "model.state_dependent_std",
    "model.conditioning.observation_size": "model.conditioning.observation_embedding_size",
    "model.conditioning.generated": "model.conditioning.generated_layers",
    "model.conditioning.base": "model.conditioning.weight_init",
    "model.initialization": "model.tfixup",
    "model.invariant_start": "model.permutation_invariant_init",
    "model.past": "model.attention",
    "model.relative": "model.position_encoding",
}
# As above, for a former name that other options of the group still use: by (present) group and option.
RENAMED_IN: dict[tuple[str, str], dict[str, str]] = {
    ("env", "semicircle"): {"env.radius": "env.goal_radius"},
    ("env", "sparse_point"): {"env.radius": "env.goal_radius"},
}
# Former value of a (present) key, or former option of a group: present one.
RENAMED_VALUES: dict[str, dict[str, str]] = {
    "algorithm.oracle": {"task": "task_description", "number": "task_id", "nothing": "none"},
    "algorithm.target": {"networks": "weights"},
    "env.position_encoding": {"wave": "sincos"},
    "model.critic": {"present": "memoryless"},
    "model.inputs": {"step": "action_reward", "conjunction": "outer_product"},
    "model.attention": {"windows": "windowed", "banded": "sliding"},
    "model.encoder": {"normalized_gru": "layernorm_gru", "invariant_lstm": "permutation_invariant_lstm"},
    "model.position_encoding": {"waves": "sinusoidal"},
    "model.skip": {"half": "split", "whole": "all"},
    "model.tfixup": {"published": "code"},
}
# Former key and value: the choice of a group that has taken their place.
REPLACED: dict[str, dict[str, str]] = {
    "model.connections": {"residual": "model=transformer", "dense": "model=dense_transformer"},
    "model.attention": {"full": "model=transformer", "sparse": "model=sparse_transformer (or dense_transformer)"},
}
# Name of a key in other codes, or its last part alone: present key.
ELSEWHERE: dict[str, str] = {
    "lr": "algorithm.learning_rate",
    "gamma": "algorithm.discount",
    "lam": "algorithm.gae_lambda",
    "lambda": "algorithm.gae_lambda",
    "tau": "algorithm.gae_lambda",
    "ent_coef": "algorithm.entropy_coefficient",
    "entropy_coef": "algorithm.entropy_coefficient",
    "vf_coef": "algorithm.value_coefficient",
    "clip_range": "algorithm.clip",
    "clip_coef": "algorithm.clip",
    "clip_param": "algorithm.clip",
    "max_grad_norm": "algorithm.max_gradient_norm",
    "n_epochs": "algorithm.num_epochs",
    "update_epochs": "algorithm.num_epochs",
    "ppo_epoch": "algorithm.num_epochs",
    "num_mini_batch": "algorithm.num_minibatches",
    "total_timesteps": "training.total_steps",
    "num_steps": "training.total_steps",
    "num_frames": "training.total_steps",
    "eval_freq": "training.eval_every",
    "eval_interval": "training.eval_every",
    "save_interval": "training.checkpoint_every",
    "num_envs": "meta_batch_size",
    "n_envs": "meta_batch_size",
    "num_processes": "meta_batch_size",
    "hidden_dim": "model.hidden_size",
    "hidden_sizes": "model.hidden_size",
    "max_episode_steps": "env.horizon",
    "max_rollouts_per_task": "env.num_episodes",
}
# Name of an option in other codes, by group: remark for whoever types it.
OPTIONS_ELSEWHERE: dict[str, dict[str, str]] = {
    "algorithm": {
        "ppo": "rl2 is PPO on whole trials with memory; with model=mlp it is plain PPO: use algorithm=rl2",
        "trpo": "trpo is an outer step: use algorithm=maml meta_optimizer=trpo",
        "vpg": "vpg is an outer step: use algorithm=maml meta_optimizer=vpg",
        "reinforce": "a2c is the closest: use algorithm=a2c",
        "rl^2": "use algorithm=rl2",
        "rl_squared": "use algorithm=rl2",
        "fomaml": "use algorithm=maml with first-order gradients; metarl describe algorithm=maml shows its keys",
        "snail": "snail is a memory: use algorithm=rl2 model=snail",
        "trmrl": "trmrl is a memory: use algorithm=rl2 model=trmrl",
        "amago": "off-policy methods are not there yet",
        "sac": "off-policy methods are not there yet",
        "td3": "off-policy methods are not there yet",
        "ddpg": "off-policy methods are not there yet",
        "dqn": "off-policy methods are not there yet",
        "pearl": "PEARL's off-policy method is not there yet; experiment=hyper/pearl has its encoder",
    },
    "model": {
        "rnn": "use model=gru or model=lstm",
        "attention": "use model=transformer",
        "gpt": "use model=transformer",
        "mamba": "not there yet; model=mingru and model=linear_attention are close",
        "none": "use model=mlp, which has no memory",
    },
    "env": {
        "mujoco": "use one of the bodies, such as env=cheetah_vel or env=ant_dir",
        "metaworld": "use env=ml1, env=ml10 or env=ml45",
        "mdp": "use env=tabular_mdp",
        "gridworld": "use env=grid",
    },
    "logger": {"none": "use logger=jsonl", "tb": "use logger=tensorboard", "csv": "use logger=jsonl"},
}
# Former module, or former class with its module: present one.
MOVED: dict[str, str] = {
    "metarl.algorithms.outer": "metarl.algorithms.meta_optimizers",
    "metarl.logging": "metarl.runs.loggers",
}


def present_name(key: str, allowed: Sequence[str] = ()) -> str | None:
    """The present name of a key or group; None if the name is not a former one.

    Args:
        key: dotted.
        allowed: names that its parent has now; a name that is not among them is no answer. Empty: any.
    """
    tables = [RENAMED, *RENAMED_IN.values()]
    found = [new for table in tables if (new := _renamed(key, table)) is not None]
    return next((new for new in found if not allowed or new.rpartition(".")[2] in allowed), None)


def present_value(key: str, value: Any) -> str | None:
    """The present name of a value of a key, or of an option of a group; None if it is not a former one."""
    return RENAMED_VALUES.get(key, {}).get(value) if isinstance(value, str) else None


def replacement(key: str, value: Any) -> str | None:
    """The choice of a group that has taken the place of a key and its value; None if there is none."""
    return REPLACED.get(key, {}).get(value) if isinstance(value, str) else None


def present(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration with present names in place of former ones."""
    choices = _present({"choices": config.get("choices")}, "", RENAMED)["choices"]
    chosen = choices.items() if isinstance(choices, Mapping) else ()
    table = dict(RENAMED)
    for group, option in chosen:
        table |= RENAMED_IN.get((group, option), {}) if isinstance(option, str) else {}
    found: dict[str, Any] = _present(config, "", table)
    if isinstance(found.get("model"), Mapping):
        found["model"] = _model(found["model"])
        found = _transformer(found)
    return found


def _model(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model node, with heads where an earlier version derived them from the conditioning."""
    memory = node.get("memory")
    if "heads" in node or not isinstance(memory, Mapping) or "path" not in memory:
        return node
    conditioned, removed = node.get("conditioning") is not None, {"conditioning"}
    if conditioned:
        removed = {"head_size", "state_dependent_std"}
    heads = f"metarl.models.heads.{'ConditionedHeads' if conditioned else 'PlainHeads'}"
    changed: dict[str, Any] = {"memory": {"_target_": memory["path"], "_partial_": True}}
    if not conditioned and "state_dependent_std" in node:
        changed["state_dependent_std"] = node["state_dependent_std"] == "state"
    kept = {name: value for name, value in (dict(node) | changed).items() if name not in removed}
    return kept | {"heads": {"_target_": heads, "_partial_": True}}


def _transformer(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the model that an earlier version chose by ``connections`` and ``attention``."""
    model, choices = config["model"], config.get("choices")
    memory = model.get("memory")
    former = isinstance(memory, Mapping) and memory.get("_target_") == "metarl.models.transformer.Transformer"
    if not former or not {"connections", "attention"} & set(model):
        return config
    dense, sparse = model.get("connections") == "dense", model.get("attention") == "sparse"
    kind = "dense_transformer" if dense else "sparse_transformer" if sparse else "transformer"
    name = "".join(word.capitalize() for word in kind.split("_"))
    kept = {key: value for key, value in model.items() if key not in ("connections", "attention")}
    kept["memory"] = dict(memory) | {"_target_": f"metarl.models.{kind}.{name}"}
    if dense:
        kept["attention"] = model.get("attention", "full")
    chosen = {"choices": dict(choices) | {"model": kind}} if isinstance(choices, Mapping) else {}
    return config | {"model": kept} | chosen


def _renamed(key: str, table: Mapping[str, str]) -> str | None:
    parts = key.split(".")
    for count in range(len(parts), 0, -1):
        former = ".".join(parts[:count])
        if former in table:
            new = ".".join([table[former], *parts[count:]])
            return _renamed(new, table) or new
    return None


def _named(node: Mapping[str, Any], path: str, table: Mapping[str, str]) -> dict[str, Any]:
    """The node under the present names of its keys; the names of groups are keys of ``choices``."""
    prefix = "" if path in ("", "choices") else f"{path}."
    return {table.get(f"{prefix}{name}", f"{prefix}{name}").removeprefix(prefix): part for name, part in node.items()}


def _present(value: Any, key: str, table: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        named = _named(value, key, table)
        return {name: _present(part, f"{key}.{name}".lstrip("."), table) for name, part in named.items()}
    if isinstance(value, list):
        return [_present(part, f"{key}.{index}", table) for index, part in enumerate(value)]
    if isinstance(value, str) and key.endswith(("._target_", ".path")):
        return _moved(value)
    return present_value(key.removeprefix("choices."), value) or value


def _moved(name: str) -> str:
    """The present name of a class, given as ``package.module.Class``."""
    for former in (name, name.rpartition(".")[0]):
        if former in MOVED:
            return MOVED[former] + name.removeprefix(former)
    return name
