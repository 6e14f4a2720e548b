"""Privileged task information: oracles, task inference and its warm-up; and exploration bonuses."""

import copy

import pytest
import torch
from helpers import (
    batch_of,
    collected,
    config_of,
    finish,
    make_algorithm,
    perturb,
    same,
    small_config,
    timeless_states,
    whole_and_resumed,
)

from metarl.algorithms.task_inference import TaskConditionedAgent
from metarl.errors import ConfigError
from metarl.rollout import collect_trial
from metarl.seeding import make_generator

ORACLE = "algorithm=multitask"


# ---------------------------------------------------------------- oracles


@pytest.mark.parametrize("oracle", ["task_description", "task_id", "belief", "none"])
def test_the_oracle_decides_the_input_of_the_policy(oracle):
    agent, env = make_algorithm(ORACLE, "env=grid", f"algorithm.oracle={oracle}", lanes=8)
    perturb(agent, 0.5)
    (rollout,) = collected(agent, env)
    context = agent.extra_inputs(rollout)["context"]
    assert context.shape[:2] == rollout.reward.shape
    if oracle == "task_description":
        assert torch.equal(context[-1], rollout.tasks.description)
    elif oracle == "task_id":
        assert (
            torch.equal(context[0].argmax(1), env.task_id(rollout.tasks)) and context.sum() == context[..., 0].numel()
        )
    elif oracle == "belief":
        torch.testing.assert_close(context.sum(-1), torch.ones_like(rollout.reward))
        assert not torch.equal(context[0], context[-1])
    else:
        assert context.unique().tolist() == [1.0]


def test_networks_per_task_share_nothing_but_what_sees_the_observation():
    given = ("algorithm.oracle=task_id", "model.num_layers=0", "conditioning=per_task")
    agent, env = make_algorithm(ORACLE, "env=grid", *given, lanes=4)
    (rollout,) = collected(agent, env)
    met = env.task_id(rollout.tasks).unique()
    before = agent.policy.heads.networks.actor_output.weight.detach().clone()
    agent.update([rollout], 0.0, make_generator(0))
    changed = (agent.policy.heads.networks.actor_output.weight != before).flatten(1).any(1).nonzero().squeeze(1)
    assert set(changed.tolist()) <= set(met.tolist()) and len(changed) > 0


REFUSED = {
    (ORACLE, "model=gru"): ["use model=mlp"],
    (ORACLE, "algorithm.oracle=task_id", "env=cheetah_vel"): ["does not number its tasks", "use task_description"],
    (ORACLE, "algorithm.oracle=belief", "env=bandit"): ["no exact belief"],
    (ORACLE, "conditioning=none"): ["conditioning=concatenate"],
    ("algorithm=task_inference", "algorithm.target=embedding"): ["needs a warm-up", "warm_up_iterations"],
    ("algorithm=task_inference", "algorithm.hard_reset=true"): ["needs a warm-up"],
    ("algorithm=task_inference", "algorithm.warm_up_iterations=2", "conditioning=none", "model.head_size=4"): ["plain"],
    ("algorithm=task_inference", "algorithm.target=weights", "algorithm.warm_up_iterations=2"): ["hypernetwork"],
    ("algorithm=task_inference", "algorithm.train_encoder_in_warm_up=false"): ["needs a warm-up"],
    ("algorithm=task_inference", "algorithm.task_coefficient=0"): ["the task has no loss"],
    ("algorithm=hyperx", "algorithm.reward_coefficient=0"): ["not decoded"],
    (ORACLE, "env=grid", "conditioning=per_task", "model.num_layers=0"): ["per_task needs task_id"],
    (ORACLE, "model.input_embedding_size=4"): ["current observation alone"],
    ("conditioning=film", "model.initial_std=0.5"): ["are discrete"],
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_does_not_fit_is_refused(overrides):
    with pytest.raises(ConfigError) as refusal:
        make_algorithm(*overrides)
    assert all(part in str(refusal.value) for part in REFUSED[overrides])


def test_an_oracle_learns_what_nobody_without_memory_can():
    sizes = ("env.size=3", "env.num_episodes=1", "env.horizon=6", "algorithm.gae_lambda=0.9")
    returns = {}
    for oracle in ("task_description", "none"):
        agent, env = make_algorithm(ORACLE, "env=grid", *sizes, f"algorithm.oracle={oracle}", lanes=200)
        (rollout,) = collected(agent, env, updates=60)
        returns[oracle] = rollout.reward.sum(0).mean().item()
    assert returns["task_description"] > returns["none"] + 1


# ---------------------------------------------------------------- task inference


def inferring(*overrides: str, warm_up: int = 2, target: str = "embedding"):
    given = (f"algorithm.warm_up_iterations={warm_up}", f"algorithm.target={target}")
    agent, env = make_algorithm("algorithm=task_inference", "env=grid", *given, *overrides, lanes=8)
    perturb(agent, 0.3)
    return agent, env


def test_a_warm_up_acts_on_the_task_and_then_on_the_memory():
    agent, env = inferring()
    for iteration in range(4):
        env.sample_tasks()
        informed = isinstance(agent.behavior_policy, TaskConditionedAgent)
        assert informed == (iteration < 2)
        trial = collect_trial(env, agent.behavior_policy, make_generator(0))
        logs = agent.update(trial, 0.0, make_generator(1))
        assert logs["warming_up"] == informed
    (rollout,) = trial
    scrambled = rollout.tasks.select(torch.arange(8).roll(1))
    states = [agent.behavior_policy.initial_state(tasks) for tasks in (rollout.tasks, scrambled)]
    row = type(rollout.timestep)(*(part[0] for part in rollout.timestep))
    assert same(*(agent.behavior_policy.act(row, state, make_generator(0))[0].log_prob for state in states))


def test_in_a_warm_up_the_task_alone_decides():
    agent, env = inferring()
    (rollout,) = collected(agent, env)
    row = type(rollout.timestep)(*(part[-1] for part in rollout.timestep))
    goals = rollout.tasks.select(torch.arange(8).roll(1))
    first, other = (
        agent.behavior_policy.act(row, agent.behavior_policy.initial_state(tasks), make_generator(0))[0].value
        for tasks in (rollout.tasks, goals)
    )
    differs = (rollout.tasks.description != goals.description).any(1)
    assert torch.equal(first != other, differs)


def test_a_hard_reset_starts_the_policy_afresh_and_keeps_the_embedding():
    agent, env = inferring("algorithm.hard_reset=true", warm_up=1)
    fresh = copy.deepcopy(agent._initial_heads)
    (rollout,) = collected(agent, env)
    agent.update([rollout], 0.0, make_generator(0))
    learned = copy.deepcopy(agent.task_encoder.state_dict())
    assert same(dict(agent.policy.heads.state_dict()), dict(fresh))
    assert not any(parameter in agent.optimizer.state for parameter in agent.policy.heads.parameters())
    agent.update(collected(agent, env), 0.0, make_generator(0))
    assert not same(dict(agent.policy.heads.state_dict()), dict(fresh))
    assert same(agent.task_encoder.state_dict(), learned)


def test_the_memory_waits_for_the_end_of_the_warm_up_where_asked():
    for waits in (True, False):
        agent, env = inferring(f"algorithm.train_encoder_in_warm_up={not waits}".lower(), warm_up=5)
        before = copy.deepcopy(agent.policy.memory.state_dict())
        agent.update(collected(agent, env), 0.0, make_generator(0))
        assert same(before, agent.policy.memory.state_dict()) == waits


def test_the_target_is_the_task_its_embedding_or_the_networks_it_makes():
    agent, env = inferring("conditioning=hypernetwork", target="weights")
    tasks = env.sample_tasks().description
    networks = agent.policy.heads.networks
    target, embedding = agent.task_target_of(tasks), agent.task_encoder(tasks)
    parts = [layer.generate(embedding) for layer in networks.hyper_layers()]
    assert len(parts) == 6  # two layers and the last one, of actor and critic
    torch.testing.assert_close(target, torch.cat(parts, 1))
    agent, _ = inferring(target="embedding")
    torch.testing.assert_close(agent.task_target_of(tasks), agent.task_encoder(tasks))
    assert torch.equal(make_algorithm("algorithm=task_inference", "env=grid")[0].task_target_of(tasks), tasks)


# ---------------------------------------------------------------- every option, and resuming

CHANGES = {
    "task_inference": {
        "target": ("embedding",),
        "task_coefficient": ("0.1",),
        "warm_up_iterations": ("3",),
        "hard_reset": ("true",),
        "train_encoder_in_warm_up": ("false",),
    },
    "hyperx": {
        "novelty_coefficient": ("0.1",),
        "reward_error_coefficient": ("0.1",),
        "novelty_learning_rate": ("0.1",),
    },
    "multitask": {"oracle": ("task_id",)},
}
NEEDED = {"task_inference": ("algorithm.warm_up_iterations=1",)}


def learned(algorithm: str, *overrides: str):
    agent, env = make_algorithm("env=grid", f"algorithm={algorithm}", *NEEDED.get(algorithm, ()), *overrides)
    perturb(agent, 0.2)
    acting, updating = make_generator(0), make_generator(1)
    for _ in range(4):
        env.sample_tasks()
        agent.update(collect_trial(env, agent.behavior_policy, acting), 0.5, updating)
    return agent.policy.state_dict()


@pytest.mark.parametrize(("algorithm", "option"), [(a, o) for a, options in CHANGES.items() for o in options])
def test_every_option_changes_what_is_learnt(algorithm, option):
    assert same(learned(algorithm), learned(algorithm))
    assert not same(learned(algorithm), learned(algorithm, f"algorithm.{option}={CHANGES[algorithm][option][0]}"))


@pytest.mark.parametrize("algorithm", CHANGES)
def test_every_option_is_tried(algorithm):
    shared = "rl2" if algorithm == "multitask" else "varibad"
    own = config_of(f"algorithm={algorithm}")["algorithm"].keys() - config_of(f"algorithm={shared}")["algorithm"].keys()
    assert own <= set(CHANGES[algorithm])


RESUMED = {
    "task_inference": ("algorithm.warm_up_iterations=4", "algorithm.target=embedding", "algorithm.hard_reset=true"),
    "hyperx": (),
    "multitask": ("algorithm.oracle=belief",),
}


@pytest.mark.parametrize("algorithm", RESUMED)
def test_a_resumed_run_equals_the_uninterrupted_one(algorithm, tmp_path):
    sizes = ("training.total_steps=400", "training.eval_every=2", "eval.num_tasks=8", "eval.batch_size=8")
    config = small_config("env=grid", f"algorithm={algorithm}", *RESUMED[algorithm], *sizes, lanes=4)
    trainers = whole_and_resumed(config, tmp_path, stop_at=3)
    finish(trainers[1])
    assert same(*timeless_states(trainers))


# ---------------------------------------------------------------- bonuses


def test_bonuses_fade_out_and_shrink_where_one_has_been():
    agent, env = make_algorithm("algorithm=hyperx", "env=grid", "algorithm.novelty_learning_rate=1e-3", lanes=20)
    (rollout,) = collected(agent, env)
    states, belief = agent.hyperstates(rollout, {})
    bonuses = agent.bonuses(rollout, states, belief)
    early, late = (agent.scaled_bonus(bonuses, rollout.mask, progress) for progress in (0.25, 1.0))
    assert not late.any() and early.min() >= 0 and early.mean() > 0
    before = bonuses[0].mean()
    for _ in range(300):
        agent.learn_novelty(states, rollout.mask)
    assert agent.bonuses(rollout, states, belief)[0].mean() < 0.7 * before and agent.bonus_scales.count > 0
    given = agent.hyperstates(rollout, agent.extra_inputs(rollout))
    assert torch.equal(given[0], states) and torch.equal(given[1], belief)


def test_the_random_network_never_learns():
    own = ("num_vae_updates", "vae_learning_rate", "max_vae_gradient_norm")
    shared = ("algorithm.optimizer=shared", *(f"algorithm.{name}=null" for name in own))
    agent, env = make_algorithm("algorithm=hyperx", "env=grid", *shared)
    before = copy.deepcopy(agent.random_network.state_dict())
    agent.update(collected(agent, env), 0.0, make_generator(0))
    assert same(before, agent.random_network.state_dict())


def test_a2c_is_the_plain_policy_gradient():
    """The gradient of its one step: minus advantage times the gradient of the log-probability."""
    agent, env = make_algorithm(
        "algorithm=a2c", "env=tabular_mdp", "algorithm.num_epochs=1", "algorithm.num_minibatches=1"
    )
    perturb(agent, 0.2)
    batch = batch_of(agent, collected(agent, env)[0])
    output = agent.evaluate(batch)
    log_prob = agent.policy.distribution.log_prob(output.distribution_params, batch.action)
    plain = -(log_prob * batch.advantage).mean()
    parameters = list(agent.policy.memory.parameters())
    surrogate = agent.losses(batch, agent.evaluate(batch))["policy_loss"]
    for one, other in zip(
        torch.autograd.grad(plain, parameters), torch.autograd.grad(surrogate, parameters), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
