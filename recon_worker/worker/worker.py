"""Renders the snapshots of one training run into its outbox, and uploads them.

    shared memory or spool file -> Worker -> outbox -> Uploader -> MlflowSink -> MLflow

Messages to the training process: began, alive, rendered, finished, logged, refused, aside, reserved.
"""

import contextlib
import functools
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recon_worker.pictures.artifacts import finish, reference, render
from recon_worker.pictures.history import History
from recon_worker.pictures.records import Metrics, noting_metrics
from recon_worker.snapshot.artifact import Artifact, Failure
from recon_worker.snapshot.codec import CodecError, dump_snapshot, load_brief, parse_header, read_snapshot
from recon_worker.snapshot.records import Snapshot
from recon_worker.snapshot.slots import Slot
from recon_worker.spool.outbox import Outbox, epoch_of, is_reference
from recon_worker.spool.run_target import RunTarget
from recon_worker.spool.snapshot_file import make_ready
from recon_worker.system.errors import is_shortage
from recon_worker.system.launcher import leave_removed_folder
from recon_worker.system.messages import message_log
from recon_worker.upload.mlflow_client import connect
from recon_worker.upload.mlflow_sink import MlflowSink
from recon_worker.upload.resume import load_history
from recon_worker.upload.uploader import Batch, Uploader, upload_threads
from recon_worker.worker.channel import Channel, Message
from recon_worker.worker.priority import LowPriority

if TYPE_CHECKING:
    from mlflow import MlflowClient

_log = message_log(__name__)
_NO_SNAPSHOT = -1
"""Generation of artifacts that belong to no snapshot, or to one of an earlier process."""


class Worker:
    """Serves one training run. Shares the spool's lock with the training process until this process exits.

    Args:
        brief: Description of the run (`codec.dump_brief`).
        channel: Pipe to the training process.
        slots: Shared memory of the queue.
        priority: Executes the heavy work.
        folder: Descriptor of the run's folder, which this object closes; None: open the folder by name.
    """

    def __init__(
        self, brief: bytes, channel: Channel, slots: Sequence[Slot], priority: LowPriority, folder: int | None = None
    ) -> None:
        self._channel, self.slots, self._priority = channel, slots, priority
        record, self._scan = load_brief(brief)
        self._target = RunTarget(**record["target"])
        self.outbox = Outbox(Path(record["folder"]), descriptor=folder)
        self.outbox.take_lock(shared=True)
        self.outbox.take_scratch()
        self._sink = MlflowSink(self._target, _connect, run_request=priority.run)
        self.uploader = Uploader(
            self.outbox,
            self._sink,
            upload_threads(self._target.tracking_uri),
            on_complete=self._on_uploaded,
            on_refused=lambda refused: channel.send("refused", refused=refused),
            on_aside=lambda generation: channel.send("aside", generation=generation),
        )
        self.rendered = set[int]()
        """Generations of rendered snapshots."""
        self.short = set[int]()
        """Generations of snapshots for which the machine lacked a resource at the last attempt."""
        self._saving = threading.Lock()
        self._history: History | None = None
        self._last_taken_unix_s: float | None = None
        self._jobs: dict[int, Message] = {}
        self._numbers: dict[int, Metrics] = {}

    def begin(self, unlogged: dict[str, int]) -> None:
        """Make the reference pictures, unless an earlier worker has, and upload what waits in the outbox.

        Args:
            unlogged: Generations that the training process awaits, by epoch, or by "reference".
        """
        if self.outbox.begin_reference():
            self._make_for_run(reference(self._scan), unlogged.get("reference", _NO_SNAPSHOT), "The reference pictures")
            self.outbox.end_reference()
        names: dict[int, list[str]] = {generation: [] for generation in unlogged.values()}
        last = max(unlogged.values(), default=_NO_SNAPSHOT)
        for name in self.outbox.artifacts():
            key = "reference" if is_reference(name) else str(epoch_of(name))
            names.setdefault(unlogged.get(key, last), []).append(name)
        for generation, waiting in names.items():
            self.uploader.add(generation, waiting)

    def handle(self, message: Message) -> None:
        """Execute a message of the training process."""
        match message["do"]:
            case "setup":
                self.begin(message["unlogged"])
            case "reserve":
                self._reserve(message["slots"], [Path(name) for name in message["files"]], message["nbytes"])
            case "finish":
                self.finish(message["generation"], message["names"])
            case "retry":
                self.uploader.retry_now()
            case "job":
                self._jobs[message["generation"]] = message
                self.render_slot(message["generation"], message["slot"])
            case "file":
                self._jobs[message["generation"]] = message
                self.render_file(message["generation"], Path(message["path"]))

    def render_slot(self, generation: int, number: int) -> None:
        """Render a snapshot from shared memory."""

        def read() -> Snapshot:
            slot = self.slots[number]
            found, header = slot.content()
            if found != generation:
                raise CodecError(f"slot {number} does not hold snapshot {generation}.")
            record, layout = parse_header(header)
            return Snapshot(**record, arrays=layout.views(slot.array_bytes(layout.nbytes)))

        self._render(generation, read)

    def render_file(self, generation: int, path: Path) -> None:
        """Render a snapshot from the spool; the training process then frees the file.

        The file is kept under another name if artifacts failed for other reasons than a lack of resources.
        """
        if self._render(generation, lambda: read_snapshot(self.outbox.held(path))):
            try:
                self.outbox.mark_damaged(path)
            except OSError as error:
                _log.warning("%s cannot be renamed to keep it: %s", path, error)

    def finish(self, generation: int = _NO_SNAPSHOT, names: Sequence[str] = ()) -> None:
        """Make the artifacts of the whole run, and upload them together with `names`, already in the outbox."""
        made = self._make_for_run(finish(self._load_history()), generation, "The artifacts of the whole run")
        self.uploader.add(generation, [*names, *made])

    def _make_for_run(self, pictures: Iterator[Artifact | Failure], generation: int, what: str) -> list[str]:
        """Put artifacts that belong to no snapshot into the outbox and report them; returns their names."""
        made, failures = list[str](), list[Failure]()
        try:
            for one in self._each(pictures):
                self._channel.send("alive")
                self._put(one, made, failures)
        except Exception as error:  # a shortage: these artifacts must not cost a snapshot
            failures.append(Failure(what, f"{type(error).__name__}: {error}"))
        for failure in failures:
            _log.warning("%s could not be made: %s", failure.path, failure.reason)
        self._channel.send("finished", generation=generation, artifacts=len(made), failures=len(failures))
        return made

    def save_snapshots(self) -> None:
        """Write the snapshots in shared memory to the spool, after the death of the training process."""
        with self._saving:
            saved = self.outbox.raw_generations().keys() | self.rendered
            for slot in self.slots:
                generation, header = slot.content()
                if not generation or generation in saved:
                    continue
                with contextlib.suppress(OSError, CodecError):  # cannot be reported; it may still be rendered
                    record, layout = parse_header(header)
                    parts = dump_snapshot(header, slot.array_bytes(layout.nbytes))
                    self.outbox.put_raw(generation, record["epoch"], parts)

    def _reserve(self, slots: Sequence[int], files: Sequence[Path], nbytes: int) -> None:
        """Allocate the memory and the files of the queue before the first snapshot needs them."""
        alive = functools.partial(self._channel.send, "alive")
        for number in slots:
            with contextlib.suppress(OSError):
                self.slots[number].reserve(nbytes)
                self.slots[number].fault_in()
            alive()
        for file in files:
            with contextlib.suppress(OSError):  # the training process reports it when it captures into the file
                self._priority.run(functools.partial(make_ready, self.outbox.held(file), nbytes, alive))
        self._channel.send("reserved")

    def _render(self, generation: int, read: Callable[[], Snapshot]) -> bool:
        """Render a snapshot and upload its artifacts as they are made. Returns True if it is done, but with failures.

        A snapshot that cannot be read, or for which the machine lacks a resource, is kept and may be rendered again.
        Artifacts made before a shortage are uploaded nevertheless, which may free disk space, but are not counted.
        """
        self._channel.send("began")
        self.short.discard(generation)
        report = Message(started_unix_s=time.time(), stitched_unix_s=0.0, metrics={}, earlier={}, alert="")
        names, failures, batch, short = list[str](), list[Failure](), None, False
        try:
            snapshot = self._priority.run(read)
            batch = self.uploader.begin()
            self._make(snapshot, batch, names, failures, report)
        except Exception as error:  # one failing snapshot must not prevent the others
            failures.append(Failure("snapshot", f"{type(error).__name__}: {error}"))
            short = is_shortage(error)
            if short:
                self.short.add(generation)
        done = batch is not None and not short
        report |= {"generation": generation, "artifacts": len(names), "unread": batch is None, "short": short}
        report["failures"] = [[failure.path, failure.reason] for failure in failures]
        self._channel.send("rendered", **report, rendered_unix_s=time.time())
        if done:
            self.rendered.add(generation)
        if batch is not None:
            self.uploader.end(batch, generation if done else _NO_SNAPSHOT)
        return done and bool(failures)

    def _make(self, snapshot: Snapshot, batch: Batch, names: list[str], failed: list[Failure], report: Message) -> None:
        """Make and upload the artifacts of a snapshot. Appends to `names` and `failed`, completes `report`."""

        def on_computed(what: str) -> None:
            self._channel.send("alive")
            if what == "stitched":
                report["stitched_unix_s"] = time.time()

        history = self._load_history()
        known = {} if self.rendered else history.metrics()  # also of later epochs, which this training run repeats
        resumed = self._target.earlier_epoch
        report["earlier"] = {epoch: metrics for epoch, metrics in known.items() if epoch <= resumed}
        try:
            self._last_taken_unix_s = snapshot.created_unix_s
            pictures = noting_metrics(render(self._scan, snapshot, history, on_computed), report)
            for made in self._each(pictures):
                self._channel.send("alive")
                if self._put(made, names, failed):
                    self.uploader.extend(batch, made.path)
            try:
                self._priority.run(lambda: self.outbox.keep_history(history.files()))
            except OSError as error:  # costs this worker's successor the colour ranges, but no pictures
                _log.warning("%s/history cannot be written: %s", self.outbox.folder, error)
            if failed:
                history.publish_again()
        except Exception as error:
            if is_shortage(error):
                history.publish_again()
            raise

    def _put(self, made: Artifact | Failure, names: list[str], failures: list[Failure]) -> bool:
        """Write an artifact to the outbox. Raises only for a shortage: one artifact must not prevent the others."""
        if isinstance(made, Failure):
            failures.append(made)
            return False
        try:
            self.outbox.put(made, self._last_taken_unix_s)
        except Exception as error:
            if is_shortage(error):
                raise
            what = f"{self.outbox.folder} cannot be written" if isinstance(error, OSError) else type(error).__name__
            failures.append(Failure(made.path, f"{what}: {error}"))
            return False
        names.append(made.path)
        return True

    def _each(self, pictures: Iterator[Artifact | Failure]) -> Iterator[Artifact | Failure]:
        """Make artifacts one by one, each at the current priority."""
        while (made := self._priority.run(lambda: next(pictures, None))) is not None:
            yield made

    def _load_history(self) -> History:
        """Return the history of earlier epochs, read on first use."""
        if self._history is None:
            self._history = self._priority.run(lambda: load_history(self.outbox, self._target))
        return self._history

    def _on_uploaded(self, generation: int) -> None:
        """Log the queue's metrics, the last part of a snapshot, and report it as logged. Repeated if it raises."""
        job = self._jobs.pop(generation, None)
        retries = self.uploader.retries.count
        if job is not None:  # computed once: MLflow would record the values of a retry as further points
            now_s = time.time()
            values = {**job["metrics"], "lag_s": now_s - job["submitted_unix_s"], "retries": retries}
            values = {f"recon_log/{name}": value for name, value in values.items()}
            self._numbers[generation] = Metrics(step=job["step"], time_ms=int(now_s * 1000), values=values)
        if generation in self._numbers:
            self._sink.log_numbers(self._numbers[generation])
            del self._numbers[generation]
        self._channel.send("logged", generation=generation, retries=retries)


def _connect(target: RunTarget) -> "MlflowClient":
    """Connect to MLflow. Garbage is not collected while it is imported: that takes 0.2 s and finds nothing."""
    leave_removed_folder()
    if "mlflow" in sys.modules:
        return connect(target)
    gc.disable()
    try:
        return connect(target)
    finally:
        gc.freeze()  # no later collection visits what was imported
        gc.enable()
