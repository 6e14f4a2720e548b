"""The memory law over every model: a sequence whole, in pieces or by steps gives the same. And their formulas."""

import typing
from itertools import pairwise

import pytest
import torch
import yaml
from gymnasium import spaces
from helpers import make_policy, perturb, small_config
from hydra.utils import instantiate
from torch.utils._pytree import tree_leaves, tree_map

from metarl.compose import CONF, options
from metarl.rollout import Timestep

STEPS, LANES, INPUT = 37, 5, 9  # 37: no power of two, prime; 9: a box of 4, 3 actions, reward and flag
WAYS = {
    "two pieces": (20, 17),
    "uneven pieces": (1, 16, 3, 17),
    "single forwards": (1,) * STEPS,
}


def memory_of(model_option: str, *changes: str):
    """The bare memory of a model, its parameters moved."""
    memory = make_policy(f"model={model_option}", *changes).memory
    perturb(memory)
    return memory


def variants() -> list:
    """Every model as shipped and, where its memory has switches or choices, with each one turned."""
    shared = yaml.safe_load((CONF / "model" / "_policy.yaml").read_text())
    found = []
    for name in options("model"):
        found.append(pytest.param((name,), id=name))
        model = small_config(f"model={name}")["model"]
        hints = typing.get_type_hints(instantiate(model["memory"]).__init__)
        for key, value in model.items():
            for other in other_choices(value, hints.get(key)) if key not in shared else []:
                change = f"model.{key}={other}"
                found.append(pytest.param((name, change), id=f"{name}-{change}"))
    return found


def other_choices(value, annotation) -> list[str]:
    if isinstance(value, bool):
        return [str(not value).lower()]
    return [word for word in typing.get_args(annotation) if isinstance(word, str) and word != value]


every_memory = pytest.mark.parametrize("memory", variants())


def sequence(seed: int = 1) -> torch.Tensor:
    return torch.randn(STEPS, LANES, INPUT, generator=torch.Generator().manual_seed(seed))


def in_pieces(memory, x: torch.Tensor, lengths):
    carry, outputs = memory.initial_carry(x.shape[1]), []
    for piece in x.split(list(lengths)):
        y, carry = memory(piece, carry)
        outputs.append(y)
    return torch.cat(outputs), carry


def in_steps(memory, x: torch.Tensor):
    carry, outputs = memory.initial_carry(x.shape[1]), []
    for row in x:
        y, carry = memory.step(row, carry)
        outputs.append(y)
    return torch.stack(outputs), carry


def gradients(memory, run) -> list[torch.Tensor]:
    """Of a random linear functional of all outputs, with respect to every parameter and the input."""
    x = sequence().requires_grad_()
    y, _ = run(memory, x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    return list(torch.autograd.grad((y * weights).sum(), [*memory.parameters(), x]))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-5 of the largest element in single precision, 1e-10 in double."""
    tolerance = 1e-10 if expected.dtype == torch.float64 else 1e-5
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, atol=tolerance * scale, rtol=tolerance)


def assert_all_close(found, expected) -> None:
    for left, right in zip(found, expected, strict=True):
        assert_close(left, right)


def whole(memory, x):
    return memory(x, memory.initial_carry(x.shape[1]))


@every_memory
@pytest.mark.parametrize("lengths", WAYS.values(), ids=WAYS)
def test_pieces_give_what_the_whole_sequence_gives(memory, lengths):
    memory = memory_of(*memory)
    y, carry = whole(memory, sequence())
    assert y.shape == (STEPS, LANES, memory.output_dim) and y.dtype == torch.float32
    pieces_y, pieces_carry = in_pieces(memory, sequence(), lengths)
    assert_close(pieces_y, y)
    assert_all_close(tree_leaves(pieces_carry), tree_leaves(carry))


@every_memory
@pytest.mark.parametrize("grad", [True, False], ids=["with gradients", "without"])
def test_single_steps_give_what_the_whole_sequence_gives(memory, grad):
    memory = memory_of(*memory)
    with torch.set_grad_enabled(grad):
        y, carry = whole(memory, sequence())
        steps_y, steps_carry = in_steps(memory, sequence())
        assert_close(steps_y, y)
        following = sequence(9)[:3]
        assert_close(memory(following, steps_carry)[0], memory(following, carry)[0])


@every_memory
@pytest.mark.parametrize("run", [lambda m, x: in_pieces(m, x, (1, 16, 3, 17)), in_steps], ids=["pieces", "steps"])
def test_gradients_flow_through_the_carry_as_through_the_whole_sequence(memory, run):
    memory = memory_of(*memory)
    assert_all_close(gradients(memory, run), gradients(memory, whole))


@pytest.mark.parametrize("length", [1, 7, 100, 257])
def test_the_law_holds_in_double_precision_for_any_length_and_cuts(model_option, length):
    policy = make_policy(f"model={model_option}", trial_length=length + 3)
    memory = policy.memory.double()
    perturb(memory)
    x = torch.randn(length, 2, INPUT, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    random = torch.Generator().manual_seed(length)
    cuts = sorted(torch.randint(0, length + 1, (4,), generator=random).tolist())
    lengths = [end - start for start, end in pairwise([0, *cuts, length]) if end > start]

    def learnt(run):
        given = x.clone().requires_grad_()
        y, _ = run(memory, given)
        weights = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
        return [y, *torch.autograd.grad((y * weights).sum(), [*memory.parameters(), given])]

    expected = learnt(whole)
    assert_all_close(learnt(lambda m, x: in_pieces(m, x, lengths)), expected)
    assert_all_close(learnt(in_steps), expected)
    with torch.no_grad():
        assert_close(in_steps(memory, x)[0], expected[0])


@every_memory
@pytest.mark.parametrize("cut", [0, 12, STEPS - 2])
def test_the_future_cannot_be_seen(memory, cut):
    memory = memory_of(*memory)
    changed = sequence()
    changed[cut + 1 :] += 3
    before, after = whole(memory, sequence())[0], whole(memory, changed)[0]
    torch.testing.assert_close(after[: cut + 1], before[: cut + 1], atol=1e-6, rtol=0)
    assert not torch.allclose(after[cut + 1], before[cut + 1], atol=1e-3)


@every_memory
def test_a_carry_remembers_the_first_step(memory):
    memory = memory_of(*memory)
    changed = sequence()
    changed[0] += 3
    before, after = whole(memory, sequence())[0], whole(memory, changed)[0]
    has_carry = bool(tree_leaves(memory.initial_carry(1)))
    assert torch.equal(before[1], after[1]) != has_carry


@every_memory
def test_lanes_do_not_interact(memory):
    memory = memory_of(*memory)
    changed = sequence()
    changed[:, 2] = 7
    others = [0, 1, 3, 4]
    before, after = whole(memory, sequence()), whole(memory, changed)
    torch.testing.assert_close(after[0][:, others], before[0][:, others], atol=1e-6, rtol=0)
    x = sequence().requires_grad_()
    (gradient,) = torch.autograd.grad(whole(memory, x)[0][:, others].sum(), x)
    assert gradient[:, 2].abs().max() == 0 and gradient[:, 1].abs().max() > 0


@every_memory
def test_carries_hold_lanes_on_axis_zero(memory):
    memory = memory_of(*memory)
    _, carry = whole(memory, sequence())
    assert all(leaf.shape[0] == LANES for leaf in tree_leaves((carry, memory.initial_carry(LANES))))
    some = torch.tensor([3, 1])
    following = sequence(9)[:4]
    expected = memory(following, carry)[0][:, some]
    found = memory(following[:, some], tree_map(lambda leaf: leaf[some], carry))[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@every_memory
def test_one_lane_alone_is_that_lane_among_others(memory):
    memory = memory_of(*memory)
    alone = whole(memory, sequence()[:, 3:4])[0]
    torch.testing.assert_close(alone[:, 0], whole(memory, sequence())[0][:, 3], atol=1e-5, rtol=1e-5)


@every_memory
def test_nothing_is_remembered_outside_the_carry(memory):
    memory = memory_of(*memory)
    first = whole(memory, sequence())[0]
    in_steps(memory, sequence(4))
    assert torch.equal(whole(memory, sequence())[0], first)


@pytest.mark.parametrize("critic", ["shared", "separate", "privileged", "present"])
@pytest.mark.parametrize("spaces_of", ["discrete", "box"])
def test_a_policy_obeys_the_memory_law_with_every_critic(model_option, critic, spaces_of):
    observation, action = {
        "discrete": (spaces.Discrete(4), spaces.Discrete(3)),
        "box": (spaces.Box(-1, 1, (2, 2)), spaces.Box(-1, 1, (2,))),
    }[spaces_of]
    overrides = (f"model={model_option}", f"model.critic={critic}")
    policy = make_policy(*overrides, observation_space=observation, action_space=action)
    perturb(policy)
    timestep, task = random_timesteps(observation, action), torch.randn(LANES, 3)
    output, _ = policy(timestep, policy.initial_carry(LANES), task)
    assert output.value.shape == (STEPS, LANES)
    carry, rows = policy.initial_carry(LANES), []
    for t in range(STEPS):
        row, carry = policy.step(Timestep(*(part[t] for part in timestep)), carry, task)
        rows.append(row)
    torch.testing.assert_close(torch.stack([r.parameters for r in rows]), output.parameters, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.stack([r.value for r in rows]), output.value, atol=1e-5, rtol=1e-5)


def random_timesteps(observation: spaces.Space, action: spaces.Space) -> Timestep:
    def draw(space):
        if isinstance(space, spaces.Discrete):
            return torch.randint(int(space.n), (STEPS, LANES))
        return torch.randn(STEPS, LANES, *space.shape)

    return Timestep(
        observation=draw(observation),
        previous_observation=draw(observation),
        previous_action=draw(action),
        previous_reward=torch.randn(STEPS, LANES),
        first=torch.rand(STEPS, LANES) < 0.3,
    )


def test_the_first_policy_is_close_to_uniform(model_option):
    policy = make_policy(f"model={model_option}")
    timestep = random_timesteps(spaces.Box(-1, 1, (4,)), spaces.Discrete(3))
    output, _ = policy(timestep, policy.initial_carry(LANES), torch.zeros(LANES, 3))
    assert (output.parameters.softmax(-1) - 1 / 3).abs().max() < 0.02
