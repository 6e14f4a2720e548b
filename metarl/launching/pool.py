"""Many runs on one machine: one process per run, a limited number in parallel."""

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metarl.errors import ConfigError
from metarl.launching.cards import Slot, card_of, cards
from metarl.launching.job import command
from metarl.launching.overview import Overview
from metarl.runs.files import ERROR, appending, replace_file
from metarl.runs.sweep import Job, JobStatus, Sweep, finished_summary, owner_of
from metarl.system import StopRequest

INTERVAL = 0.02  # seconds between looks at what runs
MEMORY_INTERVAL = 1.0  # between looks at the memory of cards
TAIL_LINES, TAIL_BYTES = 20, 16 * 1024  # of its log, for a run whose process died
DIED = "ProcessDied"
STOPPED = "stopped by signal"  # printed by a run that saved and can be resumed


def died(status: JobStatus) -> bool:
    """Whether the process of a failed run was killed, which does not count against its configuration."""
    return status.state == "failed" and (status.error or "").startswith(f"{DIED}: killed by")


def write_death(directory: Path, text: str) -> None:
    """Write into a run directory how the process of the run ended."""
    with suppress(OSError):  # a full disk may be why it died
        replace_file(directory / ERROR, text + "\n")


def _signal(code: int) -> str:
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name}, possibly out of memory" if -code == signal.SIGKILL else name


def _tail(log: Path, beginning: int) -> str:
    """Last lines of a log after a position."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(beginning, size - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


@dataclass
class Pool:
    """Runs the jobs of a sweep in slots.

    A job that fails leaves the others alone. Runs that go on from an earlier launcher keep their slots, and are waited
    for. Once asked to stop, it asks the runs to stop, which save first, and waits for them.

    Args:
        sweep: sweep with the jobs.
        slots: slots to run them in.
        threads: number of threads of each run's numerical libraries.
        min_free_memory: free memory in GiB that a GPU must have before a run starts there.
        command: command line that runs a job.
    """

    sweep: Sweep
    slots: list[Slot]
    threads: int = 1
    min_free_memory: float | None = None
    command: Callable[[Sweep, Job], list[str]] = command

    def __post_init__(self) -> None:
        self.running: dict[int, tuple[subprocess.Popen, Slot, Job]] = {}  # by number of the job
        self.beginnings: dict[int, int] = {}  # position of each process's output in the log of its job
        self.elsewhere: list[Job] = []  # that go on from an earlier launcher
        self.stopping = False

    def run(self, jobs: Sequence[Job], echo: Callable[[str], None] = print) -> None:
        """Run all jobs in this order; returns when no run is left."""
        self.elsewhere = [job for job in jobs if owner_of(job.directory) is not None]
        waiting = deque(job for job in jobs if job not in self.elsewhere)
        overview = Overview(self.sweep, jobs)
        with StopRequest() as asked:
            while self.running or ((waiting or self.elsewhere) and not self.stopping):
                if asked and not self.stopping:
                    self.stop()
                self._collect(echo)
                self._take_over(waiting)
                while waiting and not self.stopping and (free := self._free()):
                    self._start(waiting.popleft(), free[0], echo)
                if overview.due():
                    echo(overview.line())
                time.sleep(INTERVAL if self.min_free_memory is None else MEMORY_INTERVAL)
            if asked:
                asked.chain_previous_handler()

    def stop(self) -> None:
        """Start no further runs, and send all running ones a stop signal."""
        self.stopping = True
        for process, *_ in self.running.values():
            process.send_signal(signal.SIGTERM)

    def _collect(self, echo: Callable[[str], None]) -> None:
        """Handle the runs whose processes have ended."""
        for number, (process, _, job) in list(self.running.items()):
            if process.poll() is not None:
                del self.running[number]
                status = self.sweep.status(job)
                if status.state in ("stopped", "pending") and (death := self._death(job, process.returncode)):
                    write_death(job.directory, death)
                    status = self.sweep.status(job)
                echo(f"{number}: {status.state}" + (f" ({status.error})" if status.error else ""))
                if status.state == "running":  # in the process of an earlier launcher
                    self.elsewhere.append(status.job)

    def _death(self, job: Job, code: int) -> str | None:
        """Reason why a run whose process has ended is neither finished nor stopped: its last output and exit code."""
        said = _tail(self.sweep.log(job), self.beginnings[job.number])
        if code == 0 and (self.stopping or STOPPED in said):
            return None
        lines = said.strip().splitlines()[-TAIL_LINES:]
        ending = f"exit code {code}, without a result" if code >= 0 else f"killed by {_signal(code)}"
        last = f"; its log ends: {lines[-1]}" if lines else f"; no output in {self.sweep.log(job)}"
        return "\n".join([*lines, f"{DIED}: {ending}{last}"])

    def _take_over(self, waiting: deque[Job]) -> None:
        """Put unfinished runs of an earlier launcher whose processes have ended at the front of the queue."""
        ended = [job for job in self.elsewhere if owner_of(job.directory) is None]
        self.elsewhere = [job for job in self.elsewhere if job not in ended]
        waiting.extendleft(job for job in ended if finished_summary(job.directory) is None)

    def _free(self) -> list[Slot]:
        """Unused slots whose GPU has enough free memory."""
        free = list(self.slots)
        for _, slot, _ in self.running.values():
            free.remove(slot)
        for job in self.elsewhere:
            gpus = (owner_of(job.directory) or {}).get("gpus")
            taken = next((slot for slot in free if slot.gpu is None or slot.gpu == gpus), None)
            if taken is not None:
                free.remove(taken)
        if self.min_free_memory is None or not free:
            return free
        try:
            found = cards()
        except ConfigError:  # nvidia-smi does not answer now
            return []
        return [slot for slot in free if (card := card_of(slot, found)) and card.free >= self.min_free_memory]

    def _start(self, job: Job, slot: Slot, echo: Callable[[str], None]) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
        environment.pop("HYDRA_FULL_ERROR", None)  # set for Hydra in this process
        if slot.gpu is not None:
            environment |= {"CUDA_VISIBLE_DEVICES": slot.gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # as nvidia-smi counts
        with appending(self.sweep.log(job)) as log:
            self.beginnings[job.number] = log.seek(0, os.SEEK_END)
            process = subprocess.Popen(
                self.command(self.sweep, job),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C reaches it through us alone, once
            )
        self.running[job.number] = process, slot, job
        where = "" if slot.gpu is None else f" on GPU {slot.gpu}"
        echo(f"{job.number}: started{where}: {' '.join(job.overrides)}")
