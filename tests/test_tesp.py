"""TESP: the encoder against a loop, the best episodes, the warm-up, and iterates that are taken back."""

import copy

import numpy as np
import pytest
import torch
from helpers import collected, config_of, make_algorithm, perturb, same
from torch.func import functional_call

from metarl.algorithms.meta_optimizers import BestIterate, OuterTerms
from metarl.algorithms.per_task import expand_per_task
from metarl.algorithms.samples import by_task
from metarl.algorithms.tesp import episodes_of
from metarl.errors import ConfigError
from metarl.models.episode_encoder import EpisodeEncoder, Episodes, best_episodes, empty_episodes
from metarl.seeding import make_generator

SIZE = ("model.hidden_size=6", "env.num_episodes=2", "lanes_per_task=3", "algorithm.num_best_episodes=4")


def learner(*overrides: str, env: str = "tmaze_copying"):
    agent, on = make_algorithm("algorithm=tesp", f"env={env}", *SIZE, *overrides, lanes=2)
    perturb(agent.policy, 0.3)
    return agent, on


# ---------------------------------------------------------------- the encoder


def by_hand(encoder: EpisodeEncoder, episode: np.ndarray, gates: str) -> np.ndarray:
    """One episode ``[T, F]``, step by step."""
    weight, recurrent, bias, projection, offset = (part.detach().numpy() for part in encoder.parameters())
    size = recurrent.shape[1]

    def gate(x):
        return np.clip(0.2 * x + 0.5, 0, 1) if gates == "keras" else 1 / (1 + np.exp(-x))

    hidden = np.zeros(size)
    for x in episode:
        inputs = weight @ x + bias
        keep = gate(inputs[:size] + recurrent[:size] @ hidden)
        reset = gate(inputs[size : 2 * size] + recurrent[size : 2 * size] @ hidden)
        last = recurrent[2 * size :]
        mixed = last @ (reset * hidden) if gates == "keras" else reset * (last @ hidden)
        hidden = keep * hidden + (1 - keep) * np.tanh(inputs[2 * size :] + mixed)
    return projection @ hidden + offset


@pytest.mark.parametrize("gates", ["keras", "torch"])
def test_the_encoder_is_a_loop_over_ragged_episodes(gates):
    torch.manual_seed(0)
    encoder = EpisodeEncoder(3, 5, 2, gates).double()
    perturb(encoder, 0.5)
    features, lengths = torch.randn(2, 4, 6, 3).double(), torch.tensor([[6, 1, 0, 3], [0, 0, 0, 0]])
    found = functional_call(encoder, expand_per_task(dict(encoder.named_parameters()), 2), (features, lengths))
    each = [by_hand(encoder, features[0, i, :n].numpy(), gates) for i, n in ((0, 6), (1, 1), (3, 3))]
    np.testing.assert_allclose(found[0].detach().numpy(), np.mean(each, axis=0), atol=1e-12)
    assert found[1].abs().max() == 0


def test_recurrent_weights_start_orthogonal_over_all_three_products_as_published():
    """Rows of the kernel [u, 3u] have length 1: squares of each block add up to u / 3 about, not to u."""
    units = 64

    def blocks(kernel):
        torch.manual_seed(0)
        return EpisodeEncoder(3, units, 2, "keras", kernel).recurrent_weight.detach().split(units)

    joint, each = blocks("joint"), blocks("each")
    torch.testing.assert_close(sum(block.T @ block for block in joint), torch.eye(units), atol=1e-5, rtol=0)
    assert [block.square().sum().item() / units for block in joint] == pytest.approx([1 / 3] * 3, abs=0.03)
    for block in each:
        torch.testing.assert_close(block @ block.T, torch.eye(units), atol=1e-5, rtol=0)
    default = make_algorithm("algorithm=tesp", "algorithm.encoder_hidden_size=64", "env=point_goal")[
        0
    ].encoder.recurrent_weight
    assert default.square().sum().item() == pytest.approx(64, rel=1e-4)


def test_the_torch_form_is_torchs_gru():
    torch.manual_seed(0)
    encoder, gru = EpisodeEncoder(3, 5, 5, "torch"), torch.nn.GRU(3, 5)
    perturb(encoder, 0.5)
    with torch.no_grad():
        # torch's order is reset, update, candidate; its update gate keeps, too.
        rows = torch.cat([torch.arange(5, 10), torch.arange(5), torch.arange(10, 15)])
        gru.weight_ih_l0.copy_(encoder.input_weight[rows])
        gru.weight_hh_l0.copy_(encoder.recurrent_weight[rows])
        gru.bias_ih_l0.copy_(encoder.bias[rows])
        gru.bias_hh_l0.zero_()
        encoder.projection.copy_(torch.eye(5))
        encoder.offset.zero_()
    episode = torch.randn(7, 3)
    found = functional_call(
        encoder, expand_per_task(dict(encoder.named_parameters()), 1), (episode.view(1, 1, 7, 3), torch.tensor([[7]]))
    )
    torch.testing.assert_close(found[0], gru(episode.unsqueeze(1))[1].flatten())


# ---------------------------------------------------------------- episodes


def test_rollouts_are_cut_into_their_episodes():
    agent, env = learner()
    rollout = collected(agent, env)[0]
    marks = torch.arange(rollout.reward.numel()).view(rollout.reward.shape).float()
    found = episodes_of(rollout, by_task(marks, 3).unsqueeze(2), 2, env.horizon, 3)
    assert found.features.shape == (2, 6, env.horizon, 1)
    for lane in range(6):
        task, slot = lane // 3, lane % 3
        starts = [int(t) for t in torch.nonzero(rollout.timestep.first[:, lane] & rollout.mask[:, lane]).flatten()]
        ends = [*starts[1:], int(rollout.mask[:, lane].sum())]
        for episode, (start, end) in enumerate(zip(starts, ends, strict=True)):
            place = 2 * slot + episode
            assert found.lengths[task, place] == end - start
            assert torch.equal(found.features[task, place, : end - start, 0], marks[start:end, lane])
            assert found.features[task, place, end - start :].abs().sum() == 0
            total = rollout.reward[start:end, lane].sum()
            torch.testing.assert_close(found.returns[task, place], total)


def episodes(returns: list[float]) -> Episodes:
    count = len(returns)
    features = torch.arange(count).float().view(1, count, 1, 1)
    return Episodes(features, torch.ones(1, count, dtype=torch.long), torch.tensor([returns]))


def test_the_best_episodes_are_kept_in_order_the_older_first():
    kept = best_episodes(episodes([3.0, 1.0]), episodes([3.0, 2.0, 0.0]), 3)
    assert kept.returns.tolist() == [[3, 3, 2]] and kept.features.flatten().tolist() == [0, 0, 1]
    few = best_episodes(empty_episodes(1, 1, 1, torch.device("cpu")), episodes([1.0]), 3)
    assert few.returns.tolist() == [[1.0]]


@pytest.mark.parametrize(("memory", "sizes"), [("best", [4, 4]), ("latest", [6, 6]), ("all", [6, 12])])
def test_memories_hold_what_they_say(memory, sizes):
    size = () if memory == "best" else ("algorithm.num_best_episodes=null",)
    agent, env = learner(f"algorithm.episode_memory={memory}", *size)
    trial = collected(agent, env)
    state = agent.initial_state(trial[0].tasks)
    for rollout, expected in zip(trial, sizes, strict=False):
        state = agent.adapt(state, rollout)
        assert state.episodes.returns.shape == (2, expected)


# ---------------------------------------------------------------- a trial


def test_the_warm_up_knows_nothing_and_teaches_by_its_episodes_alone():
    agent, env = learner()
    assert agent.rollouts == (2,) * 5  # warm-up, three supports, query
    trial = collected(agent, env)
    start = agent.initial_state(trial[0].tasks)
    assert start.adapted.context["latent"].abs().max() == 0
    warm = agent.adapt(start, trial[0])
    assert same(warm.adapted.parameters, start.adapted.parameters) and warm.adapted.context["latent"].abs().max() > 0
    after = agent.adapt(warm, trial[1])
    assert not same(after.adapted.parameters, warm.adapted.parameters)


@pytest.mark.parametrize("adapt_policy", [True, False])
def test_the_policy_takes_no_inner_steps_unless_asked(adapt_policy):
    agent, env = learner(f"algorithm.adapt_policy={adapt_policy}".lower())
    names = set(agent.inner_parameters())
    assert {name for name in names if not name.startswith("encoder.")} == (
        {name for name, _ in agent.policy.named_parameters() if "value_head" not in name} if adapt_policy else set()
    )
    before = copy.deepcopy(dict(agent.policy.state_dict()))
    collected(agent, env)
    assert same(before, dict(agent.policy.state_dict()))


def test_the_outer_steps_train_policy_encoder_and_step_sizes():
    agent, env = learner("algorithm.meta_optimizer.max_kl=10", "algorithm.meta_optimizer.learning_rate=1e-2")
    perturb(agent.encoder, 0.3)
    before = copy.deepcopy(dict(agent.named_parameters()))
    agent.update(collected(agent, env), 0.0, make_generator(0))
    moved = {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
    assert {name.partition(".")[0] for name in moved} == {"policy", "encoder", "step_sizes"}


# ---------------------------------------------------------------- the best iterate


class Slope:
    """A learner of one number: the loss falls by it, and the divergence grows with its square."""

    def __init__(self, broken_from: float = float("inf")):
        self.number, self.broken_from = torch.nn.Parameter(torch.zeros(1)), broken_from

    def chunks(self, samples):
        yield slice(0, 1)

    def outer_terms(self, stages, clip, differentiable=True):
        loss = -self.number
        if self.number.item() > self.broken_from:
            loss = loss * torch.nan
        return OuterTerms(loss, {"policy_loss": loss}, self.number, torch.square)


class Nothing:
    """Stands for the samples of one task."""

    mask = torch.zeros(1, 1)

    def select(self, tasks):
        return self


def stepped(slope: Slope, steps: int) -> float:
    given = {"learning_rate": 0.1, "num_steps": steps, "clip": 0.2, "max_gradient_norm": None, "max_kl": 0.1}
    BestIterate([slope.number], **given).step(slope, [Nothing()])
    return slope.number.item()


def test_the_best_iterate_within_the_divergence_stays():
    assert stepped(Slope(), 3) == pytest.approx(0.2, abs=1e-3)  # of three evaluations the last takes no step
    assert stepped(Slope(), 20) == pytest.approx(0.3, abs=1e-3)  # 0.4 would diverge by 0.16


def test_iterates_that_are_no_numbers_never_stay():
    assert stepped(Slope(broken_from=0.15), 10) == pytest.approx(0.1, abs=1e-3)
    assert stepped(Slope(broken_from=-1.0), 10) == 0.0


# ---------------------------------------------------------------- options

CHANGES = {
    "latent_dim": "3",
    "latent_coefficient": "10.0",
    "encoder_hidden_size": "7",
    "gru_variant": "torch",
    "episode_memory": "latest algorithm.num_best_episodes=null",
    "num_best_episodes": "2",
    "adapt_policy": "true",
    "step_bound": "2e-3",
    "step_bounding": "clip",
    "recurrent_kernel": "each",
}


def learned(*overrides: str):
    agent, env = learner("algorithm.meta_optimizer.max_kl=10", "algorithm.meta_optimizer.num_steps=3", *overrides)
    for seed in range(2):
        agent.update(collected(agent, env, seed=seed), 0.0, make_generator(0))
    return dict(agent.state_dict())


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_what_is_learnt(option):
    given = ("algorithm.inner_learning_rate=1.9e-3",) if option.startswith("step_bound") else ()
    assert same(learned(*given), learned(*given))
    assert not same(learned(*given), learned(*given, *f"algorithm.{option}={CHANGES[option]}".split()))


def test_every_option_is_tried():
    own = config_of("algorithm=tesp")["algorithm"].keys() - config_of("algorithm=maml")["algorithm"].keys()
    assert own == set(CHANGES)


def test_a_number_of_episodes_belongs_to_the_best():
    for overrides in (("algorithm.episode_memory=all",), ("algorithm.num_best_episodes=null",)):
        with pytest.raises(ConfigError, match=r"a number with .*episode_memory=best"):
            make_algorithm("algorithm=tesp", "env=bandit", *overrides)
