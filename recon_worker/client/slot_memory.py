"""`SlotMemory`: storage for waiting snapshots, in shared memory within the byte budget, in spool files beyond it.

slot 0, 1, ...    shared memory, reused for the whole run, if (number + 1) snapshots fit into the budget
up to `depth`     spool files that captures write in place (`RawFile`), one per slot
no slot free      an overflow buffer in ordinary memory if it fits into the budget, else a spool file
"""

import contextlib
import time
from pathlib import Path

from recon_worker.client.job import Job
from recon_worker.settings import MAX_AUTO_DEPTH, WorkerSettings
from recon_worker.snapshot.codec import FILE_HEADER_BYTES, dump_snapshot, snapshot_header
from recon_worker.snapshot.records import Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.snapshot.slots import Slot, create_memory
from recon_worker.spool.outbox import Outbox, total_bytes
from recon_worker.spool.snapshot_file import RawFile
from recon_worker.system.messages import message_log, size_text

_log = message_log(__name__)

_FIRST_DEPTH = 2
"""Initial number of slots for `depth=None`."""


class SlotMemory:
    """`depth` slots, in memory or in files. Each job records where its snapshot is stored.

    Not thread-safe: `SnapshotQueue` calls it with its lock held.

    Args:
        settings: Depth and byte budgets.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self.depth = max(settings.depth or _FIRST_DEPTH, settings.min_depth)
        """Current number of slots."""
        most = MAX_AUTO_DEPTH if settings.depth is None else self.depth
        self.all_slots = [Slot(create_memory("recon-log-slot")) for _ in range(most)]
        """Every slot that the run may use. The worker inherits them."""
        self.free = set(range(self.depth))
        """Numbers of the free slots."""
        self.reuses_memory = False
        """Whether the arrays acquired last are in memory that later snapshots reuse."""
        self._overflow_buffer = bytearray()
        self._outbox: Outbox | None = None
        self._nbytes = 0
        self._acquired: tuple[Job, SnapshotLayout] | None = None

    def open(self, outbox: Outbox, nbytes: int) -> None:
        """Set the outbox for spool files, and the size of this run's snapshots."""
        self._outbox, self._nbytes = outbox, nbytes
        if self._settings.depth is None:
            self.depth = max(self._settings.min_depth, min(_FIRST_DEPTH, self._n_in_budget(nbytes)))
            self.free = set(range(self.depth))
        if (in_memory := len(self.shared_slots)) < self.depth:
            _log.warning(
                "A snapshot of this run takes %s and the queue may use %s of memory (--recon-log-queue-gib): "
                "%d of its %d slots are in memory, the others are files in %s.",
                size_text(nbytes), size_text(self._settings.queue_bytes), in_memory, self.depth, outbox.folder,
            )  # fmt: skip

    @property
    def outbox(self) -> Outbox:
        """The run's folder in the spool."""
        assert self._outbox is not None, "files need the run's folder: call open first"
        return self._outbox

    @property
    def shared_slots(self) -> list[Slot]:
        """The slots in shared memory; the remaining ones are files."""
        return self.all_slots[: min(self.depth, self._n_in_budget(self._nbytes))]

    def fault_in(self) -> None:
        """Map the slots in shared memory before their first use, as far as the address-space limit permits."""
        with contextlib.suppress(OSError):
            for slot in self.shared_slots:
                slot.fault_in()

    def _n_in_budget(self, nbytes: int) -> int:
        return self._settings.queue_bytes // max(1, nbytes)

    def _occupy_slot(self, job: Job) -> int:
        """Return the job's slot, or occupy a free one, in shared memory if possible."""
        if job.slot is None:
            job.slot = min(self.free)
            self.free.remove(job.slot)
        return job.slot

    def release(self, job: Job) -> None:
        """Free the job's slot, if it has one."""
        if job.slot is not None:
            self.all_slots[job.slot].mark_free()
            self.free.add(job.slot)
            job.slot = None

    def acquire(self, layout: SnapshotLayout, *, closed: bool) -> SnapshotArrays:
        """Return arrays for the next snapshot, in a free slot if possible. Discards earlier, unclaimed arrays.

        Args:
            layout: Shapes of the arrays.
            closed: Whether the queue is closed, so that no slot may be used.

        Raises:
            OSError: The memory or the file for the arrays cannot be allocated.
        """
        if self._acquired is not None:
            self.discard(self._acquired[0])
            self._acquired = None
        job = Job(nbytes=layout.nbytes)
        n_in_budget = self._n_in_budget(layout.nbytes)
        may_grow = self._settings.depth is None and self.depth < min(MAX_AUTO_DEPTH, n_in_budget)
        if may_grow and not (self.free or closed):
            self.free.add(self.depth)
            self.depth += 1
        if self.free and not closed:
            self._occupy_slot(job)
        try:
            if (self.depth if job.slot is None else job.slot) >= n_in_budget:
                job.file = RawFile(self.outbox.held(self.outbox.capture_file(job.slot)), job.nbytes)
            elif job.slot is not None:
                self.all_slots[job.slot].reserve(job.nbytes)
            elif len(self._overflow_buffer) < job.nbytes:
                self._overflow_buffer = bytearray(job.nbytes)
            arrays = layout.views(self._memory_of(job) if job.file is None else job.file.memory)
            arrays.mark_unfilled()
        except BaseException:
            self.release(job)
            raise
        job.acquired = time.time()
        self._acquired, self.reuses_memory = (job, layout), job.file is None
        return arrays

    def claim(self, generation: int, snapshot: Snapshot) -> Job:
        """Return the job of the snapshot that was captured into the arrays acquired last.

        Raises:
            RuntimeError: No arrays were acquired.
        """
        if self._acquired is None:
            raise RuntimeError("submit without acquire: write the snapshot into the arrays that acquire returns.")
        (job, layout), self._acquired = self._acquired, None
        job.generation, job.epoch, job.step = generation, snapshot.epoch, snapshot.step
        job.header, job.stall_s = snapshot_header(snapshot, layout), snapshot.stall_s
        job.submitted = time.time()
        return job

    def _memory_of(self, job: Job) -> memoryview:
        """Return the array memory of a job that is not in a file."""
        if job.slot is None:
            return memoryview(self._overflow_buffer)[: job.nbytes]
        return self.all_slots[job.slot].array_bytes(job.nbytes)

    def exceeds_disk_limit(self, job: Job, *, in_slot: bool) -> bool:
        """Return whether `store` would make the snapshots waiting on disk exceed `spill_bytes`."""
        if job.file is None and in_slot:
            return False
        waiting = total_bytes(map(self.outbox.held, self.outbox.raw()))
        return waiting + FILE_HEADER_BYTES + job.nbytes > self._settings.spill_bytes

    def store(self, job: Job, *, in_slot: bool) -> None:
        """Make a captured snapshot readable by the worker.

        Args:
            job: The snapshot.
            in_slot: Whether to put it into a slot, its own or a free one; otherwise into a file.

        Raises:
            OSError: Its slot cannot be allocated, or its file cannot be written.
        """
        if job.file is not None:
            if in_slot:
                self._occupy_slot(job)
            else:
                self.release(job)
            job.path = self.outbox.publish_raw(job.file, job.generation, job.epoch, job.header)
            job.file = None
        elif in_slot:
            captured, in_overflow_buffer = self._memory_of(job), job.slot is None
            slot = self.all_slots[self._occupy_slot(job)]
            if in_overflow_buffer:
                slot.reserve(job.nbytes)
                slot.array_bytes(job.nbytes)[:] = captured
            slot.mark_ready(job.generation, job.header)
        else:
            self.spill(job)

    def spill(self, job: Job) -> Path:
        """Write the snapshot to a spool file unless it is already in one, and free its slot. Returns the file.

        Raises:
            OSError: The file cannot be written. The slot is freed nevertheless.
        """
        try:
            if job.path is None:
                parts = dump_snapshot(job.header, self._memory_of(job))
                job.path = self.outbox.put_raw(job.generation, job.epoch, parts)
        except OSError as error:
            raise OSError(f"{self.outbox.folder} cannot be written: {error}") from error
        finally:
            self.release(job)
        return job.path

    def discard(self, job: Job) -> None:
        """Free the job's slot and file. A slot's file is kept for its next snapshot."""
        in_file_of_slot = job.slot is not None and job.slot >= self._n_in_budget(job.nbytes)
        try:
            if job.path is not None:
                self.outbox.free_raw(job.path, job.slot if in_file_of_slot else None)
            elif job.file is not None and not in_file_of_slot:
                job.file.path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s is no longer needed but cannot be removed: %s", job.path or "A capture file", error)
        job.file = None
        self.release(job)

    def close(self) -> None:
        """Free the memory and remove the slots' files."""
        for slot in self.all_slots:
            slot.close()
        if self._outbox is not None:
            for number in (None, *range(self.depth)):
                self._outbox.held(self._outbox.capture_file(number)).unlink(missing_ok=True)
