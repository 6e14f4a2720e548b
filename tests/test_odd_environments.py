"""Environments of Gymnasium's kind with odd habits: each learns as its plain twin does, or is refused in one line."""

import os

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import StopAt, collected, small_config, trainer_of

from metarl.configuration.build import build_algorithm
from metarl.envs.gymnasium_lanes import GymnasiumEnv
from metarl.errors import ContractError, MetarlError
from metarl.experiment import final_summary

SPACES = {
    "discrete": spaces.Discrete(3),
    "from_five": spaces.Discrete(3, start=5),
    "box": spaces.Box(-np.inf, np.inf, (3,)),
    "narrow": spaces.Box(0, 0.1, (3,)),
    "dict": spaces.Dict({"place": spaces.Discrete(3)}),
    "tuple": spaces.Tuple((spaces.Discrete(3, start=5),)),
    "choices": spaces.MultiDiscrete([3]),
    "bits": spaces.MultiBinary(3),
    "one": spaces.Box(-np.inf, np.inf, (1,)),
    "scalar": spaces.Box(-np.inf, np.inf, ()),
    "text": spaces.Dict({"place": spaces.Text(3)}),
}
ACTIONS = {
    "discrete": spaces.Discrete(6),
    "from_minus_three": spaces.Discrete(6, start=-3),
    "choices": spaces.MultiDiscrete([3, 2]),
    "choices_from_one": spaces.MultiDiscrete([3, 2], start=[1, 1]),
    "four": spaces.Discrete(4),
    "bits": spaces.MultiBinary(2),
    "box": spaces.Box(-1, 1, (4,)),
    "double_box": spaces.Box(-1, 1, (4,), np.float64),
    "matrix": spaces.Box(-1, 1, (2, 2)),
    "quarter": spaces.Box(-0.25, 0.25, (4,)),
    "many": spaces.MultiDiscrete([20] * 3),
    "dict": spaces.Dict({"a": spaces.Discrete(2)}),
}


class Lever(gymnasium.Env):
    """Pays for the action that fits what is seen and the task; its habits are arguments."""

    def __init__(self, seen="box", acts="discrete", task="number", pays="number", says=None, ends="never", old=None):
        self.seen, self.acts, self.task_form, self.pays, self.says, self.ends = seen, acts, task, pays, says, ends
        self.observation_space, self.action_space = SPACES[seen], ACTIONS[acts]
        if old == "no_set_task":
            self.set_task = None
        self.old = old

    def sample_tasks(self, num_tasks):
        drawn = [int(kind) for kind in self.np_random.integers(0, 2, num_tasks)]
        forms = {
            "number": lambda kind: kind,
            "array": lambda kind: np.array([kind, 1.0]),
            "dict": lambda kind: {"kind": kind, "place": np.zeros(2)},
            "name": lambda kind: ["red", "green"][kind],
            "nested": lambda kind: {"kind": {"inner": kind}},
            "pair": lambda kind: (kind, None),
        }
        if self.task_form == "ragged":
            return [np.zeros(1 + row % 2) for row in range(num_tasks)]
        if self.task_form == "few":
            return drawn[:1]
        if self.task_form == "keys":
            return [{f"kind{row}": 0} for row in range(num_tasks)]
        return [forms[self.task_form](kind) for kind in drawn]

    def set_task(self, task):
        if self.task_form == "number":
            assert type(task) is int
            self.kind = {0: 0, 1: 1}[task]
        else:
            self.kind = int(task["kind"] if self.task_form == "dict" else task[0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.look() if self.old == "bare_reset" else (self.look(), {})

    def look(self):
        self.place = place = int(self.np_random.integers(0, 3))
        vector = np.eye(3)[place]
        return {
            "discrete": place, "from_five": place + 5, "box": vector, "narrow": vector, "dict": {"place": place},
            "tuple": (place + 5,), "choices": np.array([place]), "bits": vector.astype(np.int8),
            "one": np.array([place / 2]), "scalar": place / 2, "text": {"place": "abc"},
        }[self.seen] if self.old != "shape" else np.zeros(2)  # fmt: skip

    def earned(self, action):
        assert self.action_space.contains(action), action
        if isinstance(self.action_space, spaces.Box):
            unit = np.asarray(action).reshape(-1) * (4 if self.acts == "quarter" else 1)
            return -float(np.abs(unit - self.place / 4 + self.kind).mean())
        if self.acts in ("choices", "choices_from_one"):
            action = 2 * (action[0] - self.action_space.start[0]) + action[1] - self.action_space.start[1]
        elif self.acts == "bits":
            action = 2 * action[0] + action[1]
        first = self.action_space.start if isinstance(self.action_space, spaces.Discrete) else 0
        return float(int(action) - int(first) == self.place + self.kind)

    def step(self, action):
        earned = self.earned(action)
        self.steps += 1
        reward = {
            "number": earned, "array": np.array([earned]), "scalar": np.array(earned), "single": np.float32(earned),
            "tensor": torch.tensor([earned]), "none": None, "two": np.zeros(2), "word": "much",
        }[self.pays]  # fmt: skip
        success = earned > 0.5
        info = {
            None: {}, "success": {"success": success}, "is_success": {"is_success": success},
            "array": {"success": np.array([float(success)])}, "share": {"success": 0.7},
        }[self.says]  # fmt: skip
        over = self.ends == "third" and self.steps >= 3
        if self.old == "four":
            return self.look(), reward, over, info
        return self.look(), reward, over, self.ends == "both" and self.steps >= 3, info


class OldReset(Lever):
    def reset(self):
        return super().reset()


class Broken(Lever):
    def earned(self, action):
        raise KeyError("a mistake of its own")


gymnasium.register("LeverOfThree-v0", entry_point=Lever, max_episode_steps=3)


def node(make="Lever", horizon=4, num_workers=0, ends_early=False, **options):
    return {
        "_target_": "metarl.envs.gymnasium_lanes.GymnasiumEnv",
        "_partial_": True,
        "make": make if make.endswith("-v0") else f"test_odd_environments:{make}",
        "options": options,
        "horizon": horizon,
        "num_episodes": 2,
        "ends_early": ends_early,
        "num_workers": num_workers,
    }


def learner(method="rl2", lanes=4, overrides=(), **env):
    model = {"rl2": "gru", "varibad": "gru"}.get(method, "mlp")
    config = small_config(f"algorithm={method}", f"model={model}", *overrides, lanes=lanes)
    config["env"] = node(**env)
    algorithm, built = build_algorithm(config)
    return algorithm, built.make_env(num_tasks=config["meta_batch_size"], seed=1)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    monkeypatch.setenv("METARL_TRUST", __name__)


# ---------------------------------------------------------------- the plain twin

TWINS = [
    *((f"seen {odd}", {"seen": plain}, {"seen": odd}) for plain, odd in [
        ("discrete", "from_five"), ("box", "narrow"), ("box", "dict"), ("box", "tuple"), ("box", "choices"),
        ("box", "bits"), ("one", "scalar"),
    ]),
    *((f"acts {odd}", {"acts": plain}, {"acts": odd}) for plain, odd in [
        ("discrete", "from_minus_three"), ("discrete", "choices"), ("discrete", "choices_from_one"), ("four", "bits"),
        ("box", "matrix"), ("box", "quarter"), ("box", "double_box"),
    ]),
    *((f"pays {odd}", {}, {"pays": odd}) for odd in ("array", "scalar", "single", "tensor")),
    *((f"says {odd}", {"says": "success"}, {"says": odd}) for odd in ("is_success", "array")),
    ("task dict", {"task": "array"}, {"task": "dict"}),
]  # fmt: skip


def learned(method, **env):
    agent, env = learner(method, **env)
    (*_, rollout) = trial = collected(agent, env, updates=2)
    del trial
    return rollout, list(agent.parameters())


@pytest.mark.parametrize("method", ["rl2", "maml", "varibad"])
@pytest.mark.parametrize(("plain", "odd"), [pair[1:] for pair in TWINS], ids=[pair[0] for pair in TWINS])
def test_it_learns_as_its_plain_twin_does(method, plain, odd):
    if method != "rl2" and ("seen" in odd) + ("acts" in odd) == 0:
        pytest.skip("the same adapter")
    found, weights = learned(method, **odd)
    expected, expected_weights = learned(method, **plain)
    torch.testing.assert_close(found.reward, expected.reward, atol=1e-4, rtol=1e-4)
    assert (found.success is None) == (expected.success is None)
    if found.success is not None:
        assert torch.equal(found.success, expected.success)
    for mine, its in zip(weights, expected_weights, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-4, rtol=1e-3)


def test_a_kept_type_of_task_is_that_of_the_environment():
    learner(task="number")  # which asserts a whole number of Python


# ---------------------------------------------------------------- refused in one line

REFUSED = [
    ({"acts": "dict"}, "env.make=.*: actions of Dict.* cannot be learned; use Discrete, Box, MultiDiscrete"),
    ({"acts": "many"}, "env.make=.*: actions of MultiDiscrete.* have 8000 combinations, and 4096 can be learned"),
    ({"seen": "text"}, "env.make=.*: observations of Text.* cannot be learned from; use Box, Discrete"),
    ({"task": "name"}, "Lever.sample_tasks gave tasks such as 'red'; a task is a number, an array"),
    ({"task": "ragged"}, r"Lever.sample_tasks gave tasks such as array\(\[0.\]\); .*as many in every task"),
    ({"task": "nested"}, "Lever.sample_tasks gave tasks such as {'inner': [01]} under 'kind'; a task is a number"),
    ({"task": "pair"}, "Lever.sample_tasks gave tasks such as .*; a task is a number"),
    ({"task": "keys"}, "Lever.sample_tasks gave tasks with different keys; a task is a number"),
    ({"task": "few"}, r"Lever.sample_tasks\(2\) gave 1 tasks; return as many as are asked for"),
    ({"pays": "none"}, "Lever.step gave the reward None; return one number"),
    ({"pays": "two"}, r"Lever.step gave the reward array\(\[0., 0.\]\); return one number"),
    ({"pays": "word"}, "Lever.step gave the reward 'much'; return one number"),
    ({"says": "share"}, r'Lever.step gave info\["success"\]=0.7; .*return True or False'),
    ({"old": "four"}, "Lever.step returned no five values; step.self, action. must return .observation, reward, term"),
    ({"old": "bare_reset"}, "Lever.reset returned no pair; reset.*must return .observation, info."),
    ({"old": "shape"}, r"Lever gave an observation of shape \(2,\).*its observation_space promises \(3,\)"),
    ({"old": "no_set_task"}, "env.make=.*: Lever has no method set_task; add sample_tasks.num_tasks. and set_task"),
    ({"make": "OldReset"}, "env.make=.*: OldReset.reset takes no seed; reset.self, ., seed=None, options=None."),
    ({"make": "LeverOfThree-v0"}, "env.horizon=4: .*LeverOfThree-v0 has a time limit of 3 steps; use env.horizon=3"),
    ({"colour": "red"}, "env.options=.*: Lever has got an unexpected keyword argument 'colour'"),
]


@pytest.mark.parametrize(("env", "fragment"), REFUSED, ids=[str(env) for env, _ in REFUSED])
def test_what_cannot_be_learned_is_refused_at_the_start_in_one_line(env, fragment):
    with pytest.raises(MetarlError, match=fragment) as refusal:
        learner(**env)
    assert "\n" not in str(refusal.value)


def test_a_time_limit_of_its_own_can_be_lengthened():
    assert learner(make="LeverOfThree-v0", max_episode_steps=4)[1].horizon == 4


@pytest.mark.parametrize("ends", ["third", "both"])
def test_an_episode_that_ends_before_the_horizon_is_an_error_unless_that_is_said(ends):
    agent, env = learner(ends=ends)
    with pytest.raises(ContractError, match=r"Lever ended an episode after 3 steps.*use env.ends_early=true"):
        collected(agent, env)
    agent, env = learner(ends=ends, ends_early=True)
    assert collected(agent, env)[0].mask.sum() == 4 * 6


def test_what_breaks_the_contract_later_is_one_line_from_a_worker_too():
    env = GymnasiumEnv("test_odd_environments:LateNone", {}, 4, 2, False, 1, num_tasks=4, seed=0)
    env.sample_tasks()
    env.reset()
    with pytest.raises(ContractError, match=r"LateNone.step gave the reward None; return one number"):
        for _ in range(4):
            env.step(torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(
    ("iteration", "eval_every", "message"),
    [
        (3, 0, r"iteration 3: .*the reward None.* The last good checkpoint is .*00000002\.pt"),
        (2, 2, r"evaluation after iteration 2: .*the reward None"),
        (0, 0, "final evaluation after iteration 3: .*the reward None"),
    ],
)
def test_what_breaks_the_contract_in_training_says_when(iteration, eval_every, message, tmp_path, monkeypatch):
    config = small_config("env=point_goal", "eval.final_num_tasks=4")
    config["training"] |= {"total_steps": 10**9, "eval_every": eval_every}
    trainer = trainer_of(config, tmp_path)

    def breaking(*_, **__):
        raise ContractError("Lever.step gave the reward None; return one number")

    trainer.train(StopAt(trainer, max(iteration - 1, 1)))
    if iteration == 3:
        trainer.env.step = breaking
    else:
        monkeypatch.setattr(f"metarl.{'periodic_evaluation' if iteration else 'experiment'}.evaluate", breaking)
    with pytest.raises(ContractError, match=message):
        trainer.train(StopAt(trainer, 3))
        final_summary(trainer, config, {})


class LateNone(Lever):
    def step(self, action):
        answer = super().step(action)
        return (answer[0], None, *answer[2:]) if self.steps == 3 else answer


def test_a_mistake_of_its_own_is_not_hidden():
    with pytest.raises(KeyError, match="a mistake of its own"):
        GymnasiumEnv("test_odd_environments:Broken", {}, 4, 2, False, 0, num_tasks=4, seed=0)
    with pytest.raises(MetarlError, match=r"KeyError.*a mistake of its own.*test_odd_environments.py, line"):
        learner(make="Broken")
