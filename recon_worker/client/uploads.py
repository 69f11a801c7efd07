"""Snapshots that are rendered and not in MLflow yet, and the table of events that follows them at the end.

No lock of its own: `SnapshotQueue` guards it.
"""

import time

from recon_worker.client.depth_advice import Job
from recon_worker.client.ledger import Ledger

EVENTS = 0
"""Generation of what belongs to no snapshot: the table of events."""


class Uploads:
    """See above.

    Args:
        stats: Where what becomes of them is counted.
    """

    def __init__(self, stats: Ledger) -> None:
        self._stats = stats
        self._jobs: dict[int, Job] = {}
        self._aside = set[int]()

    def __len__(self) -> int:
        """How many may still arrive."""
        return len(self._jobs.keys() - self._aside)

    def add(self, job: Job) -> None:
        """Its artifacts are in the outbox."""
        self._jobs[job.generation] = job

    def expect_events(self) -> None:
        """The table of events is in the outbox."""
        self.add(Job(generation=EVENTS, epoch=0, step=0, header=b"", nbytes=0, artifacts=1))

    def finished(self, artifacts: int, failures: int) -> None:
        """So much was made beside the table of events."""
        if EVENTS in self._jobs:
            self._jobs[EVENTS].artifacts += artifacts
            self._jobs[EVENTS].failures += failures

    def put_aside(self, generation: int) -> None:
        """The server does not take one of its artifacts: it is not waited for."""
        self._aside.add(generation)

    def reconsider(self) -> bool:
        """Wait for those that were put aside too; whether there are any."""
        any_aside = bool(self._aside)
        self._aside.clear()
        return any_aside

    def logged(self, generation: int) -> None:
        """All artifacts of a snapshot are in MLflow."""
        self._aside.discard(generation)
        job = self._jobs.pop(generation, None)
        if job is None:
            return
        job.times.logged = time.time()
        self._stats.artifacts_logged += job.artifacts
        self._stats.artifacts_failed += job.failures
        if generation != EVENTS:
            self._stats.logged += not job.failures
            self._stats.failed += bool(job.failures)

    @property
    def generations(self) -> dict[str, int]:
        """Epoch -> generation, of the snapshots."""
        return {f"{job.epoch}": generation for generation, job in self._jobs.items() if generation != EVENTS}

    def leave(self) -> None:
        """What is left stays in the outbox."""
        for generation, job in self._jobs.items():
            self._stats.artifacts_failed += job.failures
            if generation != EVENTS:
                self._stats.spooled += not job.failures
                self._stats.failed += bool(job.failures)
                self._stats.failed_in_part += bool(job.failures and job.artifacts)
        self._jobs.clear()
