"""The Python interface: sessions act as evaluations do, spaces are checked, training gives a run."""

import json
import shutil
import subprocess
import sys

import gymnasium
import numpy as np
import pages
import pytest
import torch
from helpers import collected, make_algorithm, small_config
from processes import REPOSITORY
from run_directories import BRIEF

import metarl
from metarl.api.agents import TrainedAgent
from metarl.api.environments import acting_seed, environment_seed
from metarl.api.session import side_by_side
from metarl.cli import main as command_line
from metarl.configuration.build import build_algorithm
from metarl.rollout import collect_trial
from metarl.seeding import make_generator
from metarl.trust import TYPED

SIDES = gymnasium.spaces.Discrete(2)

MEMORIES = [
    ("env=bandit", "model=gru"),
    ("env=tmaze_copying", "model=transformer"),  # episodes of different length
    ("env=point_goal", "model=gru", "algorithm=varibad"),
]
ADAPTING = [
    ("env=point_goal", "model=mlp", "algorithm=maml", "meta_optimizer=trpo"),
    ("env=sparse_point", "model=mlp", "algorithm=maesn", "meta_optimizer=trpo"),
    ("env=wheeled", "model=mlp", "algorithm=tesp", "meta_optimizer=trpo", "env.horizon=6"),
    ("env=hopper_params", "model=mlp", "algorithm=maml", "meta_optimizer=trpo", "env.horizon=20"),
]


def untrained(*overrides: str) -> tuple[TrainedAgent, dict]:
    config = small_config(*overrides)
    return TrainedAgent(*build_algorithm(config)), config


def played(agent: TrainedAgent, config: dict, greedy: bool, seed: int) -> list[torch.Tensor]:
    """Actions of a loop of one's own in lanes of ``metarl.make``, one row per step."""
    options = {key: value for key, value in config["env"].items() if key != "_target_"}
    lanes = config["lanes_per_task"]
    env = metarl.make(config["choices"]["env"], 3, seed, lanes_per_task=lanes, task_set="held_out", **options)
    session = agent.start(3 * lanes, greedy, seed=seed, lanes_per_task=lanes)
    actions = []
    while not session.finished:
        if session.starts_rollout:
            observation = env.reset()
        actions.append(session.act(observation))
        step = env.step(actions[-1])
        session.observe(step)
        observation = step.observation
    return actions


def evaluated(agent: TrainedAgent, greedy: bool, seed: int) -> list[torch.Tensor]:
    """Actions of the collector, as ``metarl evaluate`` has it play."""
    env = agent._parts.make_env(num_tasks=3, seed=environment_seed(seed))
    env.sample_tasks("held_out")
    trial = collect_trial(env, agent.algorithm, make_generator(acting_seed(seed)), greedy)
    return [action for rollout in trial for action in rollout.decision.action]


CASES = [(overrides, greedy) for overrides in (*MEMORIES, ADAPTING[0]) for greedy in (False, True)]
CASES += [(overrides, True) for overrides in ADAPTING[1:]]  # whose support is sampled all the same


@pytest.mark.parametrize(("overrides", "greedy"), CASES)
def test_a_session_acts_as_an_evaluation_does(overrides, greedy):
    agent, config = untrained(*overrides)
    ours, theirs = played(agent, config, greedy, seed=3), evaluated(agent, greedy, seed=3)
    assert len(ours) == len(theirs)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


class Pushed(gymnasium.Env):
    """A force between -2 and 2 moves a place; observations are a dictionary; tasks are drifts."""

    observation_space = gymnasium.spaces.Dict({"place": gymnasium.spaces.Box(-9, 9, (2,)), "side": SIDES})
    action_space = gymnasium.spaces.Box(-2, 2, (1,))

    def __init__(self):
        self.drift, self.forces = 0.1, []

    def sample_tasks(self, num_tasks):
        return [{"drift": drift} for drift in self.np_random.uniform(0, 1, num_tasks)]

    def set_task(self, task):
        self.drift = task["drift"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.zeros(2, np.float32)
        return self._seen(), {}

    def _seen(self):
        return {"place": self.place.copy(), "side": int(self.place[0] > 0)}

    def step(self, action):
        self.forces.append(action)
        self.place += np.float32(action * 0.1 + self.drift)
        return self._seen(), 1.0, False, False, {}


PUSHED = {
    "_target_": "metarl.envs.gymnasium_lanes.GymnasiumEnv",
    "_partial_": True,
    "make": f"{__name__}:Pushed",
    "options": {},
    "horizon": 5,
    "num_episodes": 3,
    "ends_early": False,
    "num_workers": 0,
}


def test_play_flattens_observations_and_scales_actions_of_anyones_environment():
    config = small_config("model=gru") | {"env": PUSHED}
    agent, env = TrainedAgent(*build_algorithm(config, TYPED)), Pushed()
    assert metarl.play(agent, env) == [5.0, 5.0, 5.0]  # the horizon of training truncates
    assert max(np.abs(env.forces)) > 1 and env.action_space.contains(env.forces[0])


@pytest.mark.parametrize("overrides", [*MEMORIES[1:], *ADAPTING], ids=" ".join)
def test_every_kind_of_agent_plays_in_gymnasiums_environments(overrides):
    agent, config = untrained(*overrides)
    options = {key: value for key, value in config["env"].items() if key != "_target_"}
    env = gymnasium.make(f"metarl.gymnasium_envs:metarl/{config['choices']['env']}-v0", **options)
    support = sum(agent.rollouts[:-1]) * config["lanes_per_task"]
    returns = metarl.play(agent, env, greedy=True)
    assert len(returns) == support + agent.rollouts[-1] == agent.start().episodes
    assert metarl.play(agent, env, episodes=1, greedy=True) == returns[:1]


def test_episodes_one_after_the_other_become_lanes():
    algorithm, env = make_algorithm("env=hopper_params", "env.horizon=20", "env.num_episodes=4", lanes=3)
    (rollout,) = collected(algorithm, env)
    found = side_by_side(rollout, episodes=2, share=2)
    for lane in range(env.num_lanes):
        starts = [int(t) for t in (rollout.timestep.first[:, lane] & rollout.mask[:, lane]).nonzero()]
        ends = [*starts[1:], int(rollout.mask[:, lane].sum())]
        for part in range(2):
            steps, own = slice(starts[2 * part], ends[2 * part + 1]), 2 * lane + part
            mask = found.mask[:, own]
            assert int(mask.sum()) == steps.stop - steps.start and not mask[int(mask.sum()) :].any()
            for name in ("reward", "terminated", "truncated", "next_observation"):
                assert torch.equal(getattr(found, name)[mask, own], getattr(rollout, name)[steps, lane])
            assert torch.equal(found.timestep.first[mask, own], rollout.timestep.first[steps, lane])
            assert not found.reward[~mask, own].any() and not found.timestep.first[~mask, own].any()
    assert not rollout.mask.all()


def test_a_lane_that_plays_the_support_alone_adapts_as_many_do():
    agent, config = untrained(
        "env=point_goal", "algorithm=maml", "model=mlp", "meta_optimizer=trpo", "lanes_per_task=2"
    )
    env = metarl.make("point_goal", horizon=5, num_episodes=3)
    algorithm, adapted_on = agent.algorithm, []
    adapt = algorithm.adapt
    algorithm.adapt = lambda state, rollout: adapted_on.append(rollout) or adapt(state, rollout)
    session = agent.start()
    observation = env.reset()
    while not session.finished:
        step = env.step(session.act(observation))
        session.observe(step.reward, step.terminated, step.truncated)
        observation = step.observation
    (rollout,) = adapted_on
    assert rollout.mask.shape == (3 * 5, 2) and rollout.mask.all() and config["lanes_per_task"] == 2
    assert rollout.timestep.first.sum(0).tolist() == [3, 3]
    assert not rollout.timestep.previous_reward[0].any() and not rollout.timestep.previous_action[0].any()


# ---------------------------------------------------------------- what does not fit


def refused(act, fragment: str) -> None:
    with pytest.raises(metarl.MetarlError, match=fragment) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_spaces_that_do_not_fit_are_refused():
    agent, _ = untrained("env=bandit")
    session = agent.start()
    refused(lambda: session.act(np.zeros(7)), r"observation of shape \(7,\)")
    refused(lambda: metarl.play(agent, gymnasium.make("CartPole-v1")), "observation_space=.*trained with")
    refused(lambda: metarl.play(agent, gymnasium.make("metarl.gymnasium_envs:metarl/bandit-v0")), "action_space=.*")
    refused(lambda: metarl.play(agent, metarl.make("bandit")), "Bernoulli.* is no gymnasium.Env|is no gymnasium.Env")


def test_calls_in_another_order_are_refused():
    agent, _ = untrained("env=bandit")
    env, session = metarl.make("bandit", num_arms=3), agent.start()
    observation = env.reset()
    refused(lambda: session.observe(1.0, False, False), "before act")
    session.act(observation)
    refused(lambda: session.act(observation), "called twice")
    refused(lambda: session.observe(1.0, False), "2 values")
    refused(lambda: session.observe([1.0, 2.0], False, False), "2 numbers in a session of batch_size=1")
    for _ in range(session.episodes):
        session.observe(1.0, False, True)
        if not session.finished:
            session.act(observation)
    refused(lambda: session.act(observation), "trial of 3 episodes is over")
    refused(lambda: agent.start(3, lanes_per_task=2), "batch_size=3: must be a multiple")
    refused(lambda: metarl.play(agent, SIDES, episodes=4), "episodes=4: a trial of this agent has 3")


def test_oracles_ask_for_tasks():
    agent, _ = untrained("env=bandit", "algorithm=multitask", "model=mlp", "conditioning=concatenate")
    refused(agent.start, r"oracle \(task_description\)")
    env = metarl.make("bandit", 2, num_arms=3)
    assert agent.start(2, tasks=env.tasks).act(env.reset()).shape == (2,)


# ---------------------------------------------------------------- runs


def test_training_gives_a_run_and_its_agent(brief_run, capsys):
    assert [row["iteration"] for row in brief_run.metrics()] == [0, 1, 2, 3]
    assert (
        brief_run.summary()["env_steps"] == 120
        and f"hydra.run.dir='{brief_run.path}'" in brief_run.summary()["command"]
    )
    command_line(["evaluate", str(brief_run.path), "--num-tasks", "5", "--seed", "2", "--format", "json"])
    printed = json.loads(capsys.readouterr().out)
    found = brief_run.evaluate(num_tasks=5, seed=2)
    assert {name: printed[name] for name in found} == json.loads(json.dumps(found))
    assert metarl.load(brief_run.path).evaluate(5, seed=2) == found
    again = metarl.train(BRIEF, brief_run.path)  # finished already
    assert again.path == brief_run.path and len(again.metrics()) == 4


def test_a_loaded_agent_acts_in_six_lines(brief_run):
    agent = metarl.load(brief_run.path)
    session = agent.start(batch_size=2, greedy=True)
    env = metarl.make("bandit", num_tasks=2, seed=0)
    observation = env.reset()
    for _ in range(session.episodes):
        step = env.step(torch.as_tensor(session.act(observation)))
        session.observe(step)
    assert session.finished


def test_checkpoints_and_settings_of_a_loaded_agent(brief_run):
    weights = [metarl.load(brief_run.path, checkpoint=which).algorithm.state_dict() for which in ("latest", 3, 2)]
    same = [all(torch.equal(weights[0][name], other[name]) for name in other) for other in weights]
    assert same == [True, True, False]
    assert metarl.load(brief_run.path, overrides=["env.num_episodes=30"]).start().episodes == 30
    refused(lambda: metarl.load(brief_run.path, checkpoint=1), "no checkpoint of iteration 1; kept are 2, 3")
    refused(lambda: metarl.load(brief_run.path, overrides=["env.num_arms=7"]), "env.num_arms=7: changes the shape")
    refused(lambda: metarl.load(brief_run.path, overrides=["env.num_arm=7"]), "env.num_arm=7: no such key.*num_arms")
    refused(lambda: metarl.load(brief_run.path, overrides=["model.hidden_size=7"]), "settings of its environment alone")
    refused(lambda: metarl.load(brief_run.path.parent), "is not a run directory")


def test_a_run_directory_is_data(brief_run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(brief_run.path, path)
    text = (path / "config.yaml").read_text().replace("metarl.envs.bandit.", "somewhere.bandit.")
    (path / "config.yaml").write_text(text)
    refused(lambda: metarl.load(path), "env._target_=somewhere.bandit.*outside metarl")
    refused(lambda: metarl.load(path, trust="somewhere"), "cannot be imported")


def test_training_raises_and_does_not_exit(tmp_path, monkeypatch):
    refused(lambda: metarl.train(["model=grru"]), "model=grru: no such option")
    refused(lambda: metarl.train([*BRIEF, "env.num_arms=-1"], tmp_path / "run"), "env.num_arms=-1")

    def stopped(*arguments):
        raise SystemExit(0)

    monkeypatch.setattr("metarl.experiment.run", stopped)
    refused(lambda: metarl.train(BRIEF, tmp_path / "run"), "stopped by a signal")


def test_importing_metarl_imports_nothing_heavy():
    check = "import sys, metarl; assert not {'torch', 'numpy', 'gymnasium', 'hydra'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
    assert set(metarl.__all__) <= set(dir(metarl))


def test_the_examples_of_the_page_run(tmp_path):
    names = pages.run(REPOSITORY / "docs" / "python.md", tmp_path)
    assert names["session"].finished and len(names["returns"]) == 3
