"""`SnapshotQueue`: the bounded queue that keeps each snapshot from `acquire` until its artifacts are in MLflow.

    acquire -> submit -> WAITING -> take -> IN_FLIGHT -> rendered -> UPLOADING -> logged
                          ^   `-> dropped      |-> worker died: WAITING; after two deaths PARKED, after three set aside
                          |                    |-> unreadable: WAITING; after three attempts set aside
                          `-- POSTPONED <------'   the machine was short of memory, disk or descriptors

The training thread submits, the supervisor's thread takes. One lock, `changed`, guards the jobs, their memory and the
ledger; it is notified of everything that a caller may wait for. At the end `leave` keeps on disk what is left.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from recon_worker.client.job import EVENTS, Job, State
from recon_worker.client.ledger import Ledger
from recon_worker.client.slot_memory import SlotMemory
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.records import Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.system.messages import message_log, size_text

_log = message_log(__name__)

_TO_RENDER = (State.WAITING, State.IN_FLIGHT, State.POSTPONED, State.PARKED)
_ATTEMPTS_BEFORE_PARKED, _MAX_ATTEMPTS = 2, 3
_SHORTAGES_PER_FLUSH = 4
"""Attempts per snapshot during a flush while the machine stays short of resources."""
_ARRIVAL_WAIT_S = 2.0
_POLL_S = 0.2


class SnapshotQueue:
    """Jobs in all their states, their memory and their ledger.

    Args:
        settings: Depth, overflow policy and limits.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.stats = Ledger()
        self.history: list[Job] = []
        """All snapshots submitted, for the table of events."""
        self.memory = SlotMemory(settings)
        self.changed = threading.Condition()
        self.closed = False
        """No further snapshot is accepted."""
        self.abandoned = False
        """No worker will take snapshots any more."""
        self.refused = False
        """The server refuses all uploads for now."""
        self.rejected = set[int]()
        """Generations with an artifact that the server does not accept for now."""
        self._settings = settings
        self._arriving = self._draining = False
        self._jobs: dict[int, Job] = {}
        """By generation; within each state in the order of their turns."""

    def in_state(self, *states: State) -> list[Job]:
        """Return the jobs in these states, each in the order of their turns."""
        with self.changed:
            return [job for state in states for job in self._jobs.values() if job.state is state]

    @property
    def to_render(self) -> int:
        """Number of snapshots not rendered yet."""
        return len(self.in_state(*_TO_RENDER))

    @property
    def to_upload(self) -> int:
        """Number of rendered snapshots, and of tables of events, that may still reach MLflow."""
        return len({job.generation for job in self.in_state(State.UPLOADING)} - self.rejected)

    @property
    def in_flight(self) -> bool:
        """Whether the worker holds a snapshot."""
        return bool(self.in_state(State.IN_FLIGHT))

    # --- training: from any thread ----------------------------------------------------------------------------------

    def acquire(self, layout: SnapshotLayout) -> SnapshotArrays:
        """Return arrays for the next snapshot. Never waits.

        Raises:
            OSError: The arrays must lie in a file, and none can be made. The snapshot counts as failed.
        """
        with self.changed:
            try:
                return self.memory.acquire(layout, closed=self.closed)
            except OSError as error:
                self.stats.submitted += 1
                self._fail("A reconstruction", f"{size_text(layout.nbytes)} cannot be allocated for it: {error}")
                raise
            finally:
                self.changed.notify_all()

    def submit(self, snapshot: Snapshot, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Accept the snapshot whose arrays were acquired last; `interrupted` ends the wait of policy `block`."""
        with self.changed:
            job = self.memory.claim(len(self.history) + 1, snapshot)
            self.stats.submitted += 1
            self._arriving = True
            try:
                if self.closed:
                    raise OSError("the worker is closed")
                self.history.append(job)
                self._enqueue(job, interrupted)
            except (OSError, MemoryError, ValueError) as error:
                reason = str(error) or type(error).__name__
                self._fail(f"The reconstruction of epoch {job.epoch}", f"it cannot be stored: {reason}")
                self.memory.discard(job)
            finally:
                self._arriving = False
                self.changed.notify_all()

    def _enqueue(self, job: Job, interrupted: Callable[[], bool]) -> None:
        """Store the job in its slot, in one that has become free, or in a file."""
        if job.slot is None:
            self._apply_overflow_policy(job, interrupted)
        # Nobody would ever free a slot of an abandoned queue.
        in_slot = not (self.abandoned or self.closed) and (job.slot is not None or self.memory.any_free)
        spilled = job.slot is None and not in_slot
        while self.memory.exceeds_disk_limit(job, in_slot=in_slot) and self._drop_oldest(on_disk=True):
            pass
        self.memory.store(job, in_slot=in_slot)
        self._jobs[job.generation] = job
        self.stats.spilled += spilled
        self.stats.high_water = max(self.stats.high_water, self.to_render)

    def _apply_overflow_policy(self, job: Job, interrupted: Callable[[], bool]) -> None:
        """Wait for a free slot or make one, if the policy says so; otherwise the job goes to a file."""

        def wait_is_over() -> bool:
            return self.memory.any_free or self.abandoned or self.closed or interrupted()

        if self._settings.overflow == "block" and not wait_is_over():
            self.stats.waited += 1
            began = time.monotonic()
            while not wait_is_over() and (left_s := began + self._settings.flush_timeout_s - time.monotonic()) > 0:
                self.changed.wait(min(_POLL_S, left_s))
            job.waited_s = time.monotonic() - began
        elif self._settings.overflow == "drop-oldest" and not (self.memory.any_free or self.abandoned):
            self._drop_oldest(on_disk=False)

    def _drop_oldest(self, *, on_disk: bool) -> bool:
        """Discard the job that has waited longest, of all or of those on disk. Returns False if there is none."""
        for job in self.in_state(State.POSTPONED, State.WAITING):
            if job.path is not None or not on_disk:
                self.stats.dropped += 1
                self.memory.discard(self._jobs.pop(job.generation))
                return True
        return False

    def wait_empty(self, deadline: float, report: Callable[[str], None], interrupted: Callable[[], bool]) -> bool:
        """Wait until everything is in MLflow. Returns False at the deadline (monotonic) or if nothing can be done."""
        with self.changed:
            self._draining = True
            for job in self.in_state(State.POSTPONED):
                job.shortages, job.due_s = 0, 0.0
            while not (self.abandoned or interrupted()) and time.monotonic() < deadline:
                exhausted = [j for j in self.in_state(State.POSTPONED) if j.shortages >= _SHORTAGES_PER_FLUSH]
                if len(exhausted) == self.to_render and (self.refused or not self.to_upload):
                    break
                report(f"{self.to_render} to render, {self.to_upload} to upload to the tracking server")
                self.changed.wait(min(_POLL_S, max(0.0, deadline - time.monotonic())))
            self._draining = False
            return not (self.to_render or self.to_upload)

    def stop_accepting(self) -> None:
        """Accept no further snapshot; one that waits for a slot goes to a file."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self._arriving, _ARRIVAL_WAIT_S)

    def leave(self) -> None:
        """Keep on disk, and count, everything that is not in MLflow."""
        with self.changed:
            for job in self.in_state(*_TO_RENDER):
                self.stats.spooled += self._spill(job)
            for job in self.in_state(State.UPLOADING):
                self.stats.count_left(job)
            self._jobs.clear()

    # --- supervisor: it holds `changed`, and notifies, except for `abandon` -----------------------------------------

    def take(self) -> Job | None:
        """Pass the next job to the worker: a waiting one, else a postponed one that is due. None while it holds one.

        During a flush nothing else will arrive: parked jobs get their last attempt, and postponed ones a few.
        """
        if self.in_flight:
            return None
        due = [job for job in self.in_state(State.POSTPONED) if job.due_s <= time.monotonic()]
        if self._draining:
            due = [job for job in due if job.shortages < _SHORTAGES_PER_FLUSH] + self.in_state(State.PARKED)
        job = next(iter(self.in_state(State.WAITING) + due), None)
        if job is not None:
            job.state = State.IN_FLIGHT
        return job

    def began(self) -> None:
        """Note that the worker begins to render: if it dies now, the snapshot in flight may be the cause."""
        for job in self.in_state(State.IN_FLIGHT):
            job.attempts += 1

    def worker_died(self) -> None:
        """Requeue the job in flight: in front, behind all others after two deaths; set it aside after three."""
        for job in self.in_state(State.IN_FLIGHT):
            died = f"{job.attempts} workers died over the snapshot of epoch {job.epoch}"
            if job.attempts < _ATTEMPTS_BEFORE_PARKED:
                job.state = State.WAITING  # it has kept its turn
            elif job.attempts >= _MAX_ATTEMPTS:
                self._set_aside(job, died)
            elif self._spill(job):
                _log.warning("%s: the others go first.", died)
                self._requeue(job, State.PARKED)

    def abandon(self) -> None:
        """Move waiting snapshots to disk, now and from now on, as no worker will come."""
        with self.changed:
            self.abandoned = True
            for job in self.in_state(State.WAITING, State.POSTPONED):
                self._spill(job)
            self.changed.notify_all()

    def rendered(self, report: dict[str, Any]) -> None:
        """Record the worker's report on the job in flight. Requeues one that it could not read, or not render now."""
        job, failures = self._jobs.get(report["generation"]), report["failures"]
        if job is None or job.state is not State.IN_FLIGHT:
            return
        name = f"The snapshot of epoch {job.epoch}"
        if report["short"]:
            if not job.shortages:
                _log.warning("%s cannot be rendered now (%s); it is kept and tried again.", name, failures[-1][1])
            job.postpone()
            self._requeue(job, State.POSTPONED)
        elif report["unread"] and job.attempts < _MAX_ATTEMPTS:
            _log.warning("%s cannot be read (%s); it is tried again.", name, failures[0][1])
            self._requeue(job, State.WAITING)
        elif report["unread"]:
            self._set_aside(job, f"{name} could not be read in {job.attempts} attempts ({failures[0][1]})")
        else:
            job.record_rendered(report)
            if failures:
                text = "Epoch %d: %d artifacts failed, the first being %s: %s"
                _log.warning(text, job.epoch, job.failures, *failures[0])
                self.memory.release(job)  # not its file: the worker keeps that under another name
            else:
                self.memory.discard(job)

    def _requeue(self, job: Job, state: State) -> None:
        """Change a job's state and move it behind the others."""
        job.state = state
        self._jobs[job.generation] = self._jobs.pop(job.generation)

    def _set_aside(self, job: Job, cause: str) -> None:
        """Give up a job, keeping its snapshot under a name that nothing tries again."""
        del self._jobs[job.generation]
        try:
            kept = self.memory.set_aside(job)
        except OSError as error:  # somebody has removed its file, or the disk accepts no changes
            self._fail(f"The reconstruction of epoch {job.epoch}", f"{cause}, and it cannot be kept: {error}")
        else:
            self.stats.failed += 1
            _log.warning("%s. It is kept as %s and not tried again.", cause, kept)

    def _spill(self, job: Job) -> bool:
        """Move the snapshot to a spool file and free its slot. Returns False, and counts it as failed, on errors."""
        try:
            self.memory.spill(job)
        except OSError as error:
            self._fail(f"The reconstruction of epoch {job.epoch}", str(error))
            del self._jobs[job.generation]
            return False
        return True

    def _fail(self, what: str, reason: str) -> None:
        self.stats.failed += 1
        _log.warning("%s is lost: %s.", what, reason)

    def logged(self, generation: int) -> None:
        """Count a snapshot whose artifacts are all in MLflow."""
        self.rejected.discard(generation)
        job = self._jobs.get(generation)
        if job is not None and job.state is State.UPLOADING:
            del self._jobs[generation]
            job.logged = time.time()
            self.stats.count_logged(job)

    def expect_events(self) -> None:
        """Wait for the table of events, which is in the outbox, as for a snapshot."""
        self._jobs[EVENTS] = Job(generation=EVENTS, artifacts=1, state=State.UPLOADING)

    def finished(self, artifacts: int, failures: int) -> None:
        """Count the artifacts that the worker makes at the end, beside the table of events."""
        if (events := self._jobs.get(EVENTS)) is not None:
            events.artifacts += artifacts
            events.failures += failures
