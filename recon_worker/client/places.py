"""Where snapshots wait: a number of places, as many of them in shared memory as the budget allows.

    place 0, 1, ...        slots of shared memory, used for ever, while (number + 1) snapshots fit into the budget
    up to the depth        files in the spool, written in place (`raw_file`), one per snapshot
    none free              ordinary memory while the budget has room for that too, else a file as well

No lock of its own: `SnapshotQueue` guards it. Which snapshot goes where is decided there.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from recon_worker.client.depth_advice import Job, Times
from recon_worker.settings import MAX_AUTO_DEPTH, WorkerSettings
from recon_worker.snapshot.codec import snapshot_header
from recon_worker.snapshot.records import Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.snapshot.slots import Slot, SlotContent, create_memory
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.snapshot_file import RawFile

_FIRST_DEPTH = 2
"""Places that `depth=None` begins with."""


@dataclass(frozen=True)
class Acquired:
    """Arrays that are being filled."""

    place: int | None
    """None: no place was free."""
    layout: SnapshotLayout
    time_s: float
    arrays: SnapshotArrays
    file: RawFile | None
    """What holds them, if it is no memory of the queue."""

    def job(self, generation: int, snapshot: Snapshot) -> Job:
        """The job of the snapshot that they hold now."""
        times = Times(
            epoch=snapshot.epoch,
            nbytes=self.layout.nbytes,
            acquired=self.time_s,
            submitted=time.time(),
            stall_s=snapshot.stall_s,
        )
        return Job(
            generation=generation,
            epoch=snapshot.epoch,
            step=snapshot.step,
            header=snapshot_header(snapshot, self.layout),
            nbytes=self.layout.nbytes,
            place=self.place,
            times=times,
        )


class Places:
    """See above.

    Args:
        settings: Depth, and the budget.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._min_depth = settings.min_depth
        self.depth = max(settings.depth or _FIRST_DEPTH, self._min_depth)
        most = MAX_AUTO_DEPTH if settings.depth is None else self.depth
        self.slots = [Slot(create_memory("recon-log-slot")) for _ in range(most)]
        self._adapts, self._budget_bytes = settings.depth is None, settings.queue_bytes
        self._free = set(range(self.depth))
        self._overflow_memory = bytearray()
        self._outbox: Outbox | None = None
        self._nbytes = 0

    def open(self, outbox: Outbox, nbytes: int) -> None:
        """Say where files go, and how large snapshots are."""
        self._outbox, self._nbytes = outbox, nbytes
        if self._adapts:
            self.depth = max(self._min_depth, min(_FIRST_DEPTH, self._fitting(nbytes)))
            self._free = set(range(self.depth))

    @property
    def in_memory(self) -> list[Slot]:
        """The slots of the places that lie in memory."""
        return self.slots[: min(self.depth, self._fitting(self._nbytes))]

    @property
    def files(self) -> list[Path]:
        """What the files of the other places are called while no snapshot waits in them."""
        assert self._outbox is not None
        return [self._outbox.capture_file(place) for place in range(len(self.in_memory), self.depth)]

    def _fitting(self, nbytes: int) -> int:
        """How many snapshots the budget has room for."""
        return self._budget_bytes // max(1, nbytes)

    @property
    def any_free(self) -> bool:
        """Whether `take` finds a place."""
        return bool(self._free)

    def take(self) -> int | None:
        """A free place, which is taken now: one in memory if there is one."""
        place = min(self._free, default=None)
        if place is not None:
            self._free.remove(place)
        return place

    def release(self, place: int) -> None:
        """Free a place."""
        self.slots[place].mark_free()
        self._free.add(place)

    def acquire(self, layout: SnapshotLayout, *, closed: bool) -> Acquired:
        """Arrays for a snapshot, and a place if one is free; none is taken any more once the queue is `closed`.

        Raises:
            OSError: They must lie in a file, and none can be made.
        """
        place = None if closed else self.take()
        if place is None and not closed:
            place = self._grow(layout.nbytes)
        try:
            return self._filled_with_nothing(place, layout)
        except BaseException:
            if place is not None:
                self.release(place)
            raise

    def _filled_with_nothing(self, place: int | None, layout: SnapshotLayout) -> Acquired:
        memory, file = self._memory(place, layout.nbytes)
        arrays = layout.views(memory)
        arrays.fixed_filled[:] = False
        arrays.stitch_filled[:] = False
        return Acquired(place, layout, time.time(), arrays, file)

    def _memory(self, place: int | None, nbytes: int) -> tuple[memoryview, RawFile | None]:
        last = self.depth if place is None else place
        if last >= self._fitting(nbytes):
            assert self._outbox is not None
            file = self._outbox.new_raw(place, nbytes)
            return file.memory, file
        if place is not None:
            self.slots[place].reserve(nbytes)
            return self.slots[place].array_bytes(nbytes), None
        if len(self._overflow_memory) < nbytes:
            self._overflow_memory = bytearray(nbytes)
        return memoryview(self._overflow_memory)[:nbytes], None

    def _grow(self, nbytes: int) -> int | None:
        """One place more, if the depth adapts and the budget allows."""
        if not self._adapts or self.depth == MAX_AUTO_DEPTH or self.depth >= self._fitting(nbytes):
            return None
        self.depth += 1
        return self.depth - 1

    def publish(self, job: Job, *, from_overflow: bool) -> None:
        """Make a place in memory ready; the arrays are copied there if they were captured when none was free."""
        assert job.place is not None
        slot = self.slots[job.place]
        if from_overflow:
            slot.reserve(job.nbytes)
            slot.array_bytes(job.nbytes)[:] = memoryview(self._overflow_memory)[: job.nbytes]
        slot.mark_ready(SlotContent(job.generation, job.header))

    def file_place(self, job: Job) -> int | None:
        """The place whose file holds the job."""
        return job.place if job.place is not None and job.place >= self._fitting(job.nbytes) else None

    def memory_of(self, job: Job) -> memoryview:
        """The arrays of a job that is in no file."""
        if job.place is None:
            return memoryview(self._overflow_memory)[: job.nbytes]
        return self.slots[job.place].array_bytes(job.nbytes)

    def close(self) -> None:
        """Give memory and files back."""
        for slot in self.slots:
            slot.close()
        if self._outbox is not None:
            for place in (None, *range(self.depth)):
                self._outbox.held(self._outbox.capture_file(place)).unlink(missing_ok=True)
