"""Hydra's launchers of metarl: they keep a sweep's record, and leave alone what is finished or runs already.

Hydra loads this file at every start: nothing heavy is imported here.
"""

import os
import random
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class SweepLauncher(Launcher):
    """What all launchers share.

    Args:
        shuffle: start the jobs in another order, the same for the same sweep.
        first: overrides whose jobs come before the others, as ``["seed=0"]``.
    """

    def __init__(self, shuffle: bool = False, first: Sequence[str] = ()):
        self.shuffle, self.first = shuffle, list(first)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from metarl.launching import sweep as sweeps

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        directory = str(self.config.hydra.sweep.dir)
        self.prepare()
        command = [str(Path(sys.argv[0]).absolute()), *sys.argv[1:]]
        with sweeps.launching(directory):
            sweep = sweeps.Sweep.launched(directory, command, job_overrides, initial_job_idx)
            jobs = sweep.jobs[initial_job_idx : initial_job_idx + len(job_overrides)]
            waiting = self.order([job for job in jobs if sweeps.finished_summary(job.directory) is None])
            if len(waiting) < len(jobs):
                print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs in {sweep.path} are finished already")
            if waiting:
                self.start(sweep, waiting)
        active = self.active(sweep)
        statuses = [sweep.status(job, active.get(sweep.cluster_id(job))) for job in jobs]
        self.tell_failures(sweep, statuses)
        return [self.result(status) for status in statuses]

    def prepare(self) -> None:
        """Refuse what cannot be launched, and leave nothing behind."""
        from metarl.errors import ConfigError

        try:
            if "RANK" in os.environ:
                raise ConfigError(
                    "-m: torchrun starts the processes of one run, a sweep starts its own; for runs of several say "
                    "cluster=slurm hydra.launcher.tasks_per_node=2"
                )
            self.check()
        except Exception:
            leave_nothing(Path(str(self.config.hydra.sweep.dir)))
            raise

    def active(self, sweep) -> dict[str, str]:
        """Runs that a cluster has not ended: an error of theirs is of an earlier attempt."""
        return {}

    def tell_failures(self, sweep, statuses: list) -> None:
        """End with an error where runs failed; other sweepers than Hydra's own judge that themselves."""
        from metarl.errors import RunDirectoryError

        failed = [str(status.job.number) for status in statuses if status.state == "failed"]
        if failed and self.config.hydra.sweeper._target_.endswith(".BasicSweeper"):
            raise RunDirectoryError(f"runs {', '.join(failed)} of {len(statuses)} failed; metarl status {sweep.path}")

    def order(self, jobs: list) -> list:
        """The jobs in the order in which they start."""
        if self.shuffle:
            random.Random(0).shuffle(jobs)
        return sorted(jobs, key=lambda job: not set(self.first) & set(job.overrides))

    def check(self) -> None:
        """Refuse what cannot be launched, before anything is written."""

    def start(self, sweep, jobs: list) -> None:
        """Run the jobs, or hand them to a cluster."""
        raise NotImplementedError

    @staticmethod
    def result(found) -> JobReturn:
        """What sweepers learn of a job: the return of a finished run, or None where it goes on elsewhere."""
        result = JobReturn(overrides=list(found.job.overrides), working_dir=str(found.job.directory))
        result.status = JobStatus.FAILED if found.state == "failed" else JobStatus.COMPLETED
        result.return_value = RuntimeError(found.error) if found.state == "failed" else found.final_return
        return result


def leave_nothing(sweep_dir: Path) -> None:
    """Take back what Hydra's sweeper wrote before anything was checked, where there is no sweep."""
    if not (sweep_dir / "sweep.json").exists():
        (sweep_dir / "multirun.yaml").unlink(missing_ok=True)
        for folder in (sweep_dir, *sweep_dir.parents[:1]):
            try:
                folder.rmdir()
            except OSError:
                return


class ProcessLauncher(SweepLauncher):
    """One run after the other, in this process."""

    def start(self, sweep, jobs: list) -> None:
        for job in jobs:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, sweep.overrides(job))
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = job.number
                config.hydra.sweep.dir = str(sweep.path)  # whatever its name was made of
            print(f"{job.number}: {' '.join(job.overrides)}")
            try:
                done = run_job(
                    hydra_context=self.hydra_context,
                    task_function=self.task_function,
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
                if done.status == JobStatus.FAILED:
                    traceback.print_exception(done._return_value)
            except SystemExit as end:
                if end.code in (0, None):  # it was asked to stop, and so is the sweep
                    raise
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)


class PoolLauncher(SweepLauncher):
    """Runs of this machine, a process each.

    Args:
        slots: runs at a time, without graphics cards; null: one for each core.
        gpus: numbers of the graphics cards to use, or ``all``; null: none.
        jobs_per_gpu: runs at a time on each of them.
        min_free_memory: GiB a card must have free before a run starts there; null: any.
        threads: of each run's numerical libraries.
        common: of all launchers.
    """

    def __init__(
        self,
        slots: int | None = None,
        gpus: Sequence[int] | str | None = None,
        jobs_per_gpu: int = 1,
        min_free_memory: float | None = None,
        threads: int = 1,
        **common,
    ):
        super().__init__(**common)
        self.slots, self.gpus, self.jobs_per_gpu = slots, gpus, jobs_per_gpu
        self.min_free_memory, self.threads = min_free_memory, threads

    def check(self) -> None:
        from metarl.errors import ConfigError
        from metarl.launching import pool

        counts = {"slots": self.slots, "jobs_per_gpu": self.jobs_per_gpu, "threads": self.threads}
        for name, value in counts.items():
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"hydra.launcher.{name}={value}: a whole number above 0")
        if isinstance(self.gpus, str) and self.gpus != "all":
            raise ConfigError(f"hydra.launcher.gpus={self.gpus}: all, or a list of numbers as [0,1]")
        if self.gpus is None:
            self.places = pool.cpu_slots(self.slots)
        else:
            self.places = pool.gpu_slots(None if self.gpus == "all" else self.gpus, self.jobs_per_gpu)

    def start(self, sweep, jobs: list) -> None:
        from metarl.launching.pool import Pool

        Pool(sweep, self.places, self.threads, self.min_free_memory).run(jobs, partial(print, flush=True))


class SlurmLauncher(SweepLauncher):
    """An array of jobs on a SLURM cluster.

    Args:
        wait: until all have ended; else the sweep goes on by itself, see ``metarl status``.
        required: options that have to be given.
        max_num_timeout: how often a run may go back into the queue at its time limit.
        python: what runs Python on the nodes, with a path from where the sweep is launched.
        options: of ``submitit``, as ``timeout_min``, or with the prefix ``slurm_`` of ``sbatch``, but for the short
            names ``partition``, ``account``, ``signal_delay_s``, ``array_parallelism`` and ``setup``.
        common: of all launchers.
    """

    SHORT = ("partition", "account", "signal_delay_s", "array_parallelism", "setup")

    def __init__(
        self,
        wait: bool = False,
        required: Sequence[str] = (),
        shuffle: bool = False,
        first: Sequence[str] = (),
        **options,
    ):
        super().__init__(shuffle, first)
        self.wait, self.required = wait, list(required)
        self.options = {f"slurm_{name}" if name in self.SHORT else name: value for name, value in options.items()}

    def check(self) -> None:
        from metarl.errors import ConfigError
        from metarl.launching import slurm

        for name in self.required:
            if self.config.hydra.launcher[name] is None:
                raise ConfigError(f"hydra.launcher.{name}: has to be said here")
        slurm.check(self.options.get("slurm_partition"))

    def active(self, sweep) -> dict[str, str]:
        from metarl.launching import slurm

        return slurm.states(sweep)

    def start(self, sweep, jobs: list) -> None:
        from metarl.launching import slurm

        active = self.active(sweep)
        jobs = [job for job in jobs if sweep.cluster_id(job) not in active]
        if not jobs:
            print("all other runs are in the queue already")
            return
        number = slurm.submit(sweep, jobs, dict(self.options))
        print(f"submitted {len(jobs)} runs as job {number}; metarl status {sweep.path}")
        if self.wait:
            slurm.wait(sweep)
