"""The memory law over every model: a sequence whole, in pieces or by steps gives the same. And their formulas."""

import math
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
from metarl.models.gru import GRU
from metarl.models.lstm import LSTM
from metarl.models.mlp import MLP
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


@pytest.mark.parametrize("critic", ["shared", "separate", "privileged"])
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


START_AND_NEXT = Timestep(
    observation=torch.tensor([0, 1]),
    previous_observation=torch.tensor([-1, 0]),
    previous_action=torch.tensor([-1, 2]),
    previous_reward=torch.tensor([0.0, 0.5]),
    first=torch.tensor([True, False]),
)


def test_features_say_nothing_before_the_first_action_and_show_everything_after():
    policy = make_policy("model=mlp", observation_space=spaces.Discrete(2), action_space=spaces.Discrete(3))
    features = policy.features(START_AND_NEXT)
    assert features.tolist() == [[1, 0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0.5, 0]]


def features_of(inputs: str, states: int = 2):
    overrides = ("model=mlp", f"model.inputs={inputs}")
    policy = make_policy(*overrides, observation_space=spaces.Discrete(states), action_space=spaces.Discrete(3))
    assert policy.features(START_AND_NEXT).shape == (2, policy.features.output_dim)
    return policy.features(START_AND_NEXT)


def test_features_show_the_whole_last_transition_where_asked():
    found = features_of("transition")
    assert torch.equal(found[:, [*range(6), -1]], features_of("step"))
    assert found[:, 6:-1].tolist() == [[0, 0], [1, 0]]


def test_features_show_the_pair_of_observation_and_action_and_its_reward_where_asked():
    found = features_of("conjunction")
    assert torch.equal(found[:, [*range(8), -1]], features_of("transition"))
    pair = [0, 0, 1, 0, 0, 0]  # observation 0 and action 2 of 2 x 3
    assert found[:, 8:-1].tolist() == [[0] * 12, pair + [0.5 * bit for bit in pair]]


def test_an_observation_that_never_changes_leaves_the_action_as_its_pair():
    found = features_of("conjunction", states=1)
    assert found[1].tolist() == [0, 0, 1, 0.5, *(0, 0, 1), *(0, 0, 0.5), 0]


def test_features_leave_out_spaces_of_one_element():
    policy = make_policy("model=mlp", observation_space=spaces.Discrete(1), action_space=spaces.Discrete(3))
    assert policy.features.output_dim == 5


def test_an_encoder_rectifies_a_layer_of_the_features():
    policy = make_policy("model=mlp", "model.encoder_size=7", observation_space=spaces.Discrete(2))
    plain = make_policy("model=mlp", observation_space=spaces.Discrete(2)).features(START_AND_NEXT)
    layer = next(module for module in policy.features.modules() if isinstance(module, torch.nn.Linear))
    expected = (plain[:, :-1] @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(policy.features(START_AND_NEXT), torch.cat([expected, plain[:, -1:]], -1))
    assert policy.memory.layers[0].in_features == policy.features.output_dim == 8


@pytest.mark.parametrize("critic", ["shared", "separate", "privileged"])
def test_a_head_layer_shows_the_heads_what_a_blind_memory_does_not(critic):
    def reaction(*head: str) -> float:
        policy = make_policy("model=gru", f"model.critic={critic}", *head)
        perturb(policy)
        with torch.no_grad():
            for parameter in policy.memory.parameters():
                parameter.zero_()
        first, second = (torch.ones(1, 4) * number for number in (0, 1))
        rest = {"previous_action": torch.zeros(1, dtype=torch.long), "previous_reward": torch.zeros(1)}
        outputs = [
            policy.step(Timestep(x, x, first=torch.ones(1, dtype=torch.bool), **rest), policy.initial_carry(1), task)[0]
            for x in (first, second)
            for task in [torch.zeros(1, 3)]
        ]
        return (outputs[0].parameters - outputs[1].parameters).abs().max().item()

    assert reaction() == 0 and reaction("model.head_size=16") > 1e-3


def gru_reference(model: GRU, x: torch.Tensor) -> torch.Tensor:
    """Element by element, from the formulas (reset applied after the recurrent product)."""
    size, cell = model.hidden_size, model.gru
    weight_x, weight_h = cell.weight_ih_l0.double(), cell.weight_hh_l0.double()
    bias_x, bias_h = cell.bias_ih_l0.double(), cell.bias_hh_l0.double()

    def normalised(vector, norms):
        if not model.layer_norm:
            return vector
        parts = [vector[: 2 * size], vector[2 * size :]]
        out = []
        for part, norm in zip(parts, norms, strict=True):
            centred = part - part.mean()
            scaled = centred / torch.sqrt((centred**2).mean() + norm.eps)
            out.append(scaled * norm.weight.double() + norm.bias.double())
        return torch.cat(out)

    input_norm = model.input_norm if model.layer_norm else None
    hidden_norm = model.hidden_norm if model.layer_norm else None
    outputs = torch.zeros(*x.shape[:2], size, dtype=torch.float64)
    for lane in range(x.shape[1]):
        hidden = torch.zeros(size, dtype=torch.float64)
        for t in range(x.shape[0]):
            from_x = normalised(weight_x @ x[t, lane].double() + bias_x, input_norm)
            from_h = normalised(weight_h @ hidden + bias_h, hidden_norm)
            reset = 1 / (1 + torch.exp(-(from_x[:size] + from_h[:size])))
            update = 1 / (1 + torch.exp(-(from_x[size : 2 * size] + from_h[size : 2 * size])))
            candidate = torch.tanh(from_x[2 * size :] + reset * from_h[2 * size :])
            hidden = (1 - update) * candidate + update * hidden
            outputs[t, lane] = hidden
    return outputs


def lstm_reference(model: LSTM, x: torch.Tensor) -> torch.Tensor:
    size, cell = model.hidden_size, model.lstm
    weight_x, weight_h = cell.weight_ih_l0.double(), cell.weight_hh_l0.double()
    bias = cell.bias_ih_l0.double() + cell.bias_hh_l0.double()
    outputs = torch.zeros(*x.shape[:2], size, dtype=torch.float64)
    for lane in range(x.shape[1]):
        hidden = memory = torch.zeros(size, dtype=torch.float64)
        for t in range(x.shape[0]):
            total = weight_x @ x[t, lane].double() + weight_h @ hidden + bias
            write, keep, candidate, show = total.split(size)
            memory = torch.sigmoid(keep) * memory + torch.sigmoid(write) * torch.tanh(candidate)
            hidden = torch.sigmoid(show) * torch.tanh(memory)
            outputs[t, lane] = hidden
    return outputs


REFERENCES = {
    "GRU": (lambda: GRU(INPUT, 8), gru_reference),
    "layer-normalised GRU": (lambda: GRU(INPUT, 8, layer_norm=True), gru_reference),
    "LSTM": (lambda: LSTM(INPUT, 8), lstm_reference),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_recurrent_cells_compute_their_formulas(name):
    make, reference = REFERENCES[name]
    torch.manual_seed(0)
    model = make()
    perturb(model, 0.3)
    expected = reference(model, sequence()).float()
    torch.testing.assert_close(whole(model, sequence())[0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(in_steps(model, sequence())[0], expected, atol=1e-5, rtol=1e-5)


RECURRENT = {
    "gru": (lambda: GRU(20, 48).gru, 3),
    "gru with layer norm": (lambda: GRU(20, 48, layer_norm=True).gru, 3),
    "lstm": (lambda: LSTM(20, 48).lstm, 4),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_blocks_start_orthogonal(name):
    make, blocks = RECURRENT[name]
    for block in make().weight_hh_l0.chunk(blocks):
        torch.testing.assert_close(block @ block.T, torch.eye(48), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RECURRENT)
def test_input_weights_of_each_gate_start_at_xavier_scale(name):
    make, blocks = RECURRENT[name]
    bound = math.sqrt(6 / (20 + 48))
    for block in make().weight_ih_l0.chunk(blocks):
        assert 0.9 * bound < block.abs().max() <= bound
        assert block.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_gru_biases_start_at_zero():
    cell = GRU(20, 48).gru
    assert cell.bias_ih_l0.abs().max() == 0 and cell.bias_hh_l0.abs().max() == 0


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_timescale_spreads_how_long_gru_units_keep_their_state(layer_norm):
    """Without input, a unit keeps steps / (steps + 1) of its state, steps uniform from 1 to the timescale."""
    torch.manual_seed(0)
    model = GRU(4, 400, layer_norm=layer_norm, timescale=100)
    hidden = torch.ones(1, 400)
    with torch.no_grad():
        for weight in (model.gru.weight_hh_l0, model.gru.weight_ih_l0):
            weight.zero_()
    kept = model.step(torch.zeros(1, 4), hidden)[0][0]
    steps = kept / (1 - kept)
    assert 1 - 1e-3 <= steps.min() < 5 and 95 < steps.max() <= 100 + 1e-2
    assert steps.mean().item() == pytest.approx(50.5, abs=5)


def test_lstm_forget_bias_starts_at_one_and_all_others_at_zero():
    cell = LSTM(20, 48).lstm
    total = cell.bias_ih_l0 + cell.bias_hh_l0
    assert total[48:96].tolist() == [1.0] * 48
    assert total[:48].abs().max() == 0 and total[96:].abs().max() == 0


def test_mlp_layers_start_orthogonal_with_the_gain_of_tanh():
    weight = MLP(20, 48, 1).layers[0].weight
    torch.testing.assert_close(weight.T @ weight, (5 / 3) ** 2 * torch.eye(20), atol=1e-4, rtol=0)


def test_mlp_without_layers_passes_its_input_on():
    model = MLP(INPUT, 8, 0)
    assert model.output_dim == INPUT and torch.equal(whole(model, sequence())[0], sequence())


def test_the_first_policy_is_close_to_uniform(model_option):
    policy = make_policy(f"model={model_option}")
    timestep = random_timesteps(spaces.Box(-1, 1, (4,)), spaces.Discrete(3))
    output, _ = policy(timestep, policy.initial_carry(LANES), torch.zeros(LANES, 3))
    assert (output.parameters.softmax(-1) - 1 / 3).abs().max() < 0.02
