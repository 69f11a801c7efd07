"""The bounded queue: what becomes of snapshots, from `acquire` until their artifacts are in MLflow. No processes here.

    acquire -> a place, in memory or in a file (`places`); room elsewhere when all are taken
    submit  -> waiting: in its place, or, by the overflow policy, in a file; or an older one is given up
    take    -> in flight: with the worker              give_back -> waiting again: the worker died; after two such
                                                                    deaths it is parked until all others are done
    rendered -> uploading: the place is free again     logged    -> counted
    spool_rest: what is left at the end stays on disk

One lock guards all of it; `changed` is notified whenever something that a caller may wait for has happened.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recon_worker.client.backlog import Backlog
from recon_worker.client.depth_advice import Job, Times
from recon_worker.client.ledger import Ledger
from recon_worker.client.places import Acquired, Places
from recon_worker.client.uploads import Uploads
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.records import Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.snapshot.slots import Slot
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.snapshot_file import RawFile
from recon_worker.system.messages import message_log, size_text

_log = message_log(__name__)

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
        self.changed = threading.Condition()
        self.closed = False
        """No snapshot is taken any more."""
        self.abandoned = False
        """Nobody takes snapshots out any more: waiting for that is no use."""
        self.refused = False
        """The server refuses what is rendered: waiting for its upload is no use."""
        self._settings = settings
        self._places = Places(settings)
        self._acquired: Acquired | None = None
        self._generation = 0
        self._arriving = False
        self._backlog = Backlog(self._places, self.stats, settings.spill_bytes)
        self._draining = False
        self._uploads = Uploads(self.stats)

    def open(self, outbox: Outbox, layout: SnapshotLayout) -> None:
        """Say where files go and how large snapshots are."""
        with self.changed:
            self._backlog.open(outbox)
            self._places.open(outbox, layout.nbytes)
            in_memory = len(self._places.in_memory)
            if in_memory < self.depth:
                _log.warning(
                    "A snapshot of this run takes %s and the queue may take %s of memory (--recon-log-queue-gib): "
                    "%d of its %d places are in memory, the others are files in %s.",
                    size_text(layout.nbytes), size_text(self._settings.queue_bytes), in_memory, self.depth,
                    outbox.folder,
                )  # fmt: skip

    @property
    def depth(self) -> int:
        """Snapshots that may wait before the overflow policy is asked."""
        return self._places.depth

    @property
    def slots(self) -> list[Slot]:
        """All memory there may be, for the worker to inherit."""
        return self._places.slots

    @property
    def slots_in_use(self) -> list[Slot]:
        """The first of `slots`: those that snapshots of this run lie in."""
        return self._places.in_memory

    @property
    def files(self) -> list[Path]:
        """What snapshots of this run that find no room in memory are captured in."""
        return self._places.files

    # --- the training thread ---------------------------------------------------------------------------------------

    def acquire(self, layout: SnapshotLayout) -> SnapshotArrays:
        """Arrays for the next snapshot, somewhere. Never waits.

        Raises:
            OSError: They must lie in a file, and none can be made. The snapshot counts as failed.
        """
        with self.changed:
            self.give_back_acquired()
            try:
                self._acquired = self._places.acquire(layout, closed=self.closed)
            except OSError as error:
                self.stats.submitted += 1
                self._backlog.lose("A reconstruction", f"{size_text(layout.nbytes)} for it cannot be had: {error}")
                raise
            return self._acquired.arrays

    @property
    def reuses_memory(self) -> bool:
        """Whether what was acquired last is memory that later snapshots will lie in too."""
        return self._acquired is not None and self._acquired.file is None

    def give_back_acquired(self) -> None:
        """Forget arrays that were acquired and will not be submitted."""
        with self.changed:
            acquired, self._acquired = self._acquired, None
            if acquired is not None:
                self._give_up(acquired)

    def _give_up(self, acquired: Acquired) -> None:
        if acquired.place is not None:  # its file, if that is what it is, will be used again
            self._places.release(acquired.place)
            self.changed.notify_all()
        elif acquired.file is not None:
            acquired.file.discard()

    def submit(self, snapshot: Snapshot, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Take the snapshot whose arrays were acquired last; `interrupted` ends the wait of `block`."""
        with self.changed:
            acquired, self._acquired = self._acquired, None
            if acquired is None:
                raise RuntimeError("submit without acquire: write the snapshot into the arrays that acquire returns.")
            self.stats.submitted += 1
            if self.closed:
                self._lose(snapshot.epoch, "the worker was closed already")
                if acquired.file is not None:
                    acquired.file.discard()
                return
            self._generation += 1
            job = acquired.job(self._generation, snapshot)
            self._arriving = True
            try:
                self._enqueue(job, acquired.file, interrupted)
            except (OSError, MemoryError, ValueError) as error:
                self._lose(job.epoch, f"it cannot be kept: {error}")
                self._backlog.forget_place(job)
                if acquired.file is not None:
                    acquired.file.discard()
            finally:
                self._arriving = False
                self.changed.notify_all()

    def _enqueue(self, job: Job, file: RawFile | None, interrupted: Callable[[], bool]) -> None:
        """Have the job wait where it is, in a place that is free by now, or as the overflow policy says."""
        self.history.append(job.times)
        outside = job.place is None
        if outside:
            job.place = self._place_for_overflow(job.times, interrupted)
        if file is not None or job.place is None or self.abandoned:
            spilled = job.place is None
            self.stats.spilled += self._backlog.wait_in_file(job, file) and spilled
            if self.abandoned:  # nobody will ever free it
                self._backlog.forget_place(job)
        else:
            self._backlog.wait_in_memory(job, from_overflow=outside)
        self.stats.high_water = max(self.stats.high_water, self.to_render)

    def _place_for_overflow(self, times: Times, interrupted: Callable[[], bool]) -> int | None:
        if self._settings.overflow == "block" and not (self._places.any_free or self._ends(interrupted)):
            self._wait_for_a_place(times, interrupted)
        if self.abandoned or self.closed:
            return None
        if self._settings.overflow == "drop-oldest" and not self._places.any_free:
            self._backlog.drop_oldest()
        return self._places.take()

    def _wait_for_a_place(self, times: Times, interrupted: Callable[[], bool]) -> None:
        """Until one is free, nobody will free one, or the time is over; the snapshot then goes to a file."""
        self.stats.waited += 1
        began = time.monotonic()
        while not (self._places.any_free or self._ends(interrupted)):
            left_s = began + self._settings.flush_timeout_s - time.monotonic()
            if left_s <= 0:
                break
            self.changed.wait(min(_POLL_S, left_s))
        times.waited_s = time.monotonic() - began

    def _ends(self, interrupted: Callable[[], bool]) -> bool:
        return self.abandoned or self.closed or interrupted()

    def _lose(self, epoch: int, reason: str) -> None:
        self._backlog.lose(f"The reconstruction of epoch {epoch}", reason)

    # --- what the worker does --------------------------------------------------------------------------------------

    def take(self) -> Job | None:
        """See `Backlog.take`."""
        with self.changed:
            return self._backlog.take(last_chance=self._draining)

    def began(self) -> None:
        """See `Backlog.began`."""
        with self.changed:
            self._backlog.began()

    def give_back(self) -> None:
        """See `Backlog.give_back`."""
        with self.changed:
            self._backlog.give_back()
            self.changed.notify_all()

    def abandon(self) -> None:
        """No worker will come: keep on disk what waits, and what comes."""
        with self.changed:
            self.abandoned = True
            self._backlog.move_to_files()
            self.changed.notify_all()

    def rendered(self, message: dict[str, Any]) -> None:
        """See `Backlog.rendered`."""
        with self.changed:
            job = self._backlog.rendered(message)
            if job is not None:
                self._uploads.add(job)
            self.changed.notify_all()

    def upload_events(self) -> None:
        """Expect the table of events to be logged."""
        with self.changed:
            self._uploads.expect_events()

    def finished(self, artifacts: int, failures: int) -> None:
        """So much was made beside the table of events."""
        with self.changed:
            self._uploads.finished(artifacts, failures)

    def put_aside(self, generation: int) -> None:
        """The server does not take one of a snapshot's artifacts: it is not waited for."""
        with self.changed:
            self._uploads.put_aside(generation)
            self.changed.notify_all()

    def reconsider(self) -> bool:
        """Wait for what was refused or put aside too, as it is tried again; whether there is any."""
        with self.changed:
            any_aside, refused, self.refused = self._uploads.reconsider(), self.refused, False
            return any_aside or refused

    def logged(self, generation: int) -> None:
        """All artifacts of a snapshot are in MLflow."""
        with self.changed:
            self._uploads.logged(generation)
            self.changed.notify_all()

    # --- how it stands ---------------------------------------------------------------------------------------------

    @property
    def to_render(self) -> int:
        """Snapshots that are not rendered yet."""
        return len(self._backlog)

    @property
    def to_upload(self) -> int:
        """Snapshots that are rendered and may still get into MLflow, the table of events among them."""
        return len(self._uploads)

    @property
    def in_flight(self) -> bool:
        """Whether the worker holds a snapshot."""
        return self._backlog.in_flight

    @property
    def unlogged(self) -> dict[str, int]:
        """Epoch -> generation of what is rendered and not in MLflow yet."""
        return self._uploads.generations

    def metrics(self, job: Job) -> dict[str, float]:
        """Numbers about the queue, as it is when a snapshot leaves it; the worker adds lag and retries."""
        counts = ("high_water", "spilled", "dropped", "waited", "failed", "restarts")
        return {
            **{name: getattr(self.stats, name) for name in counts},
            "depth": self.depth,
            "waiting": self._backlog.n_waiting,
            "stall_ms": 1e3 * job.times.stall_s,
        }

    def wait_empty(self, deadline: float, report: Callable[[str], None], interrupted: Callable[[], bool]) -> bool:
        """Wait until nothing is left; False when the time (monotonic) is over or nobody works on it."""
        with self.changed:
            self._draining = True
            self._backlog.try_again()
            while self._worth_waiting() and time.monotonic() < deadline and not interrupted():
                report(f"{self.to_render} to render, {self.to_upload} to upload to the tracking server")
                self.changed.wait(min(_POLL_S, max(0.0, deadline - time.monotonic())))
            self._draining = False
            return not (self.to_render or self.to_upload)

    def _worth_waiting(self) -> bool:
        return not self.abandoned and bool(self._backlog.worth_waiting or (self.to_upload and not self.refused))

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
            self._backlog.leave()
            self._uploads.leave()

    def close(self) -> None:
        """Give everything back."""
        self._places.close()
