"""Checks of a memory: the memory law, forward and in gradients; causality; independence of lanes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from operator import itemgetter
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from metarl.checking.comparing import demand, demand_close, perturb
from metarl.checking.outcomes import Check, Fault
from metarl.models.base import SequenceModel
from metarl.models.policy import Policy
from metarl.tree import tree_leaves, tree_map
from metarl.types import EnvSpec, Timestep

STEPS, LANES = 37, 5  # 37: no power of two, prime
LONGEST = STEPS + 4  # steps that a memory is fed
CUTS = ((20, 17), (1, 16, 3, 17), (1,) * STEPS)
Run = Callable[[SequenceModel, Tensor], tuple[Tensor, Any]]


@dataclass(frozen=True)
class Memory:
    """A memory to check.

    Args:
        make_policy: builds the policy it is part of, for trials of at least ``LONGEST`` steps.
        spec: spaces and sizes that the policy was built for.
        dtype: of the parameters and inputs that are compared.
    """

    make_policy: Callable[[], Policy]
    spec: EnvSpec
    dtype: torch.dtype = torch.float32

    def policy(self) -> Policy:
        """A policy with its parameters moved."""
        policy = self.make_policy()
        perturb(policy)
        return policy.to(self.dtype)

    def bare(self) -> SequenceModel:
        """The memory alone, its parameters moved."""
        memory = self.make_policy().memory
        perturb(memory)
        return memory.to(self.dtype)

    @cached_property
    def input_dim(self) -> int:
        """Size of what the memory is fed."""
        return self.make_policy().features.output_dim

    def sequence(self, seed: int = 1) -> Tensor:
        """``[T, B, input_dim]``."""
        return random_sequence(self.input_dim, seed).to(self.dtype)


def random_sequence(size: int, seed: int = 1) -> Tensor:
    """``[T, B, size]``."""
    return torch.randn(STEPS, LANES, size, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- ways to feed a sequence


def whole(memory: SequenceModel, x: Tensor) -> tuple[Tensor, Any]:
    """Outputs for the whole sequence in one call."""
    return memory(x, memory.initial_carry(x.shape[1]))


def in_pieces(memory: SequenceModel, x: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Any]:
    """One piece after the other, the carry handed on."""
    carry, outputs = memory.initial_carry(x.shape[1]), []
    for piece in x.split(list(lengths)):
        y, carry = memory(piece, carry)
        outputs.append(y)
    return torch.cat(outputs), carry


def in_steps(memory: SequenceModel, x: Tensor) -> tuple[Tensor, Any]:
    """Outputs for the sequence, one step at a time."""
    carry, outputs = memory.initial_carry(x.shape[1]), []
    for row in x:
        y, carry = memory.step(row, carry)
        outputs.append(y)
    return torch.stack(outputs), carry


def cut(lengths: Sequence[int]) -> Run:
    """``in_pieces`` of these lengths."""
    return lambda memory, x: in_pieces(memory, x, lengths)


def random_cuts(length: int) -> list[int]:
    """Five pieces at most, that add up to a length."""
    random = torch.Generator().manual_seed(length)
    cuts = sorted(torch.randint(0, length + 1, (4,), generator=random).tolist())
    return [end - start for start, end in pairwise([0, *cuts, length]) if end > start]


def gradients(memory: SequenceModel, run: Run, x: Tensor) -> list[Tensor]:
    """Gradients of a random linear functional of all outputs, with respect to every parameter and the input."""
    x = x.clone().requires_grad_()
    y, _ = run(memory, x)
    weights = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
    return list(torch.autograd.grad((y * weights).sum(), [*memory.parameters(), x]))


def close(found: Tensor, expected: Tensor, what: str) -> None:
    """Demand equality to 1e-5 of the largest element in single precision, 1e-10 in double."""
    tolerance = 1e-10 if expected.dtype == torch.float64 else 1e-5
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    demand_close(found, expected, what, atol=tolerance * scale, rtol=tolerance)


def all_close(found: Sequence[Tensor], expected: Sequence[Tensor], what: str) -> None:
    """Demand that two lists of tensors are ``close``, one by one."""
    demand(len(found) == len(expected), f"{what}: {len(found)} tensors and {len(expected)}")
    for left, right in zip(found, expected, strict=True):
        close(left, right, what)


# ---------------------------------------------------------------- laws


def is_built(subject: Memory) -> None:
    """Policies can be built around it, and it declares the size of its output."""
    memory = subject.bare()
    demand(isinstance(memory, SequenceModel), f"{type(memory).__name__} is no SequenceModel")
    y, _ = whole(memory, subject.sequence())
    expected = (STEPS, LANES, memory.output_dim)
    demand(y.shape == expected and y.dtype == torch.float32, f"forward() gives {tuple(y.shape)} {y.dtype}, {expected=}")


def pieces_equal_the_whole(subject: Memory) -> None:
    """Pieces, the carry handed on, give what the whole sequence gives."""
    memory, x = subject.bare(), subject.sequence()
    y, carry = whole(memory, x)
    for lengths in (*CUTS, random_cuts(STEPS)):
        pieces_y, pieces_carry = in_pieces(memory, x, lengths)
        close(pieces_y, y, f"outputs in pieces of {lengths[:4]}")
        all_close(tree_leaves(pieces_carry), tree_leaves(carry), f"the carry after pieces of {lengths[:4]}")


def steps_equal_the_whole(subject: Memory) -> None:
    """``step``, with and without gradients, equals ``forward``, in outputs and in later steps from its carry."""
    memory, x, following = subject.bare(), subject.sequence(), subject.sequence(9)[:3]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            y, carry = whole(memory, x)
            steps_y, steps_carry = in_steps(memory, x)
            close(steps_y, y, f"outputs step by step, {'with' if grad else 'without'} gradients")
            close(memory(following, steps_carry)[0], memory(following, carry)[0], "what follows single steps")


def gradients_flow_through_the_carry(subject: Memory) -> None:
    """Gradients in pieces and in steps are those of the whole sequence."""
    memory, x = subject.bare(), subject.sequence()
    expected = gradients(memory, whole, x)
    for name, run in {"pieces": cut((1, 16, 3, 17)), "steps": in_steps}.items():
        all_close(gradients(memory, run, x), expected, f"gradients in {name}")


def sees_no_future(subject: Memory) -> None:
    """Outputs depend on no later input, and on the present one."""
    memory, x = subject.bare(), subject.sequence()
    before = whole(memory, x)[0]
    for last in (0, 12, STEPS - 2):
        changed = x.clone()
        changed[last + 1 :] += 3
        after = whole(memory, changed)[0]
        demand_close(after[: last + 1], before[: last + 1], f"inputs after step {last} changed outputs before", 1e-6, 0)
        reacts = not torch.allclose(after[last + 1], before[last + 1], atol=1e-3)
        demand(reacts, f"the output of step {last + 1} does not depend on its input")


def remembers_by_its_carry(subject: Memory) -> None:
    """The first step matters for the second where there is a carry, and only there."""
    memory, x = subject.bare(), subject.sequence()
    changed = x.clone()
    changed[0] += 3
    forgets = torch.equal(whole(memory, x)[0][1], whole(memory, changed)[0][1])
    has_carry = bool(tree_leaves(memory.initial_carry(1)))
    demand(not (forgets and has_carry), "there is a carry, and the first step is forgotten in the second")
    demand(forgets or has_carry, "there is no carry, and the first step is remembered in the second")


def keeps_lanes_apart(subject: Memory) -> None:
    """A lane depends on no other, forward and in gradients, and is alone what it is among others."""
    memory, x = subject.bare(), subject.sequence()
    changed, others = x.clone(), [0, 1, 3, 4]
    changed[:, 2] = 7
    before, after = whole(memory, x)[0], whole(memory, changed)[0]
    demand_close(after[:, others], before[:, others], "another input in lane 2 changed other lanes", 1e-6, 0)
    demand_close(whole(memory, x[:, 3:4])[0][:, 0], before[:, 3], "lane 3 alone and among others", 1e-5, 1e-5)
    given = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(whole(memory, given)[0][:, others].sum(), given)
    demand(gradient[:, 2].abs().max() == 0, "outputs of other lanes have gradients in the input of lane 2")
    demand(gradient[:, 1].abs().max() > 0, "outputs have no gradients in their inputs")


def carries_lanes_on_axis_zero(subject: Memory) -> None:
    """Lanes can be chosen from a carry by its first axis."""
    memory, some = subject.bare(), torch.tensor([3, 1])
    _, carry = whole(memory, subject.sequence())
    shapes = [tuple(leaf.shape) for leaf in tree_leaves((carry, memory.initial_carry(LANES)))]
    demand(all(shape[:1] == (LANES,) for shape in shapes), f"carries of {LANES} lanes have shapes {shapes}")
    following = subject.sequence(9)[:4]
    expected = memory(following, carry)[0][:, some]
    found = memory(following[:, some], tree_map(lambda leaf: leaf[some], carry))[0]
    demand_close(found, expected, "going on with some lanes of a carry", 1e-5, 1e-5)


def remembers_nothing_outside_its_carry(subject: Memory) -> None:
    """Equal calls give equal outputs, whatever was called before."""
    memory = subject.bare()
    first = whole(memory, subject.sequence())[0]
    in_steps(memory, subject.sequence(4))
    demand(torch.equal(whole(memory, subject.sequence())[0], first), "a second call gives something else")


def is_the_same_in_a_policy(subject: Memory) -> None:
    """A policy with the memory gives step by step the distributions and values of the whole sequence."""
    task = torch.randn(LANES, subject.spec.task_dim, generator=torch.Generator().manual_seed(3))
    timestep = random_timesteps(subject.spec.observation_space, subject.spec.action_space)
    inputs = tree_map(lambda part: part.to(subject.dtype) if part.is_floating_point() else part, (timestep, task))
    policy_steps_equal_the_whole(subject.policy(), *inputs)


def policy_steps_equal_the_whole(policy: Policy, timestep: Timestep, task: Tensor) -> None:
    """Demand that a policy gives step by step what it gives for the whole sequence."""
    output, _ = policy(timestep, policy.initial_carry(LANES), task)
    demand(output.value.shape == (STEPS, LANES), f"values of shape {tuple(output.value.shape)}, not {(STEPS, LANES)}")
    carry, rows = policy.initial_carry(LANES), []
    for t in range(STEPS):
        row, carry = policy.step(tree_map(itemgetter(t), timestep), carry, task)
        rows.append(row)
    for name in ("distribution_params", "value"):
        found = torch.stack([getattr(row, name) for row in rows])
        demand_close(found, getattr(output, name), f"{name} of the policy step by step", 1e-5, 1e-5)


def random_timesteps(observation: spaces.Space, action: spaces.Space) -> Timestep:
    """Random elements of spaces, ``[T, B, ...]``."""
    generator = torch.Generator().manual_seed(4)

    def draw(space: Any) -> Tensor:
        if isinstance(space, spaces.Discrete):
            return torch.randint(int(space.n), (STEPS, LANES), generator=generator) + int(space.start)
        return torch.randn(STEPS, LANES, *space.shape, generator=generator)

    return Timestep(
        observation=draw(observation),
        previous_observation=draw(observation),
        previous_action=draw(action),
        previous_reward=torch.randn(STEPS, LANES, generator=generator),
        first=torch.rand(STEPS, LANES, generator=generator) < 0.3,
    )


def beyond_rounding(law: Callable[[Memory], str | None]) -> Callable[[Memory], str | None]:
    """A law that holds in single precision or, where a large network rounds too much for that, in double precision."""

    def check(subject: Memory) -> str | None:
        try:
            return law(subject)
        except Fault as fault:
            try:
                return law(replace(subject, dtype=torch.float64))
            except Exception:
                raise fault from None

    return check


CARRIED = "put all that is remembered into the carry, and start from the carry that is given"
MEMORY_CHECKS = (
    Check(
        "policies can be built around it",
        is_built,
        "set output_dim, and return [T, B, output_dim] from forward()",
        needed=True,
    ),
    Check("pieces equal the whole", pieces_equal_the_whole, CARRIED),
    Check("single steps equal the whole", steps_equal_the_whole, "compare step() with forward() on length one"),
    Check("gradients flow through the carry", gradients_flow_through_the_carry, "do not detach the carry"),
    Check("the future is not seen", sees_no_future, "mask later steps; normalise over features, never over time"),
    Check("the carry is what remembers", remembers_by_its_carry, CARRIED),
    Check("lanes do not interact", keeps_lanes_apart, "normalise over features, never over lanes"),
    Check("carries have lanes on axis 0", carries_lanes_on_axis_zero, "transpose what torch keeps with lanes later"),
    Check("nothing is remembered outside the carry", remembers_nothing_outside_its_carry, CARRIED),
    Check("the policy step by step equals the whole", is_the_same_in_a_policy, "compare step() with forward()"),
)
# Default sizes may be large; the tests, whose sizes are small, hold memories to single precision.
CHECKS_OF_ANY_SIZE = tuple(
    check if check.needed else replace(check, law=beyond_rounding(check.law)) for check in MEMORY_CHECKS
)
