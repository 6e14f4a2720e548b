"""The loop: meet new tasks, live through a trial, learn; evaluate on held-out tasks; never lose a run."""

import logging
import math
import sys
import time
from dataclasses import dataclass, field

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Generator
from tqdm import tqdm

from metarl import parallel
from metarl.algorithms.base import Algorithm
from metarl.checkpoint import load_weights
from metarl.envs.base import MetaEnv
from metarl.errors import CheckpointError
from metarl.evaluation import MakeEnv, evaluate
from metarl.logging import Loggers
from metarl.preemption import StopRequest
from metarl.rollout import Rollout, collect_trial
from metarl.run_directory import RunDirectory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPlan:
    """How long to train, and how often to look and to save.

    Args:
        total_steps: environment steps, support included; the last iteration may pass it.
        eval_every: iterations between evaluations; 0 evaluates only at the end.
        checkpoint_every: iterations between checkpoints.
        keep_checkpoints: how many of the latest stay.
    """

    total_steps: PositiveInt
    eval_every: NonNegativeInt
    checkpoint_every: PositiveInt
    keep_checkpoints: PositiveInt


@dataclass(frozen=True)
class EvaluationPlan:
    """How to evaluate.

    Args:
        num_tasks: held-out tasks of an evaluation while training.
        final_num_tasks: held-out tasks of the evaluation at the end: others, where they are drawn afresh.
        tasks_at_once: lanes of evaluation; a matter of memory and speed.
        baselines: play the environment's classical baselines at the end too.
        task_set: of the evaluations while training, which select ``best.pt``. Where held-out tasks are a fixed set,
            ``train`` keeps them out of that choice; the evaluation at the end is always held out.
    """

    num_tasks: PositiveInt
    final_num_tasks: PositiveInt
    tasks_at_once: PositiveInt
    baselines: bool
    task_set: str = "held_out"


@dataclass
class Progress:
    """Counters of a run; saved with every checkpoint."""

    iteration: int = 0
    env_steps: int = 0
    wall_time: float = 0.0  # seconds of training, over all resumes
    best_return: float = float("-inf")
    given_up: bool = False  # by a search: finished before its steps were done


@dataclass
class Trainer:
    """Trains an algorithm on an environment.

    Of several processes (see ``metarl.parallel``) each has a trainer; the main one evaluates, logs and saves.

    Args:
        env: the lanes of this process.
        generators: random streams by name: ``acting`` on the environment's device, ``update`` on the CPU.
        evaluation_seed: of the held-out tasks met while training.
        final_seed: of those met at the end.
    """

    algorithm: Algorithm
    env: MetaEnv
    make_env: MakeEnv
    plan: TrainingPlan
    eval_plan: EvaluationPlan
    run_dir: RunDirectory
    loggers: Loggers
    generators: dict[str, Generator]
    evaluation_seed: int
    final_seed: int
    progress: Progress = field(default_factory=Progress)

    def train(self, stop: StopRequest) -> bool:
        """Train until ``total_steps`` or a stop request; whether it is finished."""
        parallel.start_alike(self.algorithm)
        with self._bar() as bar:
            stopping = self._asked(stop)
            while not self.finished and not stopping:
                row = self._iterate()
                self._record(row)
                stopping = self._asked(stop)
                if self._due(self.plan.checkpoint_every) or self.finished or stopping:
                    self._save("latest")
                bar.update(self.progress.env_steps - bar.n)
                bar.set_postfix_str(f"return {row['train/return']:.3f}")
        parallel.meet()
        return self.finished

    @property
    def finished(self) -> bool:
        """All steps are done, or no more are wanted."""
        return self.progress.given_up or self.progress.env_steps >= self.plan.total_steps

    def resume(self) -> None:
        """Continue from the latest checkpoint of the run directory, if it has one.

        Raises:
            CheckpointError: the checkpoint is damaged, does not fit or was saved by more or fewer processes.
        """
        checkpoints = self.run_dir.checkpoints
        if checkpoints.numbered():
            path = checkpoints.path("latest")
            state = load_weights(self.algorithm, path, self.env.device)
            try:
                self.load_state_dict(state)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise CheckpointError(f"{path} does not fit this configuration ({error!r}); delete it") from None
            log.info("resuming %s at iteration %d", self.run_dir.path, self.progress.iteration)
            if math.isfinite(self.progress.best_return) and (problem := checkpoints.best_problem()) is not None:
                log.warning("the best weights so far are lost (%s); a better evaluation saves new ones", problem)

    @staticmethod
    def _asked(stop: StopRequest) -> bool:
        """Whether any process of the run was asked to stop: then all were."""
        if found := parallel.highest(stop.signal or 0):
            stop.signal = found
        return bool(stop)

    def _record(self, row: dict) -> None:
        enough = False
        if parallel.is_main():
            self.run_dir.append_metrics(row)
            enough = self.loggers.log(row)
        self.progress.given_up = bool(parallel.highest(int(enough))) and not self.finished

    def _save(self, which: str) -> None:
        state = self.state_dict()
        if not parallel.is_main():
            return
        if which == "latest":
            self.run_dir.save_latest(state, self.progress.iteration)
        else:
            self.run_dir.checkpoints.save_best(state)

    def _iterate(self) -> dict:
        started = time.perf_counter()
        self.env.sample_tasks()
        trial = parallel.joined(collect_trial(self.env, self.algorithm.behaviour, self.generators["acting"]))
        collected = time.perf_counter()
        share = self.progress.env_steps / self.plan.total_steps
        diagnostics = self.algorithm.update(trial, share, self.generators["update"])
        self.algorithm.learn_scales(trial)
        updated = time.perf_counter()
        self._count(trial, updated - started)
        row = {
            "iteration": self.progress.iteration,
            "env_steps": self.progress.env_steps,
            "wall_time": self.progress.wall_time,
            "train/return": sum((r.reward * r.mask).sum().item() for r in trial) / trial[0].mask.shape[1],
            "train/steps_per_second": self._steps(trial) / (updated - started),
            "time/collect": collected - started,
            "time/update": updated - collected,
            **{f"update/{name}": value for name, value in diagnostics.items()},
        }
        if self._due(self.plan.eval_every):
            row |= self._evaluate()
        return row

    def _evaluate(self) -> dict:
        """Held-out metrics; keeps the weights if they are the best so far."""
        started = time.perf_counter()
        row = parallel.from_main(self._held_out() if parallel.is_main() else None)
        if row["eval/sampled/return_mean"] > self.progress.best_return:
            self.progress.best_return = row["eval/sampled/return_mean"]
            self._save("best")
        elapsed = time.perf_counter() - started
        self.progress.wall_time += elapsed
        return row | {"time/evaluate": elapsed, "wall_time": self.progress.wall_time}

    def _held_out(self) -> dict:
        row: dict = {}
        for actions in ("sampled", "greedy"):
            result = evaluate(
                self.algorithm,
                self.make_env,
                num_tasks=self.eval_plan.num_tasks,
                seed=self.evaluation_seed,
                greedy=actions == "greedy",
                tasks_at_once=self.eval_plan.tasks_at_once,
                task_set=self.eval_plan.task_set,
            )
            row |= {f"eval/{actions}/{name}": value for name, value in result.as_dict().items()}
        return row

    def _count(self, trial: list[Rollout], seconds: float) -> None:
        self.progress.iteration += 1
        self.progress.env_steps += self._steps(trial)
        self.progress.wall_time += seconds

    def _due(self, every: int) -> bool:
        return every > 0 and self.progress.iteration % every == 0

    @staticmethod
    def _steps(trial: list[Rollout]) -> int:
        return sum(int(rollout.mask.sum().item()) for rollout in trial)

    def _bar(self) -> tqdm:
        return tqdm(
            total=self.plan.total_steps,
            initial=self.progress.env_steps,
            unit="step",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not parallel.is_main(),
            mininterval=0.5 if sys.stderr.isatty() else 30,  # seconds; a log file needs fewer lines
        )

    def state_dict(self) -> dict:
        """Everything that decides what happens next, of all processes."""
        own = {
            "env": self.env.state_dict(),
            "generators": {name: generator.get_state() for name, generator in self.generators.items()},
            "torch_generator": torch.get_rng_state(),
        }
        main, *others = parallel.from_all(own)
        return {
            "algorithm": self.algorithm.state_dict(),
            "training": self.algorithm.training_state(),
            "progress": vars(self.progress).copy(),
            **main,
            "other_processes": others,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        self.algorithm.load_state_dict(state["algorithm"])
        self.algorithm.load_training_state(state["training"])
        processes = [state, *state.get("other_processes", [])]
        if len(processes) != parallel.count():
            raise CheckpointError(
                f"{self.run_dir.path}: its checkpoint was saved by {len(processes)} processes, and there are "
                f"{parallel.count()}; start as many as before"
            )
        own = processes[parallel.rank()]
        self.env.load_state_dict(own["env"])
        for name, generator in self.generators.items():
            generator.set_state(own["generators"][name].cpu())
        torch.set_rng_state(own["torch_generator"].cpu())
        self.progress = Progress(**state["progress"])
