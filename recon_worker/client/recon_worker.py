"""`ReconWorker`: the training process's side of the worker. Hands snapshots over and never waits for them.

    training thread: acquire -> (copy) -> submit        Supervisor's thread: hears, feeds and replaces the worker
                              \\                        /
                               SnapshotQueue (one lock)                            -> pipe -> worker process

Owns the order of events: start, submit, flush, close, once, from wherever the end comes. Where snapshots are is in
`snapshot_queue`, what happens to the process in `supervisor`.
"""

import atexit
import contextlib
import itertools
import os
import signal
import threading
import time
import weakref
from pathlib import Path

from tqdm import tqdm

from recon_worker.client.depth_advice import advice, events_csv
from recon_worker.client.ledger import Ledger
from recon_worker.client.signals import HeldSignals
from recon_worker.client.snapshot_queue import SnapshotQueue
from recon_worker.client.supervisor import Supervisor
from recon_worker.client.uploads import EVENTS
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.artifact import Artifact
from recon_worker.snapshot.records import Scan, Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.spool.lock import SpoolBusyError, is_alone
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.run_target import RunTarget
from recon_worker.spool.sync_command import quoted, sync_command
from recon_worker.system.messages import message_log
from recon_worker.system.standard_streams import occupy_descriptors, shows_progress

_log = message_log(__name__)

_EVENTS_NAME = "recon_log/events.csv"
_OPENINGS = 20
"""How often a folder of the spool is made: another process may remove it, empty, at the same moment."""


class ReconWorker:
    """A bounded queue and a worker process that renders and uploads; see `ReconBackend`.

    Args:
        settings: Queue, overflow and timeouts.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        occupy_descriptors()
        self.settings = settings
        self._owner = os.getpid()
        self._queue = SnapshotQueue(settings)
        self._supervisor = Supervisor(self._queue, settings.silence_s, settings.flush_timeout_s)
        self._outbox: Outbox | None = None
        self._lock = -1
        self._launched = self._events_written = False
        self._closing = threading.Lock()

    def __enter__(self) -> "ReconWorker":
        self.launch()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close(self.settings.flush_timeout_s)

    @property
    def stats(self) -> Ledger:
        """What became of the snapshots so far."""
        return self._queue.stats

    @property
    def is_ready(self) -> bool:
        """Whether a worker process has started and answers."""
        return self._supervisor.is_ready

    @property
    def pid(self) -> int:
        """Process id of the worker; 0 while there is none."""
        return self._supervisor.pid

    @property
    def depth(self) -> int:
        """Snapshots that may wait before the overflow policy is asked."""
        return self._queue.depth

    @property
    def to_render(self) -> int:
        """Snapshots that are not rendered yet."""
        return self._queue.to_render

    def launch(self) -> None:
        """Start the process, without waiting for it: it imports while the data is read."""
        if self._launched:
            return
        self._launched = True
        self._supervisor.launch()
        atexit.register(self.close, self.settings.flush_timeout_s)
        _OPEN.add(self)

    def start(self, target: RunTarget, scan: Scan, layout: SnapshotLayout) -> None:
        """Say what the run is, what stays the same, and how large its snapshots are."""
        self.launch()
        self._outbox, self._lock = _own_folder(self.settings.spool_dir, target)
        self._outbox.describe(target, scan)
        self._queue.open(self._outbox, layout)
        self._supervisor.introduce(target, self._outbox, self._lock, scan, layout)

    def acquire(self, layout: SnapshotLayout) -> SnapshotArrays:
        """See `ReconBackend`. Never waits."""
        with HeldSignals():
            return self._queue.acquire(layout)

    @property
    def reuses_memory(self) -> bool:
        """See `ReconBackend`."""
        return self._queue.reuses_memory

    def submit(self, snapshot: Snapshot) -> None:
        """Hand over the snapshot whose arrays were acquired last."""
        with HeldSignals() as held:
            self._queue.submit(snapshot, lambda: bool(held.arrived))
            self._supervisor.wake()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is logged that the server takes.

        False when the time is over, nothing can be done, or the user interrupts.
        """
        deadline = time.monotonic() + timeout_s
        self._supervisor.try_again()
        bar = tqdm(bar_format="Reconstructions: {desc}", disable=not shows_progress(), leave=False)
        with bar, HeldSignals() as held:
            done = self._queue.wait_empty(deadline, bar.set_description_str, lambda: bool(held.arrived))
            held.forget(signal.SIGINT)
        return done

    def close(self, timeout_s: float) -> None:
        """Flush, keep what is left in the spool, end the worker. May be called twice, from anywhere.

        Any signal ends the flush, not what follows; SIGINT has done its work with that, others take effect in the end.
        """
        with HeldSignals() as held:
            if os.getpid() != self._owner or not self._closing.acquire(blocking=False):
                return  # a forked child's copy; or closed already, and the lock is never given back
            deadline = time.monotonic() + timeout_s
            self._supervisor.hurry()
            try:
                if self.flush(timeout_s) and not held.arrived and self._outbox is not None and self.stats.submitted:
                    self._log_events(self._outbox, deadline)
            finally:
                self._shut_down()
            held.forget(signal.SIGINT)

    def summary(self) -> str:
        """What became of the snapshots, and which queue would have kept them all in memory, had workers lived."""
        queue, words = self._queue, f"Reconstructions: {self.stats}."
        if queue.abandoned:
            return words
        return f"{words} {advice(queue.history, queue.depth, self.stats, self.settings.queue_bytes)}".rstrip()

    def _log_events(self, outbox: Outbox, deadline: float) -> None:
        """The table of events is the last artifact."""
        if self._write_events(outbox):
            self._queue.upload_events()
            self._supervisor.finish(EVENTS, _EVENTS_NAME)
            self.flush(deadline - time.monotonic())

    def _write_events(self, outbox: Outbox) -> bool:
        """Have the table of events wait in the outbox; False if it cannot be written. Once, whatever comes later."""
        self._events_written = True
        try:
            outbox.put(Artifact(_EVENTS_NAME, events_csv(self._queue.history)))
        except OSError as error:
            _log.warning("The table of events cannot be written: %s", error)
            return False
        return True

    def _shut_down(self) -> None:
        """End the worker, keep what is left, give everything back."""
        steps = (self._queue.stop_taking, self._supervisor.stop, self._queue.spool_rest, self._leave_events)
        for step in (*steps, self._leave_spool, self._queue.close):
            try:
                step()
            except Exception:  # the other steps must not be left out
                _log.warning("The end of the reconstruction logging was not as it should be.", exc_info=True)
        if self._lock >= 0:
            os.close(self._lock)
        if self._outbox is not None:
            self._outbox.close()
        _OPEN.discard(self)
        atexit.unregister(self.close)

    def _leave_events(self) -> None:
        """Where snapshots are left to a sync, the table of events is too."""
        if self._outbox is not None and self.stats.submitted and not self._events_written:
            self._write_events(self._outbox)

    def _leave_spool(self) -> None:
        """Remove the spool if nothing is in it; else say how to upload what is."""
        if self._outbox is None:
            return
        folder = self._outbox.folder
        try:
            if is_alone(self._lock):  # a worker of an earlier process may use the same folder
                self._outbox.sweep()
                self._outbox.discard()
        except OSError as error:
            _log.warning("%s cannot be removed: %s", folder, error)
        for line in words_for_what_is_left(self._outbox):
            _log.warning("%s", line)

    def _forget(self) -> None:
        """In a forked child: close what tells others that this process lives."""
        self._supervisor.forget()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def words_for_what_is_left(outbox: Outbox) -> list[str]:
    """What a user should know of the spool when the training is over; nothing if nothing of ours is left in it."""
    names, epochs, damaged, lines = list(outbox.artifacts()), outbox.epochs(), outbox.damaged(), list[str]()
    folder = outbox.place_now
    if epochs or names:
        what = _counted(len(epochs), "reconstruction") if epochs else _counted(len(names), "artifact")
        which = "" if epochs else f" ({', '.join(names)})"
        verb = "is" if len(epochs or names) == 1 else "are"
        kept = f"kept in {quoted(folder)}, upload with: {sync_command(folder)}"
        lines.append(f"{what}{which} {verb} not in MLflow yet; {kept}")
    if damaged:
        kept = ", ".join(quoted(folder / one.relative_to(outbox.folder)) for one in damaged)
        what = f"{_counted(len(damaged), 'snapshot')} could not be rendered, or not whole; kept as {kept}"
        lines.append(f"{what}. A sync tries again only with --retry-damaged; remove what you have looked at.")
    return lines


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _own_folder(spool_dir: Path, target: RunTarget) -> tuple[Outbox, int]:
    """A folder of the spool with nothing that this training must not touch, and its lock.

    Snapshots of an earlier process may belong to another scan. What else it has left may have the names of what this
    one will make, which is right only where this one continues it.
    """
    for number in itertools.count(1):
        folder = spool_dir / (target.run_id if number == 1 else f"{target.run_id}_{number}")
        with contextlib.suppress(SpoolBusyError):
            outbox, lock = _open_shared(folder)
            if not outbox.raw() and (target.continues or not (outbox.history() or any(outbox.artifacts()))):
                return outbox, lock
            os.close(lock)
    raise AssertionError("unreachable")


def _open_shared(folder: Path) -> tuple[Outbox, int]:
    """A folder of the spool, made if need be, and its lock."""
    for _ in range(_OPENINGS):
        with contextlib.suppress(FileNotFoundError):  # its last user has just removed it
            return _opened(folder)
    return _opened(folder)


def _opened(folder: Path) -> tuple[Outbox, int]:
    outbox = Outbox(folder)
    return outbox, outbox.take_lock(shared=True)


_OPEN: "weakref.WeakSet[ReconWorker]" = weakref.WeakSet()
"""Workers of this process; a forked child (a DataLoader worker) must not keep their pipes and locks."""


def _forget_all() -> None:
    for worker in list(_OPEN):
        worker._forget()


os.register_at_fork(after_in_child=_forget_all)
