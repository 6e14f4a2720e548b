"""Progress of a whole sweep: how many runs have ended, the share of the steps that are done, and the time left."""

import time
from collections.abc import Sequence

from tqdm import tqdm

from metarl.runs.sweep import Job, JobStatus, Sweep

INTERVAL = 60.0  # seconds between lines
ENDED = ("finished", "failed")


class Overview:
    """Progress of the jobs of a launcher.

    Args:
        sweep: sweep with the jobs.
        jobs: jobs that the launcher runs.
    """

    def __init__(self, sweep: Sweep, jobs: Sequence[Job]):
        self.sweep, self.jobs = sweep, list(jobs)
        self.started = self.said = time.monotonic()
        self.before = sum(share(status) for status in self._statuses())

    def due(self) -> bool:
        """Whether it is time for the next line."""
        if time.monotonic() - self.said < INTERVAL:
            return False
        self.said = time.monotonic()
        return True

    def line(self) -> str:
        """One line on all jobs; the time left is that at the speed of this launcher until now."""
        statuses = self._statuses()
        done, elapsed = sum(map(share, statuses)), time.monotonic() - self.started
        states = [status.state for status in statuses]
        ended = sum(state in ENDED for state in states)
        left = elapsed * (len(statuses) - done) / (done - self.before) if done > self.before else None
        parts = [
            f"{ended} of {len(statuses)} runs have ended",
            *([f"{failed} failed"] if (failed := states.count("failed")) else []),
            f"{states.count('running')} running",
            f"{100 * done / len(statuses):.0f}% of all steps",
            *([f"about {tqdm.format_interval(left)} left"] if left else []),
        ]
        return ", ".join(parts)

    def _statuses(self) -> list[JobStatus]:
        return [self.sweep.status(job) for job in self.jobs]


def share(status: JobStatus) -> float:
    """Share of the steps of a job that are done, from 0 to 1; a job that has ended needs no more time."""
    if status.state in ENDED:
        return 1.0
    return min(1.0, status.env_steps / status.total_steps) if status.env_steps and status.total_steps else 0.0
