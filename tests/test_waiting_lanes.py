"""Lanes that finish before others wait: what they are shown, what they remember and what they score stays their own."""

import copy

import pytest
import torch
from helpers import Corridor, Counter, corridor_with, perturb, small_config
from hydra.utils import instantiate

from metarl.algorithms.rl2 import RL2
from metarl.evaluation import evaluate_after_adaptation
from metarl.rollout import collect, collect_to_branch
from metarl.seeding import make_generator
from metarl.types import Tasks

LENGTHS = [1, 4, 2, 9]  # of episodes; the horizon of 5 truncates the last
STEPS = torch.tensor([2, 8, 4, 10])  # of a trial of two episodes


def branched(agent, env, episodes: int = 1):
    """The trial, and the rollouts of further episodes that start from its end."""
    trial, end = collect_to_branch(env, agent, make_generator(0))
    state = copy.deepcopy(end.state)
    return trial[-1], collect(env, end.agent, state, episodes, make_generator(1), True, after=trial[-1])[0]


def test_a_memory_holds_the_steps_of_its_own_trial():
    trial, test = branched(Counter(2), corridor_with(LENGTHS, bonus=[0.0, 10.0, 20.0, 30.0]))
    assert trial.mask.sum(0).tolist() == STEPS.tolist()
    assert test.decision.value[0].tolist() == STEPS.tolist()


def test_the_first_timestep_after_a_trial_shows_its_last_step():
    env = corridor_with(LENGTHS, bonus=[0.0, 10.0, 20.0, 30.0])
    trial, test = branched(Counter(2, parity=True), env)
    last = torch.tensor([0, 3, 1, 4])  # step of the last episode
    shown = test.timestep
    assert torch.equal(shown.previous_reward[0], torch.tensor([0.0, 10.0, 20.0, 30.0]) + last / 8 + torch.arange(4) % 2)
    assert torch.equal(shown.previous_observation[0, :, 0], last.float())
    assert torch.equal(shown.previous_action[0], torch.arange(4) % 2)
    assert shown.first[0].all() and not trial.timestep.first[1:][~trial.mask[1:]].any()


def test_what_follows_the_end_of_a_lane_is_its_last_step_and_earns_nothing():
    trial, _ = branched(Counter(2), corridor_with(LENGTHS))
    for lane, steps in enumerate(STEPS.tolist()):
        for part in (trial.timestep.observation, trial.timestep.previous_reward, trial.timestep.previous_action):
            assert (part[steps:, lane] == part[steps - 1, lane]).all()
        assert not trial.reward[steps:, lane].any() and not trial.success[steps:, lane].any()
        assert not trial.terminated[steps:, lane].any() and not trial.truncated[steps:, lane].any()


def test_branches_start_from_the_same_state_each_time():
    env, agent = corridor_with(LENGTHS), Counter(2)
    trial, end = collect_to_branch(env, agent, make_generator(0))
    for _ in range(2):
        state = copy.deepcopy(end.state)
        test = collect(env, end.agent, state, 2, make_generator(1), True, after=trial[-1])[0]
        assert test.decision.value[0].tolist() == STEPS.tolist()
        second = test.timestep.first.long().cumsum(0) == 2
        assert [test.decision.value[second[:, lane], lane][0] for lane in range(4)] == (STEPS * 3 / 2).tolist()


class Parity(Counter):
    """Acts by how many steps it remembers, so that a junk step changes its score."""

    def act(self, timestep, state, generator, greedy=False):
        decision, after = super().act(timestep, state, generator, greedy)
        return decision._replace(action=(state.steps // 2) % 2), after


class Given(Corridor):
    """Corridors of given lengths, in turn."""

    def draw_tasks(self, num_tasks, task_set):
        self.drawn = getattr(self, "drawn", 0)
        numbers = (self.drawn + torch.arange(num_tasks)) % len(LENGTHS)
        self.drawn += num_tasks
        return Tasks({"length": torch.tensor(LENGTHS)[numbers].unsqueeze(1), "bonus": numbers.float().unsqueeze(1)})


def test_scores_do_not_depend_on_the_batch_size():
    scores = [
        evaluate_after_adaptation(
            Parity(3), lambda **lanes: Given(**lanes), num_tasks=8, seed=0, episodes=2, batch_size=batch_size
        ).returns
        for batch_size in (1, 2, 3, 8)
    ]
    assert len(scores[0].unique()) > 3
    assert all(torch.equal(scores[0], other) for other in scores[1:])


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_memories_after_a_trial_are_those_of_a_lane_alone(model_option, critic):
    """Greedy actions change nothing in a corridor, so the same lane alone sees the same trial."""
    torch.manual_seed(0)
    model = instantiate(small_config(f"model={model_option}", f"model.critic={critic}")["model"], _convert_="all")
    agent = RL2(num_minibatches=1)
    agent.setup(Corridor(num_tasks=4, num_episodes=2), model)
    perturb(agent)
    sampled = agent.act
    agent.act = lambda timestep, state, generator, greedy: sampled(timestep, state, generator, True)
    together = branched(agent, corridor_with(LENGTHS))[1]
    for lane, length in enumerate(LENGTHS):
        alone = branched(agent, corridor_with([length]))[1]
        steps = len(alone.reward)
        assert torch.allclose(together.decision.value[:steps, lane], alone.decision.value[:, 0], atol=1e-5)
