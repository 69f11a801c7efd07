"""Snapshots too large for the queue's memory are captured in files."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from recon_worker.client.inline_backend import InlineBackend
from recon_worker.client.job import State
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.slots import HEADER_BYTES
from recon_worker.spool.outbox import Outbox, total_bytes
from recon_worker.spool.snapshot_file import RawFile
from tests.faults.harness import (
    assert_balanced,
    epochs,
    freeze,
    no_last_words,  # noqa: F401
    started,
    sync,
    thaw,
    wait_until,
)
from tests.paths import REPOSITORY
from tests.samples import fill, layout_of, log_epoch, make_run, make_scan, snapshot

pytestmark = [pytest.mark.timeout(90), pytest.mark.usefixtures("nothing_left_behind")]
FLUSH_S = 60
SCAN = make_scan(n_samples=12, n_fixed=1, truth=False)
LAYOUT = layout_of(SCAN)


@pytest.fixture
def settings(tmp_path):
    """Settings with less memory than one snapshot needs."""
    return WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=FLUSH_S, queue_bytes=LAYOUT.nbytes - 1)


def _pictures(tracking):
    return {name: tracking.path(name).read_bytes() for name in tracking.files() if name.endswith(".png")}


def _slot_bytes(worker):
    """Shared memory of the queue in bytes, without the header pages."""
    return sum(max(0, os.fstat(slot.descriptor).st_size - HEADER_BYTES) for slot in worker._queue.memory.all_slots)


def test_snapshots_captured_in_files_give_the_same_pictures_though_no_file_can_be_made_for_another(
    tracking, settings, mlflow_database, tmp_path, caplog
):
    other = type(tracking)(mlflow_database, f"{tracking.experiment}-inline", tmp_path / "inline")
    inline = InlineBackend()
    inline.start(make_run(other), SCAN, LAYOUT)
    with started(settings, make_run(tracking), SCAN) as worker:
        with pytest.raises(OSError, match=r"File too large|No space left"):
            worker.acquire(replace(LAYOUT, n_stitch=10**12))
        for epoch in (1, 2):
            log_epoch(inline, LAYOUT, epoch)
            worker.acquire(LAYOUT)  # and never submitted
            log_epoch(worker, LAYOUT, epoch)
        worker.acquire(LAYOUT)
    inline.close(FLUSH_S)

    assert _pictures(tracking) == _pictures(other)
    assert len(_pictures(tracking)) == 2 * 10
    assert (worker.stats.submitted, worker.stats.logged, worker.stats.failed, worker.stats.spilled) == (3, 2, 1, 0)
    assert "A reconstruction is lost" in caplog.text
    assert not any(settings.spool_dir.iterdir())


def test_shared_memory_stays_within_the_budget(tracking, settings, caplog):
    budget = LAYOUT.nbytes * 3 // 2
    with started(replace(settings, depth=3, queue_bytes=budget), make_run(tracking), SCAN) as worker:
        freeze(worker)
        for epoch in range(1, 5):
            log_epoch(worker, LAYOUT, epoch)
        used, files = _slot_bytes(worker), len(list(settings.spool_dir.rglob("*.snapshot")))
        thaw(worker)

    assert used == LAYOUT.nbytes <= budget
    assert files == 3
    assert (worker.stats.spilled, worker.stats.logged) == (1, 4)  # the fourth found no free slot
    assert caplog.text.count("1 of its 3 slots are in memory, the others are files") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("overflow", "spilled", "dropped"), [("drop-oldest", 0, 3), ("spill", 3, 0), ("block", 0, 0)])
def test_the_overflow_policy_holds_for_slots_in_files(tracking, settings, overflow, spilled, dropped):
    with started(replace(settings, overflow=overflow), make_run(tracking), SCAN) as worker:
        freeze(worker)
        if overflow == "block":
            threading.Timer(0.5, thaw, [worker]).start()
        for epoch in range(1, 6):
            log_epoch(worker, LAYOUT, epoch)
        thaw(worker)

    assert (worker.stats.spilled, worker.stats.dropped) == (spilled, dropped)
    assert worker.stats.logged == 5 - dropped
    assert max(epochs(tracking)) == 5


def _mapped(folder):
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]


def test_capture_files_are_unmapped_when_submitted_and_count_towards_the_limit_on_disk(tracking, settings):
    limit = 2 * LAYOUT.nbytes + 2 * 4096
    target = make_run(tracking)
    with started(replace(settings, depth=9, spill_bytes=limit), target, SCAN) as worker:
        freeze(worker)
        arrays = worker.acquire(LAYOUT)
        during, worth_locking = _mapped(settings.spool_dir), worker.reuses_memory
        fill(arrays, 1)
        worker.submit(snapshot(arrays, 1))
        del arrays
        after = _mapped(settings.spool_dir)
        for epoch in range(2, 8):
            log_epoch(worker, LAYOUT, epoch)
        held = total_bytes(Outbox(settings.spool_dir / target.run_id).raw())
        thaw(worker)

    assert (len(during), after) == (1, [])
    assert not worth_locking
    assert LAYOUT.nbytes < held <= limit
    assert_balanced(worker.stats)
    assert worker.stats.dropped >= 4
    assert max(epochs(tracking)) == 7


@pytest.mark.slow
def test_a_snapshot_in_a_file_survives_the_death_of_its_worker(tracking, settings):
    with started(settings, make_run(tracking), SCAN) as worker:
        freeze(worker)
        for epoch in (1, 2):
            log_epoch(worker, LAYOUT, epoch)
        wait_until(lambda: worker._queue.in_state(State.IN_FLIGHT))
        os.kill(worker.pid, signal.SIGKILL)

    assert worker.stats.restarts == 1
    assert worker.stats.logged == 2


KILLED = f"""
import os, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from pathlib import Path
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
from recon_worker.spool.run_target import RunTarget
from tests.samples import fill, layout_of, log_epoch, make_scan
spool, run_id, uri = sys.argv[1:]
scan = make_scan()
worker = ReconWorker(WorkerSettings(spool_dir=Path(spool), queue_bytes=1))
worker.start(RunTarget(run_id=run_id, tracking_uri=uri), scan, layout_of(scan))
while not worker.is_ready: pass
for epoch in (1, 2):
    log_epoch(worker, layout_of(scan), epoch)
fill(worker.acquire(layout_of(scan)), 3)
print(worker.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_training_that_is_killed_while_it_captures_leaves_its_waiting_snapshots_and_no_half_one(tracking, tmp_path):
    target, spool = make_run(tracking), tmp_path / "spool"
    words = [sys.executable, "-c", KILLED, spool, target.run_id, target.tracking_uri]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    wait_until(lambda: not Path(f"/proc/{int(done.stdout)}").exists(), 60)

    assert epochs(tracking) == {1, 2}
    assert list(spool.iterdir()) == []


@pytest.mark.usefixtures("no_last_words")
def test_sync_removes_the_capture_files_of_a_dead_process(tracking, settings):
    target = make_run(tracking)
    worker = started(settings, target, SCAN)
    freeze(worker)
    log_epoch(worker, LAYOUT, 1)
    worker.close(0.1)
    outbox = Outbox(settings.spool_dir / target.run_id)
    RawFile(outbox.held(outbox.capture_file(None)), LAYOUT.nbytes)  # and never published
    being_written = outbox.capture_file(0).with_suffix(".1.2")  # by a worker that was killed
    being_written.write_bytes(bytes(LAYOUT.nbytes + 1))
    left = {p.name for p in settings.spool_dir.rglob("*") if p.is_file() and p.stat().st_size > LAYOUT.nbytes}

    # This test's worker may have left another one, if it was stopped during a write.
    assert left >= {f".recon-log-capture.{os.getpid()}", being_written.name, "00000001_epoch_1.snapshot"}
    assert sync(settings.spool_dir) == 0
    assert epochs(tracking) == {1}
    assert not any(settings.spool_dir.iterdir())
