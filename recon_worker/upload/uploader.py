"""Uploads the outbox to MLflow in background threads, while rendering continues.

    outbox -> queue of names -> 1 thread (local store) or up to 10 (http) -> MLflow -> read back -> file removed

Once all files of a snapshot's folder are sent, the folder is listed and missing files are sent again: a proxy may
acknowledge files that it discards. Failed requests are retried as defined in `retry`; their files stay in the outbox. A
file that the server rejects or loses is set aside until `retry_now` and does not delay others.
"""

import functools
import math
import queue
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from recon_worker.spool.outbox import Outbox, Version, epoch_of
from recon_worker.system.messages import message_log
from recon_worker.upload.errors import UnacceptableError
from recon_worker.upload.retry import RESENDS, Retries, StoppedError, backoff_s
from recon_worker.upload.threads import start_threads

if TYPE_CHECKING:
    from recon_worker.upload.mlflow_sink import MlflowSink

_log = message_log(__name__)

MAX_UPLOAD_THREADS = 10
"""Eight for uploads, and two for listings, which make up every seventh request."""
_POLL_S = 0.2


def upload_threads(tracking_uri: str) -> int:
    """Return the number of upload threads. Over http each upload is a round trip; a local store is faster with one."""
    return MAX_UPLOAD_THREADS if tracking_uri.startswith(("http://", "https://", "databricks")) else 1


@dataclass(eq=False)
class Batch:
    """Files that are reported together. Guarded by the uploader's lock."""

    generation: int = 0
    """Set when the batch is complete."""
    pending: int = 1
    """Number of files that have neither arrived nor been set aside, plus one until the batch is complete."""
    held: list[str] = field(default_factory=list)
    """Files of the folder that is being filled."""
    unsent: Counter[str] = field(default_factory=Counter)
    """Number of files to send, by folder."""
    sent: defaultdict[str, dict[str, Version | None]] = field(default_factory=lambda: defaultdict(dict))
    """Files to read back, by folder: versions by name; None: another thread uploaded the file."""
    aside: list[str] = field(default_factory=list)
    """Files that were set aside."""


class Uploader:
    """Uploads files of the outbox, and reports each snapshot whose files have all arrived.

    Args:
        outbox: Source of the files.
        sink: Destination of the files; only `upload` and `missing` are called.
        threads: Number of concurrent requests.
        on_complete: Called with a generation whose files have arrived. Runs in an upload thread; retried if it raises.
        on_refused: Called with each new value of `refused`.
        on_aside: Called with a generation whose remaining files are all set aside.
    """

    def __init__(
        self,
        outbox: Outbox,
        sink: "MlflowSink",
        threads: int,
        on_complete: Callable[[int], None],
        on_refused: Callable[[bool], None] = lambda refused: None,
        on_aside: Callable[[int], None] = lambda generation: None,
    ) -> None:
        self.retries = Retries(lambda refused: self._note(refused=refused))
        self.arrived = 0
        """Number of files that were uploaded and read back."""
        self.refused = False
        """Whether the server refuses all pending uploads, so that waiting does not help."""
        self._outbox, self._sink, self._threads = outbox, sink, threads
        self._on_complete, self._on_refused, self._on_aside = on_complete, on_refused, on_aside
        self._queue: queue.Queue[tuple[Batch, str | None]] = queue.Queue()  # bounded by the files of the outbox
        self._lock = threading.Lock()
        """Guards everything below."""
        self._open: list[Batch] = []
        self._sent_version = dict[str, Version]()
        self._busy, self._in_line, self._refusals = 0, 0, set[int]()
        """Number of busy threads; of these, waiting for `_whole_run`; IDs of those whose last request was refused."""
        self._warned = set[str]()
        """Rejected files, and "lost" once any file was lost: each causes one warning."""
        self._whole_run = threading.Lock()
        self._threads = start_threads(threads, self._serve, "upload")

    def add(self, generation: int, names: Collection[str]) -> None:
        """Upload the files `names` of the outbox, then report their generation to `on_complete`."""
        batch = self.begin()
        with self._lock:
            self._enqueue(batch, names)
        self.end(batch, generation)

    def begin(self) -> Batch:
        """Begin a batch whose files are uploaded while others are still being made."""
        batch = Batch()
        with self._lock:
            self._open.append(batch)
        return batch

    def extend(self, batch: Batch, name: str) -> None:
        """Add a file of the outbox. It is uploaded once a file of another folder follows: folders are listed once."""
        with self._lock:
            if batch.held and _folder(batch.held[-1]) != _folder(name):
                self._enqueue(batch, batch.held)
                batch.held = []
            batch.held.append(name)

    def end(self, batch: Batch, generation: int) -> None:
        """Upload the rest of a batch, then report `generation` to `on_complete`."""
        with self._lock:
            batch.generation = generation
            self._enqueue(batch, batch.held)
        self._queue.put((batch, None))

    @property
    def idle(self) -> bool:
        """Whether all added files have arrived and been reported, or are set aside."""
        with self._lock:
            return all(batch.aside and not batch.pending for batch in self._open)

    def retry_now(self) -> None:
        """End all waits and retry now, including files set aside: the server may accept them now."""
        with self._lock:
            for batch in self._open:
                names, batch.aside = batch.aside, []
                self._enqueue(batch, names)
            self._refusals.clear()
        self._note()
        self.retries.retry_now()

    def stop(self) -> None:
        """Stop retrying. Files that have not arrived stay in the outbox."""
        self.retries.stop()

    def _enqueue(self, batch: Batch, names: Collection[str]) -> None:
        """Queue files. The caller holds the lock."""
        batch.pending += len(names)
        batch.unsent.update(map(_folder, names))
        for name in names:
            self._queue.put((batch, name))

    # --- upload threads ---------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while not self.retries.stopped:
            try:
                batch, name = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            self._note(busy=1)
            try:
                if self._handle(batch, name):
                    self.retries.call(functools.partial(self._on_complete, batch.generation))
                    with self._lock:
                        self._open.remove(batch)
            except StoppedError:
                return
            self._note(busy=-1)

    def _handle(self, batch: Batch, name: str | None) -> bool:
        """Deliver a file; None: the batch is complete. Returns whether all of the batch has arrived."""
        arrived, settled = (0, 1) if name is None else self._deliver(batch, name)
        with self._lock:
            self.arrived += arrived
            batch.pending -= settled
            last, any_aside = settled and not batch.pending, bool(batch.aside)
        if last and any_aside:
            self._on_aside(batch.generation)
        return bool(last) and not any_aside

    def _deliver(self, batch: Batch, name: str) -> tuple[int, int]:
        """Send a file; read its folder back after the last one.

        Returns the number of files that have arrived, and of those that have arrived or were set aside.
        """
        folder = _folder(name)
        sent = self._send(batch, name)
        with self._lock:
            batch.sent[folder] |= sent
            batch.unsent[folder] -= 1
            to_read_back = {} if batch.unsent[folder] else batch.sent.pop(folder)
        return self._read_back(batch, to_read_back), len(to_read_back) + (not sent)

    def _send(self, batch: Batch, name: str) -> dict[str, Version | None]:
        """Upload a file; returns its name and version; empty if it was set aside.

        Files that every epoch replaces, such as the gallery, are uploaded one at a time: the newest must arrive last.
        """
        of_epoch = epoch_of(name) < math.inf
        if not of_epoch:
            self._note(in_line=1)
            while not self._whole_run.acquire(timeout=_POLL_S):
                if self.retries.stopped:
                    raise StoppedError
            self._note(in_line=-1)
        try:
            return {name: self.retries.call(lambda: self._upload(name), but_not=UnacceptableError)}
        except UnacceptableError as error:
            if self._set_aside(batch, name, warn_of=name):
                _log.warning("The tracking server does not accept %s: %s. It stays in the spool.", name, error)
            return {}
        finally:
            if not of_epoch:
                self._whole_run.release()

    def _upload(self, name: str) -> Version | None:
        """Upload a file unless its version was already sent: a file replaced meanwhile is queued twice."""
        version = self._outbox.version(name)
        if version is None or self._sent_version.get(name) == version:
            return version
        try:
            self._sink.upload(self._outbox.local_path(name), name)
        except Exception:
            if self._outbox.version(name) is None:
                return None  # another thread was faster
            raise
        self._sent_version[name] = version
        return version

    def _read_back(self, batch: Batch, sent: dict[str, Version | None]) -> int:
        """Verify the files of a folder: remove those that arrived, resend lost ones, finally set these aside.

        Returns the number of files that have arrived.
        """
        arrived = 0
        for resend in count(1):
            round_began = self.retries.round
            versions = {name: version for name, version in sent.items() if version is not None}
            missing = self.retries.call(lambda: self._sink.missing(versions)) if versions else set()  # noqa: B023
            # a newer version of a file belongs to another batch
            lost = {name for name in missing if self._outbox.version(name) == versions[name]}
            arrived += len(sent) - len(lost)
            for name in versions.keys() - lost:
                self._remove(name, versions[name])
            for name in lost:
                self._sent_version.pop(name, None)
            if not lost or resend > RESENDS:
                break
            self.retries.wait(backoff_s(resend), round_began, len(lost))
            sent = {}
            for name in lost:
                sent |= self._send(batch, name)
        for name in lost:
            if self._set_aside(batch, name, warn_of="lost"):
                _log.warning(
                    "The tracking server has acknowledged %s %d times, but it is not there. Files that are lost like "
                    "this stay in the spool; a proxy in front of the artifacts may be the cause.",
                    name, 1 + RESENDS,
                )  # fmt: skip
        return arrived

    def _remove(self, name: str, version: Version) -> None:
        self._sent_version.pop(name, None)
        try:
            self._outbox.remove(name, version)
        except OSError as error:  # it is uploaded; a remaining copy is harmless
            _log.warning("%s was uploaded, but cannot be removed from the spool: %s", name, error)

    def _set_aside(self, batch: Batch, name: str, *, warn_of: str) -> bool:
        """Set a file aside until `retry_now`; returns whether to log a warning, once per `warn_of`."""
        with self._lock:
            batch.aside.append(name)
            first = warn_of not in self._warned
            self._warned.add(warn_of)
            return first

    def _note(self, *, busy: int = 0, in_line: int = 0, refused: bool = False) -> None:
        """Update `refused` after this thread began or ended work, or its request was refused.

        The server refuses all uploads if no thread makes progress and none is free to try another file.
        """
        with self._lock:
            self._busy += busy
            self._in_line += in_line
            (self._refusals.add if refused else self._refusals.discard)(threading.get_ident())
            none_free = self._busy == self._threads or self._queue.empty()
            stuck = len(self._refusals) + self._in_line == self._busy
            before, self.refused = self.refused, bool(self._refusals) and stuck and none_free
            if self.refused != before:
                self._on_refused(self.refused)


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
