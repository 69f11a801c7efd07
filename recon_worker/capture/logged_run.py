"""State of one rank during a logged run: constant settings, logging interval and current capture."""

import time
from dataclasses import dataclass, field
from typing import Any

from recon_worker.capture.capture import Capture
from recon_worker.capture.copying import Copier
from recon_worker.capture.gathering import Destination, Ranks, Rows
from recon_worker.capture.plan import CapturePlan, Shard
from recon_worker.client.backend import ReconBackend
from recon_worker.snapshot.records import Snapshot, SnapshotArrays


@dataclass(kw_only=True)
class LoggedRun:
    """State of one rank between the start and the end of a logged training."""

    backend: ReconBackend | None
    """Receives the snapshots on rank zero; None on the other ranks."""
    ranks: Ranks
    plan: CapturePlan
    shard: Shard
    copier: Copier
    dataset: Any
    """Map-style dataset of the logged samples."""
    from_training_set: bool
    may_predict: bool
    """Whether the network can be called outside training and validation."""
    every_n_epochs: int
    first_epoch: int
    """Completed epochs at the start; above 0 if the training was resumed."""
    last_logged: int = 0
    epoch: int | None = None
    """Epoch whose predictions are being captured; None if no snapshot is due."""
    capture: Capture | None = None
    """Current capture; None if there is none, or if it failed on this rank."""
    failure: Exception | None = None
    """Error of the current capture, raised only where all ranks synchronise, so that none waits in vain."""
    own_arrays: SnapshotArrays | None = None
    """Arrays of this rank's shard; None on rank zero."""
    captures: dict[int, Capture] = field(default_factory=dict)
    """Captures into reused memory, by its address."""

    def is_due(self, epoch: int, last_epoch: int | None) -> bool:
        """Return whether an epoch is due: every `every_n_epochs`, and the last one."""
        next_due = (max(self.first_epoch, self.last_logged) // self.every_n_epochs + 1) * self.every_n_epochs
        return epoch > self.last_logged and (epoch >= next_due or epoch == last_epoch)

    def begin_capture(self, epoch: int) -> None:
        """Acquire arrays for a snapshot, or for this rank's shard of it. `end_capture` raises any error."""
        self.epoch, self.capture, self.failure = epoch, None, None
        try:
            if self.backend is not None:
                arrays = self.backend.acquire(self.shard.layout)
            else:
                self.ranks.wait_sent()
                self.own_arrays = arrays = self.own_arrays or self.shard.layout.allocate()
                arrays.mark_unfilled()
            if self.backend is not None and not self.backend.reuses_memory:
                self.capture = Capture(self.shard, arrays, self.copier)
                return
            self.copier.prepare(arrays, self.shard.layout.nbytes)
            address = arrays.fixed_amp.ctypes.data
            if address not in self.captures:
                self.captures[address] = Capture(self.shard, arrays, self.copier)
            self.capture = self.captures[address]
            self.capture.restart()
        except Exception as error:
            self.capture, self.failure = None, error

    def end_capture(self) -> tuple[Capture, bool]:
        """Gather the predictions of all ranks on rank zero. All ranks must call this.

        Returns:
            This rank's capture, and whether rank zero has all predictions.

        Raises:
            Exception: The capture failed on this rank.
            RankFailedError: The capture failed on another rank.
        """
        assert self.epoch is not None
        self.last_logged = self.epoch
        capture, self.capture, self.epoch = self.capture, None, None

        def captured() -> list[tuple[Destination, Rows]]:
            if self.failure is not None:
                raise self.failure
            assert capture is not None
            capture.finish()
            if self.ranks.rank == 0:  # its own rows are in place
                return [(to, to.no_rows()) for to in capture.destinations]
            numbers = (None, None, self.shard.numbers)
            return [(to, to.rows(n)) for to, n in zip(capture.destinations, numbers, strict=True)]

        fixed, _, stitched = self.ranks.gather(captured)
        assert capture is not None
        return capture, (fixed, stitched) == (self.plan.layout.n_fixed, self.plan.layout.n_stitch)

    def submit(self, capture: Capture, *, step: int, stall_s: float) -> None:
        """Submit a complete snapshot to the backend. Does nothing on ranks without a backend."""
        if self.backend is None:
            return
        self.backend.submit(
            Snapshot(
                epoch=self.last_logged,
                step=step,
                has_diffraction=bool(capture.has_diffraction.any()),
                created_unix_s=time.time(),
                stall_s=stall_s,
                arrays=capture.arrays,
            )
        )
