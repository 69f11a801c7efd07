"""`ReconWorker`: the backend with a worker. Accepts snapshots without waiting for them to be logged.

    training thread: acquire -> (copy) -> submit        supervisor's thread: feeds and replaces the worker
                              \\                        /
                               SnapshotQueue (one lock)                            -> pipe -> worker process

Controls the order of launch, start, submit, flush and close. `close` runs once, wherever it is called from.
"""

import atexit
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable

from recon_worker.client.depth_advice import advice, events_csv
from recon_worker.client.job import TO_RENDER
from recon_worker.client.run_folder import close_run_folder, open_run_folder
from recon_worker.client.signals import held_signals
from recon_worker.client.snapshot_queue import SnapshotQueue
from recon_worker.client.supervisor import Supervisor
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.artifact import Artifact
from recon_worker.snapshot.records import Scan, Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.spool.folder import check_spool
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.messages import message_log, progress_bars, show_messages
from recon_worker.system.standard_streams import occupy_descriptors, shows_progress

_log = message_log(__name__)

_EVENTS_NAME = "recon_log/events.csv"


class ReconWorker:
    """A `ReconBackend` with a bounded queue and a worker process, which renders and uploads.

    Args:
        settings: Queue, overflow policy and timeouts.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        occupy_descriptors()
        show_messages("recon_worker")
        self.settings = settings
        self._owner = os.getpid()
        self._queue = SnapshotQueue(settings)
        self.stats = self._queue.stats
        """Counts of snapshot outcomes so far."""
        self.reuses_memory = False
        """Whether the arrays acquired last are in memory that later snapshots reuse."""
        self._supervisor = Supervisor(self._queue, settings.silence_s, settings.flush_timeout_s)
        self._outbox: Outbox | None = None
        self._launched = self._events_written = False
        self._closing = threading.Lock()

    def __enter__(self) -> "ReconWorker":
        self.launch()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close(self.settings.flush_timeout_s)

    @property
    def is_ready(self) -> bool:
        """Whether a worker process has started and answers."""
        return self._supervisor.is_ready

    @property
    def pid(self) -> int:
        """Process ID of the worker; 0 while none runs."""
        process = self._supervisor.process
        return 0 if process is None else process.pid

    @property
    def depth(self) -> int:
        """Number of snapshots that may wait before the overflow policy applies."""
        return self._queue.memory.depth

    @property
    def to_render(self) -> int:
        """Number of snapshots not rendered yet."""
        return len(self._queue.in_state(*TO_RENDER))

    def launch(self) -> None:
        """Start the worker process in the background: it imports its modules while the training process loads its data.

        Raises:
            SpoolError: The spool directory cannot be used.
        """
        if self._launched:
            return
        check_spool(self.settings.spool_dir)
        self._launched = True
        with held_signals(signal.SIGALRM):
            self._supervisor.launch()
            atexit.register(self.close, self.settings.flush_timeout_s)
            _OPEN.add(self)

    def start(self, target: RunTarget, scan: Scan, layout: SnapshotLayout) -> None:
        """Set the run, the data common to its snapshots, and their layout. Call this once.

        Raises:
            OSError: The spool cannot be written.
            SpoolError: The run's folder in it cannot be used.
        """
        self.launch()
        self._outbox = open_run_folder(self.settings.spool_dir, target)
        self._outbox.describe(target, scan)
        with self._queue.changed:
            self._queue.memory.open(self._outbox, layout.nbytes)
        self._supervisor.introduce(target, self._outbox, scan, layout)

    def acquire(self, layout: SnapshotLayout) -> SnapshotArrays:
        """Return arrays for the next snapshot, valid until it is submitted. Never waits.

        Raises:
            OSError: Memory or disk space is insufficient. The snapshot counts as failed.
        """
        with held_signals(signal.SIGALRM):
            arrays = self._queue.acquire(layout)
            self.reuses_memory = self._queue.memory.reuses_memory
        return arrays

    def submit(self, snapshot: Snapshot) -> None:
        """Hand over the snapshot whose arrays were acquired last."""
        with held_signals(signal.SIGALRM) as arrived:
            self._queue.submit(snapshot, lambda: any(number != signal.SIGALRM for number in arrived))
            self._supervisor.wake()

    def awaits(self, epoch: int) -> bool:
        """Return whether the snapshot of an epoch is still to be rendered, in queue or spool. Valid after `close`."""
        return any(job.epoch == epoch for job in self._queue.in_state(*TO_RENDER))

    def settled(self, epoch: int, timeout_s: float = 0.0) -> bool:
        """Wait until the metrics of a submitted epoch are in `stats`, or never will be. Returns False on timeout."""
        queue = self._queue

        def is_settled() -> bool:
            return not self.awaits(epoch) or queue.abandoned or queue.closed

        with queue.changed:
            return queue.changed.wait_for(is_settled, timeout_s)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything that the server accepts is logged.

        Returns False on timeout, if no further progress is possible, or if the user interrupts.
        """
        deadline = time.monotonic() + timeout_s
        self._supervisor.retry_uploads()
        bar = progress_bars()(bar_format="Reconstructions: {desc}", disable=not shows_progress(), leave=False)
        with bar, held_signals() as arrived:
            done = self._queue.wait_empty(deadline, bar.set_description_str, lambda: bool(arrived))
            if signal.SIGINT in arrived:  # it has ended the flush
                arrived.remove(signal.SIGINT)
        return done

    def close(self, timeout_s: float) -> None:
        """Flush, keep the rest in the spool, and end the worker. May be called twice, from anywhere.

        Any signal ends the flush, but not the shutdown. SIGINT has no further effect; others are delivered at the end.
        """
        with held_signals() as arrived:
            if os.getpid() != self._owner or not self._closing.acquire(blocking=False):
                return  # a forked child's copy, or already closed: the lock is never released
            deadline = time.monotonic() + timeout_s
            self._supervisor.hurry()
            try:
                if self.flush(timeout_s) and not arrived and self._write_events():
                    self._supervisor.finish(_EVENTS_NAME)
                    self.flush(deadline - time.monotonic())
            finally:
                with held_signals(signal.SIGALRM):
                    self._shut_down()
            if signal.SIGINT in arrived:
                arrived.remove(signal.SIGINT)

    def summary(self) -> str:
        """Return a one-line summary: outcomes, the depth that would have kept all snapshots in memory, best epoch."""
        queue, counts = self._queue, f"Reconstructions: {self.stats}."
        if queue.abandoned:  # the advice assumes a worker
            return counts
        depth = advice(queue.history, queue.memory.depth, self.stats, self.settings.queue_bytes)
        return " ".join(filter(None, [counts, depth, self.stats.best()]))

    def _write_events(self) -> bool:
        """Write the table of events to the outbox, once. Returns whether this call wrote it."""
        if self._outbox is None or not self.stats.submitted or self._events_written:
            return False
        self._events_written = True
        try:
            self._outbox.put(Artifact(_EVENTS_NAME, events_csv(self._queue.history)))
        except OSError as error:
            _log.warning("The table of events cannot be written: %s", error)
            return False
        return True

    def _shut_down(self) -> None:
        """End the worker, keep the rest in the spool, and release all resources."""
        queue, outbox = self._queue, self._outbox
        steps: list[Callable[[], object]] = [
            queue.stop_accepting,
            self._supervisor.stop,
            queue.leave,
            self._write_events,
        ]
        if outbox is not None:
            steps.append(lambda: close_run_folder(outbox))
        for step in [*steps, queue.memory.close]:
            try:
                step()
            except Exception:  # the other steps must still run
                _log.warning("Reconstruction logging did not end cleanly.", exc_info=True)
        if outbox is not None:
            outbox.close()
        _OPEN.discard(self)
        atexit.unregister(self.close)


_OPEN: "weakref.WeakSet[ReconWorker]" = weakref.WeakSet()
"""Workers that this process has launched but not closed."""


def _close_in_forked_child() -> None:
    """Close the pipes and locks that mark the training as alive; the child may be a DataLoader worker."""
    for worker in list(_OPEN):
        if (process := worker._supervisor.process) is not None:
            process.close_descriptors()
        if worker._outbox is not None:
            worker._outbox.unlock()


os.register_at_fork(after_in_child=_close_in_forked_child)
