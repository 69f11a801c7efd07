"""Empties the outbox into MLflow, with retries, beside the rendering.

    outbox -> queue of names -> 1 thread (local store) or up to 10 (http) -> MLflow -> read back -> the file is removed

When all files of a folder of a snapshot are sent, that folder is listed, and what is not there is sent again: a proxy
may acknowledge what it throws away. A failed upload is tried again, ever more slowly, until it succeeds or `stop` is
called; the file stays meanwhile. What the server refuses (no such run, no right to write) is tried again too, but
rarely, and nobody should wait for it: see `Uploader.refused`. Where it does not take, or keep, a single file, as one
that is too large, that one is put aside until `try_again`, which also cuts all waits short.
"""

import logging
import queue
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

import tenacity

from recon_worker.spool.outbox import Outbox, Version
from recon_worker.system.errors import failure_of
from recon_worker.system.messages import message_log
from recon_worker.upload.answers import LostError, RefusedError, UnacceptableError

_log = message_log(__name__)

_REMOTE = ("http://", "https://", "databricks")
MAX_UPLOAD_THREADS = 10
"""At a time: eight, and two more for the looks at what has arrived, which are every seventh request."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
_REFUSED_WAIT_S = 30.0
_POLL_S = 0.2
_SENT_AGAIN = 2
"""How often what is not there after its upload is sent once more."""


def upload_threads(tracking_uri: str) -> int:
    """How many uploads at a time: over http each is a round trip; a local store is faster with one."""
    return MAX_UPLOAD_THREADS if tracking_uri.startswith(_REMOTE) else 1


class ArtifactSink(Protocol):
    """Where artifacts go."""

    def upload(self, local: Path, name: str) -> None:
        """Upload a file as the artifact `name`; raises when it fails."""

    def missing(self, sent: Mapping[str, Version]) -> set[str]:
        """Which of the artifacts that were uploaded from these versions are not there; raises when it fails."""


class _StoppedError(Exception):
    """The uploader was stopped while a thread waited for its turn."""


class Uploader:
    """Uploads what it is given; calls `on_complete(generation)` when a snapshot's last artifact has arrived.

    Args:
        outbox: Where the files lie.
        sink: Where they go.
        threads: How many uploads at a time.
        on_complete: Called from an upload thread, and tried again like an upload if it raises.
        on_refused: Called whenever `refused` has changed, with the new value.
        on_aside: Called with a generation of which nothing is left but artifacts that were put aside.
    """

    def __init__(
        self,
        outbox: Outbox,
        sink: ArtifactSink,
        threads: int,
        on_complete: Callable[[int], None],
        on_refused: Callable[[bool], None] = lambda refused: None,
        on_aside: Callable[[int], None] = lambda generation: None,
    ) -> None:
        self.retries = 0
        """Uploads that failed and were tried again."""
        self.arrived = 0
        """Files that were uploaded and seen there."""
        self.refused = False
        """Whether all that could be uploaded now was refused by the server; waiting is no use then."""
        self._threads, self._on_refused, self._on_aside = threads, on_refused, on_aside
        self._reported = set[bool]()
        self._busy, self._refusals, self._in_line = 0, set[int](), 0
        self._outbox, self._sink, self._on_complete = outbox, sink, on_complete
        self._queue: queue.Queue[tuple[int, str | None]] = queue.Queue()  # bounded by the files of the outbox
        self._left: Counter[int] = Counter()
        self._unsent: Counter[tuple[int, str]] = Counter()
        self._sent: defaultdict[tuple[int, str], dict[str, Version | None]] = defaultdict(dict)
        self._sent_version = dict[str, Version]()
        self._aside: defaultdict[int, list[str]] = defaultdict(list)
        self._unacceptable, self._lost_any = set[str](), False
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._round, self._round_of_try = 0, dict[int, int]()
        self._hurry = threading.Condition(self._lock)
        self._replaced = threading.Lock()
        for number in range(threads):
            threading.Thread(target=self._run, name=f"upload-{number}", daemon=True).start()

    def add(self, generation: int, names: list[str]) -> None:
        """Upload the files `names` of the outbox."""
        with self._lock:
            self._left[generation] += len(names) + 1  # one more for the completion itself
            self._unsent.update((generation, _folder(name)) for name in names)
        for name in names:
            self._queue.put((generation, name))
        if not names:
            self._queue.put((generation, None))

    @property
    def idle(self) -> bool:
        """Whether everything that was added has arrived, or was put aside."""
        with self._lock:
            return all(map(self._is_settled, self._left))

    def try_again(self) -> None:
        """Try now what waits for its next try; what is refused may be taken by now."""
        with self._hurry:
            self._refusals.clear()
            for generation, names in self._aside.items():
                self._unsent.update((generation, _folder(name)) for name in names)
                for name in names:
                    self._queue.put((generation, name))
            self._aside.clear()
            self._look_for_refusals()
            self._round += 1
            self._hurry.notify_all()

    def stop(self) -> None:
        """Try nothing again; what has not been uploaded stays in the outbox."""
        self._stopped.set()
        with self._hurry:
            self._hurry.notify_all()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                generation, name = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            self._note(busy=1)
            try:
                self._serve(generation, name)
            except (tenacity.RetryError, _StoppedError):
                return
            self._note(busy=-1)

    def _note(self, *, busy: int = 0, in_line: int = 0, refused: bool = False) -> None:
        """Keep `refused` up to date: a thread has begun or ended something, or its upload was refused."""
        with self._lock:
            self._busy += busy
            self._in_line += in_line
            (self._refusals.add if refused else self._refusals.discard)(threading.get_ident())
            self._look_for_refusals()

    def _look_for_refusals(self) -> None:
        """Bring `refused` up to date; the lock is held."""
        none_free = self._busy == self._threads or self._queue.empty()
        stuck = len(self._refusals) + self._in_line == self._busy
        before, self.refused = self.refused, bool(self._refusals) and stuck and none_free
        if self.refused != before:
            self._on_refused(self.refused)

    def _serve(self, generation: int, name: str | None) -> None:
        if name is not None:
            self._send(generation, name)
            with self._lock:
                self._unsent[generation, _folder(name)] -= 1
                last = not self._unsent[generation, _folder(name)]
                if last:
                    del self._unsent[generation, _folder(name)]
                sent = self._sent.pop((generation, _folder(name)), {}) if last else {}
            if not last or self._count_down(generation, self._read_back(generation, sent)) > 1:
                self._tell_aside(generation)
                return
        self._retrying()(self._on_complete, generation)
        self._count_down(generation)

    def _send(self, generation: int, name: str) -> None:
        """Upload a file, to be looked for later; or put it aside."""
        try:
            with self._alone(name):
                version = self._upload(name)
        except UnacceptableError as error:
            self._put_aside(generation, name, error)
            return
        with self._lock:
            self._sent[generation, _folder(name)][name] = version

    def _read_back(self, generation: int, sent: Mapping[str, Version | None]) -> int:
        """Look for what was sent, send again what is not there, at last put that aside; returns how many arrived."""
        left, aside = {name: version for name, version in sent.items() if version is not None}, 0
        for repeat in range(_SENT_AGAIN + 1):
            lost = self._lost(left) if left else set()
            for name in left.keys() - lost:
                self._remove(name, left[name])
            if not lost:
                break
            if repeat == _SENT_AGAIN:
                for name in lost:
                    self._sent_version.pop(name, None)
                    self._put_aside(generation, name, LostError(name))
                aside += len(lost)
            else:
                again = self._send_again(generation, lost, _FIRST_WAIT_S * 2**repeat)
                aside += len(lost) - len(again)
                left = {name: version for name, version in again.items() if version is not None}
        with self._lock:
            self.arrived += len(sent) - aside
        return len(sent) - aside

    def _lost(self, sent: Mapping[str, Version]) -> set[str]:
        """Which are not there, and have no newer version that is sent later."""
        missing = self._retrying()(self._sink.missing, sent)
        return {name for name in missing if self._outbox.version(name) == sent[name]}

    def _send_again(self, generation: int, names: set[str], wait_s: float) -> dict[str, Version | None]:
        """As `_send`, of several; leaves out those that were put aside."""
        self._sleep(wait_s)
        if self._stopped.is_set():
            raise _StoppedError
        for name in names:
            with self._lock:
                self.retries += 1
            self._sent_version.pop(name, None)
            self._send(generation, name)
        with self._lock:
            return self._sent.pop((generation, _folder(next(iter(names)))), {})

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """What every epoch replaces, such as the gallery, is uploaded once at a time: the newest arrives last."""
        if "epoch_" in name:
            yield
            return
        self._note(in_line=1)
        while not self._replaced.acquire(timeout=_POLL_S):
            if self._stopped.is_set():
                raise _StoppedError
        self._note(in_line=-1)
        try:
            yield
        finally:
            self._replaced.release()

    def _put_aside(self, generation: int, name: str, error: UnacceptableError) -> None:
        lost = isinstance(error, LostError)
        with self._lock:
            self._aside[generation].append(name)
            first = not self._lost_any if lost else name not in self._unacceptable
            self._lost_any |= lost
            self._unacceptable.add(name)
        if first and lost:
            _log.warning(
                "The tracking server has acknowledged %s %d times, and it is not there. What is lost like this stays "
                "in the spool; a proxy in front of the artifacts may be at fault.",
                name, 1 + _SENT_AGAIN,
            )  # fmt: skip
        elif first:
            _log.warning("The tracking server does not take %s: %s. It stays in the spool, others go on.", name, error)

    def _tell_aside(self, generation: int) -> None:
        with self._lock:
            only_aside = generation in self._aside and self._is_settled(generation)
        if only_aside:
            self._on_aside(generation)

    def _is_settled(self, generation: int) -> bool:
        """Whether nothing is left of it, or nothing but what was put aside, and its completion; the lock is held."""
        aside = len(self._aside.get(generation, ()))
        return self._left[generation] == aside + bool(aside)

    def _upload(self, name: str) -> Version | None:
        """Upload what lies there; returns which version that was. Raises UnacceptableError."""
        return self._retrying(tenacity.retry_if_not_exception_type(UnacceptableError))(self._upload_once, name)

    def _upload_once(self, name: str) -> Version | None:
        """Nothing if that has happened: a file that was replaced, or rendered by two workers, is queued twice."""
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

    def _remove(self, name: str, version: Version) -> None:
        self._sent_version.pop(name, None)
        try:
            self._outbox.remove(name, version)
        except OSError as error:  # it is uploaded; a copy that stays does no harm
            _log.warning("%s was uploaded, but cannot be removed from the spool: %s", name, error)

    def _count_down(self, generation: int, by: int = 1) -> int:
        with self._lock:
            self._left[generation] -= by
            left = self._left[generation]
            if not left:
                del self._left[generation]  # a long training has many
            return left

    def _retrying(self, what: tenacity.retry_base | None = None) -> tenacity.Retrying:
        return tenacity.Retrying(
            retry=what or tenacity.retry_if_exception_type(),
            wait=_wait_s,
            stop=tenacity.stop_when_event_set(self._stopped),
            sleep=self._sleep,
            before_sleep=self._report,
            before=self._tries,
        )

    def _tries(self, state: tenacity.RetryCallState) -> None:
        with self._lock:
            self._round_of_try[threading.get_ident()] = self._round
        if state.attempt_number > 1:
            self._note()

    def _sleep(self, seconds: float) -> None:
        """Wait for the next try; not at all if `try_again` was called since the last one began."""
        tried = self._round_of_try[threading.get_ident()]
        with self._hurry:
            self._hurry.wait_for(lambda: self._stopped.is_set() or self._round > tried, seconds)

    def _report(self, state: tenacity.RetryCallState) -> None:
        error = failure_of(state)
        refused = isinstance(error, RefusedError)
        with self._lock:
            self.retries += 1
            first = refused not in self._reported
            self._reported.add(refused)
        self._note(refused=refused)
        level = logging.WARNING if first else logging.DEBUG
        what = "refuses artifacts; they stay in the spool" if refused else "did not take an artifact; it is tried again"
        _log.log(level, "The tracking server %s. %s", what, error)


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


_backoff = tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S)


def _wait_s(state: tenacity.RetryCallState) -> float:
    refused = state.outcome is not None and isinstance(state.outcome.exception(), RefusedError)
    return _REFUSED_WAIT_S if refused else _backoff(state)
