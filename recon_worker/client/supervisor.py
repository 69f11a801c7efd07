"""Keeps one worker process running, and feeds it from the queue, in a thread of its own.

    dispatcher thread:  hear the worker -> note it in the queue -> hand over the next snapshot
                        worker dead or silent -> its snapshot waits again -> back-off -> a new worker

Only that thread talks to the worker, and never while it holds the queue's lock: a worker that does not read cannot
keep the training waiting. Five deaths in a row, and no further worker is started: everything goes to the spool. A row
ends with a worker that began with a snapshot, whose death then counts against that snapshot; with a snapshot that is
logged; and with a worker that lived for a minute.
"""

import contextlib
import os
import threading
import time
from dataclasses import asdict
from typing import Any

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
"""Of a snapshot, in one silent step: stitching and comparing 1.2 GiB took 138 s in all, on a busy machine."""
_POLL_S = 0.2
_THREAD_WAIT_S, _LAST_WORDS_S = 2.0, 2.0


class Supervisor:
    """See above.

    Args:
        queue: Where snapshots come from.
        silence_s: See `allowed_silence_s`.
        linger_s: How long the worker may go on when this process is dead.
    """

    def __init__(self, queue: SnapshotQueue, silence_s: float, linger_s: float) -> None:
        self._queue, self._silence_s, self._linger_s = queue, silence_s, linger_s
        self._brief = create_memory("recon-log-brief")
        self._wake_read, self._wake_write = _pipe()
        self._lock: int | None = None
        self._outbox: Outbox | None = None
        self._to_say: list[dict[str, Any]] = []
        self._last: dict[str, Any] | None = None
        self._nbytes = 0
        self._process: WorkerProcess | None = None
        self._ready = False
        self._heard_s = self._ready_s = 0.0
        self._deaths = 0
        self._earlier_retries = 0
        self._stopping = self._hurried = False
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
        try:
            self._thread.start()
        except RuntimeError as error:
            _log.warning("Reconstructions go to the spool: no thread can be started for the worker (%s).", error)
            self._queue.abandon()

    def introduce(self, target: RunTarget, outbox: Outbox, lock: int, scan: Scan, layout: SnapshotLayout) -> None:
        """Say which run the snapshots belong to; workers that are started later hear it too.

        From now on each worker holds the outbox's folder and lock: no `sync` goes to work while a worker has snapshots
        in memory.
        """
        brief = dump_brief({"target": asdict(target), "folder": str(outbox.folder)}, scan)
        with self._queue.changed:
            self._nbytes, self._outbox, self._lock = layout.nbytes, outbox, lock
            if self._process is not None:
                self._process.hand_over(lock, outbox.descriptor)
                note_worker(lock, self._process.pid)
            write_all(self._brief, brief)
            if self._ready:
                self._say_setup()
        self.wake()

    def wake(self) -> None:
        """Have the thread look at the queue now. Never waits."""
        with self._queue.changed, contextlib.suppress(OSError):  # full: it will look; closed: nobody will
            os.write(self._wake_write, b"!")

    def finish(self, generation: int, name: str) -> None:
        """Have an artifact of the outbox uploaded, and what is made at the end; by the next worker if this one dies."""
        with self._queue.changed:
            self._last = {"do": "finish", "generation": generation, "names": [name]}
            if self._ready:
                self._to_say.append(self._last)
        self.wake()

    def try_again(self) -> None:
        """Have the worker upload now what the server refused or did not take; it may by now."""
        with self._queue.changed:
            if self._ready and self._queue.reconsider():
                self._to_say.append({"do": "retry"})
        self.wake()

    def hurry(self) -> None:
        """The training waits for its end: this worker, and any that follows, stops yielding to other processes."""
        with self._queue.changed:
            self._hurried = True
            if self._process is not None:
                self._process.hurry()

    def stop(self) -> None:
        """End the thread and the worker; what the worker has not uploaded stays in the outbox."""
        with self._queue.changed:
            self._stopping = True
            self._queue.changed.notify_all()
        self.wake()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(_THREAD_WAIT_S)
        if self._process is not None:
            self._end(self._process, kill=self._thread.is_alive() or not self._ready)
        with self._queue.changed:
            self._process = None
            for descriptor in (self._brief, self._wake_read, self._wake_write):
                os.close(descriptor)
            self._brief = self._wake_read = self._wake_write = -1

    def _end(self, process: WorkerProcess, *, kill: bool) -> None:
        """Tell the worker to stop, and hear what it still has to say."""
        _drain(self._wake_read)
        deadline = time.monotonic() + _LAST_WORDS_S
        if not kill:
            with contextlib.suppress(EOFError, TimeoutError):
                process.send({"do": "stop"})
                while (left_s := deadline - time.monotonic()) > 0:
                    message = process.receive(left_s, self._wake_read)
                    if message is not None:
                        self._hear(message)
        process.end(kill=kill or time.monotonic() >= deadline)

    def forget(self) -> None:
        """In a forked child, which must not keep the pipe open: its end tells the worker that we are dead."""
        if self._process is not None:
            self._process.close_descriptors()

    # --- dispatcher thread -----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Hear the worker, feed it, replace it. Ends with `stop`, or when workers keep dying."""
        try:
            while not self._stopping and not self._queue.abandoned:
                if self._process is None:
                    self._restart()
                else:
                    self._attend(self._process)
        except Exception:  # whatever it is, the training must not wait at its end for a thread that is gone
            _log.warning("The worker is not looked after any more: reconstructions go to the spool.", exc_info=True)
            self._queue.abandon()

    def _attend(self, process: WorkerProcess) -> None:
        """Hear one message, if there is one, and say what there is to say."""
        try:
            message = process.receive(_POLL_S, self._wake_read)
            if message is not None:
                self._hear(message)
            elif self._hangs():
                raise TimeoutError(f"it said nothing for {allowed_silence_s(self._silence_s, self._nbytes):.0f} s")
            _drain(self._wake_read)
            for words in self._next_words():
                process.send(words)
        except EOFError:
            self._bury(process.end())
        except (TimeoutError, ValueError) as error:  # ValueError: what it said is not JSON
            self._bury(f"{error}: {process.end(kill=True)}")

    def _next_words(self) -> list[dict[str, Any]]:
        """What the worker must hear, and the next snapshot if it has none."""
        with self._queue.changed:
            words, self._to_say = self._to_say, []
            job = self._queue.take() if self._ready and self._lock is not None else None
            if job is not None:
                self._heard_s = time.monotonic()
                place = {"do": "job", "slot": job.place} if job.path is None else {"do": "file", "path": str(job.path)}
                about = {"generation": job.generation, "step": job.step, "submitted_unix_s": job.times.submitted}
                words.append({**place, **about, "metrics": self._queue.metrics(job)})
            return words

    def _hangs(self) -> bool:
        busy = self._queue.in_flight or not self._ready
        return busy and time.monotonic() - self._heard_s > allowed_silence_s(self._silence_s, self._nbytes)

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message["is"]
        with self._queue.changed:
            self._heard_s = time.monotonic()
            if kind == "ready":
                self._ready, self._ready_s = True, self._heard_s
                if self._lock is not None:
                    self._say_setup()
            elif kind == "began":
                self._deaths = 0
                self._queue.began()
            elif kind == "rendered":
                self._queue.rendered(message)
            elif kind == "finished":
                self._queue.finished(message["artifacts"], message["failures"])
            elif kind == "refused":
                self._queue.refused = message["refused"]
                self._queue.changed.notify_all()
            elif kind == "aside":
                self._queue.put_aside(message["generation"])
            elif kind == "logged":
                self._deaths = 0
                self._queue.stats.retries = self._earlier_retries + message["retries"]
                self._queue.logged(message["generation"])
        if kind == "log":
            _log.log(message["level"], "worker: %s", message["text"])
        elif kind == "reserved":
            self._fault_in()

    def _say_setup(self) -> None:
        """Have a worker look at the run, and at what its predecessor rendered and did not upload."""
        self._to_say.append({"do": "setup", "unlogged": self._queue.unlogged})
        slots, files = list(range(len(self._queue.slots_in_use))), [str(file) for file in self._queue.files]
        self._to_say.append({"do": "reserve", "slots": slots, "files": files, "nbytes": self._nbytes})
        if self._last is not None:
            self._to_say.append(self._last)

    def _fault_in(self) -> None:
        """Map the slots, whose pages the worker has allocated: else the first events would pay for that."""
        for slot in self._queue.slots_in_use:
            slot.fault_in()

    def _bury(self, how: str) -> None:
        """A worker is dead."""
        with self._queue.changed:
            if self._ready and time.monotonic() - self._ready_s > _LONG_LIFE_S:
                self._deaths = 0
            self._process, self._ready, self._to_say = None, False, []
            self._queue.reconsider()
            self._deaths += 1
            self._queue.stats.restarts += 1
            self._earlier_retries = self._queue.stats.retries
            _log.warning("The reconstruction worker died (%s). Training goes on.", how)
            self._queue.give_back()
        if self._deaths >= _MAX_DEATHS:
            _log.warning("%d workers died in a row: reconstructions go to the spool from now on.", self._deaths)
            self._queue.abandon()

    def _restart(self) -> None:
        with self._queue.changed:
            self._queue.changed.wait_for(lambda: self._stopping, _FIRST_BACKOFF_S * 2 ** (self._deaths - 1))
        if not self._stopping:
            self._start_process()

    def _start_process(self) -> None:
        spool, slots = self._spool, [slot.descriptor for slot in self._queue.slots]
        try:
            process = WorkerProcess(self._brief, slots, self._linger_s, spool)
        except OSError as error:
            self._bury(f"it cannot be started: {error}")
            return
        with self._queue.changed:
            self._process, self._heard_s = process, time.monotonic()
            if self._spool is not None:
                if spool is None:  # introduced meanwhile
                    process.hand_over(*self._spool)
                note_worker(self._spool[0], process.pid)
            if self._hurried:
                process.hurry()

    @property
    def _spool(self) -> tuple[int, int] | None:
        """Descriptors of the lock and of the folder, as it is now: it is another one when somebody has removed it."""
        if self._lock is None or self._outbox is None:
            return None
        return self._lock, self._outbox.descriptor


def allowed_silence_s(silence_s: float, nbytes: int) -> float:
    """A worker that holds a snapshot of `nbytes` and says nothing for longer hangs; large ones take longer."""
    return silence_s + nbytes / _SLOWEST_BYTES_PER_S


def _pipe() -> tuple[int, int]:
    """Both ends of a pipe that never makes anyone wait."""
    ends = os.pipe()
    for one in ends:
        os.set_blocking(one, False)
    return ends


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 4096)
