"""`Ledger`: counts the outcome of every snapshot. At the end `submitted = logged + dropped + spooled + failed`."""

from dataclasses import dataclass

from recon_worker.client.job import EVENTS, REFERENCE, Job


@dataclass(kw_only=True)
class Ledger:
    """Counts of one run. Snapshots still in progress are `pending`."""

    submitted: int = 0
    """Snapshots submitted."""
    logged: int = 0
    """Snapshots whose artifacts have all been uploaded."""
    dropped: int = 0
    """Snapshots discarded in favour of newer ones."""
    spooled: int = 0
    """Snapshots left on disk for a later upload."""
    failed: int = 0
    """Snapshots with at least one artifact that could not be made or uploaded."""
    failed_in_part: int = 0
    """Failed snapshots whose remaining artifacts are left on disk for a later upload."""
    artifacts_logged: int = 0
    """Artifacts uploaded."""
    artifacts_failed: int = 0
    """Artifacts that could not be made or uploaded."""

    spilled: int = 0
    """Snapshots written to disk because the queue was full."""
    waited: int = 0
    """Snapshots for which the training waited for a free slot (overflow policy `block`)."""
    high_water: int = 0
    """Largest number of snapshots in the queue at once."""
    retries: int = 0
    """Upload attempts that were repeated."""
    restarts: int = 0
    """Worker processes that died."""

    @property
    def pending(self) -> int:
        """Snapshots submitted but not yet logged, dropped, spooled or failed."""
        return self.submitted - self.logged - self.dropped - self.spooled - self.failed

    def count_rendered(self, job: Job, *, uploaded: bool) -> None:
        """Count a rendered snapshot whose artifacts are all in MLflow (`uploaded`) or still in the outbox."""
        self.artifacts_logged += job.artifacts if uploaded else 0
        self.artifacts_failed += job.failures
        if job.generation in (EVENTS, REFERENCE):
            return
        if job.failures:
            self.failed += 1
            self.failed_in_part += job.artifacts > 0 and not uploaded
        elif uploaded:
            self.logged += 1
        else:
            self.spooled += 1

    def __str__(self) -> str:
        partly = f"; of {self.failed_in_part} failed, the artifacts that could be made are spooled"
        return (
            f"{self.submitted} submitted = {self.logged} logged + {self.dropped} dropped + {self.spooled} spooled + "
            f"{self.failed} failed ({self.artifacts_logged} artifacts, {self.artifacts_failed} failed"
            f"{partly if self.failed_in_part else ''})"
        )
