"""TrMRL against a window at a time, its published sizes and scales."""

import math

import pytest
import torch
from helpers import perturb

from metarl.models.trmrl import TrMRL

STEPS, LANES, INPUT, SIZE, WINDOW = 17, 3, 6, 8, 4


def small(**options) -> TrMRL:
    torch.manual_seed(0)
    chosen = {"hidden_size": SIZE, "num_layers": 3, "num_heads": 2, "feedforward_size": 12, "window": WINDOW} | options
    model = TrMRL(INPUT, **chosen).double()
    perturb(model, 0.05)
    return model


def inputs() -> torch.Tensor:
    """Episodes start at step 0, and later at other steps in each lane."""
    x = torch.randn(STEPS, LANES, INPUT, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[..., -1] = 0
    for step, lane in [(0, 0), (0, 1), (0, 2), (6, 0), (2, 1), (9, 1), (10, 1)]:
        x[step, lane, -1] = 1
    return x


def sinusoid(row: int, size: int) -> torch.Tensor:
    angles = [row * 10000 ** (-2 * index / size) for index in range(size // 2)]
    return torch.tensor([part for angle in angles for part in (math.sin(angle), math.cos(angle))], dtype=torch.float64)


def encoded(model: TrMRL, rows: list[torch.Tensor]) -> torch.Tensor:
    """All rows of one window, by loops over queries and heads."""
    hidden = [model.embed.weight @ row + position for row, position in zip(rows, model.positions, strict=True)]
    for layer in model.layers:
        heads, dim = layer.num_heads, SIZE // layer.num_heads
        parts = [(layer.project.weight @ h + layer.project.bias).view(3, heads, dim) for h in hidden]
        read = []
        for i in range(len(hidden)):
            of_heads = []
            for head in range(heads):
                scores = torch.stack([parts[i][0, head] @ parts[j][1, head] for j in range(i + 1)]) / math.sqrt(dim)
                weights = scores.exp() / scores.exp().sum()
                of_heads.append(sum(weights[j] * parts[j][2, head] for j in range(i + 1)))
            read.append(torch.cat(of_heads))
        hidden = [h + layer.output(r) for h, r in zip(hidden, read, strict=True)]
        hidden = [h + layer.feed_out(torch.relu(layer.feed_in(h))) for h in hidden]
    return torch.stack(hidden)


def one_window_at_a_time(model: TrMRL, x: torch.Tensor, scope: str, head_input: str) -> torch.Tensor:
    outputs = torch.zeros(STEPS, LANES, model.output_dim, dtype=torch.float64)
    for lane in range(LANES):
        memory: list[torch.Tensor] = []
        for step in range(STEPS):
            if scope == "episode" and x[step, lane, -1] == 1:
                memory = []
            memory = [*memory, x[step, lane]][-WINDOW:]
            present = len(memory) - 1
            empty = [torch.zeros(INPUT, dtype=torch.float64)] * (WINDOW - len(memory))
            rows = encoded(model, memory + empty)
            outputs[step, lane] = {
                "latest": rows[present],
                "mixed": torch.cat([model.embed.weight @ memory[-1], rows[present]]),
                "full": rows.flatten(),
            }[head_input]
            if model.feedback is not None:
                memory[-1] = model.feedback.weight @ rows.flatten()
    return outputs


@pytest.mark.parametrize("head_input", ["latest", "mixed", "full"])
@pytest.mark.parametrize("scope", ["episode", "trial"])
@pytest.mark.parametrize("feedback", [False, True])
def test_every_step_is_read_in_a_window_of_its_own(head_input, scope, feedback):
    model = small(head_input=head_input, memory_scope=scope, recurrent_feedback=feedback)
    y, _ = model(inputs(), model.initial_carry(LANES))
    torch.testing.assert_close(y, one_window_at_a_time(model, inputs(), scope, head_input), atol=1e-10, rtol=1e-10)


def test_positions_are_interleaved_sines_and_cosines_of_the_row():
    table = small().positions
    expected = torch.stack([sinusoid(row, SIZE) for row in range(WINDOW)])
    torch.testing.assert_close(table, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("layers", "window"), [(1, 4), (3, 4), (3, 1)])
def test_depth_does_not_widen_the_window(layers, window):
    model = small(num_layers=layers, window=window, memory_scope="trial")
    x = inputs().requires_grad_()
    y, _ = model(x, model.initial_carry(LANES))
    (gradient,) = torch.autograd.grad(y[12].sum(), x)
    seen = gradient.abs().sum((1, 2)).nonzero().flatten().tolist()
    assert seen == list(range(12 - window + 1, 13))


@pytest.mark.parametrize(("layers", "window"), [(1, 4), (3, 4), (3, 1)])
def test_depth_widens_what_a_band_sees(layers, window):
    model = small(num_layers=layers, window=window, memory_scope="trial", attention="sliding")
    x = inputs().requires_grad_()
    y, _ = model(x, model.initial_carry(LANES))
    (gradient,) = torch.autograd.grad(y[12].sum(), x)
    seen = gradient.abs().sum((1, 2)).nonzero().flatten().tolist()
    assert seen == list(range(12 - layers * (window - 1), 13))


@pytest.mark.parametrize("attention", ["windowed", "sliding"])
def test_an_episode_forgets_the_one_before(attention):
    model = small(attention=attention)
    x = inputs().requires_grad_()
    y, _ = model(x, model.initial_carry(LANES))
    (gradient,) = torch.autograd.grad(y[7, 0].sum(), x)
    assert gradient[:, 0].abs().sum(1).nonzero().flatten().tolist() == [6, 7]


@pytest.mark.parametrize(
    ("input_dim", "size", "heads", "feed", "embed", "layers"),
    [(28, 128, 16, 512, 3584, 791040), (40, 32, 4, 128, 1280, 50304)],
)
def test_published_parameter_counts(input_dim, size, heads, feed, embed, layers):
    model = TrMRL(input_dim, size, 4, heads, feed)
    assert model.embed.weight.numel() == embed
    assert sum(parameter.numel() for parameter in model.layers.parameters()) == layers
    assert sum(parameter.numel() for parameter in model.parameters()) == embed + layers


@pytest.mark.parametrize(
    ("size", "feed", "deviation", "attention", "feedforward"),
    [(128, 512, 0.0361, 0.0725, 0.0459), (32, 128, 0.0722, 0.1451, 0.0917)],
)
@pytest.mark.parametrize("tfixup", ["code", "paper"])
def test_t_fixup_scales_of_four_layers(size, feed, deviation, attention, feedforward, tfixup):
    torch.manual_seed(0)
    model = TrMRL(200, size, 4, 4, feed, tfixup=tfixup)
    assert model.embed.weight.std().item() == pytest.approx(deviation, rel=0.03)
    unscaled = attention / (0.67 * 4**-0.25)
    for layer in model.layers:
        query, key, value = layer.project.weight.split(size)
        queries = attention if tfixup == "code" else unscaled
        bounds = [(query, queries), (key, queries), (value, attention), (layer.output.weight, attention)]
        bounds += [(layer.feed_in.weight, feedforward), (layer.feed_out.weight, feedforward)]
        for weight, bound in bounds:
            assert 0.97 * bound < weight.abs().max().item() < 1.001 * bound


@pytest.mark.parametrize("option", [{"head_input": "full"}, {"recurrent_feedback": True}])
def test_a_band_has_no_rows(option):
    with pytest.raises(ValueError, match=r"model\.attention=sliding.*use model\.attention=windowed"):
        small(attention="sliding", **option)


def test_recurrent_feedback_needs_an_earlier_step():
    with pytest.raises(ValueError, match=r"model\.window=1.*raise it"):
        small(window=1, recurrent_feedback=True)


def test_heads_of_odd_width_cannot_be_rotated():
    with pytest.raises(ValueError, match=r"heads of odd size.*or use model\.attention=windowed"):
        small(hidden_size=6, num_heads=2, attention="sliding")
