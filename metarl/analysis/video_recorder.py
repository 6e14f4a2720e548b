"""Recording one trial of an agent in one lane."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from metarl.analysis.trial_recording import TrialRecording
from metarl.analysis.trial_views import RewardRecorder, ViewRecorder, view_recorder
from metarl.analysis.video import STRIP, captioned
from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import Planar, Renderable
from metarl.envs.rendering import RenderError
from metarl.rollout import collect_trial
from metarl.seeding import make_generator, split_seed
from metarl.types import Agent, Step, Tasks


class RecordedEnv:
    """Wrapper of an environment that records one lane: returns, frames, and the view that suits; it passes on the rest.

    Args:
        env: with tasks.
        every: steps between frames; 0 records none.
        rollouts: episodes of each rollout that count; a lane that waits for others plays more.
    """

    def __init__(self, env: MetaEnv, every: int, rollouts: Sequence[int] = ()):
        self.env, self.every = env, every
        goal = env.tasks.parameters.get("goal")
        flat = None if goal is None or goal.shape[1] != 2 else goal[0].cpu().numpy()
        self.recording = TrialRecording(in_words(env.tasks), goal=flat)
        self._rollouts, self._left = iter(rollouts), math.inf
        self._over, self._step = False, 0
        self._views: list[ViewRecorder] = [view_recorder(env), RewardRecorder()]  # the second if the first is empty

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self):
        """Reset the environment and start a new episode of the recording."""
        self._observation = observation = self.env.reset()
        self._left = next(self._rollouts, math.inf)
        self._begin(observation)
        return observation

    def step(self, action) -> Step:
        """Step the environment and record the result."""
        if self._over:
            self._begin(self._observation)
        step = self.env.step(action)
        self._step += 1
        self._over, self._observation = bool(step.terminated[0] | step.truncated[0]), step.observation
        if self._left >= 0:
            self.recording.returns[-1] += float(step.reward[0])
            for view in self._views:
                view.add(action, step, self._over)
            self._keep(step.final_observation)
        return step

    def _begin(self, observation: Tensor) -> None:
        self._left, self._over, self._step = self._left - 1, False, 0
        if self._left >= 0:
            self.recording.returns.append(0.0)
            self.recording.positions.append([])
            for view in self._views:
                view.begin(observation)
            self._keep(observation)

    def _keep(self, observation: Tensor) -> None:
        """Record the present position, or that of the end of an episode where its observation shows it, and a frame."""
        if isinstance(self.env, Planar):
            place = self.env.positions_in(observation) if self._over else self.env.positions()
            if place is not None:
                self.recording.positions[-1].append(place[0].cpu().numpy())
        if self.every and self._step % self.every == 0 and not self._over:
            episode, earned = len(self.recording.returns), self.recording.returns[-1]
            text = f"episode {episode}  step {self._step}  return {earned:.1f}"
            self.recording.frames.append(captioned(self._render(), text, f"  {self.recording.task}"))
            self.recording.frame_episodes.append(episode - 1)

    def finished(self) -> TrialRecording:
        """The recording with its view."""
        self.recording.view = next((recorder.view for recorder in self._views if recorder.view is not None), None)
        return self.recording

    def _render(self):
        if not isinstance(self.env, Renderable):
            name = type(self.env).__name__
            raise RenderError(f"{name} does not support rendering; the report of a run has a figure of a trial instead")
        return self.env.render(0)


def record_trial(agent: Agent, env: MetaEnv, seed: int, every: int, greedy: bool = False) -> TrialRecording:
    """One trial in an environment of one lane, on its present task.

    Raises:
        RenderError: frames are asked for, and the environment cannot be rendered.
    """
    recorded = RecordedEnv(env, every, agent.rollouts)
    collect_trial(recorded, agent, make_generator(split_seed(seed, 2)[1], env.device), greedy)  # type: ignore[arg-type]
    return recorded.finished()


def record_final_trial(agent: Agent, env: MetaEnv, seed: int) -> TrialRecording:
    """A trial for the report, with frames if the environment can be rendered."""
    env.sample_tasks("held_out")
    every = max(1, env.horizon // (STRIP - 1))
    try:
        return record_trial(agent, env, seed, every)
    except RenderError:
        return record_trial(agent, env, seed, every=0)


def in_words(tasks: Tasks) -> str:
    """Parameters of the first task: values of short ones, sizes of long ones."""
    words = []
    for name, value in tasks.parameters.items():
        numbers = value[0].flatten().tolist()
        shown = ", ".join(f"{number:.3g}" for number in numbers) if len(numbers) <= 3 else f"{len(numbers)} numbers"
        words.append(f"{name} {shown}")
    return "; ".join(words)
