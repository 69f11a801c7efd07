"""The queue: a waiting producer, close from threads and signal handlers, races, forks."""

import itertools
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from recon_worker.settings import WorkerSettings
from recon_worker.spool.outbox import Outbox
from tests.faults.harness import (
    FLUSH_S,
    assert_balanced,
    epochs,
    freeze,
    kill,
    no_last_words,  # noqa: F401
    nothing_left_behind,  # noqa: F401
    python,
    started,
    sync,
    thaw,
    wait_until,
)
from tests.samples import layout_of, log_epoch, make_run, make_scan

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def settings(tmp_path):
    return WorkerSettings(spool_dir=tmp_path / "spool", depth=1, flush_timeout_s=FLUSH_S)


@pytest.fixture
def scan():
    return make_scan(n_samples=12, n_fixed=1, truth=False)


@pytest.fixture
def blocked(tracking, settings, scan):
    """A stopped worker, and a producer that waits for a slot."""
    worker = started(replace(settings, overflow="block"), make_run(tracking), scan)
    freeze(worker)
    log_epoch(worker, layout_of(scan), 1)
    producer = threading.Thread(target=log_epoch, args=(worker, layout_of(scan), 2))
    producer.start()
    wait_until(lambda: worker._queue._arriving)
    yield worker, producer
    producer.join()


def test_a_released_slot_wakes_the_producer_that_waits(blocked, tracking):
    worker, producer = blocked
    assert producer.is_alive()
    thaw(worker)
    producer.join(90)
    worker.close(FLUSH_S)

    assert (worker.stats.logged, worker.stats.spilled) == (2, 0)
    assert epochs(tracking) == {1, 2}


@pytest.mark.slow  # the test above waits without alarms
def test_alarms_do_not_end_the_wait_for_a_slot(tracking, settings, scan):
    """They may come periodically, as from a profiler."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    with started(replace(settings, overflow="block"), make_run(tracking), scan) as worker:
        freeze(worker)
        log_epoch(worker, layout_of(scan), 1)

        def alarm_and_thaw():
            wait_until(lambda: worker._queue._arriving)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
            time.sleep(0.5)
            thaw(worker)

        other = threading.Thread(target=alarm_and_thaw)
        other.start()
        log_epoch(worker, layout_of(scan), 2)
        other.join()
    signal.signal(signal.SIGALRM, before)

    assert (worker.stats.logged, worker.stats.spilled, worker.stats.waited) == (2, 0, 1)


@pytest.mark.usefixtures("no_last_words")
def test_close_wakes_the_producer_that_waits_and_its_snapshot_is_kept(blocked, tracking, settings):
    worker, producer = blocked
    worker.close(0.2)
    producer.join(30)

    assert not producer.is_alive()
    assert worker.stats.spooled == 2
    assert_balanced(worker.stats)
    assert sync(settings.spool_dir) == 0
    assert epochs(tracking) == {1, 2}
    assert len(tracking.path("recon_log/events.csv").read_text().splitlines()) == 1 + 2


def test_the_producer_that_waits_is_freed_when_the_worker_dies_for_good(blocked, monkeypatch):
    worker, producer = blocked
    monkeypatch.setattr("recon_worker.client.supervisor._MAX_DEATHS", 1)
    kill(worker)
    producer.join(60)
    worker.close(FLUSH_S)

    assert not producer.is_alive()
    assert worker.stats.spooled == 2


@pytest.mark.slow
def test_flush_beside_submit_leaves_nothing_uncounted(tracking, settings, scan):
    worker = started(replace(settings, depth=2), make_run(tracking), scan)
    over = threading.Event()

    def flush_again_and_again():
        while not over.is_set():
            worker.flush(0.05)

    flushing = threading.Thread(target=flush_again_and_again)
    flushing.start()
    for epoch in range(1, 16):
        log_epoch(worker, layout_of(scan), epoch)
    over.set()
    flushing.join()
    worker.close(FLUSH_S)

    assert worker.stats.logged == 15
    assert_balanced(worker.stats)


@pytest.mark.slow
def test_close_from_another_thread_beside_submit_leaves_nothing_uncounted(tracking, settings, scan):
    worker = started(settings, make_run(tracking), scan)
    log_epoch(worker, layout_of(scan), 1)
    closing = threading.Thread(target=worker.close, args=(0.3,))
    closing.start()
    for epoch in itertools.takewhile(lambda _: closing.is_alive(), range(2, 2000)):
        log_epoch(worker, layout_of(scan), epoch)
        closing.join(0.02)
    closing.join()
    log_epoch(worker, layout_of(scan), 2001)

    assert_balanced(worker.stats)
    assert worker.stats.failed >= 1
    kept = worker.stats.submitted - worker.stats.failed - worker.stats.dropped
    assert sync(settings.spool_dir) == 0
    assert len(epochs(tracking)) == kept


@pytest.mark.usefixtures("no_last_words")
def test_close_from_a_signal_handler_in_the_middle_of_submit_neither_hangs_nor_loses(tracking, settings, scan):
    worker = started(settings, make_run(tracking), scan)
    freeze(worker)
    before = signal.signal(signal.SIGUSR1, lambda *_: worker.close(0.2))
    put_raw = Outbox.put_raw

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGUSR1)
        return put_raw(*arguments)

    try:
        log_epoch(worker, layout_of(scan), 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Outbox, "put_raw", interrupted)
            log_epoch(worker, layout_of(scan), 2)  # the signal arrives in the middle of this spill
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert worker.stats.spooled == 2
    assert_balanced(worker.stats)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_call_of_close_leaves_nothing_behind(tracking, settings, scan, number):
    """The signal arrives at an early, a later and a late function call within `close`."""
    arrived = []
    before = signal.signal(number, lambda *_: arrived.append(number))
    target = make_run(tracking)
    try:
        for at in (1, 40, 200):
            worker = started(settings, target, scan)
            log_epoch(worker, layout_of(scan), 1)
            wait_until(lambda w=worker: w.to_render == 0)
            _close_with_a_signal(worker, at, number)
            assert_balanced(worker.stats)
            assert worker.pid == 0
    finally:
        signal.signal(number, before)

    assert sync(settings.spool_dir) == 0
    assert epochs(tracking) == {1}


def _close_with_a_signal(worker, at, number):
    calls = itertools.count()

    def trace(frame, event, argument):
        if event == "call" and next(calls) == at:
            signal.raise_signal(number)

    sys.setprofile(trace)
    try:
        worker.close(FLUSH_S)
    finally:
        sys.setprofile(None)


class _Numbers(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return torch.tensor(float(i))


@pytest.mark.slow
def test_forked_loader_workers_that_live_on_delay_nothing(tracking, settings, scan):
    """Persistent loader workers, forked once the reconstruction worker runs, outlive three of its deaths."""
    worker = started(settings, make_run(tracking), scan)
    wait_until(lambda: worker.is_ready)
    loader = DataLoader(_Numbers(), num_workers=2, persistent_workers=True, multiprocessing_context="fork")
    for epoch in (1, 2, 3):
        assert len(list(loader)) == 8
        log_epoch(worker, layout_of(scan), epoch)
        kill(worker)
        wait_until(lambda: worker.is_ready)
    worker.close(FLUSH_S)
    del loader

    assert worker.stats.logged == 3
    assert_balanced(worker.stats)


ORPHANED = """
import os, signal, sys, time
from pathlib import Path
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.spool.run_target import RunTarget
from recon_worker.settings import WorkerSettings
from tests.samples import layout_of, log_epoch, make_scan

pipes = []
from recon_worker.client import process
def forking_pipe(make=process.Pipe):
    ends = make()
    if os.fork() == 0:  # a loader's worker, forked before anybody knows of the pipe; it outlives its parent
        time.sleep(110)
        os._exit(0)
    return ends
process.Pipe = forking_pipe
scan = make_scan(n_samples=12, n_fixed=1, truth=False)
worker = ReconWorker(WorkerSettings(spool_dir=Path({spool!r}), depth=3))
worker.start(RunTarget(run_id={run!r}, tracking_uri={uri!r}), scan, layout_of(scan))
{wait}
for epoch in (1, 2, 3):
    log_epoch(worker, layout_of(scan), epoch)
print(worker.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("wait", ["while not worker.is_ready: time.sleep(0.01)", "pass"], ids=["ready", "starting"])
def test_a_killed_training_is_noticed_although_a_forked_child_keeps_its_pipe(tracking, settings, wait):
    target = make_run(tracking)
    code = ORPHANED.format(spool=str(settings.spool_dir), run=target.run_id, uri=target.tracking_uri, wait=wait)
    with python(code) as training:
        pid = int(training.stdout.readline())
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        os.killpg(training.pid, signal.SIGKILL)  # the forked child

    assert epochs(tracking) == {1, 2, 3}
    assert list(settings.spool_dir.iterdir()) == []


@pytest.mark.slow
def test_a_folder_that_another_process_uses_is_not_removed(tracking, settings, scan):
    """As when a requeued training continues in a run to which its previous worker is still uploading."""
    target = make_run(tracking)
    first, second = started(settings, target, scan), started(settings, target, scan)
    log_epoch(first, layout_of(scan), 1)
    first.close(FLUSH_S)
    for epoch in range(2, 6):
        log_epoch(second, layout_of(scan), epoch)
    second.close(FLUSH_S)

    assert (first.stats.logged, second.stats.logged) == (1, 4)
    assert list(settings.spool_dir.iterdir()) == []
