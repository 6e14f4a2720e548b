"""Checks of an algorithm: ratio one, exact resume, and decisions that depend on observations alone."""

import contextlib
import copy
import io
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from metarl.algorithms.base import Algorithm
from metarl.algorithms.gradient_adaptation import GradientAdaptation
from metarl.algorithms.policy_gradient import PolicyGradient
from metarl.checking.comparing import demand, demand_close, global_seed, perturb, same
from metarl.checking.outcomes import Check, NotApplicable
from metarl.checking.runs import FOREVER, run_until, timeless_states
from metarl.configuration.build import build_algorithm, build_env_factory
from metarl.envs.base import MetaEnv
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from metarl.trust import TYPED
from metarl.types import Rollout

ONE_STEP = ("num_epochs", "num_minibatches")  # of 1 each: an update whose first gradient step sees the whole trial


class Learner:
    """An algorithm to check.

    Args:
        config: resolved, small.
    """

    def __init__(self, config: dict):
        self.config = config

    def build(self, one_step: bool = False, **changes: Any) -> tuple[Algorithm, MetaEnv]:
        """An untrained agent and an environment for it, as the trainer would build them."""
        config = copy.deepcopy(self.config) | changes
        if one_step:
            config["algorithm"] |= {name: 1 for name in ONE_STEP if name in config["algorithm"]}
        algorithm, parts = build_algorithm(config, TYPED)
        return algorithm, parts.make_env(num_tasks=config["meta_batch_size"], seed=1)

    def moved(self) -> tuple[Algorithm, MetaEnv]:
        """An agent with perturbed weights whose update is one gradient step, and an environment for it."""
        algorithm, env = self.build(one_step=True)
        perturb(algorithm, 0.2)
        return algorithm, env


def collected(algorithm: Algorithm, env: MetaEnv, updates: int = 0, seed: int = 5) -> list[Rollout]:
    """A trial of new tasks, after some updates that leave every statistic of the learner non-trivial."""
    acting, updating = make_generator(seed, env.device), make_generator(seed + 1)
    for _ in range(updates):
        env.sample_tasks()
        algorithm.update(collect_trial(env, algorithm.behavior_policy, acting), 0.0, updating)
    env.sample_tasks()
    return collect_trial(env, algorithm.behavior_policy, acting)


# ---------------------------------------------------------------- ratio one


def has_ratio_one(learner: Learner) -> str | None:
    """Log-probabilities and values recomputed by ``update`` before its first step equal the stored ones."""
    algorithm, env = learner.moved()
    trial = collected(algorithm, env, updates=2)
    if isinstance(algorithm, GradientAdaptation):
        stages_equal_what_acted(algorithm, trial)
        algorithm.update(trial, 0.5, make_generator(0))
        return None
    if isinstance(algorithm, PolicyGradient):
        recomputed_equals_stored(algorithm, trial[-1])
    compared = first_log_probs_equal_stored(algorithm, trial)
    diagnostics = algorithm.update(trial, 0.5, make_generator(0))
    demand(diagnostics.get("clip_fraction", 0) == 0, f"clip_fraction={diagnostics.get('clip_fraction')} before a step")
    approx_kl = diagnostics.get("approx_kl", 0.0)
    demand(abs(approx_kl) < 1e-6, f"approx_kl={approx_kl} before a step")
    if not compared and not isinstance(algorithm, PolicyGradient):
        raise NotApplicable("update() asks no policy.distribution for log-probabilities of a whole trial")
    return None


def recomputed_equals_stored(algorithm: PolicyGradient, rollout: Rollout) -> None:
    """Log-probabilities and values that ``evaluate`` gives for a stored rollout."""
    twin = copy.deepcopy(algorithm)  # because ``_batch`` moves the statistics of returns
    batch = twin._batch(rollout, twin.extra_inputs(rollout))
    with torch.no_grad():
        output = algorithm.evaluate(batch)
    log_prob = algorithm.policy.distribution.log_prob(output.distribution_params, rollout.decision.action)
    mask, stored = rollout.mask, rollout.decision
    # Means far from zero are rounded so much more coarsely.
    size = max(1.0, output.distribution_params[mask].abs().max().item())
    demand_close(log_prob[mask], stored.log_prob[mask], "log-probabilities recomputed and stored", 1e-5 * size, 1e-5)
    scale = max(1.0, stored.value.abs().max().item())
    demand_close(output.value[mask], stored.value[mask], "values recomputed and stored", 1e-5 * scale, 1e-5)


def stages_equal_what_acted(algorithm: GradientAdaptation, trial: list[Rollout]) -> None:
    """The adapted policies of every stage are those that acted."""
    stages = algorithm.stages(trial)
    for number, stage in enumerate(stages):
        acted: Any = stage.behavior_params
        log_prob, mask = algorithm.policy.distribution.log_prob(acted, stage.action), stage.mask
        what = f"log-probabilities of stage {number} recomputed and stored"
        demand_close(log_prob[mask], stage.log_prob[mask], what, 1e-4, 1e-4)
    terms = algorithm.outer_terms(stages, clip=0.2)
    divergence = terms.divergence(terms.distribution_params).abs().max().item()
    demand(divergence < 1e-6, f"a divergence of {divergence} from the policies that acted, before a step")


class _FirstStep(Exception):
    """The first step of an optimiser is about to happen."""


@contextlib.contextmanager
def _until_first_step() -> Iterator[None]:
    """Ends what is inside where an optimiser is about to change weights."""

    def stop(*_: Any) -> None:
        raise _FirstStep

    hook = register_optimizer_step_pre_hook(stop)
    try:
        with contextlib.suppress(_FirstStep):
            yield
    finally:
        hook.remove()


def first_log_probs_equal_stored(algorithm: Algorithm, trial: list[Rollout]) -> bool:
    """Compare the log-probabilities that ``update`` computes before its first step; false if it computes none."""
    algorithm = copy.deepcopy(algorithm)
    distribution: Any = getattr(getattr(algorithm, "policy", None), "distribution", None)
    rollout = trial[-1]
    if distribution is None or not rollout.mask.all():
        return False
    asked: list[Tensor] = []
    original = distribution.log_prob

    def noting(parameters: Tensor, action: Tensor) -> Tensor:
        answer = original(parameters, action)
        asked.append(answer.detach())
        return answer

    distribution.log_prob = noting
    with _until_first_step():
        algorithm.update(trial, 0.5, make_generator(0))
    whole = [answer for answer in asked if answer.numel() == rollout.mask.numel()]
    for answer in whole[:1]:  # in any order of lanes
        found, expected = (part.flatten().sort().values for part in (answer, rollout.decision.log_prob))
        demand_close(found, expected, "log-probabilities that update() computes before its first step", 1e-4, 1e-4)
    return bool(whole)


# ---------------------------------------------------------------- learning


def learns_finite_numbers(learner: Learner) -> None:
    """An update changes weights, and leaves them and its diagnostics finite."""
    algorithm, env = learner.build()
    before = copy.deepcopy(algorithm.state_dict())
    diagnostics = algorithm.update(collected(algorithm, env), 0.0, make_generator(0))
    wrong = [name for name, value in diagnostics.items() if not math.isfinite(value)]
    demand(not wrong, f"diagnostics that are NaN or infinite: {', '.join(wrong)}")
    after = algorithm.state_dict()
    wrong = [name for name, value in after.items() if value.is_floating_point() and not value.isfinite().all()]
    demand(not wrong, f"weights that are NaN or infinite after an update: {', '.join(wrong)}")
    demand(any(not same(before[name], after[name]) for name in before), "an update changed no weight")


def leaves_trials_and_randomness_alone(learner: Learner) -> None:
    """An update changes neither the trial it learns from nor global generators."""
    algorithm, env = learner.moved()
    trial = collected(algorithm, env)
    saved, state = copy.deepcopy(trial), torch.get_rng_state()
    algorithm.update(trial, 0.3, make_generator(0))
    demand(same(trial, saved), "update() changed the trial it was given")
    demand(torch.equal(torch.get_rng_state(), state), "update() drew from the global generator of torch")


def repeats_under_a_seed(learner: Learner) -> None:
    """Equal seeds train equal weights, whatever the state of the global generators."""

    def trained(seed: int, disturbed: int) -> tuple[dict, dict]:
        with global_seed(disturbed):
            algorithm, env = learner.build(seed=seed)
            initial = copy.deepcopy(algorithm.state_dict())
        with global_seed(disturbed):  # which building has set
            algorithm.update(collected(algorithm, env), 0.0, make_generator(0))
            return initial, algorithm.state_dict()

    (initial, first), (other_initial, again), (_, second) = trained(0, 1), trained(0, 2), trained(1, 1)
    demand(same(initial, other_initial), DEPENDENT)
    demand(same(first, again), "the same seeds trained other weights")
    demand(not same(first, second), "seeds 0 and 1 trained the same weights")


def acts_without_the_task(learner: Learner) -> None:
    """Actions do not change if only the description of the task does."""
    algorithm, env = learner.moved()
    if getattr(getattr(algorithm, "policy", None), "context_dim", None) is not None:
        raise NotApplicable("the policy receives the task description")
    generators = [make_generator(0, env.device), make_generator(0, env.device)]
    tasks = env.sample_tasks()
    other = tasks.select(torch.arange(len(tasks), device=env.device).roll(1))
    states = [algorithm.initial_state(given) for given in (tasks, other)]
    rollout = collect_trial(env, algorithm, make_generator(1, env.device))[0]
    for t in range(len(rollout.reward)):
        row = type(rollout.timestep)(*(part[t] for part in rollout.timestep))
        actions = []
        for index in (0, 1):
            with torch.no_grad():
                decision, states[index] = algorithm.act(row, states[index], generators[index])
            actions.append(decision.action)
        demand(torch.equal(*actions), f"the action of step {t} depends on the description of the task")


DEPENDENT = "initial weights depend on global generators"
DECIDED = ("action", "log_prob", "value")


def keeps_lanes_apart(learner: Learner) -> None:
    """Another task in lane 0, under the same noise, leaves actions and rewards of the other lanes unchanged."""
    env, before, after = trials_with_another_task(learner)
    others = torch.arange(env.lanes_per_task, env.num_lanes, device=env.device)
    for left, right in zip(before, after, strict=True):
        steps = min(len(left.reward), len(right.reward))
        mask = left.mask[:steps, others]
        pairs = {"reward": (left.reward, right.reward)}
        pairs |= {name: (getattr(left.decision, name), getattr(right.decision, name)) for name in DECIDED}
        for name, parts in pairs.items():
            expected, found = (part[:steps, others][mask] for part in parts)
            demand_close(found, expected, f"{name} of other lanes, after another task in lane 0", 1e-6, 1e-6)


@lru_cache(maxsize=1)
def trials_with_another_task(learner: Learner) -> tuple[MetaEnv, list[Rollout], list[Rollout]]:
    """Two trials of the same tasks and noise, but for the task of lane 0; and their environment."""
    algorithm, env = learner.moved()
    tasks = env.sample_tasks().select(slice(None, None, env.lanes_per_task))
    differing = (tasks.description != tasks.description[0]).any(1).nonzero()
    if len(differing) == 0:
        raise NotApplicable(f"{len(tasks)} tasks that were drawn are the same; raise meta_batch_size")

    def lived(first_task: int) -> list[Rollout]:
        fresh = build_env_factory(learner.config, trust=TYPED)(num_tasks=learner.config["meta_batch_size"], seed=1)
        order = torch.arange(len(tasks), device=env.device)
        order[0] = first_task
        fresh.set_tasks(tasks.select(order))
        return collect_trial(fresh, algorithm, make_generator(0, env.device))

    return env, lived(0), lived(int(differing[0]))


# ---------------------------------------------------------------- resume


def resumes_exactly(learner: Learner) -> None:
    """Stopped after an iteration and resumed from its checkpoint, a run equals one that was left alone."""
    config = copy.deepcopy(learner.config) | {"logger": {}}
    config["training"] |= {"total_steps": FOREVER, "checkpoint_every": 1, "eval_every": 0}
    silence = contextlib.redirect_stderr(io.StringIO())  # no bars of progress
    with TemporaryDirectory(prefix="metarl-check-") as folder, silence:
        interrupted_equals_uninterrupted(config, Path(folder))


def interrupted_equals_uninterrupted(config: dict, folder: Path, iterations: int = 3) -> None:
    """An interrupted run equals an uninterrupted one; both stay in ``folder``, as ``pieces`` and ``whole``."""
    with global_seed(0):
        whole = run_until(config, folder / "whole", iterations)
    for until in (1, iterations):
        with global_seed(until):  # which differ from process to process
            pieces = run_until(config, folder / "pieces", until)
    left, right = timeless_states([whole, pieces])
    wrong = [name for name in left if not same(left[name], right[name])]
    demand(not wrong, f"after a resume differ: {', '.join(wrong)}")


LEARNER_CHECKS = (
    Check(
        "it can be built and learns finite numbers", learns_finite_numbers, "correct what raised the error", needed=True
    ),
    Check(
        "ratio one: recomputed equals stored",
        has_ratio_one,
        "compute log-probabilities and values in update() as act() does: from the initial carry, on the same inputs",
    ),
    Check("lanes do not interact", keeps_lanes_apart, "keep the state of every lane apart in act() and adapt()"),
    Check("actions do not depend on the task's description", acts_without_the_task, "look at tasks in update() alone"),
    Check(
        "an update leaves trial and global randomness alone",
        leaves_trials_and_randomness_alone,
        "write to copies; draw from the generator that update() is given",
    ),
    Check(
        "the same seed trains the same weights",
        repeats_under_a_seed,
        "draw from the generators that act() and update() are given",
    ),
    Check(
        "interrupted equals uninterrupted",
        resumes_exactly,
        "return optimisers, buffers and counters in training_state(), and take them back in load_training_state()",
    ),
)
