"""What the callback holds while `fit` lasts, on each rank: among it the capture of an epoch that is due."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from recon_worker.capture.capture import Capture, CapturePlan, Shard
from recon_worker.capture.copying import Copier
from recon_worker.capture.gathering import Place, Ranks, Rows
from recon_worker.client.backend import ReconBackend
from recon_worker.snapshot.records import SnapshotArrays


@dataclass
class LoggedRun:
    """What the callback holds while `fit` lasts, on every rank of a training that is logged."""

    backend: ReconBackend | None
    """On rank zero."""
    ranks: Ranks
    plan: CapturePlan
    shard: Shard
    copier: Copier
    loader: object
    from_training_set: bool
    may_predict: bool
    """Whether the network can be called outside training and validation."""
    next_due: int
    last_logged: int = 0
    is_due: bool = False
    capture: Capture | None = None
    failure: Exception | None = None
    """Of the capture; raised where all ranks come together, else the others would wait there."""
    own_arrays: SnapshotArrays | None = None
    """On the other ranks."""
    captures: dict[int, Capture] = field(default_factory=dict)
    """By the address of the memory that they fill, of memory that is used again."""

    @property
    def dataset(self) -> Any:  # noqa: ANN401
        """Of the samples that are logged."""
        return self.loader.dataset  # type: ignore[attr-defined]

    def begin_capture(self) -> None:
        """Take arrays for a snapshot, or for this rank's shard of it."""
        self.is_due, self.capture, self.failure = True, None, None
        try:
            self.capture = self._capture_into(self._acquire())
        except Exception as error:
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """This rank cannot capture what is due."""
        self.capture, self.failure = None, error

    def _acquire(self) -> SnapshotArrays:
        if self.backend is not None:
            return self.backend.acquire(self.shard.layout)
        self.ranks.wait_sent()
        if self.own_arrays is None:
            self.own_arrays = self.shard.layout.allocate()
        self.own_arrays.fixed_filled[:] = False
        self.own_arrays.stitch_filled[:] = False
        return self.own_arrays

    def _capture_into(self, arrays: SnapshotArrays) -> Capture:
        if self.backend is not None and not self.backend.reuses_memory:
            return Capture(self.shard, arrays, self.copier)
        self.copier.prepare(arrays, self.shard.layout.nbytes)
        address = arrays.fixed_amp.ctypes.data
        if address not in self.captures:
            self.captures[address] = Capture(self.shard, arrays, self.copier)
        capture = self.captures[address]
        capture.forget()
        return capture

    def end_capture(self) -> tuple[Capture, bool]:
        """Bring what all ranks captured together on rank zero; returns what this rank has, and if rank zero has all."""
        capture, self.capture, self.is_due = self.capture, None, False
        fixed, _, stitched = self.ranks.gather(partial(self._captured, capture))
        assert capture is not None
        return capture, (fixed, stitched) == (self.plan.layout.n_fixed, self.plan.layout.n_stitch)

    def _captured(self, capture: Capture | None) -> list[tuple[Place, Rows]]:
        """What this rank has to give; rank zero's own rows are where they belong."""
        if self.failure is not None:
            raise self.failure
        assert capture is not None
        capture.finish()
        if self.ranks.rank == 0:
            return [(place, place.no_rows()) for place in capture.places]
        return [*capture.rows()]
