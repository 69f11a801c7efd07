"""`Supervisor`: keeps one worker process running and feeds it from the queue, in a separate thread.

    dispatcher thread:  receive from the worker -> update the queue -> send the next snapshot
                        worker dead or silent -> requeue its snapshot -> back off -> start a new worker

Until `stop`, only this thread uses the pipe, and never while it holds the queue's lock: a worker that does not read
cannot block training. After five consecutive deaths all snapshots go to the spool. The count restarts when a worker
begins to render a snapshot (its death then counts against that snapshot), when a snapshot is logged, and when a worker
has lived for a minute.
"""

import contextlib
import os
import threading
import time
from dataclasses import asdict
from typing import Any

from recon_worker.client.job import EVENTS, REFERENCE, State
from recon_worker.client.process import WorkerProcess
from recon_worker.client.snapshot_queue import SnapshotQueue
from recon_worker.snapshot.codec import dump_brief
from recon_worker.snapshot.records import Scan, SnapshotLayout
from recon_worker.snapshot.slots import create_memory, write_all
from recon_worker.spool.lock import note_worker
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.messages import message_log

_log = message_log(__name__)

_MAX_DEATHS = 5
_FIRST_BACKOFF_S = 0.2
_LONG_LIFE_S = 60.0
_SLOWEST_BYTES_PER_S = 4 * 2**20
"""Lowest processing rate in one silent step. Stitching and comparing 1.2 GiB took 138 s on a busy machine."""
_POLL_S = 0.2
_THREAD_WAIT_S, _LAST_WORDS_S = 2.0, 2.0


class Supervisor:
    """Starts, feeds and replaces the worker.

    Args:
        queue: Source of the snapshots.
        silence_s: See `allowed_silence_s`.
        linger_s: Time that the worker may continue after the death of this process.
    """

    def __init__(self, queue: SnapshotQueue, silence_s: float, linger_s: float) -> None:
        self._queue, self._silence_s, self._linger_s = queue, silence_s, linger_s
        self.is_ready = False
        """Whether a worker has started and answers."""
        self._brief = create_memory("recon-log-brief")
        try:
            self._wake_read, self._wake_write = os.pipe()
        except OSError:
            os.close(self._brief)
            raise
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        self._outbox: Outbox | None = None
        self._to_send: list[dict[str, Any]] = []
        self._finish: dict[str, Any] | None = None
        self._nbytes = 0
        self.process: WorkerProcess | None = None
        """The current worker; None while none runs."""
        self._heard_s = self._ready_s = 0.0
        self._deaths = self._earlier_retries = 0
        self._stopping = self._hurried = False
        self._thread = threading.Thread(target=self._serve, name="recon-log-dispatcher", daemon=True)

    def launch(self) -> None:
        """Start a worker in the background."""
        self._start_process()
        try:
            self._thread.start()
        except RuntimeError as error:
            _log.warning("Reconstructions go to the spool: no thread can be started for the worker (%s).", error)
            self._queue.abandon()

    def introduce(self, target: RunTarget, outbox: Outbox, scan: Scan, layout: SnapshotLayout) -> None:
        """Describe the run to the current worker and all later ones.

        From now on each worker holds the outbox's folder and lock, so that no `sync` starts while a worker has
        snapshots in memory.
        """
        brief = dump_brief({"target": asdict(target), "folder": str(outbox.folder)}, scan)
        with self._queue.changed:
            self._nbytes, self._outbox = layout.nbytes, outbox
            if self.process is not None:
                self.process.hand_over(outbox.lock, outbox.descriptor)
                note_worker(outbox.lock, self.process.pid)
            if scan.reference:
                self._queue.expect(REFERENCE)
            write_all(self._brief, brief)
            if self.is_ready:
                self._send_setup()
        self.wake()

    def wake(self) -> None:
        """Make the thread check the queue now. Never waits."""
        with self._queue.changed, contextlib.suppress(OSError):  # full: it is awake already; closed: it has ended
            os.write(self._wake_write, b"!")

    def finish(self, events_name: str) -> None:
        """Have the worker, or its successor, make the final artifacts and upload them with the table of events."""
        with self._queue.changed:
            self._queue.expect(EVENTS, artifacts=1)
            self._finish = {"do": "finish", "generation": EVENTS, "names": [events_name]}
            if self.is_ready:
                self._to_send.append(self._finish)
        self.wake()

    def retry_uploads(self) -> None:
        """Retry the uploads that the server refused: it may accept them now."""
        with self._queue.changed:
            if self.is_ready and (self._queue.refused or self._queue.rejected):
                self._queue.refused = False
                self._queue.rejected.clear()
                self._to_send.append({"do": "retry"})
        self.wake()

    def hurry(self) -> None:
        """Run this worker and its successors at normal priority: training waits for them."""
        with self._queue.changed:
            self._hurried = True
            if self.process is not None:
                self.process.hurry()

    def stop(self) -> None:
        """End the thread and the worker. Artifacts not yet uploaded stay in the outbox."""
        with self._queue.changed:
            self._stopping = True
            self._queue.changed.notify_all()
        self.wake()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(_THREAD_WAIT_S)
        if (process := self.process) is not None:
            kill = self._thread.is_alive() or not self.is_ready
            deadline = time.monotonic() + _LAST_WORDS_S
            if not kill:
                with contextlib.suppress(EOFError, TimeoutError):
                    process.send({"do": "stop"})
                    while (left_s := deadline - time.monotonic()) > 0:
                        if (message := process.receive(left_s, self._wake_read)) is not None:
                            self._handle(message)
            process.end(kill=kill or time.monotonic() >= deadline)
        with self._queue.changed:
            self.process = None
            for descriptor in (self._brief, self._wake_read, self._wake_write):
                os.close(descriptor)
            self._brief = self._wake_read = self._wake_write = -1

    def _serve(self) -> None:
        """Serve and replace workers, in the dispatcher thread, until `stop`, `abandoned` or an unexpected error."""
        try:
            while not self._stopping and not self._queue.abandoned:
                if self.process is not None:
                    self._attend(self.process)
                    continue
                with self._queue.changed:
                    self._queue.changed.wait_for(lambda: self._stopping, _FIRST_BACKOFF_S * 2 ** (self._deaths - 1))
                if not self._stopping:
                    self._start_process()
        except Exception:  # the end of the training must not wait for a dead thread
            _log.warning("The worker is no longer supervised: reconstructions go to the spool.", exc_info=True)
            self._queue.abandon()

    def _attend(self, process: WorkerProcess) -> None:
        """Handle the next message, if any, and send those that are due."""
        allowed_s, began_s = allowed_silence_s(self._silence_s, self._nbytes), time.monotonic()
        try:
            message, now_s = process.receive(_POLL_S, self._wake_read), time.monotonic()
            self._heard_s += max(0.0, now_s - began_s - _POLL_S)  # if this job was suspended, so was the worker
            if message is not None:
                self._handle(message)
            elif now_s - self._heard_s > allowed_s and (self._queue.in_state(State.IN_FLIGHT) or not self.is_ready):
                raise TimeoutError(f"it sent no message for {allowed_s:.0f} s")
            for outgoing in self._due_messages():
                process.send(outgoing)
        except EOFError:
            self._handle_death(process.end())
        except (TimeoutError, ValueError) as error:  # ValueError: the message is not JSON
            self._handle_death(f"{error}: {process.end(kill=True)}")

    def _due_messages(self) -> list[dict[str, Any]]:
        """Return pending messages, and the next snapshot if the worker has none."""
        queue = self._queue
        with queue.changed:
            messages, self._to_send = self._to_send, []
            job = queue.take() if self.is_ready and self._outbox is not None else None
            if job is not None:
                self._heard_s = time.monotonic()
                where = {"do": "job", "slot": job.slot} if job.path is None else {"do": "file", "path": str(job.path)}
                about = {"generation": job.generation, "step": job.step, "submitted_unix_s": job.submitted}
                metrics = {
                    "high_water": queue.stats.high_water,
                    "spilled": queue.stats.spilled,
                    "dropped": queue.stats.dropped,
                    "waited": queue.stats.waited,
                    "failed": queue.stats.failed,
                    "restarts": queue.stats.restarts,
                    "depth": queue.memory.depth,
                    "waiting": len(queue.in_state(State.WAITING)),
                    "stall_ms": 1e3 * job.stall_s,
                }
                messages.append({**where, **about, "metrics": metrics})
            return messages

    def _handle(self, message: dict[str, Any]) -> None:
        queue, kind, logged = self._queue, message["is"], ""
        with queue.changed:
            self._heard_s = time.monotonic()
            if kind == "ready":
                self.is_ready, self._ready_s = True, self._heard_s
                if self._outbox is not None:
                    self._send_setup()
            elif kind == "began":
                self._deaths = 0
                for job in queue.in_state(State.IN_FLIGHT):
                    job.attempts += 1  # if the worker dies now, the snapshot may be the cause
            elif kind == "rendered":
                queue.rendered(message)
            elif kind == "finished":
                queue.finished(message["generation"], message["artifacts"], message["failures"])
            elif kind == "refused":
                queue.refused = message["refused"]
            elif kind == "aside":
                queue.rejected.add(message["generation"])
            elif kind == "logged":
                self._deaths = 0
                queue.stats.retries = self._earlier_retries + message["retries"]
                logged = queue.logged(message["generation"])
            if kind != "alive":
                queue.changed.notify_all()
        if logged:
            _log.info("%s", logged)
        elif kind == "log":
            _log.log(message["level"], "worker: %s", message["text"])
        elif kind == "reserved":  # map the pages allocated by the worker now, not in the first captures
            queue.memory.fault_in()

    def _send_setup(self) -> None:
        """Describe the run to a worker, with the snapshots that its predecessor rendered but did not upload."""
        assert self._outbox is not None
        queue, memory = self._queue, self._queue.memory
        unlogged = {
            "reference" if job.generation == REFERENCE else f"{job.epoch}": job.generation
            for job in queue.in_state(State.UPLOADING)
            if job.generation != EVENTS
        }
        n_shared = len(memory.shared_slots)
        files = [str(self._outbox.capture_file(slot)) for slot in range(n_shared, memory.depth)]
        self._to_send += [
            {"do": "setup", "unlogged": unlogged},
            {"do": "reserve", "slots": list(range(n_shared)), "files": files, "nbytes": self._nbytes},
            *([self._finish] if self._finish is not None else []),
        ]

    def _handle_death(self, how: str) -> None:
        """Requeue the snapshot of a dead worker. Starts no further workers after too many consecutive deaths."""
        with self._queue.changed:
            if self.is_ready and time.monotonic() - self._ready_s > _LONG_LIFE_S:
                self._deaths = 0
            self.process, self.is_ready, self._to_send = None, False, []
            self._deaths += 1
            self._queue.stats.restarts += 1
            self._earlier_retries = self._queue.stats.retries
            _log.warning("The reconstruction worker died (%s). Training continues.", how)
            self._queue.worker_died()
            self._queue.changed.notify_all()
        if self._deaths >= _MAX_DEATHS:
            _log.warning("%d workers died in a row: reconstructions go to the spool from now on.", self._deaths)
            self._queue.abandon()

    def _start_process(self) -> None:
        slots, known = [slot.descriptor for slot in self._queue.memory.all_slots], self._outbox
        # The outbox reopens its folder if it was removed: its descriptor may change.
        descriptors = None if known is None else (known.lock, known.descriptor)
        try:
            process = WorkerProcess(self._brief, slots, self._linger_s, descriptors)
        except Exception as error:  # any error may be temporary
            self._handle_death(f"it cannot be started: {error}")
            return
        with self._queue.changed:
            self.process, self._heard_s = process, time.monotonic()
            if (outbox := self._outbox) is not None:
                if known is None:  # introduced meanwhile
                    process.hand_over(outbox.lock, outbox.descriptor)
                note_worker(outbox.lock, process.pid)
            if self._hurried:
                process.hurry()


def allowed_silence_s(silence_s: float, nbytes: int) -> float:
    """Return the time after which a silent worker, starting or with a snapshot of `nbytes`, counts as hung."""
    return silence_s + nbytes / _SLOWEST_BYTES_PER_S
