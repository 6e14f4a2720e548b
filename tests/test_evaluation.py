"""Held-out evaluation: the same tasks for everybody, away from training, and honest statistics."""

import math
import statistics

import pytest
import torch
from helpers import (
    SHOWN,
    Corridor,
    Counter,
    StopAt,
    global_randomness,
    make_algorithm,
    read_rows,
    same,
    small_config,
    timeless,
    trainer_of,
)

from metarl.configuration.build import build_env_factory
from metarl.evaluation import evaluate
from metarl.types import Decision


class Watched:
    """Makes corridors and remembers every task they were given, and which sets were asked for."""

    def __init__(self, **options):
        self.options, self.made, self.met, self.sets = options, [], [], []

    def __call__(self, *, num_tasks: int, seed: int) -> Corridor:
        env = Corridor(num_tasks=num_tasks, seed=seed, **self.options)
        sample = env.sample_tasks

        def remember(task_set: str = "train"):
            self.sets.append(task_set)
            tasks = sample(task_set)
            self.met.append(tasks.description.clone())
            return tasks

        env.sample_tasks = remember
        self.made.append(env)
        return env


def by_hand(watched: Watched, episodes: int, num_tasks: int) -> torch.Tensor:
    """Return of each episode of ``Counter`` in the corridors met, ``[tasks]``; every episode of a task is the same."""
    lanes_per_task = watched.options.get("lanes_per_task", 1)
    returns = []
    for length, bonus in torch.cat(watched.met)[::lanes_per_task].tolist():
        steps = min(int(length), 5)
        returns.append(steps * bonus + sum(t / 8 for t in range(steps)))
    return torch.tensor(returns[:num_tasks], dtype=torch.float64)


@pytest.mark.parametrize(("num_tasks", "at_once"), [(7, 3), (6, 3), (5, 100), (1, 1)])
def test_returns_are_over_exactly_the_asked_number_of_tasks(num_tasks, at_once):
    watched = Watched()
    result = evaluate(Counter(3), watched, num_tasks=num_tasks, seed=0, batch_size=at_once)
    expected = by_hand(watched, 3, num_tasks)
    assert len(expected) == result.num_tasks == num_tasks
    assert result.adaptation_curve == pytest.approx([expected.mean().item()] * 3, rel=1e-5)
    assert result.return_mean == pytest.approx(3 * expected.mean().item(), rel=1e-5)


def test_standard_errors_are_deviation_over_root_of_the_number_of_tasks():
    watched = Watched()
    result = evaluate(Counter(3), watched, num_tasks=11, seed=0, batch_size=4)
    returns = by_hand(watched, 3, 11).tolist()
    expected = statistics.stdev(returns) / math.sqrt(11)
    assert result.adaptation_se == pytest.approx([expected] * 3, rel=1e-4)
    assert result.return_se == pytest.approx(3 * expected, rel=1e-4)


def test_a_single_task_has_no_error_and_no_nan():
    result = evaluate(Counter(2), Watched(), num_tasks=1, seed=0)
    assert result.return_se == 0 and result.adaptation_se == [0, 0]


def test_lanes_that_share_a_task_are_averaged_before_the_error():
    """Odd lanes act 1 and earn one more per step: a task's return is between, and its lanes are no extra tasks."""
    watched = Watched(lanes_per_task=2)
    result = evaluate(Counter(1, parity=True), watched, num_tasks=9, seed=0, batch_size=4)
    plain = by_hand(watched, 1, 9)
    lengths = torch.cat(watched.met)[::2][:9, 0].clamp(max=5).double()
    expected = plain + lengths / 2
    assert result.return_mean == pytest.approx(expected.mean().item(), rel=1e-5)
    assert result.return_se == pytest.approx(expected.std().item() / 3, rel=1e-4)
    assert result.num_tasks == 9


def test_the_curve_runs_over_all_rollouts_of_a_trial():
    result = evaluate(Counter(1, 2), Watched(), num_tasks=6, seed=0)
    assert len(result.adaptation_curve) == 3
    assert result.adaptation_curve[1] == result.adaptation_curve[2] > result.adaptation_curve[0]  # acts 1 once adapted


def test_success_counts_trials_whose_last_rollout_had_one():
    watched = Watched()
    result = evaluate(Counter(2), watched, num_tasks=40, seed=0)
    reached = (torch.cat(watched.met)[:, 0] <= 5).float().mean().item()
    assert 0 < reached < 1 and result.success_rate == pytest.approx(reached)


class FirstEpisodeAlone:
    """Walks to the goal of a sparse point in its first episode, and stands still ever after."""

    rollouts = (3,)

    def initial_state(self, tasks):
        return tasks.parameters["goal"], torch.zeros(len(tasks))

    def act(self, timestep, state, generator, greedy=False):
        goal, episode = state
        episode = episode + timestep.first
        action = 20 * (goal - timestep.observation) * (episode == 1).unsqueeze(1)
        return Decision(action, torch.zeros(len(goal)), torch.zeros(len(goal))), (goal, episode)


def test_success_is_of_the_last_episode_alone():
    factory = build_env_factory(small_config("env=sparse_point", "env.horizon=40", "env.num_episodes=3"))
    result = evaluate(FirstEpisodeAlone(), factory, num_tasks=5, seed=0)
    assert result.adaptation_curve[0] > 1 and result.adaptation_curve[1:] == [0, 0]
    assert result.success_rate == 0


def test_an_environment_without_success_has_no_entry_for_it():
    config = small_config("env=bandit")
    result = evaluate(make_algorithm()[0], build_env_factory(config), num_tasks=4, seed=0)
    assert result.success_rate is None and "success_rate" not in result.as_dict()
    assert result.as_dict()["return_mean"] == result.return_mean


# ---------------------------------------------------------------- the same tasks, and apart


def tasks_met(agent, seed: int, at_once: int = 5) -> torch.Tensor:
    watched = Watched()
    evaluate(agent, watched, num_tasks=12, seed=seed, batch_size=at_once)
    return torch.cat(watched.met)


class Restless(Counter):
    """Draws from every generator it can reach."""

    def act(self, timestep, state, generator, greedy=False):
        torch.rand(17, generator=generator)
        return super().act(timestep, state, generator, greedy)


def test_the_same_seed_meets_the_same_tasks_whoever_plays():
    assert torch.equal(tasks_met(Counter(3), 1), tasks_met(Restless(3), 1))
    assert not torch.equal(tasks_met(Counter(3), 1), tasks_met(Counter(3), 2))


def test_the_same_seed_meets_the_same_tasks_however_long_agents_play():
    factory = build_env_factory(small_config("env=bandit"))
    seen = []
    for episodes in (1, 3):
        met: list[torch.Tensor] = []

        def watched(met=met, **keywords):
            env = factory(**keywords)
            set_tasks = env.set_tasks
            env.set_tasks = lambda tasks: met.append(tasks.description) or set_tasks(tasks)
            return env

        evaluate(Counter(episodes), watched, num_tasks=9, seed=1, batch_size=4)
        seen.append(torch.cat(met))
    assert torch.equal(*seen)


def test_tasks_come_from_the_held_out_set():
    watched = Watched()
    evaluate(Counter(1), watched, num_tasks=4, seed=0)
    assert set(watched.sets) == {"held_out"}


def test_evaluation_repeats_itself_exactly_adds_up_and_uses_no_global_randomness(env_option):
    shown = [SHOWN[env_option]] if env_option in SHOWN else []
    factory = build_env_factory(small_config(f"env={env_option}", *shown))
    agent, env = make_algorithm(f"env={env_option}")
    before = global_randomness()
    first, again, other = (evaluate(agent, factory, num_tasks=9, seed=seed, batch_size=4) for seed in (1, 1, 2))
    assert same(global_randomness(), before)
    assert first == again != other
    assert sum(first.adaptation_curve) == pytest.approx(first.return_mean, rel=1e-6)
    assert len(first.adaptation_curve) == len(first.adaptation_se) == env.num_episodes


def test_greedy_evaluation_takes_the_most_likely_actions():
    agent = Counter(1)
    evaluate(agent, Watched(), num_tasks=2, seed=0, greedy=True)
    assert set(agent.greedy) == {True}


def test_evaluation_changes_nothing_training_depends_on(few_combination, tmp_path):
    """With and without evaluations, weights, optimiser, generators and training returns are bitwise the same."""
    algorithm, model, env = few_combination
    states, rows = [], []
    for eval_every in (0, 1):
        choice = (f"algorithm={algorithm}", f"model={model}", f"env={env}")
        config = small_config(*choice, f"training.eval_every={eval_every}", "eval.num_tasks=4")
        run_dir = tmp_path / str(eval_every)
        trainer = trainer_of(config, run_dir)
        trainer.train(StopAt(trainer, 2))
        state = trainer.state_dict()
        state["progress"] = {name: state["progress"][name] for name in ("iteration", "env_steps")}
        states.append(state)
        plain = [timeless(row) for row in read_rows(run_dir / "metrics.jsonl")]
        trained = [row for row in plain if row["iteration"]]
        rows.append([{name: row[name] for name in row if not name.startswith("eval/")} for row in trained])
    assert len(rows[0]) == 2 and rows[0] == rows[1]
    assert same(*states)


def test_every_evaluation_of_a_run_meets_the_same_tasks(tmp_path):
    """An agent that does not change scores the same each time."""
    frozen = ("algorithm.learning_rate=1e-30", "algorithm.final_learning_rate=0.0", "algorithm.normalize_returns=false")
    trainer = trainer_of(small_config(*frozen, "training.eval_every=1", "eval.num_tasks=50"), tmp_path)
    trainer.train(StopAt(trainer, 3))
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert len(rows) == 4 and len({row["eval/sampled/return_mean"] for row in rows}) == 1
    assert len({row["train/return"] for row in rows[1:]}) == 3
