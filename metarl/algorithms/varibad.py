"""VariBAD: variational Bayes-adaptive deep RL (Zintgraf et al. 2020, arXiv 1910.08348).

The memory encodes a belief q(m | tau_:t) over latent tasks; the policy is conditioned on the belief.

    collect trials with pi(a_t | o_t, q(m | tau_:t)); add them to a buffer  (act; TrialBuffer.add)
    PPO on the heads, the belief being an input                             (extra_inputs, evaluate)
    num_vae_updates times, on trials of the buffer:                         (_vae_step)
        ELBO_t = E_q(m | tau_:t) log p(tau_:H | m) - KL(q(m | tau_:t) || prior)
            decoded rewards, observations and tasks of the whole trial      (elbo.reconstruction, elbo.task_error)
            KL divergence to the previous belief                            (elbo.kl_to_prior)
        one Adam step of encoder and decoders along grad sum_t ELBO_t       (vae_losses)

With optimizer=shared the ELBO is part of every step of the policy instead (auxiliary_losses).
"""

from collections.abc import Iterable
from typing import Literal, cast

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn

from metarl import parallel
from metarl.algorithms.elbo import (
    Belief,
    Decoder,
    Prior,
    as_belief,
    gather_time,
    kl_to_prior,
    local_part,
    mean_over_beliefs,
    reconstruction,
    sample_terms,
    task_error,
)
from metarl.algorithms.policy_gradient import Batch, PolicyGradient, log_entries, mean_of
from metarl.algorithms.trial_buffer import TrialBuffer, Trials, trials_of
from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import grid_world
from metarl.models.decoders import CellDecoder, RewardDecoder, TransitionDecoder
from metarl.models.heads import HeadOutput, MemoryOutput
from metarl.models.mlp import mlp
from metarl.tree import tree_map
from metarl.types import Rollout

CHUNK = 16  # beliefs decoded at once over whole trials


class VariBAD(PolicyGradient):
    """The memory (encoder) is trained by an evidence lower bound (ELBO) on trials of a buffer, the heads by PPO.

    Args:
        reward_coefficient, observation_coefficient, task_coefficient: weights of decoding rewards, next observations
            and the task description; 0 builds no such decoder.
        reward_decoder: ``squared`` predicts rewards; ``per_cell`` predicts which cells are rewarding, in grid worlds.
        kl_coefficient: weight of the KL divergence from each belief to its prior.
        prior: the ``previous`` belief (a standard normal at first), or ``standard`` for a standard normal always.
        decode_only_past: decode only transitions that precede the belief.
        decoder_layers: sizes of the hidden layers of the decoders.
        buffer_size: number of latest trials to train the encoder on.
        batch_size: trials of one encoder update.
        num_vae_updates: updates of encoder and decoders per iteration; null with the ``shared`` optimizer.
        num_elbo_terms, num_reconstruction_terms: beliefs decoded per trial, and transitions decoded under each,
            drawn with replacement; null takes all.
        vae_learning_rate: learning rate of encoder and decoders; null with the ``shared`` optimizer.
        max_vae_gradient_norm: gradients of encoder and decoders are scaled down to this norm; null leaves them.
        optimizer: ``separate`` trains encoder and decoders after the policy, with an optimizer of their own; ``shared``
            adds the ELBO to every step of the policy gradient, with its learning rate and gradient norm.
        rl_loss_through_encoder: the policy gradient trains the encoder, too.
        inherited: see ``PolicyGradient``.

    Raises:
        ValueError: the encoder has no loss, or options exclude each other.
    """

    def __init__(
        self,
        *,
        reward_coefficient: NonNegativeFloat = 1.0,
        observation_coefficient: NonNegativeFloat = 0.0,
        task_coefficient: NonNegativeFloat = 0.0,
        reward_decoder: RewardDecoder = "squared",
        kl_coefficient: NonNegativeFloat = 0.1,
        prior: Prior = "previous",
        decode_only_past: bool = False,
        decoder_layers: list[PositiveInt],
        buffer_size: PositiveInt = 1000,
        batch_size: PositiveInt = 50,
        num_vae_updates: PositiveInt | None = 3,
        num_elbo_terms: PositiveInt | None = 50,
        num_reconstruction_terms: PositiveInt | None = 50,
        vae_learning_rate: PositiveFloat | None = 1e-3,
        max_vae_gradient_norm: PositiveFloat | None = 0.5,
        optimizer: Literal["separate", "shared"] = "separate",
        rl_loss_through_encoder: bool = False,
        **inherited,
    ):
        if not decoder_layers:
            raise ValueError("algorithm.decoder_layers=[]: decoders need at least one layer")
        super().__init__(**inherited)
        self.coefficients = {
            "reward_error": reward_coefficient,
            "observation_error": observation_coefficient,
            "task_error": task_coefficient,
            "latent_kl": kl_coefficient,
        }
        self.reward_decoder, self.decoder_layers = reward_decoder, decoder_layers
        self.prior, self.decode_only_past = prior, decode_only_past
        self.buffer_size, self.batch_size, self.num_vae_updates = buffer_size, batch_size, num_vae_updates
        self.num_elbo_terms, self.num_reconstruction_terms = num_elbo_terms, num_reconstruction_terms
        self.vae_learning_rate, self.max_vae_gradient_norm = vae_learning_rate, max_vae_gradient_norm
        self.shared, self.rl_loss_through_encoder = optimizer == "shared", rl_loss_through_encoder
        self._check_options()

    def _check_options(self) -> None:
        if self.batch_size < parallel.world_size():
            raise ValueError(
                f"algorithm.batch_size={self.batch_size}: {parallel.world_size()} processes share it; raise it"
            )
        own = {"num_vae_updates": self.num_vae_updates, "vae_learning_rate": self.vae_learning_rate}
        for name, value in own.items():
            if self.shared and value is not None:
                raise ValueError(f"algorithm.{name}={value}: optimizer=shared uses the policy's; set it to null")
            if not self.shared and value is None:
                raise ValueError(f"algorithm.{name}=null: algorithm.optimizer=separate needs it")
        if self.shared and self.max_vae_gradient_norm is not None:
            raise ValueError("algorithm.max_vae_gradient_norm: optimizer=shared uses the policy's; set it to null")
        decoded = [name for name in self.coefficients if name.endswith("error") and self.coefficients[name]]
        if not decoded and not (self.rl_loss_through_encoder and self.shared):
            raise ValueError(
                "algorithm.reward_coefficient=0: the encoder has no loss; set the coefficient of a decoder, or use "
                "algorithm.rl_loss_through_encoder=true with algorithm.optimizer=shared"
            )

    def build_auxiliary_modules(self, env):
        policy = self.policy
        if policy.latent_dim is None:
            raise ValueError("model.latent_dim=null: this algorithm uses the memory as a belief; 5 is a usual size")
        self.decoders = nn.ModuleDict()
        if self.coefficients["reward_error"]:
            self.decoders["reward"] = self._reward_decoder(env, policy.latent_dim)
        if self.coefficients["observation_error"]:
            spaces = env.observation_space, env.action_space
            self.decoders["observation"] = TransitionDecoder(
                policy.latent_dim, *spaces, "observation", self.decoder_layers
            )
        if self.coefficients["task_error"]:
            self.decoders["task"] = self.task_decoder(env, policy.latent_dim)
        self.buffer = TrialBuffer(self.buffer_size, env.trial_length)
        if not self.shared:
            parameters = self.vae_parameters()
            self.vae_optimizer = torch.optim.Adam(parameters, lr=self.vae_learning_rate or 0.0, eps=1e-5, fused=True)

    def _reward_decoder(self, env: MetaEnv, latent_dim: int) -> nn.Module:
        if self.reward_decoder == "squared":
            return TransitionDecoder(latent_dim, env.observation_space, env.action_space, "reward", self.decoder_layers)
        world = grid_world(env)
        if world is None:
            raise ValueError(f"algorithm.reward_decoder=per_cell: {type(env).__name__} is no grid world; use squared")
        return CellDecoder(latent_dim, world.num_cells, world.cell, world.goal_reward, self.decoder_layers)

    def task_decoder(self, env: MetaEnv, latent_dim: int) -> nn.Module:
        """Decoder from a latent to ``task_target``."""
        return mlp([latent_dim, *self.decoder_layers], nn.ReLU, env.task_dim)

    def task_target(self, trials: Trials) -> Tensor:
        """Target of the task decoder, ``[B, size]``."""
        return trials.task

    def transition_decoders(self) -> list[tuple[str, Decoder]]:
        """Decoders of rewards and observations, by name."""
        return [
            (name, cast(Decoder, self.decoders[name])) for name in ("reward", "observation") if name in self.decoders
        ]

    def vae_parameters(self) -> list[nn.Parameter]:
        """Parameters of encoder and decoders."""
        policy = self.policy
        modules: Iterable[nn.Module | None] = (policy.features, policy.memory, policy.belief, self.decoders)
        return [parameter for module in modules if module is not None for parameter in module.parameters()]

    def policy_parameters(self):
        if self.shared:
            return list(self.parameters())
        return list((self.policy if self.rl_loss_through_encoder else self.policy.heads).parameters())

    # ------------------------------------------------------------ the policy

    def extra_inputs(self, rollout: Rollout) -> dict[str, Tensor]:
        if self.rl_loss_through_encoder:
            return {}
        with torch.no_grad():
            memory, _ = self.policy.encode(rollout.timestep, self.policy.initial_carry(rollout.mask.shape[1]))
        return {"features": memory.features, "belief": memory.actor}

    def evaluate(self, batch: Batch) -> HeadOutput:
        if self.rl_loss_through_encoder:
            return super().evaluate(batch)
        belief = batch.extras["belief"]
        memory = MemoryOutput(batch.extras["features"], belief, belief)
        return self.policy.act_and_value(batch.timestep, memory, batch.task)

    def auxiliary_losses(self, batch: Batch, output: HeadOutput, progress: float, generator: Generator):
        if not self.shared or not self.trains_vae:
            return {}
        losses = self.vae_losses(self.buffer.sample(self.batch_size, generator), generator)
        weights = self.elbo_weights(progress)
        return {name: (weights[name], loss) for name, loss in losses.items()}

    # ------------------------------------------------------------ encoder and decoders

    def update(self, trial: list[Rollout], progress: float, generator: Generator) -> dict[str, float]:
        self.buffer.add(trial[0])
        logs = super().update(trial, progress, generator)
        if self.shared:
            return logs
        updates = self.num_vae_updates or 0 if self.trains_vae else 0
        return logs | mean_of([self._vae_step(progress, generator) for _ in range(updates)])

    @property
    def trains_vae(self) -> bool:
        """Whether encoder and decoders are trained in this iteration."""
        return True

    def elbo_weights(self, progress: float) -> dict[str, float]:
        """Weight of each of ``vae_losses``, by name."""
        return self.coefficients

    def _vae_step(self, progress: float, generator: Generator) -> dict[str, Tensor]:
        losses = self.vae_losses(self.buffer.sample(self.batch_size, generator), generator)
        weights = self.elbo_weights(progress)
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        self.vae_optimizer.zero_grad(set_to_none=True)
        total.backward()
        parameters = self.vae_parameters()
        parallel.all_reduce_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.max_vae_gradient_norm or float("inf"))
        self.vae_optimizer.step()
        return log_entries(losses, vae_gradient_norm=norm)

    def vae_losses(self, trials: Trials, generator: Generator) -> dict[str, Tensor]:
        """Terms of minus the ELBO by name, each a mean over trials and over the beliefs of a trial.

        Each process computes the contribution of its own trials to these means.
        """
        terms = sample_terms(trials.mask, self.num_elbo_terms, self.num_reconstruction_terms, generator)
        noise = torch.randn(*terms.beliefs.shape, self.policy.latent_dim or 0, generator=generator)
        trials, terms, noise = local_part(trials, terms, noise.to(trials.mask.device))
        belief = self._beliefs(trials)
        latent = tree_map(lambda part: gather_time(part, terms.beliefs), belief).sample(noise)  # [E, B, latent_dim]
        losses = {"latent_kl": mean_over_beliefs(kl_to_prior(belief, self.prior), terms)}
        for name, decoder in self.transition_decoders():
            losses[f"{name}_error"] = reconstruction(latent, trials, terms, decoder, self.decode_only_past)
        if "task" in self.decoders:
            losses["task_error"] = task_error(latent, self.task_target(trials), terms, self.decoders["task"])
        return losses

    def _beliefs(self, trials: Trials) -> Belief:
        """The belief at every step, ``[T, B, latent_dim]``."""
        memory, _ = self.policy.encode(trials.timestep, self.policy.initial_carry(trials.mask.shape[1]))
        return as_belief(memory.actor)

    @torch.no_grad()
    def elbo_over_time(self, rollout: Rollout, generator: Generator) -> dict[str, Tensor]:
        """Terms of the ELBO of the belief at every step, ``[T, B]`` each: KL divergence, errors of the whole trial."""
        trials = trials_of(rollout)
        belief = self._beliefs(trials)
        found = {"latent_kl": kl_to_prior(belief, self.prior)}
        latent = belief.sample(torch.randn(belief.mean.shape, generator=generator).to(belief.mean.device))
        transitions = trials.timestep.observation, trials.action, trials.next_observation, trials.reward
        for name, decoder in self.transition_decoders():  # in chunks: all beliefs at once take memory for T x T
            parts = [(decoder.errors(part, *transitions) * trials.mask).sum(1) for part in latent.split(CHUNK)]
            found[f"{name}_error"] = torch.cat(parts)
        return found

    def training_state(self) -> dict:
        state = super().training_state() | {"buffer": self.buffer.state_dict()}
        return state if self.shared else state | {"vae_optimizer": self.vae_optimizer.state_dict()}

    def load_training_state(self, state: dict) -> None:
        super().load_training_state(state)
        self.buffer.load_state_dict(state["buffer"])
        if not self.shared:
            self.vae_optimizer.load_state_dict(state["vae_optimizer"])
