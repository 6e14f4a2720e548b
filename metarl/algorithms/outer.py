"""Outer steps of gradient-based adaptation: Adam on a surrogate, or a trust region (TRPO, Schulman et al. 2015)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from metarl import parallel
from metarl.algorithms.samples import Samples

if TYPE_CHECKING:
    from metarl.algorithms.gradient_adaptation import GradientAdaptation, OuterTerms


class Outer(ABC):
    """Changes what all tasks start from.

    Args:
        parameters: what it may change.
    """

    clip: float | None = None
    takes_a_critic = True  # whether steps suit the loss of a critic, too

    def __init__(self, parameters: list[nn.Parameter]):
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]

    @abstractmethod
    def step(self, learner: "GradientAdaptation", stages: list[Samples]) -> dict[str, float]:
        """Learn from the samples of all tasks at every stage; returns diagnostics."""

    @abstractmethod
    def state_dict(self) -> dict:
        """What a resumed run needs."""

    @abstractmethod
    def load_state_dict(self, state: dict) -> None:
        """Go on from ``state_dict``."""

    def terms(
        self, learner: "GradientAdaptation", stages: list[Samples], use: Callable[["OuterTerms", float], None] | None
    ) -> dict[str, float]:
        """Means over the tasks of all processes; ``use`` is given the terms of each chunk of those of this process, and
        the weight of a task in the mean."""
        count = parallel.count() * len(stages[0].mask)
        totals: dict[str, float] = {}
        for tasks in learner.chunks(stages[0]):
            chosen = [stage.select(tasks) for stage in stages]
            found = learner.outer_terms(chosen, self.clip, differentiable=use is not None)
            if use is not None:
                use(found, 1 / count)
            kl = found.divergence(found.parameters.detach())
            for name, value in {"loss": found.loss, "kl": kl, **found.parts}.items():
                totals[name] = totals.get(name, 0.0) + value.detach().sum().item() / count
        return dict(
            zip(totals, parallel.summed(torch.tensor(list(totals.values()), dtype=torch.double)).tolist(), strict=True)
        )


class AdamSurrogate(Outer):
    """Adam on the surrogate: once, which is the plain policy gradient, or several times with clipped ratios (PPO).

    Args:
        parameters: see ``Outer``.
        learning_rate: Adam's.
        num_steps: on the same samples.
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
        self.num_steps, self.clip, self.max_gradient_norm = num_steps, clip, max_gradient_norm
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate, fused=True)

    def step(self, learner, stages):
        logs: dict[str, float] = {}
        for _ in range(self.num_steps):
            self.optimizer.zero_grad(set_to_none=True)
            logs = self.gradients(learner, stages)
            logs["gradient_norm"] = self.move()
        return logs

    def move(self) -> float:
        """A step along the gradients, unless one is no number: then moments would be none ever after. Their norm."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_gradient_norm or float("inf"))
        if norm.isfinite():
            self.optimizer.step()
        return norm.item()

    def gradients(self, learner: "GradientAdaptation", stages: list[Samples]) -> dict[str, float]:
        """Of the loss over all tasks; returns the terms."""
        logs = self.terms(learner, stages, _backward)
        parallel.sum_gradients(self.parameters)
        return logs

    def state_dict(self):
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state["optimizer"])


class BestIterate(AdamSurrogate):
    """Adam on clipped ratios, of whose iterates the best one stays (Lan et al. 2019).

    That is the one with the lowest policy loss of those that are within a KL divergence; the moments of Adam go on.

    Args:
        parameters: see ``Outer``.
        max_kl: mean over tasks, from the adapted policies that acted, in nats.
        inherited: see ``AdamSurrogate``; of ``num_steps`` evaluations the last is followed by no step.
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
                norm = {"gradient_norm": self.move()}  # the last one is not finite where one was not
                if not math.isfinite(norm["gradient_norm"]):
                    break
        with torch.no_grad():
            nn.utils.vector_to_parameters(chosen, self.parameters)
        return (best or first | {"chosen_step": 0.0}) | norm


def _backward(found: "OuterTerms", weight: float) -> None:
    (weight * found.loss.sum()).backward()


class TrustRegion(Outer):
    """The natural gradient step that just keeps a KL divergence, found by conjugate gradients and a line search.

    Args:
        parameters: see ``Outer``.
        max_kl: mean over tasks, from the adapted policies that acted, in nats.
        conjugate_steps: of the solver.
        damping: added to the curvature.
        line_steps: of the search, each ``shrink`` times as long as the one before; if none helps nothing changes.
        shrink: see above.
    """

    takes_a_critic = False  # whose weights no divergence between policies holds back

    def __init__(
        self,
        parameters: list[nn.Parameter],
        *,
        max_kl: PositiveFloat,
        conjugate_steps: PositiveInt,
        damping: NonNegativeFloat,
        line_steps: PositiveInt,
        shrink: Annotated[float, Field(gt=0, lt=1)],
    ):
        super().__init__(parameters)
        self.max_kl, self.conjugate_steps, self.damping = max_kl, conjugate_steps, damping
        self.line_steps, self.shrink = line_steps, shrink

    def step(self, learner, stages):
        gradients = [torch.zeros_like(parameter) for parameter in self.parameters]
        curvatures: list[Curvature] = []

        def differentiate(found: "OuterTerms", weight: float) -> None:
            own = torch.autograd.grad(
                weight * found.loss.sum(), self.parameters, retain_graph=True, materialize_grads=True
            )
            for total, gradient in zip(gradients, own, strict=True):
                total.add_(gradient)
            curvatures.append(Curvature(found, weight, self.parameters))

        before = self.terms(learner, stages, differentiate)
        gradient = parallel.summed(_flat(gradients))

        def curvature(vector: Tensor) -> Tensor:
            total = torch.stack([of_chunk(vector) for of_chunk in curvatures]).sum(0)
            return parallel.summed(total) + self.damping * vector

        direction = conjugate_gradients(curvature, gradient, self.conjugate_steps)
        length = (2 * self.max_kl / (direction @ curvature(direction)).clamp(min=1e-12)).sqrt()
        before["gradient_norm"] = gradient.norm().item()
        return before | self._search(learner, stages, before["loss"], length * direction)

    @torch.no_grad()
    def _search(
        self, learner: "GradientAdaptation", stages: list[Samples], before: float, step: Tensor
    ) -> dict[str, float]:
        start = nn.utils.parameters_to_vector(self.parameters)
        for attempt in range(self.line_steps):
            share = self.shrink**attempt
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


class Curvature:
    """Multiplies by the Hessian of a weighted KL divergence from the policies that acted, where those still act.

    There its slope by the action distributions is zero, so the Hessian is J' F J: J the derivative of the distributions
    by the parameters, through adaptation; F the curvature by the distributions (Schulman et al. 2015, appendix C.1).
    This is exact, and cheaper than to differentiate a slope that went through adaptation. J v comes from the gradient
    of J' u, which is linear in u.

    Args:
        found: with its graph.
        weight: of every task.
        parameters: the vector's parts.
    """

    def __init__(self, found: "OuterTerms", weight: float, parameters: list[nn.Parameter]):
        self.parameters, self.acting = parameters, found.parameters
        self.cotangent = torch.zeros_like(found.parameters, requires_grad=True)
        self.pulled_back = torch.autograd.grad(
            found.parameters, parameters, self.cotangent, create_graph=True, materialize_grads=True
        )
        self.at = found.parameters.detach().requires_grad_()
        divergence = weight * found.divergence(self.at).sum()
        (self.slope,) = torch.autograd.grad(divergence, self.at, create_graph=True)

    def __call__(self, vector: Tensor) -> Tensor:
        """One product, flat as the vector."""
        sizes = [parameter.numel() for parameter in self.parameters]
        parts = [v.view_as(p) for v, p in zip(vector.split(sizes), self.parameters, strict=True)]
        (change,) = torch.autograd.grad(self.pulled_back, self.cotangent, parts, retain_graph=True)
        (felt,) = torch.autograd.grad(self.slope, self.at, change, retain_graph=True)
        return _flat(torch.autograd.grad(self.acting, self.parameters, felt, retain_graph=True, materialize_grads=True))


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Tensor, steps: int, tolerance: float = 1e-10
) -> Tensor:
    """About the x with ``product(x) = target``, for a symmetric positive definite map (Hestenes & Stiefel 1952).

    Ends after ``steps``, or where the square of what is left is ``tolerance`` times that of ``target``.
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
