"""`SnapshotQueue`: the bounded queue that tracks each snapshot from `acquire` until its artifacts are in MLflow.

    acquire -> submit -> WAITING -> take -> IN_FLIGHT -> rendered -> UPLOADING -> logged
                          ^   `-> dropped      |-> worker died: WAITING; after two deaths PARKED, after three given up
                          |                    |-> unreadable: WAITING; after three attempts given up
                          `-- POSTPONED <------'   the machine lacked memory, disk space or descriptors

The training thread submits, the supervisor's thread takes. One condition, `changed`, guards the jobs, their memory and
the ledger, and is notified of each change that a caller may wait for. At the end `leave` moves the rest to disk.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from recon_worker.client.job import EVENTS, REFERENCE, TO_RENDER, Job, State
from recon_worker.client.ledger import Ledger
from recon_worker.client.slot_memory import SlotMemory
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.records import Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.system.messages import message_log, size_text

_log = message_log(__name__)

_ATTEMPTS_BEFORE_PARKED, _MAX_ATTEMPTS = 2, 3
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 60.0
_SHORTAGES_PER_FLUSH = 4
"""Attempts per snapshot during a flush while the machine lacks resources."""
_ARRIVAL_WAIT_S = 2.0
_POLL_S = 0.2


class SnapshotQueue:
    """The jobs in all states, with their memory and ledger.

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
        """Whether further snapshots are rejected."""
        self.abandoned = False
        """Whether no worker will take further snapshots."""
        self.refused = False
        """Whether the server currently refuses all uploads."""
        self.rejected = set[int]()
        """Generations with an artifact that the server currently does not accept."""
        self._settings = settings
        self._arriving = self._draining = False
        self._jobs: dict[int, Job] = {}
        """Jobs by generation; within each state in processing order."""

    def in_state(self, *states: State) -> list[Job]:
        """Return the jobs in these states, in processing order within each state."""
        with self.changed:
            return [job for state in states for job in self._jobs.values() if job.state is state]

    # --- training: from any thread ----------------------------------------------------------------------------------

    def acquire(self, layout: SnapshotLayout) -> SnapshotArrays:
        """Return arrays for the next snapshot. Never waits.

        Raises:
            OSError, MemoryError: The memory or the file for the arrays cannot be allocated. The snapshot counts as
                failed.
        """
        with self.changed:
            try:
                return self.memory.acquire(layout, closed=self.closed)
            except (OSError, MemoryError) as error:
                self.stats.submitted += 1
                why = str(error) or type(error).__name__
                self._fail("A reconstruction", f"{size_text(layout.nbytes)} cannot be allocated for it: {why}")
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
        """Store the job in its slot, in a free one, or in a file."""
        if job.slot is None and not (self.memory.free or self.abandoned):
            if self._settings.overflow == "block" and not interrupted():
                self._wait_for_slot(job, interrupted)
            elif self._settings.overflow == "drop-oldest":
                self._drop_oldest(on_disk=False)
        # Slots of an abandoned queue are never freed.
        in_slot = not (self.abandoned or self.closed) and (job.slot is not None or bool(self.memory.free))
        spilled = job.slot is None and not in_slot
        while self.memory.exceeds_disk_limit(job, in_slot=in_slot) and self._drop_oldest(on_disk=True):
            pass
        self.memory.store(job, in_slot=in_slot)
        self._jobs[job.generation] = job
        self.stats.spilled += spilled
        self.stats.high_water = max(self.stats.high_water, len(self.in_state(*TO_RENDER)))

    def _wait_for_slot(self, job: Job, interrupted: Callable[[], bool]) -> None:
        """Wait, at most `flush_timeout_s`, until a slot is free or can no longer become free."""
        self.stats.waited += 1
        began = time.monotonic()
        while not (self.memory.free or self.abandoned or self.closed or interrupted()):
            if (left_s := began + self._settings.flush_timeout_s - time.monotonic()) <= 0:
                break
            self.changed.wait(min(_POLL_S, left_s))
        job.waited_s = time.monotonic() - began

    def _drop_oldest(self, *, on_disk: bool) -> bool:
        """Discard the job that has waited longest, overall or on disk. Returns False if none is waiting."""
        for job in self.in_state(State.POSTPONED, State.WAITING):
            if job.path is not None or not on_disk:
                self.stats.dropped += 1
                self.memory.discard(self._jobs.pop(job.generation))
                return True
        return False

    def wait_empty(self, deadline: float, report: Callable[[str], None], interrupted: Callable[[], bool]) -> bool:
        """Wait until everything is in MLflow. Returns False at the deadline (monotonic) or if no progress is possible.

        Does not wait for artifacts that the server does not accept.
        """
        with self.changed:
            self._draining = True
            for job in self.in_state(State.POSTPONED):
                job.shortages, job.due_s = 0, 0.0
            while True:
                to_render = len(self.in_state(*TO_RENDER))
                to_upload = len({job.generation for job in self.in_state(State.UPLOADING)} - self.rejected)
                exhausted = [j for j in self.in_state(State.POSTPONED) if j.shortages >= _SHORTAGES_PER_FLUSH]
                stuck = len(exhausted) == to_render and (self.refused or not to_upload)
                if stuck or self.abandoned or self.closed or interrupted() or time.monotonic() >= deadline:
                    break
                report(f"{to_render} to render, {to_upload} to upload to the tracking server")
                self.changed.wait(min(_POLL_S, max(0.0, deadline - time.monotonic())))
            self._draining = False
            return not (to_render or to_upload)

    def stop_accepting(self) -> None:
        """Reject further snapshots; one that waits for a slot goes to a file."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: not self._arriving, _ARRIVAL_WAIT_S)

    def leave(self) -> None:
        """Move all remaining snapshots to disk, where they stay, and count them; rendered ones are in the outbox."""
        with self.changed:
            for job in self.in_state(*TO_RENDER):
                self.stats.spooled += self._spill(job)
            for job in self.in_state(State.UPLOADING):
                self.stats.count_rendered(job, uploaded=False)
                del self._jobs[job.generation]

    # --- supervisor: holds `changed` and notifies, except for `abandon` ---------------------------------------------

    def take(self) -> Job | None:
        """Return the next job for the worker: a waiting one, else a due postponed one. None while the worker holds one.

        During a flush no new jobs arrive, so parked jobs get their last attempt, and postponed ones a limited number.
        """
        if self.in_state(State.IN_FLIGHT):
            return None
        due = [job for job in self.in_state(State.POSTPONED) if job.due_s <= time.monotonic()]
        if self._draining:
            due = [job for job in due if job.shortages < _SHORTAGES_PER_FLUSH] + self.in_state(State.PARKED)
        job = next(iter(self.in_state(State.WAITING) + due), None)
        if job is not None:
            job.state = State.IN_FLIGHT
        return job

    def worker_died(self) -> None:
        """Requeue the job in flight at its old position, or last after two deaths. Give it up after three."""
        self.refused = False  # the next worker retries all uploads
        self.rejected.clear()
        for job in self.in_state(State.IN_FLIGHT):
            died = f"{job.attempts} workers died while rendering the snapshot of epoch {job.epoch}"
            if job.attempts < _ATTEMPTS_BEFORE_PARKED:
                job.state = State.WAITING  # it keeps its position
            elif job.attempts >= _MAX_ATTEMPTS:
                self._give_up(job, died)
            elif self._spill(job):
                _log.warning("%s; the other snapshots go first.", died)
                self._requeue(job, State.PARKED)

    def abandon(self) -> None:
        """Move waiting and all later snapshots to disk: no further worker will be started."""
        with self.changed:
            self.abandoned = True
            for job in self.in_state(State.WAITING, State.POSTPONED):
                self._spill(job)
            self.changed.notify_all()

    def rendered(self, report: dict[str, Any]) -> None:
        """Record the worker's report on the job in flight. Requeues a job that could not be read or rendered."""
        job, failures = self._jobs.get(report["generation"]), report["failures"]
        if job is None or job.state is not State.IN_FLIGHT:
            return
        name = f"The snapshot of epoch {job.epoch}"
        if report["short"]:
            if not job.shortages:
                _log.warning("%s cannot be rendered now (%s); it is kept and tried again.", name, failures[-1][1])
            job.due_s = time.monotonic() + min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**job.shortages)
            job.shortages += 1
            job.attempts -= 1  # the snapshot is not the cause
            self._requeue(job, State.POSTPONED)
        elif report["unread"] and job.attempts < _MAX_ATTEMPTS:
            _log.warning("%s cannot be read (%s); it is tried again.", name, failures[0][1])
            self._requeue(job, State.WAITING)
        elif report["unread"]:
            self._give_up(job, f"{name} could not be read in {job.attempts} attempts ({failures[0][1]})")
        else:
            job.state, job.artifacts, job.failures = State.UPLOADING, report["artifacts"], len(failures)
            job.started, job.stitched = report["started_unix_s"], report["stitched_unix_s"]
            job.rendered = report["rendered_unix_s"]
            self.stats.metrics |= {int(epoch): metrics for epoch, metrics in report["earlier"].items()}
            self.stats.add_rendered(job.epoch, report)
            if failures:
                text = "Epoch %d: %d artifacts failed, the first being %s: %s"
                _log.warning(text, job.epoch, job.failures, *failures[0])
                self.memory.release(job)  # not its file, which the worker keeps under another name
            else:
                self.memory.discard(job)

    def _requeue(self, job: Job, state: State) -> None:
        """Change a job's state and move it behind the others."""
        job.state = state
        self._jobs[job.generation] = self._jobs.pop(job.generation)

    def _give_up(self, job: Job, cause: str) -> None:
        """Give up a job. Keeps its snapshot under a name that is not retried."""
        del self._jobs[job.generation]
        try:
            kept = self.memory.outbox.mark_damaged(self.memory.spill(job))
        except OSError as error:  # its file was removed, or the disk is read-only or full
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

    def logged(self, generation: int) -> str:
        """Count a snapshot whose artifacts are all in MLflow. Returns the line that reports it; empty: nothing new."""
        self.rejected.discard(generation)
        job = self._jobs.get(generation)
        if job is not None and job.state is State.UPLOADING:
            del self._jobs[generation]
            job.logged = time.time()
            self.stats.count_rendered(job, uploaded=True)
            if job.generation not in (EVENTS, REFERENCE) and not job.failures:
                return self.stats.add_logged(job.epoch, job.logged - job.submitted)
        return ""

    def expect(self, generation: int, artifacts: int = 0) -> None:
        """Track artifacts that belong to no snapshot, so that a flush waits for them; `artifacts` are in the outbox."""
        self._jobs[generation] = Job(generation=generation, artifacts=artifacts, state=State.UPLOADING)

    def finished(self, generation: int, artifacts: int, failures: int) -> None:
        """Count artifacts of the worker that belong to no snapshot."""
        if (job := self._jobs.get(generation)) is not None:
            job.artifacts += artifacts
            job.failures += failures
