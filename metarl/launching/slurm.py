"""The jobs of a sweep as an array of a SLURM cluster, by submitit.

A job that is preempted, or near its time limit, finishes its iteration, saves, and goes back into the queue.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metarl.configuration import search_path
from metarl.configuration.reporting import report
from metarl.errors import ConfigError, MetarlError
from metarl.extras import require
from metarl.launching.job import run_frozen
from metarl.launching.overview import Overview
from metarl.runs.sweep import Job, Sweep
from metarl.system import StopRequest
from metarl.trust import extend_environment, trusted


class Run:
    """Function that submitit runs on a node: a job, in the process that receives the cluster's signals.

    Args:
        sweep: path of the sweep's directory.
        number: number of the job.
        packages: packages other than metarl whose code it may run.
    """

    def __init__(self, sweep: str, number: int, packages: Sequence[str] = ()):
        self.sweep, self.number, self.packages = sweep, number, list(packages)

    def __call__(self) -> None:
        extend_environment(self.packages)
        search_path.find_code()
        _introduce_processes()
        if (search_path.CONF.parent / "run.py").is_file():
            sys.path.insert(0, str(search_path.CONF.parent))  # as where it is started
        try:
            run_frozen(self.sweep, self.number)
        except MetarlError as error:
            report(error)
            raise RuntimeError(f"the run failed; see error.txt in {self.sweep}/{self.number}") from None

    def checkpoint(self) -> Any:
        """Submission of this job again, when submitit requeues it; the run has saved its state by then."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _introduce_processes() -> None:
    """Set the variables of ``torch.distributed`` from those of SLURM, if a run has several tasks."""
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


def submit(sweep: Sweep, jobs: Sequence[Job], options: dict[str, Any]) -> str:
    """Submit the jobs as one array; returns its number.

    Args:
        sweep: sweep of the jobs.
        jobs: jobs in order of priority.
        options: arguments of ``submitit.AutoExecutor.update_parameters``; ``max_num_timeout`` is the number of times
            a job may go back into the queue at its time limit, and ``python`` what runs Python on the nodes.

    Raises:
        ConfigError: there is no SLURM here, no such partition, or SLURM refuses the jobs.
    """
    options = {name: value for name, value in options.items() if value is not None}
    check(options.get("slurm_partition"))
    import submitit

    if options.get("nodes", 1) * options.get("tasks_per_node", 1) > 1:  # none waits for one that failed
        options["slurm_srun_args"] = ["--kill-on-bad-exit=1"]
    of_executor = {"slurm_max_num_timeout": options.pop("max_num_timeout")}
    if (python := options.pop("python", None)) is not None:
        ours = search_path.CONF.parent / python  # as conf/cluster names it, wherever one is
        of_executor["slurm_python"] = str(Path(python).absolute() if Path(python).exists() else ours)
    executor = submitit.AutoExecutor(sweep.path / "logs", cluster="slurm", **of_executor)
    executor.update_parameters(name=sweep.path.name, **options)
    packages = sorted(trusted().packages)
    try:
        with executor.batch():
            submitted = [executor.submit(Run(str(sweep.path), job.number, packages)) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        raise ConfigError(f"cluster=slurm: {str(error).strip().splitlines()[-1]}") from None
    ids = {job.number: handle.job_id for job, handle in zip(jobs, submitted, strict=True)}
    sweep.note_cluster_ids(ids)
    return submitted[0].job_id.partition("_")[0]


def check(partition: str | None) -> None:
    """Refuse to launch without SLURM or in unknown partitions; ``partition`` may name several, as ``short,long``.

    Raises:
        ConfigError: SLURM or a partition does not exist.
    """
    require("submitit", "cluster=slurm")
    for tool in ("sbatch", "srun"):
        if shutil.which(tool) is None:
            raise ConfigError(
                f"cluster=slurm: {tool} not found; launch on a login node of the cluster, or use cluster=local_pool"
            )
    if partition is None or shutil.which("sinfo") is None:
        return
    existing = sorted(set(_ask("sinfo", "-a", "-h", "-o", "%R").split()))  # with those that are hidden
    unknown = [name for name in str(partition).split(",") if name not in existing]
    if unknown:
        which = "" if unknown == [partition] else f" as {unknown[0]}"
        raise ConfigError(
            f"hydra.launcher.partition={partition}: no such partition{which}; there are {', '.join(existing)}"
        )


def states(sweep: Sweep, quiet: bool = True) -> dict[str, str]:
    """State of every unfinished job of the sweep, by the cluster's identifier.

    Raises:
        ConfigError: the cluster does not answer, unless ``quiet``, which then returns no state.
    """
    ids = {name for job in sweep.jobs if (name := sweep.cluster_id(job)) is not None}
    if not ids or shutil.which("squeue") is None:
        return {}
    arrays = sorted({name.partition("_")[0] for name in ids})
    answer = _ask("squeue", "-h", "-r", "-j", ",".join(arrays), "-o", "%i %T", quiet=quiet)
    rows = (line.split() for line in answer.splitlines())
    return {name: state for name, state in rows if name in ids}


def wait(sweep: Sweep, interval: float = 5.0) -> None:
    """Wait until no job of the sweep is left in the cluster, or a stop is requested; says how far the sweep is."""
    overview = Overview(sweep, sweep.jobs)
    with StopRequest() as asked:
        while not asked:
            try:
                if not states(sweep, quiet=False):
                    return
            except ConfigError:  # the cluster does not answer now
                pass
            if overview.due():
                print(overview.line(), flush=True)
            time.sleep(interval)
        asked.chain_previous_handler()


def _ask(*command: str, quiet: bool = False) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        if quiet:
            return ""
        raise ConfigError(f"cluster=slurm: {command[0]} does not answer ({error})") from None
    if answer.returncode and not quiet and "Invalid job id" not in answer.stderr:  # for a job that ended long ago
        raise ConfigError(f"cluster=slurm: {command[0]}: {answer.stderr.strip()}")
    return answer.stdout
