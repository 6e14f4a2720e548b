"""Meta-optimizers: how gradient-based adaptation learns the parameters that all tasks start from.

Every outer step minimises the mean over tasks of a surrogate of the adapted policies, ``OuterTerms.loss``:

    vpg, ppo       Adam along the gradient of the surrogate, once, or several times with clipped ratios
                   (Schulman et al. 2017, arXiv 1707.06347)
    trpo           g: gradient of the surrogate; F: Hessian of the mean KL divergence    (FisherVectorProduct)
                   solve F x = g by conjugate gradients                                  (conjugate_gradients)
                   step x sqrt(2 max_kl / x'Fx), backtracking line search                (TrustRegion._search)
                   (Schulman et al. 2015, arXiv 1502.05477, section 6 and appendix C)
    best_iterate   as ppo, keeping the best iterate within a KL divergence (Lan et al. 2019)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, NamedTuple, Protocol

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from metarl import parallel
from metarl.algorithms.samples import Samples


class OuterTerms(NamedTuple):
    """Objective of an outer step for each task, ``[N]``, and the action distributions of the adapted policies."""

    loss: Tensor  # to minimise
    parts: dict[str, Tensor]  # for the logs
    distribution_params: Tensor  # [N, M, ...] at the M samples of the query
    divergence: Callable[[Tensor], Tensor]  # KL from the behavior policies, given distribution_params; [N] in nats


class Learner(Protocol):
    """Method whose outer objective a meta-optimizer minimises."""

    def chunks(self, samples: Samples) -> Iterator[slice]:
        """Tasks to compute together, chunk by chunk."""

    def outer_terms(self, stages: list[Samples], clip: float | None, differentiable: bool = True) -> OuterTerms:
        """Outer objective for every task, from its samples at every stage."""


class MetaOptimizer(ABC):
    """Optimizer of the parameters that all tasks start from.

    Args:
        parameters: meta-parameters to optimise.
    """

    clip: float | None = None
    supports_critic = True  # whether its steps suit the loss of a critic, too

    def __init__(self, parameters: list[nn.Parameter]):
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]

    @abstractmethod
    def step(self, learner: Learner, stages: list[Samples]) -> dict[str, float]:
        """Learn from the samples of all tasks at every stage; returns diagnostics."""

    @abstractmethod
    def state_dict(self) -> dict:
        """State that a resumed run needs."""

    @abstractmethod
    def load_state_dict(self, state: dict) -> None:
        """Continue from a ``state_dict``."""

    def terms(
        self, learner: Learner, stages: list[Samples], use: Callable[[OuterTerms, float], None] | None
    ) -> dict[str, float]:
        """Means of loss, KL divergence and parts over the tasks of all processes.

        ``use`` is called with the terms of each chunk of local tasks, and the weight of a task in the mean.
        """
        count = parallel.world_size() * len(stages[0].mask)
        totals: dict[str, float] = {}
        for tasks in learner.chunks(stages[0]):
            chosen = [stage.select(tasks) for stage in stages]
            found = learner.outer_terms(chosen, self.clip, differentiable=use is not None)
            if use is not None:
                use(found, 1 / count)
            kl = found.divergence(found.distribution_params.detach())
            for name, value in {"loss": found.loss, "kl": kl, **found.parts}.items():
                totals[name] = totals.get(name, 0.0) + value.detach().sum().item() / count
        means = parallel.all_reduce_sum(torch.tensor(list(totals.values()), dtype=torch.double))
        return dict(zip(totals, means.tolist(), strict=True))


class AdamSurrogate(MetaOptimizer):
    """Adam on the surrogate: one step (the plain policy gradient), or several with clipped ratios (PPO).

    Args:
        parameters: see ``MetaOptimizer``.
        learning_rate: Adam's learning rate.
        num_steps: number of steps on the same samples.
        clip: range of the probability ratio; null leaves it.
        max_gradient_norm: gradients are scaled down to this norm; null leaves them.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        *,
        learning_rate: PositiveFloat,
        num_steps: PositiveInt,
        clip: PositiveFloat | None,
        max_gradient_norm: PositiveFloat | None,
    ):
        super().__init__(parameters)
        self.learning_rate, self.num_steps = learning_rate, num_steps
        self.clip, self.max_gradient_norm = clip, max_gradient_norm
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate, fused=True)

    def step(self, learner, stages):
        logs: dict[str, float] = {}
        for _ in range(self.num_steps):
            self.optimizer.zero_grad(set_to_none=True)
            logs = self.gradients(learner, stages)
            logs["gradient_norm"] = self.optimizer_step()
        return logs | {"learning_rate": self.learning_rate}

    def optimizer_step(self) -> float:
        """Step along the gradients and return their norm; no step if it is not finite: Adam's moments would keep it."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_gradient_norm or float("inf"))
        if norm.isfinite():
            self.optimizer.step()
        return norm.item()

    def gradients(self, learner: Learner, stages: list[Samples]) -> dict[str, float]:
        """Compute the gradient of the mean loss over all tasks; returns the terms."""
        logs = self.terms(learner, stages, _backward)
        parallel.all_reduce_gradients(self.parameters)
        return logs

    def state_dict(self):
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state["optimizer"])


class BestIterate(AdamSurrogate):
    """Adam on clipped ratios that keeps the best iterate (Lan et al. 2019).

    The best iterate has the lowest policy loss within a KL divergence; Adam's moments stay those of the last iterate.

    Args:
        parameters: see ``MetaOptimizer``.
        max_kl: KL divergence from the adapted behavior policies, mean over tasks, in nats.
        inherited: see ``AdamSurrogate``; no step follows the last of ``num_steps`` evaluations.
    """

    def __init__(self, parameters: list[nn.Parameter], *, max_kl: PositiveFloat, **inherited):
        super().__init__(parameters, **inherited)
        self.max_kl = max_kl

    def step(self, learner, stages):
        first: dict[str, float] = {}
        best: dict[str, float] = {}
        norm: dict[str, float] = {}
        chosen = nn.utils.parameters_to_vector(self.parameters).detach().clone()
        for index in range(self.num_steps):
            self.optimizer.zero_grad(set_to_none=True)
            logs = self.gradients(learner, stages)
            first = first or logs
            if logs["kl"] < self.max_kl and (not best or logs["policy_loss"] < best["policy_loss"]):
                best = logs | {"chosen_step": float(index)}
                chosen = nn.utils.parameters_to_vector(self.parameters).detach().clone()
            if index + 1 < self.num_steps:
                norm = {"gradient_norm": self.optimizer_step()}
                if not math.isfinite(norm["gradient_norm"]):
                    break  # no step was taken, so further ones would repeat it
        with torch.no_grad():
            nn.utils.vector_to_parameters(chosen, self.parameters)
        return (best or first | {"chosen_step": 0.0}) | norm | {"learning_rate": self.learning_rate}


def _backward(found: OuterTerms, weight: float) -> None:
    (weight * found.loss.sum()).backward()


class TrustRegion(MetaOptimizer):
    """Natural gradient step of a given KL divergence, by conjugate gradients and a backtracking line search.

    Args:
        parameters: see ``MetaOptimizer``.
        max_kl: KL divergence from the adapted behavior policies, mean over tasks, in nats.
        num_cg_steps: number of steps of the conjugate gradients.
        damping: multiple of the identity that is added to the Hessian.
        max_backtracks: number of step lengths to try; if none improves the loss within ``max_kl``, no step is taken.
        backtrack_ratio: length of a step relative to the one tried before.
    """

    supports_critic = False  # a KL divergence between policies does not bound the step of a critic

    def __init__(
        self,
        parameters: list[nn.Parameter],
        *,
        max_kl: PositiveFloat,
        num_cg_steps: PositiveInt,
        damping: NonNegativeFloat,
        max_backtracks: PositiveInt,
        backtrack_ratio: Annotated[float, Field(gt=0, lt=1)],
    ):
        super().__init__(parameters)
        self.max_kl, self.num_cg_steps, self.damping = max_kl, num_cg_steps, damping
        self.max_backtracks, self.backtrack_ratio = max_backtracks, backtrack_ratio

    def step(self, learner, stages):
        gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        curvatures: list[FisherVectorProduct] = []

        def differentiate(found: OuterTerms, weight: float) -> None:
            own = torch.autograd.grad(
                weight * found.loss.sum(), self.parameters, retain_graph=True, materialize_grads=True
            )
            for total, gradient in zip(gradients, own, strict=True):
                total.add_(gradient)
            curvatures.append(FisherVectorProduct(found, weight, self.parameters))

        before = self.terms(learner, stages, differentiate)
        gradient = parallel.all_reduce_sum(_flat(gradients))

        def curvature(vector: Tensor) -> Tensor:
            total = torch.stack([of_chunk(vector) for of_chunk in curvatures]).sum(0)
            return parallel.all_reduce_sum(total) + self.damping * vector

        direction = conjugate_gradients(curvature, gradient, self.num_cg_steps)
        length = (2 * self.max_kl / (direction @ curvature(direction)).clamp(min=1e-12)).sqrt()
        before["gradient_norm"] = gradient.norm().item()
        return before | self._search(learner, stages, before["loss"], length * direction)

    @torch.no_grad()
    def _search(self, learner: Learner, stages: list[Samples], before: float, step: Tensor) -> dict[str, float]:
        start = nn.utils.parameters_to_vector(self.parameters)
        for attempt in range(self.max_backtracks):
            share = self.backtrack_ratio**attempt
            nn.utils.vector_to_parameters(start - share * step, self.parameters)
            after = self.terms(learner, stages, None)
            if after["loss"] < before and after["kl"] <= self.max_kl:
                return {"step_share": share, "kl": after["kl"], "improvement": before - after["loss"]}
        nn.utils.vector_to_parameters(start, self.parameters)
        return {"step_share": 0.0, "kl": 0.0, "improvement": 0.0}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class FisherVectorProduct:
    """Product of a vector with the Hessian of a weighted KL divergence from the behavior policies, at these policies.

    The gradient of the divergence by the action distributions is zero there, so the Hessian is J' F J: J is the
    Jacobian of the distributions by the parameters, through adaptation; F the Hessian by the distributions (Schulman et
    al. 2015, appendix C.1). This is exact, and cheaper than differentiating a gradient that went through adaptation.
    J v is the gradient of J' u by u, which is linear in u.

    Args:
        found: terms with their graph.
        weight: weight of every task.
        parameters: parameters whose flat concatenation has the vector's shape.
    """

    def __init__(self, found: OuterTerms, weight: float, parameters: list[nn.Parameter]):
        self.parameters, self.distribution_params = parameters, found.distribution_params
        self.cotangent = torch.zeros_like(found.distribution_params, requires_grad=True)
        self.vjp = torch.autograd.grad(
            found.distribution_params, parameters, self.cotangent, create_graph=True, materialize_grads=True
        )
        self.at = found.distribution_params.detach().requires_grad_()
        divergence = weight * found.divergence(self.at).sum()
        (self.gradient,) = torch.autograd.grad(divergence, self.at, create_graph=True)

    def __call__(self, vector: Tensor) -> Tensor:
        """Product with a flat vector."""
        sizes = [parameter.numel() for parameter in self.parameters]
        parts = [v.view_as(p) for v, p in zip(vector.split(sizes), self.parameters, strict=True)]
        (tangent,) = torch.autograd.grad(self.vjp, self.cotangent, parts, retain_graph=True)
        (cotangent,) = torch.autograd.grad(self.gradient, self.at, tangent, retain_graph=True)
        return _flat(
            torch.autograd.grad(
                self.distribution_params, self.parameters, cotangent, retain_graph=True, materialize_grads=True
            )
        )


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Tensor, steps: int, tolerance: float = 1e-10
) -> Tensor:
    """Approximate x with ``product(x) = target``, for a symmetric positive definite map (Hestenes & Stiefel 1952).

    Ends after ``steps``, or once the squared residual is ``tolerance`` times the square of ``target``.
    """
    solution, residual = torch.zeros_like(target), target.clone()
    direction, size = residual.clone(), residual @ residual
    enough = tolerance * size
    for _ in range(steps):
        if size <= enough:
            break
        mapped = product(direction)
        step = size / (direction @ mapped)
        solution = solution + step * direction
        residual = residual - step * mapped
        size, previous = residual @ residual, size
        direction = residual + (size / previous) * direction
    return solution
