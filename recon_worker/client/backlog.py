"""Snapshots that are not rendered yet: which of them wait, which one the worker has, and which ones cost it its life.

    wait_in_memory, wait_in_file -> waiting -> take -> in flight -> rendered, or it could not be read: waiting
                                                            |-----> give_back: the worker died
                                                            `-----> the machine is short of something: postponed

Keeps them in their place, moves them to files, gives them up. No lock of its own: `SnapshotQueue` guards it.
"""

import time
from collections import deque
from typing import Any

from recon_worker.client.depth_advice import Job
from recon_worker.client.ledger import Ledger
from recon_worker.client.places import Places
from recon_worker.snapshot.codec import FILE_HEADER_BYTES, dump_snapshot
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.snapshot_file import RawFile
from recon_worker.system.messages import message_log

_log = message_log(__name__)

_ATTEMPTS_BEFORE_OTHERS, _MAX_ATTEMPTS = 2, 3
"""So often may a snapshot cost a worker before all others go first, and before it is not tried again."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0
_LAST_TRIES = 4
"""So often is a snapshot tried during a flush while the machine is short of something (`shortages`)."""


class Backlog:
    """See above.

    Args:
        places: Where snapshots wait.
        stats: Where what becomes of them is counted.
        spill_bytes: Snapshots that wait on disk at most.
    """

    def __init__(self, places: Places, stats: Ledger, spill_bytes: int) -> None:
        self._places, self._stats, self._spill_bytes = places, stats, spill_bytes
        self._waiting: deque[Job] = deque()
        self._parked: deque[Job] = deque()
        self._postponed: deque[Job] = deque()
        self._in_flight: Job | None = None
        self._outbox: Outbox | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._parked) + len(self._postponed) + self.in_flight

    @property
    def n_waiting(self) -> int:
        """Snapshots whose turn comes, without those that are set apart."""
        return len(self._waiting)

    @property
    def in_flight(self) -> bool:
        """Whether the worker holds a snapshot."""
        return self._in_flight is not None

    @property
    def worth_waiting(self) -> bool:
        """Whether any may be rendered soon: not only those that were often enough tried on a machine that is short."""
        hopeful = any(job.shortages < _LAST_TRIES for job in self._postponed)
        return bool(self._waiting or self._parked or hopeful or self.in_flight)

    def try_again(self) -> None:
        """A flush begins: those that the machine was too short for are tried now, and some times more."""
        for job in self._postponed:
            job.shortages, job.due_s = 0, 0.0

    def open(self, outbox: Outbox) -> None:
        """Say where files go."""
        self._outbox = outbox

    def wait_in_memory(self, job: Job, *, from_overflow: bool) -> None:
        """Have a snapshot wait in its slot; see `Places.publish`."""
        self._places.publish(job, from_overflow=from_overflow)
        self._waiting.append(job)

    def wait_in_file(self, job: Job, file: RawFile | None) -> bool:
        """Have a snapshot wait in a file, within the bound; older ones in files are given up for it.

        Args:
            job: The snapshot.
            file: The one that it was captured in; None: it is in memory, and written to one now.

        Returns:
            False, and it counts as failed, if it cannot be written.
        """
        assert self._outbox is not None
        while self._outbox.raw_bytes() + FILE_HEADER_BYTES + job.nbytes > self._spill_bytes:
            older = next((one for one in (*self._postponed, *self._waiting) if one.path is not None), None)
            if older is None:
                break
            (self._postponed if older in self._postponed else self._waiting).remove(older)
            self._drop(older)
        if file is not None:
            job.path = self._outbox.publish_raw(file, job.generation, job.epoch, job.header)
        elif not self._write(job):
            return False
        self._waiting.append(job)
        return True

    def drop_oldest(self) -> None:
        """Give up the snapshot that has waited longest, if there is one."""
        if self._postponed or self._waiting:
            self._drop((self._postponed or self._waiting).popleft())

    def _drop(self, job: Job) -> None:
        self._stats.dropped += 1
        self._let_go(job)

    def _let_go(self, job: Job) -> None:
        """Its place is free, and its file to be used again, or gone."""
        if job.path is not None:
            assert self._outbox is not None
            try:
                self._outbox.free_raw(job.path, self._places.file_place(job))
            except OSError as error:
                _log.warning("%s is not needed any more and cannot be removed: %s", job.path, error)
        self.forget_place(job)

    def forget_place(self, job: Job) -> None:
        """Its place is free."""
        if job.place is not None:
            self._places.release(job.place)
            job.place = None

    def _write(self, job: Job) -> bool:
        """Have a snapshot be in a file and take no place; False, and counted as failed, if that cannot be."""
        if job.path is None:
            assert self._outbox is not None
            try:
                parts = dump_snapshot(job.header, self._places.memory_of(job))
                job.path = self._outbox.put_raw(job.generation, job.epoch, parts)
            except OSError as error:
                self.lose(
                    f"The reconstruction of epoch {job.epoch}", f"{self._outbox.folder} cannot be written: {error}"
                )
        self.forget_place(job)
        return job.path is not None

    def lose(self, what: str, reason: str) -> None:
        """Count a failure."""
        self._stats.failed += 1
        _log.warning("%s is lost: %s.", what, reason)

    def take(self, *, last_chance: bool) -> Job | None:
        """The oldest waiting snapshot, now in flight; None while another one is, or if none waits.

        Those that were postponed come after all others, when their time has come.

        Args:
            last_chance: Whether nothing else will come: then those that have cost two workers get their third.
        """
        if self._in_flight is not None:
            return None
        if not self._waiting:
            self._resume_postponed(last_chance=last_chance)
        source = self._waiting or (self._parked if last_chance else None)
        self._in_flight = source.popleft() if source else None
        return self._in_flight

    def _resume_postponed(self, *, last_chance: bool) -> None:
        """Have the first one wait whose time has come; during a flush, not one that was tried often enough."""
        now_s = time.monotonic()
        for job in self._postponed:
            if job.due_s <= now_s and not (last_chance and job.shortages >= _LAST_TRIES):
                self._postponed.remove(job)
                self._waiting.append(job)
                return

    def began(self) -> None:
        """The worker has begun with the snapshot in flight: if it dies now, that may be the snapshot's fault."""
        if self._in_flight is not None:
            self._in_flight.attempts += 1

    def give_back(self) -> None:
        """The worker died: its snapshot waits again, behind all others if it has cost two, or is set aside."""
        job, self._in_flight = self._in_flight, None
        if job is None:
            return
        if job.attempts < _ATTEMPTS_BEFORE_OTHERS:
            self._waiting.appendleft(job)
        elif job.attempts < _MAX_ATTEMPTS:
            _log.warning("%d workers died over the snapshot of epoch %d: the others go first.", job.attempts, job.epoch)
            if self._write(job):
                self._parked.append(job)
        else:
            self._set_aside(job, f"{job.attempts} workers died over")

    def _try_again(self, job: Job, reason: str) -> None:
        """The worker could not read it: it waits again, behind all others, or is set aside."""
        if job.attempts < _MAX_ATTEMPTS:
            _log.warning("The snapshot of epoch %d cannot be read (%s); it is tried again.", job.epoch, reason)
            self._waiting.append(job)
        else:
            self._set_aside(job, f"{job.attempts} times {reason} came of reading")

    def _postpone(self, job: Job, reason: str) -> None:
        """The machine is to blame, not the snapshot: it keeps its place or file and waits, behind all others."""
        if not job.shortages:
            _log.warning(
                "The snapshot of epoch %d cannot be rendered now (%s); it is kept and tried again.", job.epoch, reason
            )
        job.attempts -= 1
        job.due_s = time.monotonic() + min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**job.shortages)
        job.shortages += 1
        self._postponed.append(job)

    def _set_aside(self, job: Job, what: str) -> None:
        """Keep a snapshot that fails each time, under a name that nobody tries again."""
        assert self._outbox is not None
        if not self._write(job):
            return
        assert job.path is not None
        self._stats.failed += 1
        try:
            kept = self._outbox.set_aside(job.path)
        except OSError as error:  # somebody has removed it, or the disk takes no changes
            _log.warning("%s the snapshot of epoch %d. %s cannot be kept: %s", what, job.epoch, job.path, error)
            return
        _log.warning("%s the snapshot of epoch %d. It is kept as %s and not tried again.", what, job.epoch, kept)

    def rendered(self, message: dict[str, Any]) -> Job | None:
        """The snapshot in flight: its artifacts are in the outbox, as the worker's message says. Its place is free.

        None, and it waits again, if it could not be read, or if the machine was short of something.
        """
        job = self._in_flight
        if job is None or job.generation != message["generation"]:
            return None
        self._in_flight = None
        if message["short"]:
            self._postpone(job, message["failures"][-1][1])
            return None
        if message["unread"]:
            self._try_again(job, message["failures"][0][1])
            return None
        job.times.started, job.times.stitched = message["started_unix_s"], message["stitched_unix_s"]
        job.times.rendered = message["rendered_unix_s"]
        job.artifacts, job.failures = message["artifacts"], len(message["failures"])
        for path, reason in message["failures"][:1]:
            _log.warning("Epoch %d: %d artifacts failed, the first being %s: %s", job.epoch, job.failures, path, reason)
        if job.failures:  # the worker keeps the file, under another name
            self.forget_place(job)
        else:
            self._let_go(job)
        return job

    def move_to_files(self) -> None:
        """No worker will come: what waits is kept on disk."""
        rest = [*self._waiting, *self._postponed]
        self._postponed.clear()
        self._waiting = deque([job for job in rest if self._write(job)])

    def leave(self) -> None:
        """What is left stays on disk."""
        rest = [*([self._in_flight] if self._in_flight else []), *self._waiting, *self._parked, *self._postponed]
        self._in_flight = None
        self._waiting.clear()
        self._parked.clear()
        self._postponed.clear()
        self._stats.spooled += sum(self._write(job) for job in rest)
