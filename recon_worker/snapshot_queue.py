"""The bounded queue: where snapshots are, from `acquire` until their artifacts are in MLflow. No processes here.

    acquire -> slot, or ordinary memory when all slots are taken
    submit  -> waiting: in its slot, or, by the overflow policy, in a file; or an older one is given up
    take    -> in flight: with the worker              give_back -> waiting again: the worker died; after two such
                                                                    deaths it is parked until all others are done
    rendered -> uploading: the slot is free again      logged    -> counted
    spool_rest: what is left at the end stays on disk

One lock guards all of it; `changed` is notified whenever something that a caller may wait for has happened.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recon_worker.codec import dump_snapshot, snapshot_header
from recon_worker.ledger import Ledger
from recon_worker.outbox import Outbox
from recon_worker.queueing import Job, Times
from recon_worker.settings import WorkerSettings
from recon_worker.slots import Slot, SlotContent, create_memory
from recon_worker.snapshot import Snapshot, SnapshotArrays, SnapshotLayout

_log = logging.getLogger(__name__)

MAX_DEPTH = 16
"""Slots that `depth=None` may use."""
EVENTS = 0
"""Generation of what belongs to no snapshot: the table of events."""
_FIRST_DEPTH = 2
_ATTEMPTS_BEFORE_OTHERS, _MAX_ATTEMPTS = 2, 3
"""So often may a snapshot cost a worker before all others go first, and before it is not tried again."""
_ARRIVAL_WAIT_S = 2.0
_POLL_S = 0.2


class SnapshotQueue:
    """See above. Every method may be called from any thread.

    Args:
        settings: Depth, overflow, limits.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.stats = Ledger()
        self.history: list[Times] = []
        self.depth = settings.depth or _FIRST_DEPTH
        self.changed = threading.Condition()
        self.closed = False
        """No snapshot is taken any more."""
        self.abandoned = False
        """Nobody takes snapshots out any more: waiting for that is no use."""
        self.refused = False
        """The server refuses what is rendered: waiting for its upload is no use."""
        self.slots = [Slot(create_memory("recon-log-slot")) for _ in range(settings.depth or MAX_DEPTH)]
        self._settings = settings
        self._free = deque(range(self.depth))
        self._acquired: _Acquired | None = None
        self._overflow_memory = bytearray()
        self._generation = 0
        self._arriving = False
        self._waiting: deque[Job] = deque()
        self._parked: deque[Job] = deque()
        self._draining = False
        self._in_flight: Job | None = None
        self._uploading: dict[int, Job] = {}
        self._outbox: Outbox | None = None

    def open(self, outbox: Outbox, layout: SnapshotLayout) -> None:
        """Say where files go and how large snapshots are."""
        with self.changed:
            self._outbox = outbox
            if self._settings.depth is None:
                self.depth = max(1, min(_FIRST_DEPTH, self._settings.queue_bytes // max(1, layout.nbytes)))
                self._free = deque(range(self.depth))

    # --- the training thread ---------------------------------------------------------------------------------------

    def acquire(self, layout: SnapshotLayout) -> SnapshotArrays:
        """Arrays for the next snapshot: in a free slot, else in ordinary memory. Never waits."""
        with self.changed:
            self.give_back_acquired()
            slot = None if self.closed else self._free.popleft() if self._free else self._grow(layout)
            self._acquired = _Acquired(slot, layout, time.time())
        if slot is not None:
            self.slots[slot].reserve(layout.nbytes)
            arrays = self.slots[slot].arrays(layout)
        else:
            if len(self._overflow_memory) < layout.nbytes:
                self._overflow_memory = bytearray(layout.nbytes)
            arrays = layout.views(self._overflow_memory)
        arrays.fixed_filled[:] = False
        arrays.stitch_filled[:] = False
        return arrays

    def _grow(self, layout: SnapshotLayout) -> int | None:
        """One slot more, if the depth adapts and the budget allows."""
        fits = (self.depth + 1) * layout.nbytes <= self._settings.queue_bytes
        if self._settings.depth is not None or self.depth == MAX_DEPTH or not fits:
            return None
        self.depth += 1
        return self.depth - 1

    def give_back_acquired(self) -> None:
        """Forget arrays that were acquired and will not be submitted."""
        with self.changed:
            acquired, self._acquired = self._acquired, None
            if acquired is not None and acquired.slot is not None:
                self._release(acquired.slot)

    def submit(self, snapshot: Snapshot, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Take the snapshot whose arrays were acquired last; `interrupted` ends the wait of `block`."""
        with self.changed:
            acquired, self._acquired = self._acquired, None
            if acquired is None:
                raise RuntimeError("submit without acquire: write the snapshot into the arrays that acquire returns.")
            self.stats.submitted += 1
            if self.closed:
                self._fail(snapshot.epoch, "the worker was closed already")
                return
            self._generation += 1
            job = _new_job(self._generation, snapshot, acquired)
            self._arriving = True
            try:
                self._enqueue(job, interrupted)
            except (OSError, MemoryError, ValueError) as error:
                self._fail(job.epoch, f"it cannot be kept in memory: {error}")
                self._forget_slot(job)
            finally:
                self._arriving = False
                self.changed.notify_all()

    def _enqueue(self, job: Job, interrupted: Callable[[], bool]) -> None:
        """Find the job a place: its slot, a slot that is free by now, or what the overflow policy says."""
        self.history.append(job.times)
        if job.slot is None:
            job.slot = self._slot_for_overflow(interrupted)
            if job.slot is None:
                self._spill(job)
                return
            target = self.slots[job.slot]
            target.reserve(job.nbytes)
            target.array_bytes(job.nbytes)[:] = memoryview(self._overflow_memory)[: job.nbytes]
        if self.abandoned:
            self._put_in_file(job)
            return
        self.slots[job.slot].mark_ready(SlotContent(job.generation, job.header))
        self._waiting.append(job)
        self.stats.high_water = max(self.stats.high_water, self.to_render)

    def _slot_for_overflow(self, interrupted: Callable[[], bool]) -> int | None:
        if self._settings.overflow == "block":
            deadline = time.monotonic() + self._settings.flush_timeout_s
            while not (self._free or self.abandoned or self.closed or interrupted()) and time.monotonic() < deadline:
                self.changed.wait(_POLL_S)
        if self.abandoned or self.closed:
            return None
        if self._settings.overflow == "drop-oldest" and not self._free and self._waiting:
            self._drop(self._waiting.popleft())
        return self._free.popleft() if self._free else None

    def _spill(self, job: Job) -> None:
        """Keep the snapshot in ordinary memory as a file that is rendered when its turn comes."""
        self.stats.spilled += self._put_in_file(job)

    def _put_in_file(self, job: Job) -> bool:
        """Have a snapshot wait in a file, within the bound; an older one in a file is given up for it."""
        assert self._outbox is not None
        while self._waiting and self._outbox.raw_bytes() + job.nbytes > self._settings.spill_bytes:
            spilled = next((one for one in self._waiting if one.path is not None), None)
            if spilled is None:
                break
            self._waiting.remove(spilled)
            self._drop(spilled)
        if self._write(job):
            self._waiting.append(job)
        return job.path is not None

    def _write(self, job: Job) -> bool:
        """Move a snapshot from memory to a file; False, and counted as failed, if that cannot be."""
        if job.path is None:
            assert self._outbox is not None
            memory = self._overflow_memory if job.slot is None else self.slots[job.slot].array_bytes(job.nbytes)
            try:
                parts = dump_snapshot(job.header, memoryview(memory)[: job.nbytes])
                job.path = self._outbox.put_raw(job.generation, job.epoch, parts)
            except OSError as error:
                self._fail(job.epoch, f"{self._outbox.folder} cannot be written: {error}")
            self._forget_slot(job)
        return job.path is not None

    def _forget_slot(self, job: Job) -> None:
        if job.slot is not None:
            self._release(job.slot)
            job.slot = None

    def _drop(self, job: Job) -> None:
        self.stats.dropped += 1
        self._forget_slot(job)
        if job.path is not None:
            job.path.unlink(missing_ok=True)

    def _fail(self, epoch: int, reason: str) -> None:
        self.stats.failed += 1
        _log.warning("The reconstruction of epoch %d is lost: %s.", epoch, reason)

    def _release(self, slot: int) -> None:
        self.slots[slot].mark_free()
        self._free.append(slot)
        self.changed.notify_all()

    # --- what the worker does --------------------------------------------------------------------------------------

    def take(self) -> Job | None:
        """The oldest waiting snapshot, now in flight; None while another one is, or if none waits."""
        with self.changed:
            if self._in_flight is not None:
                return None
            source = self._waiting or (self._parked if self._draining else None)
            self._in_flight = source.popleft() if source else None
            return self._in_flight

    def began(self) -> None:
        """The worker has begun with the snapshot in flight: if it dies now, that may be the snapshot's fault."""
        with self.changed:
            if self._in_flight is not None:
                self._in_flight.attempts += 1

    def give_back(self) -> None:
        """The worker died: its snapshot waits again, behind all others if it has cost two, or is set aside."""
        with self.changed:
            job, self._in_flight = self._in_flight, None
            if job is None:
                return
            if job.attempts < _ATTEMPTS_BEFORE_OTHERS:
                self._waiting.appendleft(job)
            elif job.attempts < _MAX_ATTEMPTS:
                _log.warning(
                    "%d workers died over the snapshot of epoch %d: the others go first.", job.attempts, job.epoch
                )
                if self._write(job):
                    self._parked.append(job)
            else:
                self._set_aside(job)
            self.changed.notify_all()

    def _set_aside(self, job: Job) -> None:
        """Keep a snapshot that costs a worker each time, under a name that nobody tries again."""
        assert self._outbox is not None
        if not self._write(job):
            return
        assert job.path is not None
        self.stats.failed += 1
        kept = self._outbox.set_aside(job.path)
        _log.warning(
            "%d workers died over the snapshot of epoch %d. It is kept as %s and not tried again.",
            job.attempts, job.epoch, kept,
        )  # fmt: skip

    def abandon(self) -> None:
        """No worker will come: keep on disk what waits, and what comes."""
        with self.changed:
            self.abandoned = True
            self._waiting = deque([job for job in self._waiting if self._write(job)])
            self.changed.notify_all()

    def rendered(self, message: dict[str, Any]) -> None:
        """The snapshot in flight is in the outbox, as the worker's message says; its slot is free."""
        with self.changed:
            job = self._in_flight
            if job is None or job.generation != message["generation"]:
                return
            self._in_flight = None
            job.times.started, job.times.rendered = message["started_unix_s"], message["rendered_unix_s"]
            job.artifacts, job.failures = message["artifacts"], len(message["failures"])
            for path, reason in message["failures"][:1]:
                _log.warning(
                    "Epoch %d: %d artifacts failed, the first being %s: %s", job.epoch, job.failures, path, reason
                )
            self._forget_slot(job)
            self._uploading[job.generation] = job

    def upload_events(self) -> None:
        """Expect the table of events to be logged."""
        with self.changed:
            self._uploading[EVENTS] = Job(generation=EVENTS, epoch=0, step=0, header=b"", nbytes=0, artifacts=1)

    def finished(self, artifacts: int, failures: int) -> None:
        """So much was made beside the table of events."""
        with self.changed:
            if EVENTS in self._uploading:
                self._uploading[EVENTS].artifacts += artifacts
                self._uploading[EVENTS].failures += failures

    def logged(self, generation: int) -> None:
        """All artifacts of a snapshot are in MLflow."""
        with self.changed:
            job = self._uploading.pop(generation, None)
            if job is None:
                return
            job.times.logged = time.time()
            self.stats.artifacts_logged += job.artifacts
            self.stats.artifacts_failed += job.failures
            if generation != EVENTS:
                self.stats.logged += not job.failures
                self.stats.failed += bool(job.failures)
            self.changed.notify_all()

    # --- how it stands ---------------------------------------------------------------------------------------------

    @property
    def to_render(self) -> int:
        """Snapshots that are not rendered yet."""
        return len(self._waiting) + len(self._parked) + (self._in_flight is not None)

    @property
    def to_upload(self) -> int:
        """Snapshots that are rendered and not in MLflow yet, the table of events among them."""
        return len(self._uploading)

    @property
    def in_flight(self) -> bool:
        """Whether the worker holds a snapshot."""
        return self._in_flight is not None

    @property
    def unlogged(self) -> dict[str, int]:
        """Epoch -> generation of what is rendered and not in MLflow yet."""
        return {f"{job.epoch}": generation for generation, job in self._uploading.items() if generation != EVENTS}

    def metrics(self, job: Job) -> dict[str, float]:
        """Numbers about the queue, as it is when a snapshot leaves it; the worker adds lag and retries."""
        counts = ("high_water", "spilled", "dropped", "failed", "restarts")
        return {
            **{name: getattr(self.stats, name) for name in counts},
            "depth": self.depth,
            "waiting": len(self._waiting),
            "stall_ms": 1e3 * job.times.stall_s,
        }

    def wait_empty(self, deadline: float, report: Callable[[str], None], interrupted: Callable[[], bool]) -> bool:
        """Wait until nothing is left; False when the time (monotonic) is over or nobody works on it."""
        with self.changed:
            self._draining = True
            while self._worth_waiting() and time.monotonic() < deadline and not interrupted():
                report(f"{self.to_render} to render, {self.to_upload} to upload to the tracking server")
                self.changed.wait(min(_POLL_S, max(0.0, deadline - time.monotonic())))
            self._draining = False
            return not (self.to_render or self._uploading)

    def _worth_waiting(self) -> bool:
        uploading = bool(self._uploading) and not self.refused
        return not self.abandoned and bool(self.to_render or uploading)

    # --- the end ---------------------------------------------------------------------------------------------------

    def stop_taking(self) -> None:
        """Take no further snapshot; one whose producer waits for a slot goes to a file."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self._arriving, _ARRIVAL_WAIT_S)

    def spool_rest(self) -> None:
        """Keep everything that is left on disk."""
        with self.changed:
            rest = [*([self._in_flight] if self._in_flight else []), *self._waiting, *self._parked]
            self._in_flight = None
            self._waiting.clear()
            self._parked.clear()
            self.stats.spooled += sum(self._write(job) for job in rest)
            self.stats.spooled += sum(generation != EVENTS for generation in self._uploading)
            self._uploading.clear()

    def close(self) -> None:
        """Give the memory back."""
        for slot in self.slots:
            slot.close()


@dataclass(frozen=True)
class _Acquired:
    slot: int | None
    layout: SnapshotLayout
    time_s: float


def _new_job(generation: int, snapshot: Snapshot, acquired: _Acquired) -> Job:
    return Job(
        generation=generation,
        epoch=snapshot.epoch,
        step=snapshot.step,
        header=snapshot_header(snapshot, acquired.layout),
        nbytes=acquired.layout.nbytes,
        slot=acquired.slot,
        times=Times(
            epoch=snapshot.epoch,
            nbytes=acquired.layout.nbytes,
            acquired=acquired.time_s,
            submitted=time.time(),
            stall_s=snapshot.stall_s,
        ),
    )
