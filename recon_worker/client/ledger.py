"""The count of what became of each snapshot: `submitted = logged + dropped + spooled + failed` at the end."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class Ledger:
    """Counts of one run. Snapshots that are still on their way are `pending`."""

    submitted: int = 0
    """Snapshots handed over."""
    logged: int = 0
    """Snapshots whose artifacts have all been uploaded."""
    dropped: int = 0
    """Snapshots given up for newer ones."""
    spooled: int = 0
    """Snapshots kept on disk, to be uploaded later."""
    failed: int = 0
    """Snapshots of which at least one artifact could not be made or uploaded."""
    failed_in_part: int = 0
    """Of those that failed: the ones whose other artifacts are kept on disk, to be uploaded later."""
    artifacts_logged: int = 0
    """Single artifacts uploaded."""
    artifacts_failed: int = 0
    """Single artifacts that could not be made or uploaded."""

    spilled: int = 0
    """Snapshots that went over the disk because the queue was full."""
    waited: int = 0
    """Snapshots that had the training wait for a place in the queue (`block`)."""
    high_water: int = 0
    """Most snapshots that were in the queue at once."""
    retries: int = 0
    """Uploads that had to be tried again."""
    restarts: int = 0
    """Worker processes that died."""

    @property
    def pending(self) -> int:
        """Snapshots submitted and not yet accounted for."""
        return self.submitted - self.logged - self.dropped - self.spooled - self.failed

    @property
    def _in_part(self) -> str:
        if not self.failed_in_part:
            return ""
        return f"; of {self.failed_in_part} failed, the artifacts that could be made are spooled"

    def __str__(self) -> str:
        return (
            f"{self.submitted} submitted = {self.logged} logged + {self.dropped} dropped + {self.spooled} spooled + "
            f"{self.failed} failed ({self.artifacts_logged} artifacts, {self.artifacts_failed} failed{self._in_part})"
        )
