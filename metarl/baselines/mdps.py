"""Classical solvers of finite-horizon tabular MDPs, as compared by Duan et al. 2016 (RL², section 3.2).

All plan once per episode, from what they have seen in the episodes before, and follow that plan to its end. Rewards
carry unit normal noise; a prior is independent for every state and action: normal for the mean reward, Dirichlet
for the transitions. Duan et al. ran the TabulaRL library (Osband), whose default priors are not that of the task.
"""

import math
from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from metarl.baselines.base import Solver, decision_of, random_argmax
from metarl.baselines.optimism import extended_value_iteration
from metarl.envs.value_iteration import MDP, value_iteration
from metarl.types import Decision, Tasks, Timestep

TIE = 1e-5  # action values this close are equal but for the rounding of float32


class Prior(NamedTuple):
    """Belief before the first step, the same for every state and action.

    Attributes:
        reward_mean: expected mean reward.
        reward_precision: of the mean reward, in rewards seen; noise has precision 1.
        dirichlet: concentration, in transitions seen to each state.
    """

    reward_mean: float
    reward_precision: float
    dirichlet: float


TRUE_PRIOR = Prior(1.0, 1.0, 1.0)  # what ``TabularMDP`` draws its tasks from


class TabularSize(NamedTuple):
    """S, A, H and n of a trial."""

    num_states: int
    num_actions: int
    horizon: int
    num_episodes: int


class PlannerState(NamedTuple):
    """All B lanes are at the same step of the same episode.

    Attributes:
        knowledge: of the MDP, ``[B, ...]``.
        policy: action for each step of this episode and state, ``[B, H, S]``.
        step: of this episode, to be taken next.
        episode: how many were finished.
    """

    knowledge: Any
    policy: Tensor
    step: int
    episode: int


class EpisodicPlanner(Solver):
    """Plan at the start of an episode, follow the plan, learn from every step."""

    def __init__(self, size: TabularSize):
        super().__init__(size.num_episodes)
        self.size = size

    def initial_state(self, tasks: Tasks) -> PlannerState:
        knowledge = self.initial_knowledge(tasks)
        lanes, device = len(tasks), knowledge[0].device
        policy = torch.zeros(lanes, self.size.horizon, self.size.num_states, dtype=torch.long, device=device)
        return PlannerState(knowledge, policy, step=0, episode=-1)

    def act(
        self, timestep: Timestep, state: PlannerState, generator: Generator, greedy: bool = False
    ) -> tuple[Decision, PlannerState]:
        knowledge, policy, step, episode = state
        knowledge = self.learn(knowledge, timestep)
        if timestep.first.all():
            step, episode = 0, episode + 1
            action_values = self.action_values(knowledge, episode, generator)
            policy = random_argmax(action_values, generator, TIE)
        lane = torch.arange(len(policy), device=policy.device)
        action = policy[lane, step, timestep.observation]
        return decision_of(action), PlannerState(knowledge, policy, step + 1, episode)

    @abstractmethod
    def initial_knowledge(self, tasks: Tasks) -> Any:
        """A named tuple of tensors, ``[B, ...]``."""

    def learn(self, knowledge: Any, timestep: Timestep) -> Any:
        """Knowledge with one more step."""
        return knowledge

    @abstractmethod
    def action_values(self, knowledge: Any, episode: int, generator: Generator) -> Tensor:
        """Action values that the plan maximises, ``[B, H, S, A]``."""


class KnownMDP(EpisodicPlanner):
    """Optimal policy of the true MDP: an oracle of the task."""

    def initial_knowledge(self, tasks: Tasks) -> MDP:
        return MDP(tasks.parameters["reward_mean"], tasks.parameters["transition"])

    def action_values(self, knowledge: MDP, episode: int, generator: Generator) -> Tensor:
        return value_iteration(knowledge, self.size.horizon)


class Experience(NamedTuple):
    """Counts of what was seen. Transitions are not, where they end an episode, so there are fewer of them.

    Attributes:
        visits: ``[B, S, A]``.
        reward_sum: ``[B, S, A]``.
        transitions: ``[B, S, A, S]``.
    """

    visits: Tensor
    reward_sum: Tensor
    transitions: Tensor

    def after(self, timestep: Timestep) -> "Experience":
        """Experience with one more step of every lane ``[B]``; at the start of a trial there is none."""
        lanes, num_states, num_actions = self.visits.shape
        taken = (timestep.previous_action >= 0).to(self.visits.dtype)
        lane = torch.arange(lanes, device=taken.device)
        state, action = timestep.previous_observation.clamp(min=0), timestep.previous_action.clamp(min=0)
        pair = (lane * num_states + state) * num_actions + action
        triple = pair * num_states + timestep.observation
        return Experience(
            _add_at(self.visits, pair, taken),
            _add_at(self.reward_sum, pair, taken * timestep.previous_reward),
            _add_at(self.transitions, triple, taken * ~timestep.first),
        )


def _add_at(total: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """A copy with ``value`` added at flat positions ``index``."""
    return total.flatten().index_add(0, index, value).view_as(total)


class ModelLearner(EpisodicPlanner):
    """Solvers that estimate the MDP.

    Args:
        size: of the problem.
        prior: what is believed at the start.
    """

    def __init__(self, size: TabularSize, prior: Prior = TRUE_PRIOR):
        super().__init__(size)
        self.prior = prior

    def initial_knowledge(self, tasks: Tasks) -> Experience:
        device = next(iter(tasks.parameters.values())).device
        shape = (len(tasks), self.size.num_states, self.size.num_actions)
        visits, reward_sum = torch.zeros(2, *shape, device=device)
        return Experience(visits, reward_sum, torch.zeros(*shape, self.size.num_states, device=device))

    def learn(self, knowledge: Experience, timestep: Timestep) -> Experience:
        return knowledge.after(timestep)

    def reward_posterior(self, experience: Experience) -> tuple[Tensor, Tensor]:
        """Mean and precision of the mean rewards, ``[B, S, A]``."""
        precision = self.prior.reward_precision + experience.visits
        return (self.prior.reward_mean * self.prior.reward_precision + experience.reward_sum) / precision, precision

    def expected_mdp(self, experience: Experience) -> MDP:
        """The posterior mean."""
        weights = experience.transitions + self.prior.dirichlet
        return MDP(self.reward_posterior(experience)[0], weights / weights.sum(-1, keepdim=True))

    def sample_mdp(self, experience: Experience, generator: Generator) -> MDP:
        """One draw from the posterior."""
        mean, precision = self.reward_posterior(experience)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        # Normalised gamma draws are a Dirichlet draw; torch.distributions.Dirichlet accepts no generator.
        weights = torch._standard_gamma(experience.transitions + self.prior.dirichlet, generator=generator)
        return MDP(mean + noise * precision.rsqrt(), weights / weights.sum(-1, keepdim=True))


class Greedy(ModelLearner):
    """Plan in the posterior-mean MDP."""

    def action_values(self, knowledge: Experience, episode: int, generator: Generator) -> Tensor:
        return value_iteration(self.expected_mdp(knowledge), self.size.horizon)


class EpsilonGreedy(Greedy):
    """Greedy, but at each step with probability ``epsilon`` any action."""

    def __init__(self, size: TabularSize, epsilon: float, prior: Prior = TRUE_PRIOR):
        super().__init__(size, prior)
        self.epsilon = epsilon

    def action_values(self, knowledge: Experience, episode: int, generator: Generator) -> Tensor:
        values = super().action_values(knowledge, episode, generator)
        # Each (step, state) pair occurs at most once per episode, so exploration can be drawn at planning time.
        uniform = torch.rand(values.shape, generator=generator, device=values.device)
        explore = torch.rand(values.shape[:-1], generator=generator, device=values.device) < self.epsilon
        return torch.where(explore.unsqueeze(-1), uniform, values)


class PSRL(ModelLearner):
    """Plan in one MDP drawn from the posterior (Strens 2000; Osband, Russo & Van Roy 2013)."""

    def action_values(self, knowledge: Experience, episode: int, generator: Generator) -> Tensor:
        return value_iteration(self.sample_mdp(knowledge, generator), self.size.horizon)


class OPSRL(PSRL):
    """The largest value of each step, state and action over ``num_samples`` draws (optimistic PSRL)."""

    def __init__(self, size: TabularSize, num_samples: int, prior: Prior = TRUE_PRIOR):
        super().__init__(size, prior)
        self.num_samples = num_samples

    def action_values(self, knowledge: Experience, episode: int, generator: Generator) -> Tensor:
        values = super().action_values(knowledge, episode, generator)
        for _ in range(self.num_samples - 1):
            values = torch.maximum(values, super().action_values(knowledge, episode, generator))
        return values


class BEB(ModelLearner):
    """Posterior mean plus an exploration bonus of ``beta / (1 + visits)`` (Kolter & Ng 2009, equation 4)."""

    def __init__(self, size: TabularSize, beta: float, prior: Prior = TRUE_PRIOR):
        super().__init__(size, prior)
        self.beta = beta

    def action_values(self, knowledge: Experience, episode: int, generator: Generator) -> Tensor:
        reward, transition = self.expected_mdp(knowledge)
        return value_iteration(MDP(reward + self.beta / (1 + knowledge.visits), transition), self.size.horizon)


class TabulaRLBEB(ModelLearner):
    """BEB as TabulaRL has it, which Duan et al. ran: bonuses for rewards and, times ``scaling``, for transitions."""

    def __init__(self, size: TabularSize, scaling: float, prior: Prior = TRUE_PRIOR):
        super().__init__(size, prior)
        self.beta = 2 * size.horizon**2 * scaling

    def action_values(self, knowledge: Experience, episode: int, generator: Generator) -> Tensor:
        horizon = self.size.horizon
        reward, transition = self.expected_mdp(knowledge)
        reward_bonus = 1 / (1 + self.reward_posterior(knowledge)[1])
        concentration = knowledge.transitions.sum(-1) + self.size.num_states * self.prior.dirichlet
        return value_iteration(
            MDP(reward + reward_bonus, transition), horizon, self.beta * horizon / (1 + concentration)
        )


class UCRL2(ModelLearner):
    """The best MDP of a confidence region around the posterior mean (Jaksch, Ortner & Auer 2010).

    The widths are TabulaRL's finite-horizon ones, ``sqrt(4 log(2 S A t / delta) / visits)`` for a reward and
    sqrt(S) times that for transitions, t counting episodes, times ``scaling``: at 1 no trial of ours is long enough.
    """

    def __init__(self, size: TabularSize, scaling: float, delta: float = 0.05, prior: Prior = TRUE_PRIOR):
        super().__init__(size, prior)
        self.scaling = scaling
        self.delta = delta

    def action_values(self, knowledge: Experience, episode: int, generator: Generator) -> Tensor:
        states, actions, horizon, _ = self.size
        log_term = 4 * math.log(2 * states * actions * (episode + 1) / self.delta)
        reward_slack = self.scaling * (log_term / knowledge.visits.clamp(min=1)).sqrt()
        departures = knowledge.transitions.sum(-1).clamp(min=1)
        transition_slack = self.scaling * (states * log_term / departures).sqrt()
        return extended_value_iteration(self.expected_mdp(knowledge), reward_slack, transition_slack, horizon)
