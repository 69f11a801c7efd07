"""`ReconBackend`: the interface of `ReconWorker` and `InlineBackend` for the code that captures predictions."""

from typing import Protocol

from recon_worker.client.ledger import Ledger
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.records import Scan, Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.spool.run_target import RunTarget


class ReconBackend(Protocol):
    """Accepts the snapshots of one run, in order."""

    stats: Ledger
    """Counts of snapshot outcomes so far."""
    reuses_memory: bool
    """Whether the arrays acquired last are in memory that later snapshots reuse, and thus worth page-locking."""

    def launch(self) -> None:
        """Begin slow initialisation in the background. Call this as early as possible.

        Raises:
            SpoolError: The spool directory cannot be used.
        """

    def start(self, target: RunTarget, scan: Scan, layout: SnapshotLayout) -> None:
        """Set the run, the data common to its snapshots, and their layout. Call this once."""

    def acquire(self, layout: SnapshotLayout) -> SnapshotArrays:
        """Return arrays to write the next snapshot into, valid until it is submitted.

        Raises:
            OSError: Memory or disk space is insufficient. The snapshot counts as failed.
        """

    def submit(self, snapshot: Snapshot) -> None:
        """Hand over the snapshot whose arrays were acquired last."""

    def awaits(self, epoch: int) -> bool:
        """Return whether the snapshot of an epoch is still to be rendered, in queue or spool. Valid after `close`."""

    def settled(self, epoch: int, timeout_s: float = 0.0) -> bool:
        """Wait until the metrics of a submitted epoch are in `stats`, or never will be. Returns False on timeout."""

    def close(self, timeout_s: float) -> None:
        """Flush and release all resources. May be called twice."""

    def summary(self) -> str:
        """Return a one-line summary of snapshot outcomes."""


def make_backend(settings: WorkerSettings | None) -> ReconBackend:
    """Return a backend with a worker process or, if `settings` is None, without one. Imports only what it needs."""
    if settings is None:
        from recon_worker.client.inline_backend import InlineBackend

        return InlineBackend()
    from recon_worker.client.recon_worker import ReconWorker

    return ReconWorker(settings)
