"""Hydra's launchers of metarl: they keep a record of the sweep, and skip finished and running jobs.

Hydra loads this file at every start: nothing heavy is imported here.
"""

import os
import random
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from metarl.runs.sweep import Job, JobStatus, Sweep

NUMBERED = ("${hydra:job.num}", "${hydra.job.num}")  # run directories of a sweep: the reader finds them by number


class SweepLauncher(Launcher):
    """Common base of all launchers.

    Args:
        shuffle: start the jobs in a random order that depends only on the sweep.
        first: overrides whose jobs start before the others, as ``["seed=0"]``.
    """

    def __init__(self, shuffle: bool = False, first: Sequence[str] = ()):
        self.shuffle, self.first = shuffle, list(first)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from metarl.errors import ConfigError

        self.config, self.loader = config, hydra_context.config_loader
        _compose_once(self.loader)
        choices, options = config.hydra.runtime.choices, OmegaConf.to_container(config.hydra.launcher, resolve=True)
        self.sweep_dir = Path(str(config.hydra.sweep.dir))
        self.origin = {
            "command": [*program(), *sys.argv[1:]],
            "directory": os.getcwd(),
            "cluster": choices["cluster"],
            "launcher": choices["hydra/launcher"],
            "options": {name: value for name, value in options.items() if name != "_target_"},
        }
        refuse_ranks()
        if not config.hydra.sweep.dir:
            raise ConfigError("hydra.sweep.dir= is empty: give a directory, or leave it out")
        subdir = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]
        if subdir not in NUMBERED:
            raise ConfigError(
                f"hydra.sweep.subdir={'' if subdir is None else subdir}: run directories are numbered in launch order; "
                "leave it out"
            )
        self.check()  # here, since sweepers write something before they launch

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        try:
            numbered = enumerate(job_overrides, initial_job_idx)
            configs = {number: self.compose(given, number) for number, given in numbered}
        except Exception:
            leave_nothing(self.sweep_dir)
            raise
        trust_typed(configs.values())
        statuses = self.launch_resolved(job_overrides, initial_job_idx, configs)
        if self.config.hydra.sweeper._target_.endswith(".BasicSweeper"):  # other sweepers judge that themselves
            raise_on_failures(self.sweep_dir, statuses)
        return [self.result(status) for status in statuses]

    def compose(self, overrides: Sequence[str], number: int) -> dict[str, Any]:
        """The resolved configuration of a job."""
        from metarl.configuration.compose import resolved_job

        composed = self.loader.load_sweep_config(self.config, list(overrides))
        return resolved_job(composed, number, self.sweep_dir / str(number))

    def launch_resolved(
        self, overrides: Sequence[Sequence[str]], first: int, configs: Mapping[int, Mapping[str, Any]]
    ) -> list["JobStatus"]:
        """Freeze the configurations of new jobs, and run all unfinished ones."""
        from metarl.runs import frozen
        from metarl.runs import sweep as sweeps

        with sweeps.launching(str(self.sweep_dir)):
            sweep = sweeps.Sweep.launched(self.sweep_dir, self.origin, overrides, first, configs)
            if (changed := frozen.changes(sweep.path, configs)) is not None:
                print(f"note: {changed}")
            return self.go_on(sweep, [job for job in sweep.jobs if job.number in configs])

    def go_on(self, sweep: "Sweep", jobs: list["Job"]) -> list["JobStatus"]:
        """Run unfinished jobs with their frozen configurations; returns the status of all."""
        from metarl.runs.sweep import finished_summary

        waiting = self.order([job for job in jobs if finished_summary(job.directory) is None])
        if len(waiting) < len(jobs):
            print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs in {sweep.path} are finished already")
        if waiting:
            self.start(sweep, waiting)
        active = self.active(sweep)
        return [sweep.status(job, active.get(sweep.cluster_id(job))) for job in jobs]

    def active(self, sweep) -> dict[str, str]:
        """Jobs that a cluster has not ended; an error in their directories is from an earlier attempt."""
        return {}

    def order(self, jobs: list) -> list:
        """The jobs in the order in which they start."""
        if self.shuffle:
            random.Random(0).shuffle(jobs)
        return sorted(jobs, key=lambda job: not set(self.first) & set(job.overrides))

    def check(self) -> None:
        """Refuse jobs that cannot be launched, before anything is written."""

    def start(self, sweep, jobs: list) -> None:
        """Run the jobs, or submit them to a cluster."""
        raise NotImplementedError

    @staticmethod
    def result(found) -> JobReturn:
        """Result of a job for sweepers: the return of a finished run, or None while it runs elsewhere."""
        result = JobReturn(overrides=list(found.job.overrides), working_dir=str(found.job.directory))
        result.status = JobStatus.FAILED if found.state == "failed" else JobStatus.COMPLETED
        result.return_value = RuntimeError(found.error) if found.state == "failed" else found.final_return
        return result


def program() -> list[str]:
    """The program of this process as one types it, a script by its whole path."""
    first = sys.argv[0]
    return [str(Path(first).absolute())] if first.endswith(".py") else first.split()


def refuse_ranks() -> None:
    """Refuse to launch from several processes, which would write and remove the same directory."""
    from metarl.errors import ConfigError

    if "RANK" in os.environ:
        raise ConfigError(
            "-m: torchrun starts the processes of one run, a sweep starts its own; for runs of several use "
            "cluster=slurm hydra.launcher.tasks_per_node=2"
        )


def trust_typed(configs: Iterable[Mapping[str, Any]]) -> None:
    """Let the runs trust the packages that the configurations composed by the user name."""
    from metarl.trust import extend_environment, packages_of

    extend_environment({name for config in configs for name in packages_of(config)})


def raise_on_failures(path: Path, statuses: Sequence["JobStatus"]) -> None:
    """Raise an error if runs failed."""
    from metarl.errors import RunDirectoryError

    failed = [str(status.job.number) for status in statuses if status.state == "failed"]
    if failed:
        raise RunDirectoryError(f"runs {', '.join(failed)} of {len(statuses)} failed; metarl status {path}")


def leave_nothing(sweep_dir: Path) -> None:
    """Remove the files that Hydra's sweeper wrote before the checks, if no sweep exists."""
    if not (sweep_dir / "sweep.json").exists():
        (sweep_dir / "multirun.yaml").unlink(missing_ok=True)
        for folder in (sweep_dir, *sweep_dir.parents[:1]):
            try:
                folder.rmdir()
            except OSError:
                return


def _compose_once(loader: ConfigLoader) -> None:
    """Cache compositions: Hydra's own sweeper composes every job once before the launch, as a check."""
    compose, found = loader.load_sweep_config, {}

    def remembered(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        key = tuple(sweep_overrides)
        if key not in found:
            found[key] = compose(master_config, sweep_overrides)
        return found[key]

    loader.load_sweep_config = remembered


class ProcessLauncher(SweepLauncher):
    """Runs one after another, in this process."""

    def start(self, sweep: "Sweep", jobs: list["Job"]) -> None:
        from metarl.configuration.reporting import report
        from metarl.launching.job import run_frozen

        for index, job in enumerate(jobs, 1):
            print(f"{job.number}: {' '.join(job.overrides)} ({index} of {len(jobs)})")
            try:
                run_frozen(sweep.path, job.number)
            except SystemExit as end:
                if end.code in (0, None):  # it was asked to stop, and so is the sweep
                    raise
            except Exception as error:
                if not report(error):
                    traceback.print_exception(error)


class PoolLauncher(SweepLauncher):
    """Runs on this machine, one process each.

    Args:
        slots: parallel runs without GPUs; null: one per core.
        gpus: numbers or UUIDs of the GPUs to use, or ``all`` that this process was given
            (``CUDA_VISIBLE_DEVICES``); null: none.
        jobs_per_gpu: parallel runs on each GPU.
        min_free_memory: free memory in GiB that a GPU must have before a run starts there; null: any.
        threads: number of threads of each run's numerical libraries.
        common: options of all launchers.
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
        from metarl.launching import cards

        counts = {"slots": self.slots, "jobs_per_gpu": self.jobs_per_gpu, "threads": self.threads}
        for name, value in counts.items():
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"hydra.launcher.{name}={value}: must be a whole number above 0")
        if isinstance(self.gpus, bool | int | float) or (isinstance(self.gpus, str) and self.gpus != "all"):
            raise ConfigError(f"hydra.launcher.gpus={self.gpus}: all, or a list of numbers or UUIDs as [0,1]")
        if self.gpus is None:
            self.places = cards.cpu_slots(self.slots)
        else:
            self.places = cards.gpu_slots(None if self.gpus == "all" else self.gpus, self.jobs_per_gpu)
        cards.check_memory(self.min_free_memory, self.places)

    def start(self, sweep, jobs: list) -> None:
        from metarl.launching.pool import Pool

        Pool(sweep, self.places, self.threads, self.min_free_memory).run(jobs, partial(print, flush=True))


class SlurmLauncher(SweepLauncher):
    """An array of jobs on a SLURM cluster.

    Args:
        wait: wait until all runs have ended; otherwise return after submission, see ``metarl status``.
        required: options that the user must give.
        max_num_timeout: number of times a run may be requeued at its time limit.
        python: command that runs Python on the nodes; its path is relative to the directory of the launch.
        options: options of ``submitit``, as ``timeout_min``; those of ``sbatch`` with the prefix ``slurm_`` except the
            short names ``partition``, ``account``, ``signal_delay_s``, ``array_parallelism`` and ``setup``.
        common: options of all launchers.
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
            if self.options.get(f"slurm_{name}" if name in self.SHORT else name) is None:
                raise ConfigError(f"hydra.launcher.{name} is required on this cluster")
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
