"""`ReconWorker`: the training process's side of the worker. Hands snapshots over and never waits for them.

    training thread: acquire -> (copy) -> submit       dispatcher thread: one job at a time to the worker, its
                        |  one lock: slots, jobs, ledger     answers, its death, its successor
                        v
          waiting jobs (slots or spilled files) -> in flight -> rendered, uploading -> logged

Jobs wait here, not in the pipe: what a dead worker did not acknowledge is given to the next one, and the oldest can be
given up. One that kills two workers is set aside; after five deaths in a row everything goes to the spool.
"""

import atexit
import contextlib
import itertools
import logging
import os
import shlex
import sys
import threading
import time
import weakref
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recon_worker.artifacts import Artifact
from recon_worker.codec import dump_scan, dump_snapshot, snapshot_header
from recon_worker.ledger import Ledger
from recon_worker.outbox import Outbox, RunTarget
from recon_worker.process import WorkerProcess
from recon_worker.queueing import Job, Overflow, Times, depth_without_spill, events_csv
from recon_worker.slots import Slot, SlotContent, create_memory, write_all
from recon_worker.snapshot import Scan, Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.spool_lock import SpoolBusyError, take_lock

_log = logging.getLogger(__name__)

MAX_DEPTH = 16
"""Slots that `depth=None` may use."""
_FIRST_DEPTH = 2
_MAX_ATTEMPTS = 2
_MAX_DEATHS = 5
_SILENCE_S = 120.0
"""A worker that holds a job and says nothing for so long hangs."""
_FIRST_BACKOFF_S = 0.2
_POLL_S = 0.2
_EVENTS = 0
"""Generation of what belongs to no snapshot: the table of events."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How much may wait, what happens when the queue is full, and how long the end may take."""

    spool_dir: Path
    """Where what cannot be uploaded is kept."""
    depth: int | None = 2
    """Snapshots that may wait in memory; None: chosen and adapted within `queue_bytes`."""
    overflow: Overflow = "spill"
    """When all slots are full: write to disk, give up the oldest waiting snapshot, or wait."""
    spill_bytes: int = 10 * 2**30
    """Snapshots on disk at most; beyond, the oldest waiting one is given up."""
    queue_bytes: int = field(default_factory=lambda: default_queue_bytes())
    """Memory that the slots may take when `depth` is None."""
    flush_timeout_s: float = 300.0
    """How long the end of the training may be delayed for what is left."""


def default_queue_bytes() -> int:
    """A tenth of the free memory; 1 GiB where the system does not tell."""
    names = ("SC_AVPHYS_PAGES", "SC_PAGE_SIZE")
    if not set(names) <= os.sysconf_names.keys():
        return 2**30
    pages, page_bytes = map(os.sysconf, names)
    return pages * page_bytes // 10


class ReconWorker:
    """A bounded queue and a worker process that renders and uploads; see `ReconBackend`.

    Args:
        settings: Queue, overflow and timeouts.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.stats = Ledger()
        self._owner = os.getpid()
        self._changed = threading.Condition()
        self._slots = [Slot(create_memory("recon-log-slot")) for _ in range(settings.depth or MAX_DEPTH)]
        self._scan_memory = create_memory("recon-log-scan")
        self._depth = settings.depth or _FIRST_DEPTH
        self._free = deque(range(self._depth))
        self._layout: SnapshotLayout | None = None
        self._acquired: _Acquired | None = None
        self._overflow_memory = bytearray()
        self._generation = 0
        self._waiting: deque[Job] = deque()
        self._in_flight: Job | None = None
        self._uploading: dict[int, Job] = {}
        self._history: list[Times] = []
        self._setup: dict[str, Any] | None = None
        self._outbox: Outbox | None = None
        self._lock = -1
        self._process: WorkerProcess | None = None
        self._ready = False
        self._heard_s = 0.0
        self._deaths = 0
        self._earlier_retries = 0
        self._broken = False
        self._close_called = False
        self._closing = False
        self._dispatcher: threading.Thread | None = None

    def __enter__(self) -> "ReconWorker":
        self.launch()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close(self.settings.flush_timeout_s)

    # --- called by the training thread ---------------------------------------------------------------------------

    def launch(self) -> None:
        """Start the process, without waiting for it: it imports while the data is read."""
        if self._dispatcher is not None:
            return
        self._dispatcher = threading.Thread(target=self._serve, name="recon-log-dispatcher", daemon=True)
        self._start_process()
        self._dispatcher.start()
        atexit.register(self.close, self.settings.flush_timeout_s)
        _close_in_forked_children(self)

    def start(self, target: RunTarget, scan: Scan, layout: SnapshotLayout) -> None:
        """Say what the run is, what stays the same, and how large its snapshots are."""
        self.launch()
        self._outbox, self._lock = _own_folder(self.settings.spool_dir.absolute(), target.run_id)
        self._outbox.describe(target, scan)
        write_all(self._scan_memory, dump_scan(scan))
        with self._changed:
            self._layout = layout
            if self.settings.depth is None:
                self._depth = max(1, min(_FIRST_DEPTH, self.settings.queue_bytes // max(1, layout.nbytes)))
                self._free = deque(range(self._depth))
            self._setup = {
                "do": "setup",
                "target": asdict(target),
                "folder": str(self._outbox.folder),
                "linger_s": self.settings.flush_timeout_s,
            }
            if self._ready:
                self._introduce()

    def acquire(self, layout: SnapshotLayout) -> SnapshotArrays:
        """Arrays for the next snapshot: in a free slot, else in ordinary memory. Never waits."""
        with self._changed:
            self._give_back_acquired()
            slot = self._free.popleft() if self._free else self._grow(layout)
            self._acquired = _Acquired(slot, layout, time.time())
        if slot is not None:
            self._slots[slot].reserve(layout.nbytes)
            arrays = self._slots[slot].arrays(layout)
        else:
            if len(self._overflow_memory) < layout.nbytes:
                self._overflow_memory = bytearray(layout.nbytes)
            arrays = layout.views(self._overflow_memory)
        arrays.fixed_filled[:] = False
        arrays.stitch_filled[:] = False
        return arrays

    def submit(self, snapshot: Snapshot) -> None:
        """Hand over the snapshot whose arrays were acquired last."""
        with self._changed:
            acquired, self._acquired = self._acquired, None
            if acquired is None:
                raise RuntimeError("submit without acquire: write the snapshot into the arrays that acquire returns.")
            self.stats.submitted += 1
            if self._closing:
                self._fail(snapshot.epoch, "the worker was closed already")
                return
            self._generation += 1
            job = Job(
                generation=self._generation,
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
            self._history.append(job.times)
            self._enqueue(job)
            self._dispatch()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is logged; False when the time is over, nothing can be done, or the user interrupts."""
        deadline = time.monotonic() + timeout_s
        bar = tqdm(bar_format="{desc}", disable=not sys.stderr.isatty(), leave=False)
        with bar, self._changed, contextlib.suppress(KeyboardInterrupt):
            while self._pending and not self._broken and time.monotonic() < deadline:
                bar.set_description_str(self._state())
                self._changed.wait(min(_POLL_S, max(0.0, deadline - time.monotonic())))
        return not self._pending

    def close(self, timeout_s: float) -> None:
        """Flush, keep what is left in the spool, end the worker. May be called twice, from anywhere."""
        if os.getpid() != self._owner:
            return
        with self._changed:
            if self._close_called:
                return
            self._close_called = True
            self._give_back_acquired()
        deadline = time.monotonic() + timeout_s
        try:
            if self.flush(timeout_s) and self._outbox is not None and self.stats.submitted:
                self._log_events(deadline)
        finally:
            self._shut_down()

    def _shut_down(self) -> None:
        """End the worker, keep what is left, give everything back. A second Ctrl-C does not cut it short."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for step in (self._join_dispatcher, self._end_process, self._spool_rest, self._leave_spool):
            with contextlib.suppress(KeyboardInterrupt):
                step()
        for slot in self._slots:
            slot.close()
        os.close(self._scan_memory)
        if self._lock >= 0:
            os.close(self._lock)
        atexit.unregister(self.close)

    def _join_dispatcher(self) -> None:
        if self._dispatcher is not None and self._dispatcher is not threading.current_thread():
            self._dispatcher.join()

    def summary(self) -> str:
        """What became of the snapshots, and the smallest queue depth with which none would have been spilled."""
        needed = depth_without_spill(self._history)
        return (
            f"Reconstructions: {self.stats}. {self.stats.spilled} spilled with queue depth {self._depth}; "
            f"a depth of {needed} would have avoided every spill."
        )

    # --- under the lock --------------------------------------------------------------------------------------------

    @property
    def _pending(self) -> bool:
        return bool(self._waiting or self._in_flight or self._uploading)

    def _state(self) -> str:
        rendering = len(self._waiting) + (self._in_flight is not None)
        return f"Reconstructions: {rendering} to render, {len(self._uploading)} to upload to the tracking server"

    def _give_back_acquired(self) -> None:
        if self._acquired is not None and self._acquired.slot is not None:
            self._release(self._acquired.slot)
        self._acquired = None

    def _grow(self, layout: SnapshotLayout) -> int | None:
        """One slot more, if the depth adapts and the budget allows."""
        fits = (self._depth + 1) * layout.nbytes <= self.settings.queue_bytes
        if self.settings.depth is not None or self._depth == MAX_DEPTH or not fits:
            return None
        self._depth += 1
        return self._depth - 1

    def _enqueue(self, job: Job) -> None:
        """Find the job a place: its slot, a slot that is free by now, or what the overflow policy says."""
        if job.slot is None:
            job.slot = self._slot_for_overflow()
            if job.slot is None:
                self._spill(job)
                return
            target = self._slots[job.slot]
            target.reserve(job.nbytes)
            target.array_bytes(job.nbytes)[:] = memoryview(self._overflow_memory)[: job.nbytes]
        self._slots[job.slot].mark_ready(SlotContent(job.generation, job.header))
        self._waiting.append(job)
        self.stats.high_water = max(self.stats.high_water, len(self._waiting) + (self._in_flight is not None))

    def _slot_for_overflow(self) -> int | None:
        if self.settings.overflow == "block":
            deadline = time.monotonic() + self.settings.flush_timeout_s
            while not self._free and not self._broken and time.monotonic() < deadline:
                self._changed.wait(_POLL_S)
        if self.settings.overflow == "drop-oldest" and not self._free and self._waiting:
            self._drop(self._waiting.popleft())
        return self._free.popleft() if self._free else None

    def _spill(self, job: Job) -> None:
        """Keep the snapshot in ordinary memory as a file that is rendered when its turn comes."""
        assert self._outbox is not None
        while self._waiting and self._outbox.raw_bytes() + job.nbytes > self.settings.spill_bytes:
            spilled = next((one for one in self._waiting if one.path is not None), None)
            if spilled is None:
                break
            self._waiting.remove(spilled)
            self._drop(spilled)
        try:
            parts = dump_snapshot(job.header, memoryview(self._overflow_memory)[: job.nbytes])
            job.path = self._outbox.put_raw(job.generation, job.epoch, parts)
        except OSError as error:
            self._fail(job.epoch, f"{self._outbox.folder} cannot be written: {error}")
            return
        self.stats.spilled += 1
        self._waiting.append(job)

    def _drop(self, job: Job) -> None:
        self.stats.dropped += 1
        if job.slot is not None:
            self._release(job.slot)
        if job.path is not None:
            job.path.unlink(missing_ok=True)

    def _fail(self, epoch: int, reason: str) -> None:
        self.stats.failed += 1
        _log.warning("The reconstruction of epoch %d is lost: %s.", epoch, reason)

    def _release(self, slot: int) -> None:
        self._slots[slot].mark_free()
        self._free.append(slot)
        self._changed.notify_all()

    def _dispatch(self) -> None:
        """Give the worker its next job, if it has none."""
        if not self._ready or self._setup is None or self._in_flight is not None or not self._waiting:
            return
        assert self._process is not None
        job = self._in_flight = self._waiting.popleft()
        job.attempts += 1
        self._heard_s = time.monotonic()
        place = {"do": "job", "slot": job.slot} if job.path is None else {"do": "file", "path": str(job.path)}
        self._process.send(
            {
                **place,
                "generation": job.generation,
                "step": job.step,
                "submitted_unix_s": job.times.submitted,
                "metrics": self._queue_metrics(job),
            }
        )

    def _queue_metrics(self, job: Job) -> dict[str, float]:
        """Numbers about the queue, as it is when a job leaves it; the worker adds lag and retries."""
        stats = self.stats
        counts = {name: getattr(stats, name) for name in ("high_water", "spilled", "dropped", "failed", "restarts")}
        return {**counts, "depth": self._depth, "waiting": len(self._waiting), "stall_ms": 1e3 * job.times.stall_s}

    # --- dispatcher thread -----------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Hear the worker, feed it, replace it. Ends with `close`, or when workers keep dying."""
        while not self._closing and not self._broken:
            process = self._process
            if process is None:
                self._restart()
                continue
            try:
                message = process.receive(_POLL_S)
            except EOFError:
                self._bury(process.end())
                continue
            with self._changed:
                if message is not None:
                    self._heard_s = time.monotonic()
                    self._hear(message)
                    self._dispatch()
                    self._changed.notify_all()
                hangs = (self._in_flight or not self._ready) and time.monotonic() - self._heard_s > _SILENCE_S
            if hangs:
                self._bury(f"it said nothing for {_SILENCE_S:.0f} s and was ended ({process.end(kill=True)})")

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message["is"]
        if kind == "ready":
            self._ready = True
            if self._setup is not None:
                self._introduce()
        elif kind == "rendered":
            self._on_rendered(message)
        elif kind == "logged":
            self.stats.retries = self._earlier_retries + message["retries"]
            self._on_logged(message["generation"])
        elif kind == "log":
            _log.log(message["level"], "worker: %s", message["text"])

    def _introduce(self) -> None:
        """Tell a fresh worker about the run, and what its predecessor rendered and did not upload."""
        assert self._process is not None
        assert self._setup is not None
        assert self._layout is not None
        unlogged = {f"{job.epoch}": generation for generation, job in self._uploading.items()}
        self._process.send({**self._setup, "unlogged": unlogged})
        self._process.send({"do": "reserve", "slots": list(range(self._depth)), "nbytes": self._layout.nbytes})

    def _on_rendered(self, message: dict[str, Any]) -> None:
        job, self._in_flight = self._in_flight, None
        if job is None or job.generation != message["generation"]:
            return
        self._deaths = 0
        job.times.started, job.times.rendered = message["started_unix_s"], message["rendered_unix_s"]
        job.artifacts, job.failures = message["artifacts"], len(message["failures"])
        self.stats.worker_rss_bytes = message["rss_bytes"]
        for path, reason in message["failures"][:1]:
            _log.warning("Epoch %d: %d artifacts failed, the first being %s: %s", job.epoch, job.failures, path, reason)
        if job.slot is not None:
            self._release(job.slot)
            job.slot = None
        self._uploading[job.generation] = job

    def _on_logged(self, generation: int) -> None:
        job = self._uploading.pop(generation, None)
        if job is None:
            return
        job.times.logged = time.time()
        self.stats.artifacts_logged += job.artifacts
        self.stats.artifacts_failed += job.failures
        if generation == _EVENTS:
            return
        if job.failures:
            self.stats.failed += 1
        else:
            self.stats.logged += 1

    def _bury(self, how: str) -> None:
        """A worker is dead: take its job back, or set it aside if it has killed two."""
        with self._changed:
            self._process, self._ready = None, False
            self._deaths += 1
            self.stats.restarts += 1
            self._earlier_retries = self.stats.retries
            job, self._in_flight = self._in_flight, None
            _log.warning("The reconstruction worker died (%s). Training goes on.", how)
            if job is not None and job.attempts >= _MAX_ATTEMPTS:
                _log.warning("The snapshot of epoch %d killed %d workers; it is set aside.", job.epoch, job.attempts)
                self._set_aside(job)
            elif job is not None:
                self._waiting.appendleft(job)
            if self._deaths >= _MAX_DEATHS:
                self._broken = True
                _log.warning("%d workers died in a row: reconstructions go to the spool from now on.", self._deaths)
            self._changed.notify_all()

    def _restart(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, _FIRST_BACKOFF_S * 2 ** (self._deaths - 1))
        if not self._closing:
            self._start_process()

    def _start_process(self) -> None:
        try:
            process = WorkerProcess(self._scan_memory, [slot.descriptor for slot in self._slots])
        except OSError as error:
            self._bury(f"it cannot be started: {error}")
            return
        with self._changed:
            self._process, self._heard_s = process, time.monotonic()

    # --- the end ---------------------------------------------------------------------------------------------------

    def _log_events(self, deadline: float) -> None:
        """The table of events is the last artifact."""
        assert self._outbox is not None
        with self._changed:
            if self._process is None:
                return
            artifact = Artifact("recon_log/events.csv", events_csv(self._history))
            try:
                self._outbox.put(artifact)
            except OSError as error:
                _log.warning("The table of events cannot be written: %s", error)
                return
            self._uploading[_EVENTS] = Job(generation=_EVENTS, epoch=0, step=0, header=b"", nbytes=0, artifacts=1)
            self._process.send({"do": "finish", "generation": _EVENTS, "names": [artifact.path]})
        self.flush(deadline - time.monotonic())

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.send({"do": "stop"})
            self._process.end()
            self._process = None

    def _set_aside(self, job: Job) -> None:
        """Keep a snapshot on disk for `recon-worker sync`, or count it as failed."""
        if job.path is None and self._outbox is not None and job.slot is not None:
            parts = dump_snapshot(job.header, self._slots[job.slot].array_bytes(job.nbytes))
            try:
                job.path = self._outbox.put_raw(job.generation, job.epoch, parts)
            except OSError as error:
                self._fail(job.epoch, f"{self._outbox.folder} cannot be written: {error}")
            self._release(job.slot)
            job.slot = None
        if job.path is not None:
            self.stats.spooled += 1

    def _spool_rest(self) -> None:
        with self._changed:
            rest = [*([self._in_flight] if self._in_flight else []), *self._waiting]
            self._in_flight = None
            self._waiting.clear()
            for job in rest:
                self._set_aside(job)
            self.stats.spooled += sum(generation != _EVENTS for generation in self._uploading)
            self._uploading.clear()

    def _leave_spool(self) -> None:
        """Remove the spool if nothing is in it; else say how to upload what is."""
        if self._outbox is None:
            return
        folder = self._outbox.folder
        try:
            self._outbox.discard()
        except OSError as error:
            _log.warning("%s cannot be removed: %s", folder, error)
        if folder.exists() and not self._outbox.is_empty:
            _log.warning(
                "%d of %d reconstructions are not in MLflow yet. They are kept in %s; upload them with: "
                "recon-worker sync %s",
                self.stats.spooled, self.stats.submitted, folder, shlex.quote(str(folder)),
            )  # fmt: skip


def _own_folder(spool_dir: Path, run_id: str) -> tuple[Outbox, int]:
    """A folder of the spool with no snapshots of an earlier process, which another scan may belong to, and its lock."""
    for number in itertools.count(1):
        outbox = Outbox(spool_dir / (run_id if number == 1 else f"{run_id}_{number}"))
        try:
            lock = take_lock(outbox.folder, shared=True)
        except SpoolBusyError:
            continue
        if not outbox.raw():
            return outbox, lock
        os.close(lock)
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class _Acquired:
    slot: int | None
    layout: SnapshotLayout
    time_s: float


def _close_in_forked_children(worker: ReconWorker) -> None:
    """A forked child (a DataLoader worker) must not keep the pipe open: its end tells the worker that we are dead."""
    reference = weakref.ref(worker)

    def close() -> None:
        alive = reference()
        if alive is not None and alive._process is not None:
            alive._process.close_descriptors()

    os.register_at_fork(after_in_child=close)
