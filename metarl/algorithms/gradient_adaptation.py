"""Gradient-based adaptation: base of MAML-type methods (Finn et al. 2017, arXiv 1703.03400).

theta: parameters that all tasks start from; theta_k: parameters of one task after k inner steps, stacked over tasks.

    theta_0 = theta                                             (initial_state; expand_per_task)
    for k = 0 .. K - 1, in every task:
        collect support episodes with theta_k                   (act)
        theta_k+1 = theta_k - alpha grad L_inner(theta_k)       (adapt; inner_gradients, sgd_step)
    collect query episodes with theta_K                         (act)
    minimise over theta the mean of L_outer(theta_K)            (update; MetaOptimizer.step)
        recomputing theta_1 .. theta_K from theta               (adapted_parameters)
        L_outer: surrogate, entropy, critic, auxiliary losses   (outer_terms, auxiliary_losses)
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor
from torch.func import functional_call

from metarl import parallel
from metarl.algorithms.base import Algorithm
from metarl.algorithms.meta_optimizers import MetaOptimizer, OuterTerms
from metarl.algorithms.per_task import Parameters, check_policy, clipped, expand_per_task, joined, magic_box
from metarl.algorithms.policy_gradient import UnitInterval
from metarl.algorithms.samples import AdvantageConfig, Baseline, Samples, make_samples
from metarl.envs.base import MetaEnv
from metarl.models.features import OneHot
from metarl.models.heads import HeadOutput
from metarl.models.policy import Policy
from metarl.tree import tree_map
from metarl.types import Decision, Rollout, Tasks, Timestep

InnerLoss = Literal["log_likelihood", "likelihood_ratio", "dice"]
MAX_BATCHED_SAMPLES = 1000  # samples of a task from which tasks are faster one after the other on a CPU
Context = dict[str, Tensor]  # further inputs of a method for each task, [N, ...]


class AdaptedState(NamedTuple):
    """Parameters of every task, and further inputs of a method, ``[N, ...]`` each."""

    parameters: Parameters
    context: Context


class GradientAdaptation(Algorithm):
    """A policy without memory, whose parameters adapt to each task by gradient steps on support rollouts.

    A trial has ``num_inner_steps`` support rollouts and the query; in each of them every lane plays
    ``env.num_episodes`` episodes. ``lanes_per_task`` lanes gather the samples of a task together.

    Args:
        meta_optimizer: builds the optimizer of the outer steps, see ``metarl.algorithms.meta_optimizers``.
        num_inner_steps: number of gradient steps, each on a rollout of its own.
        inner_learning_rate: step size (its initial value, where it is learned).
        inner_loss: ``log_likelihood`` times advantage; the ``likelihood_ratio`` to the behavior policy times advantage,
            with the same gradient and a second derivative that includes the sampling (Rothfuss et al. 2019); or
            ``dice``, unbiased in all derivatives but noisier (Foerster et al. 2018), which uses discounted rewards
            minus a time baseline instead of advantages in the inner loss.
        max_inner_gradient_norm: the gradient of each task is scaled down to this norm; null leaves it.
        first_order: inner gradients are treated as constants (first-order MAML), computed once from the behavior
            policies.
        discount, gae_lambda, baseline, standardize_advantages, bootstrap: see ``AdvantageConfig``.
        entropy_coefficient: weight of the entropy of the adapted policy, in the outer loss.
        value_coefficient: weight of the critic's loss, in the inner and the outer loss, where the baseline is a
            network; not with a trust region.
        tasks_per_chunk: number of tasks whose gradients are computed together; null: one task at a time on a CPU if it
            has many samples, otherwise all.

    Raises:
        ValueError: options exclude each other.
    """

    uses_memory = False

    def __init__(
        self,
        *,
        meta_optimizer: Callable[..., MetaOptimizer],
        num_inner_steps: PositiveInt = 1,
        inner_learning_rate: PositiveFloat = 0.1,
        inner_loss: InnerLoss = "log_likelihood",
        max_inner_gradient_norm: PositiveFloat | None = None,
        first_order: bool = False,
        discount: UnitInterval = 0.99,
        gae_lambda: UnitInterval = 1.0,
        baseline: Baseline = "linear",
        standardize_advantages: bool = True,
        bootstrap: bool = False,
        entropy_coefficient: NonNegativeFloat = 0.0,
        value_coefficient: NonNegativeFloat = 0.5,
        tasks_per_chunk: PositiveInt | None = None,
    ):
        super().__init__()
        if bootstrap and baseline != "linear":
            raise ValueError(f"algorithm.bootstrap=true: algorithm.baseline={baseline} gives no value; use linear")
        if inner_loss == "dice" and first_order:
            raise ValueError("algorithm.inner_loss=dice: differentiates twice; use algorithm.first_order=false")
        self.make_meta_optimizer, self.num_inner_steps = meta_optimizer, num_inner_steps
        self.inner_learning_rate, self.inner_loss = inner_learning_rate, inner_loss
        self.max_inner_gradient_norm, self.first_order = max_inner_gradient_norm, first_order
        self.advantage_config = AdvantageConfig(discount, gae_lambda, baseline, standardize_advantages, bootstrap)
        self.entropy_coefficient = entropy_coefficient
        self.value_coefficient = value_coefficient if baseline == "network" else 0.0
        self.tasks_per_chunk = tasks_per_chunk

    def setup(self, env: MetaEnv, model: Callable[..., Policy]) -> None:
        self.lanes_per_task = env.lanes_per_task
        self.rollouts = (env.num_episodes,) * (self.num_inner_steps + 1)
        self.observed = OneHot(env.observation_space)
        self.policy = self.build_policy(env, model)
        check_policy(self.policy, type(self).__name__)
        self.build_auxiliary_modules(env)
        self.meta_optimizer = self.make_meta_optimizer(list(self.parameters()))
        if self.advantage_config.baseline == "network" and not self.meta_optimizer.supports_critic:
            raise ValueError(
                "algorithm.baseline=network: a trust region bounds no step of a critic; use meta_optimizer=ppo"
            )

    # ------------------------------------------------------------ hooks of methods

    def build_policy(self, env: MetaEnv, model: Callable[..., Policy]) -> Policy:
        """The policy for an environment."""
        return model(env.spec)

    def build_auxiliary_modules(self, env: MetaEnv) -> None:
        """Build further modules of a method; the policy exists already."""

    def inner_parameters(self) -> Parameters:
        """Initial values of the parameters that adapt."""
        critic = self.advantage_config.baseline == "network"
        named = self.policy.named_parameters()
        return {name: value for name, value in named if critic or "value_head" not in name}

    def step_size(self, name: str) -> Tensor | float:
        """Size of the inner steps for one parameter."""
        return self.inner_learning_rate

    def auxiliary_losses(self, path: list[Parameters], stages: list[Samples]) -> dict[str, tuple[float, Tensor]]:
        """Further terms of the outer loss by name: weight, and loss ``[N]`` given the parameters at every stage."""
        return {}

    def encode_context(self, parameters: Parameters, context: Context) -> Context:
        """The context with the entries that depend only on the parameters, not on the sample, computed."""
        return context

    def output(self, parameters: Parameters, timestep: Timestep, context: Context) -> HeadOutput:
        """Output of each task's policy at its samples, ``[N, M, ...]``."""
        return functional_call(self.policy, parameters, (timestep, ((),), timestep.first))[0]

    # ------------------------------------------------------------ acting and adapting

    def initial_state(self, tasks: Tasks) -> AdaptedState:
        count = len(tasks) // self.lanes_per_task
        return AdaptedState(expand_per_task(self.inner_parameters(), count), {})

    def act(
        self, timestep: Timestep, state: AdaptedState, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, AdaptedState]:
        per_task = tree_map(lambda part: part.unflatten(0, (-1, self.lanes_per_task)), timestep)  # [N, lanes, ...]
        output = self.output(state.parameters, per_task, state.context)
        params, distribution = output.distribution_params.flatten(0, 1), self.policy.distribution  # [B, ...]
        action = distribution.mode(params) if greedy else distribution.sample(params, generator)
        return Decision(action, distribution.log_prob(params, action), output.value.flatten()), state

    def adapt(self, state: AdaptedState, rollout: Rollout) -> AdaptedState:
        return self._inner_update(state, self.samples(rollout))

    def _inner_update(self, state: AdaptedState, samples: Samples) -> AdaptedState:
        """State after one gradient step of every task."""
        parts = []
        for tasks in self.chunks(samples):
            own = {name: value[tasks] for name, value in state.parameters.items()}
            parts.append(self.inner_gradients(own, samples.select(tasks), second_order=False))
        return state._replace(parameters=self.sgd_step(state.parameters, joined(parts)))

    def sgd_step(self, parameters: Parameters, gradients: Parameters) -> Parameters:
        """Parameters after a gradient step of every task."""
        return {name: value - self.step_size(name) * gradients[name] for name, value in parameters.items()}

    def inner_gradients(self, parameters: Parameters, samples: Samples, second_order: bool) -> Parameters:
        """Gradients of every task's inner loss; constants unless ``second_order``."""
        with torch.enable_grad():
            at = parameters
            if not second_order:
                at = {name: value.detach().requires_grad_() for name, value in parameters.items()}
            loss = self._inner_loss(at, samples).sum()  # tasks are independent: the gradient of each is its own
            every = list(at.values())
            gradients = list(torch.autograd.grad(loss, every, create_graph=second_order, materialize_grads=True))
        if self.max_inner_gradient_norm is not None:
            gradients = clipped(gradients, self.max_inner_gradient_norm)
        return dict(zip(at, gradients, strict=True))

    def _inner_loss(self, parameters: Parameters, samples: Samples) -> Tensor:
        """Inner loss of every task, ``[N]``."""
        output = self.output(parameters, samples.timestep, samples.context)
        log_prob = self.policy.distribution.log_prob(output.distribution_params, samples.action)
        match self.inner_loss:
            case "log_likelihood":
                loss = -samples.mean(log_prob * samples.advantage)
            case "likelihood_ratio":
                loss = -samples.mean((log_prob - samples.log_prob).exp() * samples.advantage)
            case "dice":
                loss = -samples.mean(magic_box(log_prob, samples) * samples.centered_reward)
        return loss + self.critic_loss(output, samples)

    def critic_loss(self, output: HeadOutput, samples: Samples) -> Tensor:
        """Weighted loss of the critic of every task, ``[N]``; 0 unless the baseline is a network."""
        if self.value_coefficient == 0:
            return torch.zeros(len(samples.mask), device=samples.mask.device)
        return self.value_coefficient * samples.mean(0.5 * (output.value - samples.returns).square())

    # ------------------------------------------------------------ learning

    def update(self, trial: list[Rollout], progress: float, generator: Generator) -> dict[str, float]:
        if parallel.world_size() > 1:  # whole tasks, equally many per process
            trial = [rollout.select(parallel.local_shard(rollout.mask)) for rollout in trial]
        stages = self.stages(trial)
        return self.meta_optimizer.step(self, stages) | self.after_step(stages)

    def after_step(self, stages: list[Samples]) -> dict[str, float]:
        """Further steps of a method after the outer step; returns diagnostics."""
        return {}

    def stages(self, trial: list[Rollout]) -> list[Samples]:
        """Samples of the support rollouts and the query, with the behavior policies (``cache_behavior_policy``)."""
        return self.cache_behavior_policy([self.samples(rollout) for rollout in trial])

    @torch.no_grad()
    def cache_behavior_policy(self, stages: list[Samples]) -> list[Samples]:
        """Stages with their behavior policies, and for first-order methods with their inner gradients.

        Valid only before the first outer step, while the parameters are still those of acting.
        """
        behavior: list[list[Tensor]] = [[] for _ in stages]
        gradients: list[list[Parameters]] = [[] for _ in stages[:-1]]
        for tasks in self.chunks(stages[0]):
            chosen = [stage.select(tasks) for stage in stages]
            parameters = expand_per_task(self.inner_parameters(), len(chosen[0].mask))
            for place, stage in enumerate(chosen):
                behavior[place].append(self.output(parameters, stage.timestep, stage.context).distribution_params)
                if place < len(gradients):
                    gradients[place].append(self.inner_gradients(parameters, stage, second_order=False))
                    parameters = self.sgd_step(parameters, gradients[place][-1])
        found = [
            stage._replace(behavior_params=torch.cat(parts)) for stage, parts in zip(stages, behavior, strict=True)
        ]
        if self.first_order:
            support = [stage._replace(gradients=joined(parts)) for stage, parts in zip(found, gradients, strict=False)]
            found = [*support, found[-1]]
        return found

    def samples(self, rollout: Rollout) -> Samples:
        """Samples of every task in a rollout."""
        return make_samples(rollout, self.lanes_per_task, self.advantage_config, self.observed)

    def chunks(self, samples: Samples) -> Iterator[slice]:
        """Tasks to compute together, chunk by chunk."""
        count, size = samples.mask.shape
        together = self.tasks_per_chunk or self.default_chunk_size(count, size, samples.mask.device)
        return (slice(start, min(start + together, count)) for start in range(0, count, together))

    def default_chunk_size(self, count: int, size: int, device: torch.device) -> int:
        """Number of tasks per chunk that is fastest for ``count`` tasks of ``size`` samples each."""
        return 1 if size >= MAX_BATCHED_SAMPLES and device.type == "cpu" else count

    def adapted_parameters(self, stages: list[Samples], second_order: bool) -> list[Parameters]:
        """Parameters of the tasks at every stage, theta_0 to theta_K."""
        path = [expand_per_task(self.inner_parameters(), len(stages[0].mask))]
        for support in stages[:-1]:
            gradients = support.gradients or self.inner_gradients(path[-1], support, second_order)
            path.append(self.sgd_step(path[-1], gradients))
        return path

    def outer_terms(self, stages: list[Samples], clip: float | None, differentiable: bool = True) -> OuterTerms:
        """Outer objective of every task."""
        path = self.adapted_parameters(stages, differentiable and not self.first_order)
        query, distribution = stages[-1], self.policy.distribution
        query = query._replace(context=self.encode_context(path[-1], query.context))
        output = self.output(path[-1], query.timestep, query.context)
        log_ratio = distribution.log_prob(output.distribution_params, query.action) - query.log_prob
        surrogate = log_ratio.exp() * query.advantage
        if clip is not None:
            surrogate = torch.minimum(surrogate, log_ratio.exp().clamp(1 - clip, 1 + clip) * query.advantage)
        losses = {"policy_loss": -query.mean(surrogate)}
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.entropy_coefficient > 0):
            losses["entropy"] = query.mean(distribution.entropy(output.distribution_params))
        total = losses["policy_loss"] - self.entropy_coefficient * losses["entropy"] + self.critic_loss(output, query)
        for name, (weight, loss) in self.auxiliary_losses(path, [*stages[:-1], query]).items():
            losses[name] = loss
            total = total + weight * loss

        def divergence(parameters: Tensor) -> Tensor:
            assert query.behavior_params is not None
            return query.mean(distribution.kl(query.behavior_params, parameters))

        return OuterTerms(total, losses, output.distribution_params, divergence)

    def training_state(self) -> dict:
        return {"meta_optimizer": self.meta_optimizer.state_dict()}

    def load_training_state(self, state: dict) -> None:
        self.meta_optimizer.load_state_dict(state["meta_optimizer"])
