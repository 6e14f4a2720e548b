"""Samples of tasks for gradient adaptation: their order, their baselines and their advantages."""

import numpy as np
import pytest
import torch
from helpers import collected, make_algorithm, perturb

from metarl.algorithms.samples import (
    AdvantageConfig,
    baseline_features,
    by_lane,
    by_task,
    make_samples,
    ridge_regression,
    steps_of_episodes,
)


def test_samples_are_regrouped_by_task_and_back():
    part = torch.arange(5 * 6).view(5, 6)  # 5 steps, 3 tasks of 2 lanes
    grouped = by_task(part, 2)
    assert grouped.shape == (3, 10) and torch.equal(by_lane(grouped, 5), part)
    assert grouped[1].tolist() == [*part[:, 2].tolist(), *part[:, 3].tolist()]


def test_time_starts_anew_with_every_episode():
    first = torch.tensor([[1, 1], [0, 0], [1, 0], [0, 1]]).bool()
    assert steps_of_episodes(first).tolist() == [[0, 0], [1, 1], [0, 2], [1, 0]]


class Loop:
    """Advantages of MAML with a linear baseline, in loops over lanes and time: discount 0.9, lambda 0.8."""

    def __init__(self, rollout, bootstrap: bool):
        self.rollout, self.bootstrap = rollout, bootstrap
        self.reward, self.mask = (rollout.reward * rollout.mask).numpy(), rollout.mask.numpy()
        self.ends = (rollout.terminated | rollout.truncated).numpy()
        self.time = steps_of_episodes(rollout.timestep.first)

    def features(self, seen, t, lane, later):
        when = None if self.bootstrap else self.time[t, lane].view(1, 1) + later
        return baseline_features(seen[t, lane].view(1, 1, -1), when).numpy()[0, 0]

    def fit(self, lanes) -> tuple[dict, np.ndarray]:
        """Values at places of the rollout, and the weights of the baseline."""
        rows, targets, places, explained = [], [], [], []
        for lane in lanes:
            to_go, cut = 0.0, 0.0
            for t in reversed(range(len(self.reward))):
                to_go = self.reward[t, lane] + (0.0 if self.ends[t, lane] else 0.9 * to_go)
                if self.ends[t, lane]:
                    truncated = float(self.rollout.truncated[t, lane])
                    cut = self.features(self.rollout.next_observation, t, lane, 1) * truncated
                cut = 0.9 * cut
                if self.mask[t, lane]:
                    rows.append(self.features(self.rollout.timestep.observation, t, lane, 0))
                    explained.append(rows[-1] - cut * self.bootstrap)
                    targets.append(to_go)
                    places.append((t, lane))
        x, y = np.array(explained), np.array(targets)
        weights = np.linalg.solve(x.T @ x + 1e-5 * np.eye(x.shape[1]), x.T @ y)
        return {place: float(row @ weights) for place, row in zip(places, rows, strict=True)}, weights

    def advantages(self, lane, values, weights):
        """Places of a lane, from the last to the first, and their advantages."""
        advantage = 0.0
        for t in reversed(range(len(self.reward))):
            if not self.mask[t, lane]:
                continue
            after = 0.0
            if not self.ends[t, lane]:
                after = values.get((t + 1, lane), 0.0)
            elif self.bootstrap and self.rollout.truncated[t, lane]:
                after = float(self.features(self.rollout.next_observation, t, lane, 1) @ weights)
            delta = self.reward[t, lane] + 0.9 * after - values[t, lane]
            advantage = delta + (0.0 if self.ends[t, lane] else 0.72 * advantage)
            yield t, advantage


@pytest.mark.parametrize("bootstrap", [True, False])
def test_advantages_are_those_of_a_loop_over_ragged_episodes(bootstrap):
    agent, env = make_algorithm(
        "algorithm=maml", "env=tmaze_copying", "lanes_per_task=3", "env.num_episodes=2", lanes=2
    )
    perturb(agent.policy, 0.3)
    rollout = collected(agent, env)[0]
    samples, loop = (
        make_samples(rollout, 3, AdvantageConfig(0.9, 0.8, "linear", False, bootstrap)),
        Loop(rollout, bootstrap),
    )
    for task in range(2):
        lanes = range(3 * task, 3 * task + 3)
        values, weights = loop.fit(lanes)
        found = by_lane(samples.advantage, len(rollout.reward))
        for lane in lanes:
            for t, advantage in loop.advantages(lane, values, weights):
                assert found[t, lane].item() == pytest.approx(advantage, abs=2e-4)


def test_advantages_are_standardised_task_by_task():
    agent, env = make_algorithm(
        "algorithm=maml", "env=point_navigation", "env.horizon=4", "lanes_per_task=2", "env.num_episodes=2", lanes=3
    )
    stage = agent.stages(collected(agent, env))[0]
    for task in range(3):
        own = stage.advantage[task][stage.mask[task]]
        assert abs(own.mean()) < 1e-5 and own.std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_a_ridge_survives_features_that_say_the_same():
    features = torch.ones(2, 8, 3, dtype=torch.float64)
    weights = ridge_regression(features, torch.full((2, 8), 6.0), torch.ones(2, 8, dtype=torch.bool))
    torch.testing.assert_close(
        (features @ weights.unsqueeze(2)).squeeze(2), torch.full((2, 8), 6.0).double(), atol=1e-3, rtol=0
    )
