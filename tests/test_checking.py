"""``metarl check``: things that are broken in one way fail the one check that is about it."""

import pytest
import torch
from gymnasium import spaces

from metarl.checking.environments import ENVIRONMENT_CHECKS
from metarl.checking.outcomes import Check, failed, run
from metarl.checking.world import World
from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import Renderable
from metarl.types import Step, Tasks


class Line(MetaEnv):
    """Walk along a line to a hidden place, pushed by noise; keeps every promise."""

    action_space: spaces.Space = spaces.Box(-1, 1, (1,))
    observation_space: spaces.Space = spaces.Box(-10, 10, (1,))
    task_dim = 1
    shared = False

    def __init__(self, **lanes):
        super().__init__(num_episodes=2, horizon=6, **lanes)
        self.elapsed = 0

    def draw_tasks(self, num_tasks, task_set):
        return Tasks({"goal": torch.rand(num_tasks, 1, generator=self.task_generator)})

    def reset(self):
        self.elapsed = 0
        self.place = 0.1 * torch.randn(self.num_lanes, 1, generator=self.generator)
        return self.place.clone()

    def step(self, action):
        noise = 0.1 * torch.randn(self.num_lanes, 1, generator=self.generator)
        self.place = self.place + 0.1 * action.clamp(-1, 1) + noise
        reward = -(self.place - self.tasks.parameters["goal"]).abs().squeeze(1)
        return self.ended(self.place.clone(), reward)

    def ended(self, final, reward, terminated=None):
        self.elapsed += 1
        last = self.elapsed == self.horizon
        terminated = self._false if terminated is None else terminated
        return Step(
            self.reset() if last else final, reward, terminated, self._true if last else self._false, None, final
        )


class TooFew(Line):
    def __init__(self, **lanes):
        super().__init__(**lanes)
        self.num_episodes = 0


class Crashing(Line):
    def step(self, action):
        raise ArithmeticError("broken")


class Strict(Line):
    def step(self, action):
        assert (action.abs() <= 1).all(), "illegal action"
        return super().step(action)


class Doubles(Line):
    def step(self, action):
        step = super().step(action)
        return step._replace(reward=step.reward.double())


class Narrow(Line):
    observation_space = spaces.Box(-0.1, 0.1, (1,))


class NotANumber(Line):
    def step(self, action):
        step = super().step(action)
        return step._replace(reward=step.reward / (step.reward != step.reward.min()))


class Jumping(Line):
    def step(self, action):
        step = super().step(action)
        return step._replace(observation=step.observation + 1e-3)


class Both(Line):
    fixed_length = False

    def step(self, action):
        step = super().step(action)
        return step._replace(terminated=step.truncated)


class Shorter(Line):
    def ended(self, final, reward, terminated=None):
        self.elapsed += 1
        last = self.elapsed == 3
        return Step(
            self.reset() if last else final, reward, self._false, self._true if last else self._false, None, final
        )


class Early(Line):
    def ended(self, final, reward, terminated=None):
        self.elapsed += 1
        ends = self.elapsed == 3
        seen = self.reset() if ends else final
        return Step(seen, reward, self._true if ends else self._false, self._false, None, final)


class Clockless(Line):
    def reset(self):
        elapsed = self.elapsed
        first = super().reset()
        self.elapsed = elapsed % self.horizon
        return first


class Aliased(Line):
    def reset(self):
        super().reset()
        self.place_seen = self.place
        return self.place_seen

    def step(self, action):
        before = self.place_seen
        step = super().step(action)
        before.mul_(1.5)
        self.place_seen = step.final_observation.clone()
        return step


class Tiny(Line):
    action_space = spaces.Box(-0.01, 0.01, (1,))


class Deaf(Line):
    def step(self, action):
        return super().step(torch.zeros_like(action))


class Picky(Line):
    action_space = spaces.Discrete(9)

    def step(self, action):
        if (action == 8).all():
            raise KeyError("8")
        return super().step(action.unsqueeze(1) / 9)


class Restless(Line):
    def set_tasks(self, tasks):
        super().set_tasks(tasks)
        self.kept = self.tasks
        return self.tasks

    def reset(self):
        self.tasks = Tasks({"goal": self.tasks.parameters["goal"] * 0.9})
        return super().reset()

    def step(self, action):
        shown, self.tasks = self.tasks, self.kept
        step = super().step(action)
        self.tasks = shown
        return step


class Stuck(Line):
    def sample_tasks(self, task_set="train"):
        state = self.task_generator.get_state()
        drawn = super().sample_tasks(task_set)
        self.task_generator.set_state(state)
        return drawn


class Unshared(Line):
    def set_tasks(self, tasks):
        super().set_tasks(tasks)
        if self.lanes_per_task > 1 and self.num_tasks == 3 and self.drawing:
            self.tasks = Tasks({"goal": self.tasks.parameters["goal"] + torch.arange(6.0).unsqueeze(1)})
        return self.tasks

    drawing = False

    def sample_tasks(self, task_set="train"):
        self.drawing = True
        found = super().sample_tasks(task_set)
        self.drawing = False
        return found


class Forgetful(Line):
    def set_tasks(self, tasks):
        return super().set_tasks(Tasks({"goal": tasks.parameters["goal"] + 1e-3}))


class Blind(Line):
    def step(self, action):
        self.place = self.place + 0.1 * action.clamp(-1, 1)
        return self.ended(self.place.clone(), -self.place.abs().squeeze(1))


class Leaking(Line):
    def draw_tasks(self, num_tasks, task_set):
        if task_set == "held_out":
            generator = torch.Generator().set_state(Line(num_tasks=1, seed=0).task_generator.get_state())
            return Tasks({"goal": torch.rand(num_tasks, 1, generator=generator)})
        return super().draw_tasks(num_tasks, task_set)


class Crowded(Line):
    def step(self, action):
        step = super().step(action)
        return step._replace(reward=step.reward - step.reward.mean())


class Global(Line):
    def step(self, action):
        step = super().step(action)
        return step._replace(reward=step.reward + torch.rand(self.num_lanes))


class Wasteful(Line):
    def step(self, action):
        torch.rand(1)
        return super().step(action)


class Seedless(Line):
    def __init__(self, seed, **lanes):
        super().__init__(seed=0, **lanes)


class Unsaved(Line):
    def __init__(self, **lanes):
        super().__init__(**lanes)
        self.age = 0

    def sample_tasks(self, task_set="train"):
        self.age += 1
        return super().sample_tasks(task_set)

    def step(self, action):
        step = super().step(action)
        return step._replace(reward=step.reward + 0.1 * self.age)


class Tired(Line):
    """A battery outlasts episodes, and no state of the trial tells of it."""

    def set_tasks(self, tasks):
        self.battery = 10.0
        return super().set_tasks(tasks)

    def step(self, action):
        self.battery -= 0.1
        step = super().step(action)
        return step._replace(reward=step.reward + self.battery)


class Painted(Line, Renderable):
    def render(self, lane=0):
        return torch.zeros(4, 4, 3)


class Threaded(Line):
    def step(self, action):
        step = super().step(action)
        return step._replace(reward=step.reward + 1e-3 * torch.get_num_threads())


class Entangled(Line):
    """Plays with the generator of tasks."""

    def step(self, action):
        torch.rand(1, generator=self.task_generator)
        return super().step(action)


BROKEN_ENVIRONMENTS = {
    TooFew: "it can be made",
    Crashing: "random actions can be played",
    Strict: "actions beyond their bounds are taken",
    Doubles: "shapes and types are as promised",
    Narrow: "observations lie in their space",
    NotANumber: "all numbers are finite",
    Jumping: "observations continue within an episode",
    Both: "a step is terminated or truncated, never both",
    Shorter: "episodes are cut at the horizon",
    Early: "episodes end early only where declared",
    Clockless: "a reset starts a whole episode",
    Aliased: "what was returned never changes",
    Tiny: "actions have the usual scale",
    Deaf: "actions change what happens",
    Picky: "every action can be played",
    Restless: "tasks persist over episodes",
    Stuck: "sampling gives new tasks",
    Entangled: "tasks do not depend on play",
    Unshared: "lanes of a task share it",
    Forgetful: "tasks can be given again",
    Blind: "tasks decide what happens",
    Leaking: "held-out tasks are not training tasks",
    Crowded: "lanes do not interact",
    Global: "the same seed repeats everything",
    Wasteful: "global randomness is not used",
    Seedless: "another seed gives another play",
    Threaded: "threads change nothing",
    Unsaved: "a saved state resumes exactly",
    Tired: "the state of a trial can be restored",
    Painted: "pictures are pictures and leave no trace",
}


def wrong_in(made) -> list[str]:
    return failed(run("env", ENVIRONMENT_CHECKS, World(lambda **given: made(**given))))


def test_a_sound_environment_passes():
    assert wrong_in(Line) == []


@pytest.mark.parametrize("broken", BROKEN_ENVIRONMENTS, ids=lambda kind: kind.__name__)
def test_a_broken_environment_fails_the_check_it_breaks(broken):
    assert wrong_in(broken) == [BROKEN_ENVIRONMENTS[broken]]


def test_an_error_is_located_in_the_code_that_is_checked():
    check = Check("it runs", lambda _: iter(torch.zeros(())), "correct it")
    (outcome,) = run("x", [check], None)
    assert (
        outcome.found
        == f"TypeError: iteration over a 0-d tensor (test_checking.py:{check.law.__code__.co_firstlineno})"
    )
