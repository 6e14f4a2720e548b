"""TESP: task embedding and shared policy (Lan et al. 2019, arXiv 1905.06527).

The policy is conditioned on an embedding of the task and shared by all tasks; only the encoder is adapted.

    warm-up: collect episodes with an embedding of zeros                    (initial_state)
    K times, in every task:
        keep the best episodes so far                                       (_update_episode_memory)
        z = encoder(best episodes)                                          (embed)
        collect support episodes with pi(a | o, z)                          (act)
        encoder <- encoder - alpha * grad L(encoder), alpha learned         (adapt; MetaSGD.step_size)
    query episodes with the z of the adapted encoder; outer step on policy, encoder and alpha, with a penalty on z
                                                                            (outer_terms, auxiliary_losses)
"""

from typing import Literal, NamedTuple

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.func import functional_call

from metarl.algorithms.gradient_adaptation import AdaptedState
from metarl.algorithms.latents import latent_conditioned_output, latent_policy
from metarl.algorithms.meta_sgd import MetaSGD
from metarl.algorithms.samples import Samples, by_lane, by_task, steps_of_episodes
from metarl.models.episode_encoder import EpisodeEncoder, Episodes, Gates, Kernel, best_episodes, empty_episodes
from metarl.tree import tree_map
from metarl.types import Rollout, Timestep

ENCODER = "encoder."


class TESPState(NamedTuple):
    """Adapted parameters and embedding (context) of every task, episodes to embed, and number of rollouts so far."""

    adapted: AdaptedState
    episodes: Episodes
    rollouts: int


class TESP(MetaSGD):
    """The encoder takes gradient steps, with learned sizes, after a warm-up rollout with an embedding of zeros.

    Args:
        step_bound: see ``MetaSGD``; the published bound of 0.1 is 100 times the initial step size.
        latent_dim: size of the embedding.
        latent_coefficient: weight of the mean square of the adapted embedding, in the outer loss.
        encoder_hidden_size: units of the encoder.
        gru_variant, recurrent_kernel: gates and kernel, see ``EpisodeEncoder``.
        episode_memory: support episodes to embed: the ``best`` so far, those of the ``latest`` rollout, or ``all``.
        num_best_episodes: number of best episodes; null for other ``episode_memory``.
        adapt_policy: whether the weights of the policy take gradient steps, too.
        inherited: see ``MetaSGD``.

    Raises:
        ValueError: ``num_best_episodes`` does not suit ``episode_memory``.
    """

    def __init__(
        self,
        *,
        step_bound: PositiveFloat | None = 0.1,
        latent_dim: PositiveInt = 8,
        latent_coefficient: NonNegativeFloat = 0.01,
        encoder_hidden_size: PositiveInt = 256,
        gru_variant: Gates = "keras",
        recurrent_kernel: Kernel = "joint",
        episode_memory: Literal["best", "latest", "all"] = "best",
        num_best_episodes: PositiveInt | None = 16,
        adapt_policy: bool = False,
        **inherited,
    ):
        if (episode_memory == "best") != (num_best_episodes is not None):
            raise ValueError(
                f"algorithm.num_best_episodes={num_best_episodes}: is a number with "
                "algorithm.episode_memory=best, and null otherwise"
            )
        super().__init__(step_bound=step_bound, **inherited)
        self.latent_dim, self.latent_coefficient = latent_dim, latent_coefficient
        self.encoder_hidden_size = encoder_hidden_size
        self.gru_variant, self.recurrent_kernel = gru_variant, recurrent_kernel
        self.episode_memory, self.num_best_episodes = episode_memory, num_best_episodes
        self.adapt_policy = adapt_policy

    def setup(self, env, model):
        super().setup(env, model)
        self.rollouts = (self.rollouts[0], *self.rollouts)  # the warm-up

    def build_policy(self, env, model):
        return latent_policy(env, model, self.latent_dim)

    def build_auxiliary_modules(self, env):
        self.horizon = env.horizon
        width = self.observed.output_dim + self.policy.distribution.num_parameters + 1
        self.feature_dim = width
        self.encoder = EpisodeEncoder(
            width, self.encoder_hidden_size, self.latent_dim, self.gru_variant, self.recurrent_kernel
        )
        super().build_auxiliary_modules(env)

    def inner_parameters(self):
        encoder = {ENCODER + name: value for name, value in self.encoder.named_parameters()}
        return encoder | (super().inner_parameters() if self.adapt_policy else {})

    # ------------------------------------------------------------ the embedding

    def embed(self, parameters: dict[str, Tensor], episodes: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings ``[N, latent_dim]`` of episodes ``[N, M, T, F]``, by each task's own encoder."""
        if episodes.shape[1] == 0:
            return episodes.new_zeros(len(episodes), self.latent_dim)
        own = {name.removeprefix(ENCODER): value for name, value in parameters.items() if name.startswith(ENCODER)}
        return functional_call(self.encoder, own, (episodes, lengths))

    def encode_context(self, parameters, context):
        if "latent" in context:
            return context
        return {"latent": self.embed(parameters, context["episodes"], context["lengths"])}

    def output(self, parameters, timestep: Timestep, context):
        own = {name: value for name, value in parameters.items() if not name.startswith(ENCODER)}
        return latent_conditioned_output(self.policy, timestep, self.encode_context(parameters, context)["latent"], own)

    def auxiliary_losses(self, path, stages):
        return {"latent_square": (self.latent_coefficient, stages[-1].context["latent"].square().mean(1))}

    def default_chunk_size(self, count, size, device):
        return count  # the episodes of one task are too few for efficient matrix products

    # ------------------------------------------------------------ a trial

    def initial_state(self, tasks):
        adapted = super().initial_state(tasks)
        count, device = len(tasks) // self.lanes_per_task, tasks.description.device
        latent = torch.zeros(count, self.latent_dim, device=device)
        episodes = empty_episodes(count, self.horizon, self.feature_dim, device)
        return TESPState(adapted._replace(context={"latent": latent}), episodes, 0)

    def act(self, timestep, state, generator, greedy=False):
        return super().act(timestep, state.adapted, generator, greedy)[0], state

    def adapt(self, state, rollout):
        episodes = self._update_episode_memory(state, rollout)
        adapted = state.adapted
        if state.rollouts > 0:
            adapted = self._inner_update(adapted, self._support(state, rollout))
        latent = self.embed(adapted.parameters, episodes.features, episodes.lengths)
        return TESPState(adapted._replace(context={"latent": latent}), episodes, state.rollouts + 1)

    @torch.no_grad()
    def stages(self, trial):
        state, stages = self.initial_state(trial[0].tasks), []
        for index, rollout in enumerate(trial):
            if index > 0:
                stages.append(self._support(state, rollout))
            if index + 1 < len(trial):
                state = self.adapt(state, rollout)
        return self.cache_behavior_policy(stages)

    def _support(self, state: TESPState, rollout: Rollout) -> Samples:
        """Samples with the episodes whose embedding was in use while they were collected."""
        context = {"episodes": state.episodes.features, "lengths": state.episodes.lengths}
        return self.samples(rollout)._replace(context=context)

    def _update_episode_memory(self, state: TESPState, rollout: Rollout) -> Episodes:
        """Episodes to embed after this rollout."""
        timestep = tree_map(lambda part: by_task(part, self.lanes_per_task), rollout.timestep)
        params = self.output(state.adapted.parameters, timestep, state.adapted.context).distribution_params
        new = episodes_of(rollout, self._features(rollout, params), self.rollouts[0], self.horizon, self.lanes_per_task)
        if self.episode_memory == "best":
            return best_episodes(state.episodes, new, self.num_best_episodes or 0)
        if self.episode_memory == "latest":
            return new
        return tree_map(lambda *parts: torch.cat(parts, dim=1), state.episodes, new)  # [N, M, ...]

    def _features(self, rollout: Rollout, params: Tensor) -> Tensor:
        """Observation, parameters of the action distribution and reward of every step, ``[N, lanes * T, F]``."""
        observed = by_task(self.observed(rollout.timestep.observation), self.lanes_per_task)
        return torch.cat([observed, params, by_task(rollout.reward, self.lanes_per_task).unsqueeze(2)], dim=2)


def episodes_of(rollout: Rollout, features: Tensor, episodes: int, horizon: int, lanes_per_task: int) -> Episodes:
    """Episodes of each task, padded ``[N, lanes * episodes, horizon, F]``, from features ``[N, lanes * T, F]``."""
    number = rollout.timestep.first.long().cumsum(0) - 1  # of the episode, [T, B]
    within, mask = steps_of_episodes(rollout.timestep.first), rollout.mask
    lane = torch.arange(number.shape[1], device=mask.device).expand_as(number)
    place = ((lane * episodes + number.clamp(max=episodes - 1)) * horizon + within)[mask]
    cells = number.shape[1] * episodes * horizon
    counted = by_lane(features, len(mask))[mask]
    padded = features.new_zeros(cells, features.shape[2]).index_copy(0, place, counted)
    one = torch.zeros(cells, dtype=torch.long, device=mask.device).index_fill(0, place, 1)
    reward = features.new_zeros(cells).index_copy(0, place, rollout.reward[mask])
    shape = (-1, lanes_per_task * episodes, horizon)  # [N, M, horizon]
    lengths, returns = one.view(shape).sum(2), reward.view(shape).sum(2)
    return Episodes(padded.view(*shape, features.shape[2]), lengths, returns)
