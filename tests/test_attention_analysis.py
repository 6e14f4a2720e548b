"""Attention maps and embeddings: against what memories really depend on, known weights, and as commands."""

import csv
import math

import numpy as np
import pytest
import torch
from helpers import make_policy, perturb

from metarl.analysis.attention import attention_maps, head_table
from metarl.analysis.embeddings import principal_components, project
from metarl.cli import main
from metarl.configuration.compose import options
from metarl.models.attention_recorder import record_attention

STEPS, LANES, STARTS = 12, 3, (0, 5, 6)
WITH_MAPS = ("dense_transformer", "gtrxl", "reinstatement", "snail", "sparse_transformer", "transformer", "trmrl")
ONE_LAYER = (
    ("transformer", "model.num_layers=1"),
    ("sparse_transformer", "model.num_layers=1", "model.positions=learned"),
    ("gtrxl", "model.num_layers=1"),
    ("trmrl", "model.num_layers=1", "model.window=4"),
    ("trmrl", "model.num_layers=1", "model.window=4", "model.attention=sliding"),
    ("trmrl", "model.num_layers=1", "model.window=4", "model.memory_scope=trial"),
)


def memory_of(model: str, *overrides: str):
    policy = make_policy(f"model={model}", *overrides, trial_length=STEPS)
    perturb(policy)
    return policy.memory.double(), policy.features.output_dim


def inputs(width: int) -> torch.Tensor:
    x = torch.randn(STEPS, LANES, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[..., -1] = 0
    x[list(STARTS), :, -1] = 1
    return x


def maps_of(memory, x, mask=None):
    return attention_maps(memory, x, torch.ones(STEPS, LANES, dtype=torch.bool) if mask is None else mask)


@pytest.mark.parametrize("model", options("model"))
def test_weights_are_of_the_past_and_sum_to_one(model):
    memory, width = memory_of(model)
    maps = maps_of(memory, inputs(width))
    assert bool(maps) == (model in WITH_MAPS)
    episode = np.searchsorted(STARTS, np.arange(STEPS), side="right") - 1
    for found in maps:
        now = np.arange(STEPS) if found.unit == "step" else episode
        future = np.arange(found.weights.shape[2]) > now[:, None]
        assert (found.weights[:, future] == 0).all() and (found.weights >= 0).all()
        some = found.weights.any(-1)  # the first row has no previous one
        assert some.all() or model in ("sparse_transformer", "dense_transformer")
        np.testing.assert_allclose(found.weights.sum(-1), some, rtol=1e-5)


@pytest.mark.parametrize("case", ONE_LAYER, ids=" ".join)
def test_a_step_depends_on_what_one_layer_saw_and_on_itself(case):
    memory, width = memory_of(*case)
    x = inputs(width)
    (found,) = maps_of(memory, x)
    x.requires_grad_()
    y, _ = memory(x, memory.initial_carry(LANES))
    for t in range(STEPS):
        (gradient,) = torch.autograd.grad(y[t].square().sum(), x, retain_graph=True)
        depends = gradient[..., :-1].abs().amax((1, 2)) > 1e-12
        seen = torch.tensor(found.weights[:, t] > 0).any(0)
        seen[t] = True
        assert torch.equal(depends, seen), (t, depends, seen)


@pytest.mark.parametrize("attention", ["windowed", "sliding"])
def test_without_queries_all_that_is_seen_weighs_the_same(attention):
    memory, width = memory_of("trmrl", f"model.attention={attention}", "model.window=3", "model.num_layers=2")
    with torch.no_grad():
        for layer in memory.layers:
            size = layer.project.weight.shape[1]
            layer.project.weight[:size], layer.project.bias[:size] = 0, 0
    maps = maps_of(memory, inputs(width))
    age = np.arange(STEPS) - np.array(STARTS)[np.searchsorted(STARTS, np.arange(STEPS), side="right") - 1]
    seen = np.minimum(age + 1, 3)
    assert len(maps) == 2
    for found in maps:
        np.testing.assert_allclose(found.distance, np.tile((seen - 1) / 2, (2, 1)), atol=1e-12)
        np.testing.assert_allclose(found.entropy, np.tile(np.log(seen), (2, 1)), atol=1e-12)
    rows = head_table({"trmrl": maps})
    assert len(rows) == 4 and rows[3]["layer"] == rows[3]["head"] == 1
    assert rows[0]["entropy"] == pytest.approx(np.log(seen).mean())


def test_a_head_that_sees_nothing_in_the_first_row_does_not_count_it():
    memory, width = memory_of("sparse_transformer", "model.num_layers=3", "model.positions=learned", "model.context=12")
    third = maps_of(memory, inputs(width))[2]  # the previous row, of three steps
    assert np.isnan(third.distance[:, :3]).all() and not np.isnan(third.distance[:, 3:]).any()
    assert third.weights[:, :3].sum() == 0 and not math.isnan(head_table({"": [third]})[0]["distance"])


@pytest.mark.parametrize("model", WITH_MAPS)
def test_only_steps_that_count_are_in_the_maps(model):
    memory, width = memory_of(model)
    x = inputs(width)
    mask = torch.ones(STEPS, LANES, dtype=torch.bool)
    mask[:, 1:] = False
    alone = attention_maps(memory, x[:, :1], mask[:, :1])
    for one, masked in zip(alone, maps_of(memory, x, mask), strict=True):
        np.testing.assert_allclose(one.weights, masked.weights, atol=1e-6)
        np.testing.assert_allclose(one.distance, masked.distance, atol=1e-6)


@pytest.mark.parametrize("model", WITH_MAPS)
@torch.no_grad()
def test_recording_changes_nothing(model):
    memory, width = memory_of(model)
    row = inputs(width)[0]
    plain, _ = memory.step(row, memory.initial_carry(LANES))
    with record_attention() as records:
        seen, _ = memory.step(row, memory.initial_carry(LANES))
    assert torch.equal(plain, seen) and records
    memory.step(row, memory.initial_carry(LANES))
    assert len(records) == len(set(map(id, records)))


def test_principal_components_of_a_known_cloud():
    """Points on a tilted plane: variances 9 and 1 of 10 along two directions, whatever their offset."""
    generator = np.random.default_rng(0)
    plane, _ = np.linalg.qr(generator.normal(size=(6, 2)))
    flat = generator.normal(size=(5000, 2)) * [3, 1]
    points, share = principal_components(flat @ plane.T + 7, 3)
    np.testing.assert_allclose(share, [0.9, 0.1, 0], atol=0.01)
    np.testing.assert_allclose(np.abs(np.corrcoef(points[:, 0], flat[:, 0])[0, 1]), 1, atol=1e-3)
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-9)
    assert principal_components(flat, 5).points.shape == (5000, 2)
    assert principal_components(np.ones((4, 3))).share.tolist() == [0, 0, 0]


SMALL = ["env=tabular_mdp", "env.num_episodes=2", "env.horizon=3", "model.hidden_size=8", "model.num_heads=2"]


def test_the_command_shows_where_memories_look(tmp_path, capsys):
    arguments = ["analyse", "model=transformer,reinstatement", *SMALL, "--study", "attention", "--num-tasks", "3"]
    main([*arguments, "--output", str(tmp_path), "--format", "csv"])
    shown = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["unit"] for row in shown] == ["step"] * 4 + ["episode"] * 2 + ["step"] * 2
    assert shown == list(csv.DictReader((tmp_path / "attention.csv").open()))
    arrays = np.load(tmp_path / "attention.npz", allow_pickle=False)
    assert arrays["transformer-layer1"].shape == (2, 6, 6) and arrays["reinstatement-layer0"].shape == (2, 6, 2)
    assert (tmp_path / "attention.svg").read_text().count("<svg") == 1


def test_a_memory_without_attention_is_told_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["analyse", "model=gru", "--study", "attention", "--output", str(tmp_path / "new")])
    message = capsys.readouterr().err
    assert "gru: its memory has no attention" in message and "--study embeddings" in message
    assert not (tmp_path / "new").exists()


def test_the_command_exports_embeddings(tmp_path, capsys):
    arguments = ["analyse", "model=gru,mlp", *SMALL[:-1], "--study", "embeddings", "--num-tasks", "3"]
    main([*arguments, "--output", str(tmp_path), "--format", "csv"])
    shares = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["model"] for row in shares] == ["gru", "mlp"] and 0 < float(shares[0]["PC1"]) <= 1
    arrays = np.load(tmp_path / "embeddings.npz", allow_pickle=False)
    assert arrays["gru-vectors"].shape == (18, 8) and arrays["gru-returns"].shape == (3,)
    rows = [row for row in csv.DictReader((tmp_path / "embeddings.csv").open()) if row["model"] == "gru"]
    assert len(rows) == 18 and {row["episode"] for row in rows} == {"0", "1"}
    points = np.array([[float(row["PC1"]), float(row["PC2"])] for row in rows])
    np.testing.assert_allclose(points, principal_components(arrays["gru-vectors"], 2).points, atol=1e-9)
    assert (tmp_path / "embeddings.svg").read_text().count("<svg") == 1


def test_neighbours_stay_neighbours_in_two_dimensions(tmp_path):
    generator = np.random.default_rng(0)
    groups = generator.integers(3, size=90)
    points = 20 * np.eye(5)[groups] + generator.normal(size=(90, 5))
    names, flat = project(points, "tsne", 3)
    assert names == ["t-SNE 1", "t-SNE 2"] and flat.shape == (90, 2)
    distance = np.linalg.norm(flat[:, None] - flat, axis=-1) + 1e9 * np.eye(90)
    assert (groups[distance.argmin(1)] == groups).all()
    main(
        [
            "analyse",
            "model=gru",
            *SMALL[:-1],
            "--study",
            "embeddings",
            "--projection",
            "tsne",
            "--output",
            str(tmp_path),
        ]
    )
    assert "t-SNE 2" in (tmp_path / "embeddings.csv").read_text().splitlines()[0]
