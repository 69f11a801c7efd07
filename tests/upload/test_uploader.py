"""The uploader loses no file that is replaced, refused, not accepted or not kept meanwhile."""

import queue
import threading
from collections import Counter

import pytest

from recon_worker.snapshot.artifact import Artifact
from recon_worker.spool.outbox import Outbox
from recon_worker.upload.errors import RefusedError, UnacceptableError
from recon_worker.upload.uploader import Uploader
from tests.faults.harness import wait_until

GALLERY, TABLE = "recon_log/gallery.html", "recon_log/events.csv"
NAMES = [f"epoch_01/patch_{number:02d}/amp_pred.png" for number in range(3)]


class _Keeping:
    """Keeps everything that is uploaded."""

    def missing(self, sent):
        return set()


class _Unwilling(_Keeping):
    """Refuses everything until `willing` is set."""

    def __init__(self):
        self.willing, self.tries = threading.Event(), threading.Semaphore(0)

    def upload(self, local, name):
        self.tries.release()
        if not self.willing.is_set():
            raise RefusedError("not now")


class _Sink(_Keeping):
    """Records uploads; each waits for `go`."""

    def __init__(self):
        self.uploads, self.running, self.most, self.go = [], 0, 0, threading.Event()
        self.first = threading.Event()

    def upload(self, local, name):
        self.running += 1
        self.most = max(self.most, self.running)
        content = local.read_bytes()
        self.first.set()
        assert self.go.wait(30)
        self.uploads.append((name, content))
        self.running -= 1


@pytest.fixture
def outbox(tmp_path):
    return Outbox(tmp_path / "run")


def _wait(done, count):
    for _ in range(count):
        assert done.acquire(timeout=30)


def test_a_file_that_is_replaced_during_its_upload_is_uploaded_again(outbox):
    sink, done = _Sink(), threading.Semaphore(0)
    uploader = Uploader(outbox, sink, 8, lambda generation: done.release())
    outbox.put(Artifact(GALLERY, b"old"))
    uploader.add(1, [GALLERY])
    assert sink.first.wait(30)
    outbox.put(Artifact(GALLERY, b"new"))
    uploader.add(2, [GALLERY])
    sink.go.set()
    _wait(done, 2)
    uploader.stop()

    assert sink.uploads == [(GALLERY, b"old"), (GALLERY, b"new")]
    assert sink.most == 1
    assert list(outbox.artifacts()) == []


def test_a_growing_batch_is_uploaded_folder_by_folder_and_reported_when_it_ends(outbox):
    sink, completed = _Sink(), queue.SimpleQueue()
    uploader = Uploader(outbox, sink, 1, completed.put)
    batch = uploader.begin()
    for name in NAMES[:2]:
        outbox.put(Artifact(name, b"png"))
        uploader.extend(batch, name)
    assert sink.first.wait(30)  # the first folder is complete
    sink.go.set()
    wait_until(lambda: not outbox.version(NAMES[0]))

    assert [name for name, _ in sink.uploads] == NAMES[:1]
    assert completed.empty()
    assert not uploader.idle
    uploader.end(batch, 7)
    assert completed.get(timeout=30) == 7
    assert [name for name, _ in sink.uploads] == NAMES[:2]
    uploader.stop()


def test_what_was_refused_is_retried_on_request(outbox, monkeypatch):
    monkeypatch.setattr("recon_worker.upload.retry._REFUSED_WAIT_S", 3600)
    sink, said, done = _Unwilling(), queue.SimpleQueue(), threading.Semaphore(0)
    for name in NAMES:
        outbox.put(Artifact(name, b"png"))
    uploader = Uploader(outbox, sink, 8, lambda generation: done.release(), said.put)
    uploader.add(1, NAMES)
    for _ in range(2):
        _wait(sink.tries, len(NAMES))
        uploader.retry_now()
    _wait(sink.tries, len(NAMES))
    assert said.get(timeout=30) is True
    sink.willing.set()
    uploader.retry_now()
    _wait(done, 1)
    uploader.stop()

    assert uploader.refused is False
    assert list(outbox.artifacts()) == []


def test_a_file_that_was_replaced_before_its_upload_is_uploaded_once(outbox):
    sink, done = _Sink(), threading.Semaphore(0)
    sink.go.set()
    outbox.put(Artifact(GALLERY, b"old"))
    outbox.put(Artifact(GALLERY, b"new"))
    uploader = Uploader(outbox, sink, 1, lambda generation: done.release())
    uploader.add(1, [GALLERY])
    uploader.add(2, [GALLERY])
    _wait(done, 2)
    uploader.stop()

    assert sink.uploads == [(GALLERY, b"new")]


def test_a_version_that_was_not_uploaded_is_not_removed(outbox):
    outbox.put(Artifact(GALLERY, b"old"))
    old = outbox.version(GALLERY)
    outbox.put(Artifact(GALLERY, b"new"))
    outbox.remove(GALLERY, old)
    assert list(outbox.artifacts()) == [GALLERY]

    outbox.remove(GALLERY, outbox.version(GALLERY))
    assert list(outbox.artifacts()) == []
    assert outbox.version(GALLERY) is None


class _Narrow(_Keeping):
    """Does not accept files of some names."""

    def __init__(self, *names):
        self.names, self.uploads = set(names), []

    def upload(self, local, name):
        if name in self.names:
            raise UnacceptableError("413: too large")
        self.uploads.append(name)


@pytest.mark.parametrize("threads", [1, 8])
def test_a_file_that_is_not_accepted_delays_no_other(outbox, threads, caplog):
    sink, done, aside = _Narrow(GALLERY), threading.Semaphore(0), queue.SimpleQueue()
    for name in (GALLERY, TABLE, *NAMES):
        outbox.put(Artifact(name, b"content"))
    uploader = Uploader(outbox, sink, threads, lambda generation: done.release(), on_aside=aside.put)
    for generation in range(1, 13):
        uploader.add(generation, [GALLERY])
    uploader.add(13, [TABLE, *NAMES])
    _wait(done, 1)
    assert {aside.get(timeout=30) for _ in range(12)} == {*range(1, 13)}

    assert sorted(sink.uploads) == sorted([TABLE, *NAMES])
    assert list(outbox.artifacts()) == [GALLERY]
    assert (uploader.idle, uploader.refused) == (True, False)
    assert caplog.text.count(f"does not accept {GALLERY}: 413: too large. It stays in the spool") == 1

    sink.names.clear()
    uploader.retry_now()
    _wait(done, 12)
    uploader.stop()
    assert sink.uploads[-1] == GALLERY
    assert list(outbox.artifacts()) == []


class _Forgetful:
    """Acknowledges everything, but keeps a file only from its nth upload on; None: never."""

    def __init__(self, kept_from):
        self.kept_from, self.uploads = kept_from, Counter()

    def upload(self, local, name):
        self.uploads[name] += 1

    def missing(self, sent):
        kept_from = self.kept_from
        return {name for name in sent if kept_from is None or self.uploads[name] < kept_from}


def test_what_is_not_listed_after_its_upload_is_sent_again_and_finally_kept(outbox, monkeypatch, caplog):
    monkeypatch.setattr("recon_worker.upload.retry._FIRST_WAIT_S", 0.01)
    sink, done, aside = _Forgetful(2), threading.Semaphore(0), queue.SimpleQueue()
    uploader = Uploader(outbox, sink, 8, lambda generation: done.release(), on_aside=aside.put)
    for name in (GALLERY, *NAMES):
        outbox.put(Artifact(name, b"content"))
    uploader.add(1, NAMES)
    _wait(done, 1)
    assert set(sink.uploads.values()) == {2}
    assert list(outbox.artifacts()) == [GALLERY]

    sink.kept_from = None
    uploader.add(2, [GALLERY])
    assert aside.get(timeout=30) == 2
    assert (sink.uploads[GALLERY], list(outbox.artifacts()), uploader.idle) == (3, [GALLERY], True)
    assert caplog.text.count(f"has acknowledged {GALLERY} 3 times, but it is not there") == 1

    sink.kept_from = 0
    uploader.retry_now()
    _wait(done, 1)
    uploader.stop()
    assert (list(outbox.artifacts()), uploader.arrived) == ([], 4)


def test_files_added_while_others_of_their_snapshot_are_uploaded_are_reported_too(outbox):
    sink, done = _Sink(), queue.SimpleQueue()
    uploader = Uploader(outbox, sink, 8, done.put)
    for name in NAMES[:2]:
        outbox.put(Artifact(name, b"png"))
        uploader.add(1, [name])
    assert sink.first.wait(30)
    sink.go.set()

    assert [done.get(timeout=30) for _ in range(2)] == [1, 1]
    wait_until(lambda: uploader.idle)
    uploader.stop()


class _Taking(_Keeping):
    def upload(self, local, name):
        pass


def _entries(uploader):
    """Number of entries in all its containers."""
    return sum(len(value) for value in vars(uploader).values() if hasattr(value, "__len__"))


def test_the_uploader_forgets_what_it_has_uploaded(outbox):
    done = threading.Semaphore(0)
    uploader = Uploader(outbox, _Taking(), 2, lambda generation: done.release())

    def upload(generations):
        for generation in generations:
            name = f"epoch_{generation:02d}/summary.png"
            outbox.put(Artifact(name, b"png"))
            uploader.add(generation, [name])
        _wait(done, len(generations))
        wait_until(lambda: uploader.idle)
        return _entries(uploader)

    assert upload(range(10, 20)) == upload(range(20, 60))
    uploader.stop()


def test_two_threads_do_the_work_of_eight_where_no_more_can_be_started(outbox, monkeypatch):
    start, left, done, sink = threading.Thread.start, [1, 2], queue.Queue(), _Unwilling()

    def limited(thread):
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    uploader = Uploader(outbox, sink, 8, done.put)
    for name in NAMES:
        outbox.put(Artifact(name, b"picture"))
    uploader.add(1, NAMES)
    wait_until(lambda: uploader.refused)
    sink.willing.set()
    uploader.retry_now()

    assert done.get(timeout=30) == 1
    uploader.stop()
