"""`ReconBackend`: the interface that the callback hands snapshots to; see `ReconWorker` and `InlineBackend`."""

from typing import Protocol

from recon_worker.client.ledger import Ledger
from recon_worker.snapshot.records import Scan, Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.spool.run_target import RunTarget


class ReconBackend(Protocol):
    """Accepts the snapshots of one run, in order."""

    stats: Ledger
    """Counts of what became of the snapshots so far."""
    reuses_memory: bool
    """Whether the arrays acquired last lie in memory that later snapshots will use too, worth page-locking."""

    def launch(self) -> None:
        """Begin whatever takes time to start, without waiting for it. Call it as early as possible."""

    def start(self, target: RunTarget, scan: Scan, layout: SnapshotLayout) -> None:
        """Describe the run, what is common to its snapshots, and their size. Call it once."""

    def acquire(self, layout: SnapshotLayout) -> SnapshotArrays:
        """Return arrays to write the next snapshot into, valid until it is submitted.

        Raises:
            OSError: There is no room for them. The snapshot counts as failed.
        """

    def submit(self, snapshot: Snapshot) -> None:
        """Hand over the snapshot whose arrays were acquired last."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything submitted is logged. Returns False at the timeout."""

    def close(self, timeout_s: float) -> None:
        """Flush and release everything. May be called twice."""

    def summary(self) -> str:
        """Return one line about what became of the snapshots."""
