"""VariBAD: the bound in the slow and obvious way, whole trials in a ring, and two learners that keep apart."""

import copy

import pytest
import torch
from gymnasium import spaces
from helpers import (
    collected,
    config_of,
    finish,
    make_algorithm,
    perturb,
    same,
    small_config,
    timeless_states,
    whole_and_resumed,
)

from metarl.algorithms.elbo import Belief, as_belief, kl_to_prior, reconstruction, sample_terms
from metarl.algorithms.trial_buffer import TrialBuffer, trials_of
from metarl.errors import ConfigError
from metarl.models.decoders import TransitionDecoder
from metarl.rollout import collect_trial
from metarl.seeding import make_generator

RAGGED = "env=tmaze_copying"


def agent_of(*overrides: str, env: str = RAGGED, lanes: int = 6):
    agent, on = make_algorithm(env, "algorithm=varibad", *overrides, lanes=lanes)
    perturb(agent, 0.3)
    return agent, on


# ---------------------------------------------------------------- the bound


def normal_kl(mean, log_variance, prior_mean, prior_log_variance) -> float:
    normal = torch.distributions.Normal
    left, right = normal(mean, (log_variance / 2).exp()), normal(prior_mean, (prior_log_variance / 2).exp())
    return torch.distributions.kl_divergence(left, right).sum().item()


@pytest.mark.parametrize("prior", ["previous", "standard"])
def test_divergences_are_those_of_normals(prior):
    belief = Belief(torch.randn(4, 2, 3).double(), torch.randn(4, 2, 3).double())
    found = kl_to_prior(belief, prior)
    nothing = torch.zeros(3).double()
    for t in range(4):
        for lane in range(2):
            before = [part[t - 1, lane] for part in belief] if t and prior == "previous" else [nothing, nothing]
            expected = normal_kl(*(part[t, lane] for part in belief), *before)
            assert found[t, lane].item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("decode_only_past", [True, False])
@pytest.mark.parametrize("decoded", ["reward", "observation"])
def test_the_reconstruction_is_a_double_loop_over_ragged_trials(decode_only_past, decoded):
    agent, env = agent_of("algorithm.observation_coefficient=1.0")
    (rollout,) = collected(agent, env)
    assert len(rollout.mask.sum(0).unique()) > 1  # ragged
    agent.double()
    trials = trials_of(rollout)
    latent = torch.randn(*rollout.mask.shape, agent.policy.latent_dim).double()
    terms = sample_terms(trials.mask, None, None, make_generator(0))
    decoder = dict(agent.transition_decoders())[decoded]
    found = reconstruction(latent, trials, terms, decoder, decode_only_past).item()
    total = 0.0
    for lane in range(trials.mask.shape[1]):
        length = int(trials.mask[:, lane].sum())
        of_trial = 0.0
        for belief in range(length):
            for step in range(belief if decode_only_past else length):
                one = [
                    part[step : step + 1, lane : lane + 1]
                    for part in (trials.timestep.observation, trials.action, trials.next_observation, trials.reward)
                ]
                of_trial += decoder.errors(latent[belief : belief + 1, lane : lane + 1], *one).item()
        total += of_trial / length
    assert found == pytest.approx(total / trials.mask.shape[1], rel=1e-6)


def test_squared_errors_are_of_what_really_followed():
    agent, env = agent_of("algorithm.observation_coefficient=1.0", env="env=point_goal")
    (rollout,) = collected(agent, env)
    decoder = dict(agent.transition_decoders())["observation"]
    latent = torch.randn(1, *rollout.reward.shape[1:], agent.policy.latent_dim)
    none = torch.zeros_like(rollout.next_observation)
    step = (rollout.timestep.observation, rollout.decision.action)
    with torch.no_grad():
        predicted_0 = decoder.errors(latent, *step, none, rollout.reward)
        predicted_1 = decoder.errors(latent, *step, none + 1, rollout.reward)
    # (p - 1)^2 - p^2 = 1 - 2 p, mean over two coordinates.
    assert (predicted_1 - predicted_0).shape == (1, *rollout.reward.shape)
    done = rollout.terminated | rollout.truncated
    following = rollout.timestep.observation[1:][~done[:-1]]
    torch.testing.assert_close(rollout.next_observation[:-1][~done[:-1]], following)


def test_drawn_terms_estimate_the_whole_bound_without_bias():
    agent, env = agent_of()
    (rollout,) = collected(agent, env)
    trials = trials_of(rollout)
    latents = torch.randn(*rollout.mask.shape, agent.policy.latent_dim)
    (_, decoder), *_ = agent.transition_decoders()
    generator = make_generator(0)

    def bound(beliefs, transitions):
        terms = sample_terms(trials.mask, beliefs, transitions, generator)
        rows = terms.beliefs.unsqueeze(-1).expand(-1, -1, latents.shape[-1])
        with torch.no_grad():
            return reconstruction(latents.gather(0, rows), trials, terms, decoder).item()

    drawn = torch.tensor([bound(4, 4) for _ in range(800)])
    error = drawn.std().item() / len(drawn) ** 0.5
    assert abs(drawn.mean().item() - bound(None, None)) < 4 * error
    assert drawn.std() > 0


@pytest.mark.parametrize("reward_decoder", ["squared", "per_cell"])
def test_gradients_of_the_bound_agree_with_finite_differences(reward_decoder):
    every = ("algorithm.observation_coefficient=0.5", "algorithm.task_coefficient=2.0", "env.num_episodes=2")
    agent, env = agent_of(f"algorithm.reward_decoder={reward_decoder}", *every, "model=mingru", env="env=grid")
    (rollout,) = collected(agent, env)
    trials = trials_of(rollout)
    agent.double()
    timestep = type(trials.timestep)(*(p.double() if p.is_floating_point() else p for p in trials.timestep))
    trials = trials._replace(
        timestep=timestep,
        **{n: getattr(trials, n).double() for n in ("reward", "next_observation", "task")},
    )
    parameters = agent.vae_parameters()

    def total():
        losses = agent.vae_losses(trials, make_generator(0))
        return sum(agent.coefficients[name] * loss for name, loss in losses.items())

    gradients = torch.autograd.grad(total(), parameters)
    generator = make_generator(1)
    for _ in range(3):
        directions = [torch.randn(p.shape, generator=generator).double() for p in parameters]
        slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True)).item()
        values = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.add_(sign * 1e-6 * direction)
                values.append(total().item())
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)


# ---------------------------------------------------------------- the buffer


def test_the_buffer_gives_back_whole_trials_as_they_were():
    agent, env = agent_of(lanes=5)
    (rollout,) = collected(agent, env)
    buffer = TrialBuffer(9, env.trial_length)
    buffer.add(rollout)
    drawn = buffer.sample(5, make_generator(3))
    length = int(rollout.mask.sum(0).max())
    order = [int((drawn.task[i] == rollout.tasks.description).all(1).nonzero()[0]) for i in range(5)]
    lanes = torch.randperm(5, generator=make_generator(3))
    assert len(drawn.mask) == length and order is not None
    for part, stored in zip(drawn.timestep, rollout.timestep, strict=True):
        mask = rollout.mask[:length, lanes]
        assert torch.equal(part[mask], stored[:length, lanes][mask])
    for name in ("reward", "next_observation", "mask"):
        assert torch.equal(getattr(drawn, name), getattr(rollout, name)[:length, lanes])


def test_the_buffer_forgets_the_oldest_and_survives_a_checkpoint():
    agent, env = agent_of(lanes=4)
    rollouts = [collected(agent, env, seed=seed)[0] for seed in range(3)]
    buffer = TrialBuffer(10, env.trial_length)
    for rollout in rollouts:
        buffer.add(rollout)
    assert buffer.size == 10
    kept = buffer.sample(10, make_generator(0)).reward.sum(0).sort().values
    every = torch.cat([(r.reward * r.mask).sum(0) for r in rollouts])
    masked = buffer.sample(10, make_generator(0))
    assert torch.allclose((masked.reward * masked.mask).sum(0).sort().values, every[2:].sort().values)
    other = TrialBuffer(10, env.trial_length)
    other.load_state_dict(copy.deepcopy(buffer.state_dict()))
    for twin in (buffer, other):
        twin.add(rollouts[0])
    assert same(buffer.state_dict(), other.state_dict()) and len(kept) == 10


def test_a_full_iteration_replaces_a_smaller_buffer():
    agent, env = agent_of(lanes=6)
    buffer = TrialBuffer(4, env.trial_length)
    for seed in range(2):
        buffer.add(collected(agent, env, seed=seed)[0])
    assert buffer.size == 4 and same(buffer.sample(4, make_generator(0)).task.shape, torch.Size([4, 1]))


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    sizes = ("training.total_steps=400", "training.eval_every=2", "eval.num_tasks=8", "eval.batch_size=8")
    config = small_config("env=grid", "algorithm=varibad", *sizes, lanes=4)

    trainers = whole_and_resumed(config, tmp_path, stop_at=3)
    assert trainers[1].algorithm.buffer.size == 12
    finish(trainers[1])
    assert same(*timeless_states(trainers))


# ---------------------------------------------------------------- two learners


def moved(*overrides: str) -> set[str]:
    """Parts of the policy that an update without any learning from the bound changes."""
    agent, env = agent_of("algorithm.vae_learning_rate=1e-30", *overrides)
    before = copy.deepcopy(dict(agent.policy.named_parameters()))
    agent.update(collected(agent, env), 0.0, make_generator(0))
    after = dict(agent.policy.named_parameters())
    return {name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])}


def test_the_policy_gradient_trains_the_memory_only_where_asked():
    assert moved() == {"heads"}
    assert moved("algorithm.rl_loss_through_encoder=true") == {"heads", "memory", "belief"}


def test_the_bound_alone_trains_memory_and_decoders():
    agent, env = agent_of("algorithm.num_epochs=1")
    agent.optimizer = torch.optim.SGD(agent.policy_parameters(), lr=1e-30)
    before = copy.deepcopy(dict(agent.named_parameters()))
    agent.learning_rate = (1e-30, 1e-30)
    agent.update(collected(agent, env), 0.0, make_generator(0))
    changed = {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
    expected = {n for n in before if n.startswith(("policy.memory", "policy.belief", "decoders"))}
    assert changed - {n for n in before if "value_head" in n or "critic_output" in n} == expected


SEPARATE = ("num_vae_updates", "vae_learning_rate", "max_vae_gradient_norm")  # what sharing leaves no room for
CHANGES = {
    "reward_coefficient": "0.1",
    "reward_decoder": "per_cell",
    "observation_coefficient": "1.0",
    "task_coefficient": "1.0",
    "kl_coefficient": "10.0",
    "prior": "standard",
    "decode_only_past": "true",
    "decoder_layers": "[5]",
    "buffer_size": "5",
    "batch_size": "2",
    "num_vae_updates": "3",
    "num_elbo_terms": "3",
    "num_reconstruction_terms": "3",
    "vae_learning_rate": "0.1",
    "max_vae_gradient_norm": "0.01",
    "optimizer": " algorithm.".join(["shared", *(f"{name}=null" for name in SEPARATE)]),
    "rl_loss_through_encoder": "true",
}


def trained(*overrides: str):
    agent, env = make_algorithm("env=grid", "algorithm=varibad", *overrides)
    perturb(agent, 0.2)
    acting, updating = make_generator(0), make_generator(1)
    for _ in range(3):
        env.sample_tasks()
        agent.update(collect_trial(env, agent, acting), 0.5, updating)
    return agent.policy.state_dict()


def test_every_option_is_tried():
    own = config_of("algorithm=varibad")["algorithm"].keys() - config_of("algorithm=rl2")["algorithm"].keys()
    assert own == set(CHANGES)


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_what_is_learnt(option):
    assert same(trained(), trained())
    assert not same(trained(), trained(*f"algorithm.{option}={CHANGES[option]}".split()))


REFUSED = {
    ("model.latent_dim=null",): ["model.latent_dim=null", "5 is a usual size"],
    ("algorithm.reward_decoder=per_cell",): ["reward_decoder=per_cell", "use squared"],
    ("algorithm.decoder_layers=[]",): ["decoder_layers=[]", "at least one layer"],
    ("algorithm.reward_coefficient=0",): ["the encoder has no loss", "rl_loss_through_encoder=true"],
    ("algorithm.optimizer=shared",): ["num_vae_updates=2", "set it to null"],
    ("algorithm.vae_learning_rate=null",): ["optimizer=separate needs it"],
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_does_not_fit_is_refused(overrides):
    with pytest.raises(ConfigError) as refusal:
        make_algorithm(RAGGED, "algorithm=varibad", *overrides)
    assert all(part in str(refusal.value) for part in REFUSED[overrides])


def test_the_belief_learns_which_cell_is_rewarding():
    """After enough of the bound alone, the cell that was found is believed to be rewarding."""
    fast = ("algorithm.num_vae_updates=100", "algorithm.vae_learning_rate=5e-3", "algorithm.buffer_size=600")
    sizes = ("env.size=3", "env.horizon=8", "env.num_episodes=1", "model.hidden_size=24", "algorithm.batch_size=100")
    more = ("algorithm.reward_decoder=per_cell", "algorithm.decoder_layers=[32]", "model=gru")
    agent, env = make_algorithm("env=grid", "algorithm=varibad", *fast, *sizes, *more, lanes=200)
    generator = make_generator(0)
    for _ in range(6):
        env.sample_tasks()
        agent.update(collect_trial(env, agent, generator), 0.0, generator)
    env.sample_tasks()
    (rollout,) = collect_trial(env, agent, generator)
    known, _ = agent.policy.encode(rollout.timestep, agent.policy.initial_carry(200))
    shown = agent.decoders["reward"].probabilities(as_belief(known.actor).mean)[-1].detach()
    found = (rollout.reward[:-1] > 0).any(0)
    right = shown[torch.arange(200), env.goal]
    assert found.sum() > 20 and right[found].mean() > 0.8 and right[~found].mean() < 0.6


def test_an_observation_weighs_as_much_as_a_reward_whatever_its_dimensions():
    """Mean over dimensions, as in VariBAD's code: 17 errors of 2, and one, are a squared error of 4."""
    spaces_of = spaces.Box(-1, 1, (17,)), spaces.Box(-1, 1, (6,))
    for predicts, size in (("observation", 17), ("reward", 1)):
        decoder = TransitionDecoder(5, *spaces_of, predicts, [8])
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.zero_()
            assert decoder.layers[-1].bias.fill_(2.0).shape == (size,)
        zeros = [torch.zeros(3, 4, width) for width in (17, 6, 17)]
        errors = decoder.errors(torch.zeros(2, 4, 5), *zeros, torch.zeros(3, 4))
        torch.testing.assert_close(errors, torch.full((2, 3, 4), 4.0))


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        # KL 0.01 and summed over the 25 trials of a batch
        ("grid", {"kl_coefficient": 0.25, "entropy_coefficient": 0.01, "total_steps": 20_000_000}),
        ("grid_hyper", {"kl_coefficient": 25, "entropy_coefficient": 0.1, "total_steps": 15_000_000}),
        # KL 0.1, summed over 10 trials, against 50 of 200 transitions
        ("cheetah", {"kl_coefficient": 4, "entropy_coefficient": 0.01, "total_steps": 100_000_000}),
    ],
)
def test_presets_have_the_weights_of_the_code_they_name(preset, expected):
    config = config_of(f"experiment=hyper/published/{preset}")
    found = config["algorithm"] | {"total_steps": config["training"]["total_steps"]}
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["final_entropy_coefficient"] == found["entropy_coefficient"]
