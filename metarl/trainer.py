"""Training loop: sample tasks, collect a trial, update; evaluate on held-out tasks; save checkpoints.

evaluate the untrained agent, save, log                     (_evaluate, _record)
until total_steps environment steps are done:               (Trainer.train)
    sample a task for every group of lanes                  (MetaEnv.sample_tasks)
    for every rollout of a trial:                           (collect_trial)
        collect its episodes                                (Agent.act)
        adapt, if another rollout follows                   (Agent.adapt)
    update the meta-parameters                              (Algorithm.update)
    at intervals: evaluate, save, log                       (_evaluate, _save, _record)
"""

import copy
import logging
import math
import time
from dataclasses import dataclass, field

import torch
from torch import Generator

from metarl import parallel
from metarl.algorithms.base import Algorithm
from metarl.envs.base import MetaEnv
from metarl.errors import CheckpointError, ContractError, NonFiniteError, located
from metarl.evaluation import MakeEnv
from metarl.finite import check_diagnostics, check_parameters
from metarl.periodic_evaluation import evaluation_row
from metarl.plans import EvaluationPlan, TrainingPlan
from metarl.progress import ProgressBar
from metarl.rollout import collect_trial
from metarl.runs.checkpoint import load_weights
from metarl.runs.directory import RunDirectory
from metarl.runs.loggers import Loggers
from metarl.system import StopRequest
from metarl.types import Rollout

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """Counters of a run; saved with every checkpoint."""

    iteration: int = 0
    env_steps: int = 0
    wall_time: float = 0.0  # seconds of training, over all resumes
    best_return: float = float("-inf")
    pruned: bool = False  # finished by a search before all steps were done
    skipped_updates: int = 0  # dropped because a number was not finite
    skipped_in_a_row: int = 0


@dataclass
class Trainer:
    """Trains an algorithm on an environment.

    Each of several processes (see ``metarl.parallel``) has a trainer; the main one evaluates, logs and saves.

    Args:
        env: environment with the lanes of this process.
        generators: random streams by name: ``acting`` on the environment's device, ``update`` on the CPU.
        evaluation_seed: seed of the held-out tasks of evaluations during training.
        final_seed: seed of the held-out tasks of the final evaluation.
        large_settings: end of messages about numbers that are not finite.
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
    large_settings: str = ""
    progress: Progress = field(default_factory=Progress)

    def train(self, stop: StopRequest) -> bool:
        """Train until ``total_steps`` or a stop request; returns whether training is finished."""
        parallel.broadcast_parameters(self.algorithm)
        with ProgressBar(self.plan.total_steps, self.progress.env_steps, parallel.is_main()) as bar:
            stopping = self._stop_requested(stop)
            if not (stopping or self.progress.iteration or self.plan.evaluations.is_off):
                self._record(self._counters() | self._evaluate())
            while not self.finished and not stopping:
                row = self._iterate()
                self._record(row)
                stopping = self._stop_requested(stop)
                if self.progress.iteration % self.plan.checkpoint_every == 0 or self.finished or stopping:
                    self._save("latest")
                bar.update(self.progress.env_steps, row.get("train/return"))
        parallel.barrier()
        return self.finished

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or a search pruned the run."""
        return self.progress.pruned or self.progress.env_steps >= self.plan.total_steps

    def resume(self) -> None:
        """Continue from the latest checkpoint of the run directory, if it has one.

        Raises:
            CheckpointError: the checkpoint is damaged, does not fit, or has another number of processes.
        """
        if (checkpoints := self.run_dir.checkpoints).numbered():
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
    def _stop_requested(stop: StopRequest) -> bool:
        """Whether any process of the run received a stop signal; later signals count at the next call."""
        found = parallel.all_reduce_max(stop.signal or 0)
        if found:
            stop.record(found)
        return bool(found)

    def _record(self, row: dict) -> None:
        enough = False
        if parallel.is_main():
            self.run_dir.append_metrics(row)
            enough = self.loggers.log(row)
        self.progress.pruned = bool(parallel.all_reduce_max(int(enough))) and not self.finished

    def _save(self, which: str) -> None:
        state = self.state_dict()
        if parallel.is_main() and which == "latest":
            self.run_dir.save_latest(state, self.progress.iteration)
        elif parallel.is_main():
            self.run_dir.checkpoints.save_best(state)

    def _iterate(self) -> dict:
        started = time.perf_counter()
        before = self._snapshot() if self.plan.on_nonfinite == "skip" else None
        try:
            trial = self._collect()
            collected = time.perf_counter()
            diagnostics = self._update(trial)
        except NonFiniteError as error:
            return self._skip(error, before, started)
        except ContractError as error:
            raise ContractError(f"iteration {self.progress.iteration + 1}: {error}. {self._kept()}") from None
        updated = time.perf_counter()
        steps = sum(int(rollout.mask.sum().item()) for rollout in trial)
        self._count(steps, updated - started)
        self.progress.skipped_in_a_row = 0
        row = self._counters() | {
            "train/return": sum((r.reward * r.mask).sum().item() for r in trial) / trial[0].mask.shape[1],
            "train/steps_per_second": steps / (updated - started),
            "time/collect": collected - started,
            "time/update": updated - collected,
            **{f"update/{name}": value for name, value in diagnostics.items()},
        }
        done, total = self.progress.env_steps, self.plan.total_steps
        if self.plan.evaluations.is_due(self.progress.iteration, done - steps, done, total):
            row |= self._evaluate()
        return row

    def _collect(self) -> list[Rollout]:
        """Trials of all processes on new tasks.

        Raises:
            NonFiniteError: a number in the trials of any process is not finite.
            ContractError: the environment of any process breaks its contract.
        """
        trial, error = None, None
        try:
            self.env.sample_tasks()
            trial = collect_trial(self.env, self.algorithm.behavior_policy, self.generators["acting"])
        except (NonFiniteError, ContractError) as found:
            error = found
        if error := next((found for found in parallel.all_gather(error) if found is not None), None):
            raise error
        assert trial is not None
        return parallel.gather_rollouts(trial)

    def _update(self, trial: list[Rollout]) -> dict[str, float]:
        """Update the meta-parameters from the trials; returns diagnostics.

        Raises:
            NonFiniteError: a diagnostic or a parameter is not finite afterwards.
        """
        done = self.progress.env_steps / self.plan.total_steps
        diagnostics = self.algorithm.update(trial, done, self.generators["update"])
        self.algorithm.update_normalization(trial)
        check_diagnostics(diagnostics)
        check_parameters(self.algorithm)
        return diagnostics

    def _snapshot(self) -> tuple[dict, dict]:
        """Copy of the state that an update changes."""
        return copy.deepcopy((self.algorithm.state_dict(), self.algorithm.training_state()))

    def _skip(self, error: NonFiniteError, before: tuple[dict, dict] | None, started: float) -> dict:
        """Undo the update if ``on_nonfinite`` is ``skip``; returns the metrics of an iteration without update.

        Raises:
            NonFiniteError: the run ends: ``on_nonfinite`` is ``stop``, or too many updates were dropped.
        """
        progress, where = self.progress, f"iteration {self.progress.iteration + 1}: {error}{self.large_settings}"
        if before is None:
            raise NonFiniteError(f"{where}, or set training.on_nonfinite=skip. {self._kept()}") from None
        if progress.skipped_in_a_row >= self.plan.max_skipped:
            dropped = f"training.max_skipped={self.plan.max_skipped} updates in a row were dropped"
            raise NonFiniteError(f"{where}. {dropped}. {self._kept()}") from None
        log.warning("%s. The update is dropped", where)
        self.algorithm.load_state_dict(before[0])
        self.algorithm.load_training_state(before[1])
        progress.skipped_updates += 1
        progress.skipped_in_a_row += 1
        self._count(0, time.perf_counter() - started)
        return self._counters()

    def _kept(self) -> str:
        numbered = self.run_dir.checkpoints.numbered()
        return f"The last good checkpoint is {numbered[-1]}" if numbered else "No checkpoint was saved before"

    def _counters(self) -> dict:
        row = {name: getattr(self.progress, name) for name in ("iteration", "env_steps", "wall_time")}
        skipped = {"train/skipped_updates": self.progress.skipped_updates}
        return row | (skipped if self.plan.on_nonfinite == "skip" else {})

    def _evaluate(self) -> dict:
        """Metrics of an evaluation; saves the weights as ``best`` if they are the best so far."""
        started = time.perf_counter()
        with located(f"evaluation after iteration {self.progress.iteration}"):
            row = parallel.broadcast(self._evaluation_row() if parallel.is_main() else None)
        if row["eval/sampled/return_mean"] > self.progress.best_return:
            self.progress.best_return = row["eval/sampled/return_mean"]
            self._save("best")
        elapsed = time.perf_counter() - started
        self.progress.wall_time += elapsed
        return row | {"time/evaluate": elapsed, "wall_time": self.progress.wall_time}

    def _evaluation_row(self) -> dict:
        return evaluation_row(self.algorithm, self.make_env, self.eval_plan, self.evaluation_seed)

    def _count(self, steps: int, seconds: float) -> None:
        self.progress.iteration += 1
        self.progress.env_steps += steps
        self.progress.wall_time += seconds

    def state_dict(self) -> dict:
        """State of training in all processes."""
        own = {
            "env": self.env.state_dict(),
            "generators": {name: generator.get_state() for name, generator in self.generators.items()},
            "torch_generator": torch.get_rng_state(),
        }
        main, *others = parallel.all_gather(own)
        return {
            "algorithm": self.algorithm.state_dict(),
            "training": self.algorithm.training_state(),
            "progress": vars(self.progress).copy(),
            **main,
            "other_processes": others,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore ``state_dict``, so that training continues exactly from there."""
        self.algorithm.load_state_dict(state["algorithm"])
        self.algorithm.load_training_state(state["training"])
        processes = [state, *state.get("other_processes", [])]
        if len(processes) != parallel.world_size():
            raise CheckpointError(
                f"{self.run_dir.path}: its checkpoint was saved by {len(processes)} processes, and there are "
                f"{parallel.world_size()}; start {len(processes)}"
            )
        own = processes[parallel.rank()]
        self.env.load_state_dict(own["env"])
        for name, generator in self.generators.items():
            generator.set_state(own["generators"][name].cpu())
        torch.set_rng_state(own["torch_generator"].cpu())
        former = {"given_up": "pruned"}  # in checkpoints of earlier versions
        self.progress = Progress(**{former.get(name, name): value for name, value in state["progress"].items()})
