"""Recording one trial of an agent in one lane."""

from typing import Any

from metarl.analysis.video import STRIP, TrialRecording, captioned
from metarl.envs.base import MetaEnv
from metarl.envs.capabilities import Planar, Renderable
from metarl.envs.rendering import RenderError
from metarl.rollout import collect_trial
from metarl.seeding import make_generator, split_seed
from metarl.types import Agent, Step, Tasks


class RecordedEnv:
    """Wrapper of an environment of one lane that records returns, positions and frames; all else is passed through.

    Args:
        env: of one lane, with tasks.
        every: steps between frames; 0 records none.
    """

    def __init__(self, env: MetaEnv, every: int):
        self.env, self.every = env, every
        goal = env.tasks.parameters.get("goal")
        flat = None if goal is None or goal.shape[1] != 2 else goal[0].cpu().numpy()
        self.recording = TrialRecording(in_words(env.tasks), goal=flat)
        self._step = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self):
        """Reset the environment and start a new episode of the recording."""
        observation = self.env.reset()
        self._begin()
        return observation

    def step(self, action) -> Step:
        """Step the environment and record the result."""
        step = self.env.step(action)
        self._step += 1
        self.recording.returns[-1] += float(step.reward[0])
        if bool(step.terminated[0] | step.truncated[0]):
            self._begin()
        else:
            self._record()
        return step

    def _begin(self) -> None:
        self.recording.returns.append(0.0)
        self.recording.positions.append([])
        self._step = 0
        self._record()

    def _record(self) -> None:
        if isinstance(self.env, Planar):
            self.recording.positions[-1].append(self.env.positions()[0].cpu().numpy())
        if self.every and self._step % self.every == 0:
            episode, earned = len(self.recording.returns), self.recording.returns[-1]
            text = f"episode {episode}   step {self._step}   return {earned:.1f}"
            self.recording.frames.append(captioned(self._render(), text, f"   {self.recording.task}"))
            self.recording.frame_episodes.append(episode - 1)

    def _render(self):
        if not isinstance(self.env, Renderable):
            raise RenderError(f"{type(self.env).__name__} does not support rendering")
        return self.env.render(0)


def record_trial(agent: Agent, env: MetaEnv, seed: int, every: int, greedy: bool = False) -> TrialRecording:
    """One trial in an environment of one lane, on its present task.

    Raises:
        RenderError: frames are asked for, and the environment cannot be rendered.
    """
    recorded = RecordedEnv(env, every)
    collect_trial(recorded, agent, make_generator(split_seed(seed, 2)[1], env.device), greedy)  # type: ignore[arg-type]
    recording = recorded.recording
    count = sum(agent.rollouts)
    recording.returns, recording.positions = recording.returns[:count], recording.positions[:count]
    shown = sum(episode < count for episode in recording.frame_episodes)
    recording.frames, recording.frame_episodes = recording.frames[:shown], recording.frame_episodes[:shown]
    return recording


def record_final_trial(agent: Agent, env: MetaEnv, seed: int) -> TrialRecording | None:
    """A trial for the report, with frames if the environment can be rendered; None without frames and positions."""
    env.sample_tasks("held_out")
    every = max(1, env.horizon // (STRIP - 1))
    try:
        return record_trial(agent, env, seed, every)
    except RenderError:
        recording = record_trial(agent, env, seed, every=0)
        return recording if any(recording.positions) else None


def in_words(tasks: Tasks) -> str:
    """Parameters of the first task: values of short ones, sizes of long ones."""
    words = []
    for name, value in tasks.parameters.items():
        numbers = value[0].flatten().tolist()
        shown = ", ".join(f"{number:.3g}" for number in numbers) if len(numbers) <= 3 else f"{len(numbers)} numbers"
        words.append(f"{name} {shown}")
    return "; ".join(words)
