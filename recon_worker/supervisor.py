"""Keeps one worker process running, and feeds it from the queue, in a thread of its own.

    dispatcher thread:  hear the worker -> note it in the queue -> hand over the next snapshot
                        worker dead or silent -> its snapshot waits again -> back-off -> a new worker

Five deaths in a row without a snapshot rendered, and no further worker is started: everything goes to the spool.
"""

import logging
import os
import threading
import time
from dataclasses import asdict
from typing import Any

from recon_worker.codec import dump_scan
from recon_worker.outbox import Outbox, RunTarget
from recon_worker.process import WorkerProcess
from recon_worker.slots import create_memory, write_all
from recon_worker.snapshot import Scan, SnapshotLayout
from recon_worker.snapshot_queue import SnapshotQueue

_log = logging.getLogger(__name__)

_MAX_DEATHS = 5
_FIRST_BACKOFF_S = 0.2
_POLL_S = 0.2


class Supervisor:
    """See above.

    Args:
        queue: Where snapshots come from.
        silence_s: A worker that holds a snapshot and says nothing for so long hangs.
    """

    def __init__(self, queue: SnapshotQueue, silence_s: float) -> None:
        self._queue, self._silence_s = queue, silence_s
        self._scan_memory = create_memory("recon-log-scan")
        self._setup: dict[str, Any] | None = None
        self._nbytes = 0
        self._process: WorkerProcess | None = None
        self._ready = False
        self._heard_s = 0.0
        self._deaths = 0
        self._earlier_retries = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="recon-log-dispatcher", daemon=True)

    @property
    def is_ready(self) -> bool:
        """Whether a worker has started and said so."""
        return self._ready

    @property
    def pid(self) -> int:
        """Of the worker; 0 while there is none."""
        return 0 if self._process is None else self._process.pid

    def launch(self) -> None:
        """Start a worker, without waiting for it."""
        self._start_process()
        self._thread.start()

    def introduce(self, target: RunTarget, outbox: Outbox, scan: Scan, layout: SnapshotLayout, linger_s: float) -> None:
        """Say which run the snapshots belong to; workers that are started later hear it too."""
        write_all(self._scan_memory, dump_scan(scan))
        with self._queue.changed:
            self._nbytes = layout.nbytes
            self._setup = {
                "do": "setup",
                "target": asdict(target),
                "folder": str(outbox.folder),
                "linger_s": linger_s,
            }
            if self._ready:
                self._send_setup()

    def dispatch(self) -> None:
        """Give the worker its next snapshot, if it has none."""
        with self._queue.changed:
            if not self._ready or self._setup is None or self._process is None:
                return
            job = self._queue.take()
            if job is None:
                return
            self._heard_s = time.monotonic()
            place = {"do": "job", "slot": job.slot} if job.path is None else {"do": "file", "path": str(job.path)}
            self._process.send(
                {
                    **place,
                    "generation": job.generation,
                    "step": job.step,
                    "submitted_unix_s": job.times.submitted,
                    "metrics": self._queue.metrics(job),
                }
            )

    def finish(self, generation: int, name: str) -> bool:
        """Have an artifact of the outbox uploaded, and what is made at the end; False if there is no worker for it."""
        with self._queue.changed:
            if self._process is None:
                return False
            self._process.send({"do": "finish", "generation": generation, "names": [name]})
            return True

    def stop(self) -> None:
        """End the thread and the worker; what the worker has not uploaded stays in the outbox."""
        with self._queue.changed:
            self._stopping = True
            self._queue.changed.notify_all()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if self._process is not None:
            self._process.send({"do": "stop"})
            self._process.end()
            self._process = None
        if self._scan_memory >= 0:
            os.close(self._scan_memory)
            self._scan_memory = -1

    def forget(self) -> None:
        """In a forked child, which must not keep the pipe open: its end tells the worker that we are dead."""
        if self._process is not None:
            self._process.close_descriptors()

    # --- dispatcher thread -----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Hear the worker, feed it, replace it. Ends with `stop`, or when workers keep dying."""
        while not self._stopping and not self._queue.abandoned:
            process = self._process
            if process is None:
                self._restart()
                continue
            try:
                message = process.receive(_POLL_S)
            except EOFError:
                self._bury(process.end())
                continue
            if message is not None:
                self._hear(message)
                self.dispatch()
            elif self._hangs():
                self._bury(f"it said nothing for {self._silence_s:.0f} s and was ended ({process.end(kill=True)})")

    def _hangs(self) -> bool:
        busy = self._queue.in_flight or not self._ready
        return busy and time.monotonic() - self._heard_s > self._silence_s

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message["is"]
        with self._queue.changed:
            self._heard_s = time.monotonic()
            if kind == "ready":
                self._ready = True
                if self._setup is not None:
                    self._send_setup()
            elif kind == "rendered":
                self._deaths = 0
                self._queue.stats.worker_rss_bytes = message["rss_bytes"]
                self._queue.rendered(message)
            elif kind == "finished":
                self._queue.finished(message["artifacts"], message["failures"])
            elif kind == "refused":
                self._queue.refused = message["refused"]
                self._queue.changed.notify_all()
            elif kind == "logged":
                self._queue.stats.retries = self._earlier_retries + message["retries"]
                self._queue.logged(message["generation"])
        if kind == "log":
            _log.log(message["level"], "worker: %s", message["text"])
        elif kind == "reserved":
            self._fault_in()

    def _send_setup(self) -> None:
        """Tell a worker about the run, and what its predecessor rendered and did not upload."""
        assert self._process is not None
        assert self._setup is not None
        self._process.send({**self._setup, "unlogged": self._queue.unlogged})
        self._process.send({"do": "reserve", "slots": list(range(self._queue.depth)), "nbytes": self._nbytes})

    def _fault_in(self) -> None:
        """Map the slots, whose pages the worker has allocated: else the first events would pay for that."""
        for slot in self._queue.slots[: self._queue.depth]:
            slot.fault_in()

    def _bury(self, how: str) -> None:
        """A worker is dead."""
        with self._queue.changed:
            self._process, self._ready, self._queue.refused = None, False, False
            self._deaths += 1
            self._queue.stats.restarts += 1
            self._earlier_retries = self._queue.stats.retries
            _log.warning("The reconstruction worker died (%s). Training goes on.", how)
            self._queue.give_back()
            if self._deaths >= _MAX_DEATHS:
                self._queue.abandoned = True
                _log.warning("%d workers died in a row: reconstructions go to the spool from now on.", self._deaths)

    def _restart(self) -> None:
        with self._queue.changed:
            self._queue.changed.wait_for(lambda: self._stopping, _FIRST_BACKOFF_S * 2 ** (self._deaths - 1))
        if not self._stopping:
            self._start_process()

    def _start_process(self) -> None:
        try:
            process = WorkerProcess(self._scan_memory, [slot.descriptor for slot in self._queue.slots])
        except OSError as error:
            self._bury(f"it cannot be started: {error}")
            return
        with self._queue.changed:
            self._process, self._heard_s = process, time.monotonic()
