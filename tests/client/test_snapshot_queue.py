"""Overflow policies and retries, without a worker process: the tests call the queue as the supervisor does."""

import errno
import mmap
import time
from dataclasses import replace

import pytest

from recon_worker.client.job import TO_RENDER
from recon_worker.client.snapshot_queue import SnapshotQueue
from recon_worker.settings import WorkerSettings
from recon_worker.spool.outbox import Outbox
from tests.samples import layout_of, log_epoch, make_scan

LAYOUT = layout_of(make_scan())


@pytest.fixture
def make_queue(tmp_path):
    made = []

    def make(**settings):
        queue = SnapshotQueue(WorkerSettings(spool_dir=tmp_path, **settings))
        queue.memory.open(Outbox(tmp_path / "run"), LAYOUT.nbytes)
        made.append(queue)
        return queue

    yield make
    for queue in made:
        queue.memory.close()


def _render(queue, job, *, unread=False, short=False):
    times = {f"{name}_unix_s": time.time() for name in ("started", "stitched", "rendered")}
    failures = [["snapshot", "no memory"]] if unread or short else []
    how = {"failures": failures, "unread": unread, "short": short}
    queue.rendered(
        {"generation": job.generation, "artifacts": 1, "metrics": {}, "earlier": {}, "alert": "", **how, **times}
    )


@pytest.mark.parametrize("depth", [1, 2])
def test_drop_oldest_keeps_the_newest_in_memory_while_the_worker_holds_another(make_queue, tmp_path, depth):
    queue = make_queue(overflow="drop-oldest", depth=depth)
    log_epoch(queue, LAYOUT, 1)
    held = queue.take()
    for epoch in range(2, 6):
        log_epoch(queue, LAYOUT, epoch)

    assert (queue.stats.dropped, queue.stats.spilled) == (3, 0)
    assert Outbox(tmp_path / "run").raw() == []
    _render(queue, held)
    assert (newest := queue.take()).epoch == 5
    assert newest.path is None


@pytest.mark.parametrize(("overflow", "depth"), [("drop-oldest", 2), ("spill", 1)])
def test_an_automatic_depth_in_little_memory_is_the_minimum_of_the_policy(make_queue, overflow, depth):
    assert make_queue(overflow=overflow, depth=None, queue_bytes=LAYOUT.nbytes).memory.depth == depth


def test_block_waits_for_its_deadline_and_then_writes_to_disk(make_queue, tmp_path):
    queue = make_queue(overflow="block", depth=1, flush_timeout_s=0.3)
    log_epoch(queue, LAYOUT, 1)
    began = time.monotonic()
    log_epoch(queue, LAYOUT, 2)
    waited_s = time.monotonic() - began

    assert 0.3 <= waited_s < 3
    assert 0.3 <= queue.history[1].waited_s <= waited_s
    assert (queue.stats.waited, queue.stats.spilled) == (1, 1)
    assert [raw.name for raw in Outbox(tmp_path / "run").raw()] == ["00000002_epoch_2.snapshot"]


def test_block_that_finds_a_free_slot_does_not_count_as_waiting(make_queue):
    queue = make_queue(overflow="block", depth=2)
    log_epoch(queue, LAYOUT, 1)
    log_epoch(queue, LAYOUT, 2)

    assert (queue.stats.waited, queue.history[1].waited_s) == (0, 0)


@pytest.mark.parametrize("queue_bytes", [2**20, 1], ids=["memory", "file"])
def test_a_snapshot_that_cannot_be_read_is_tried_twice_more_after_the_others_and_then_kept(
    make_queue, tmp_path, caplog, queue_bytes
):
    queue = make_queue(depth=3, queue_bytes=queue_bytes)
    for epoch in (1, 2):
        log_epoch(queue, LAYOUT, epoch)
    order = []
    while (job := queue.take()) is not None:
        job.attempts += 1
        order.append(job.epoch)
        _render(queue, job, unread=job.epoch == 1)

    assert order == [1, 2, 1, 1]
    assert (queue.stats.failed, queue.in_state(*TO_RENDER)) == (1, [])
    assert [p.name for p in (tmp_path / "run" / "raw").glob("0*")] == ["00000001_epoch_1.snapshot.damaged"]
    assert "The snapshot of epoch 1 cannot be read (no memory); it is tried again." in caplog.text
    assert "The snapshot of epoch 1 could not be read in 3 attempts (no memory). It is kept as" in caplog.text


def test_a_snapshot_postponed_by_a_shortage_keeps_its_slot_and_is_rendered_after_the_others(make_queue, tmp_path):
    queue = make_queue(depth=3)
    for epoch in (1, 2):
        log_epoch(queue, LAYOUT, epoch)
    order = []
    while (job := queue.take()) is not None:
        order.append(job.epoch)
        job.attempts += 1
        _render(queue, job, short=job.epoch == 1)

    assert order == [1, 2]  # epoch 1 is not due yet
    assert (len(queue.in_state(*TO_RENDER)), queue.stats.failed) == (1, 0)
    assert Outbox(tmp_path / "run").raw() == []
    queue.leave()
    assert queue.stats.spooled == 2  # epoch 2 was rendered but not logged
    assert [raw.name for raw in Outbox(tmp_path / "run").raw()] == ["00000001_epoch_1.snapshot"]


def test_a_slot_that_cannot_be_mapped_is_free_for_the_next_snapshot(make_queue, monkeypatch):
    """For lack of descriptors or address space: the training must not wait for it with policy `block`."""
    queue = make_queue(overflow="block", depth=1, flush_timeout_s=60)

    def too_many(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as short:
        short.setattr(mmap, "mmap", too_many)
        with pytest.raises(OSError, match="Too many open files"):
            queue.acquire(LAYOUT)
    log_epoch(queue, LAYOUT, 1)

    assert (queue.stats.submitted, queue.stats.failed, queue.stats.waited) == (2, 1, 0)
    assert queue.take().slot == 0


def test_a_snapshot_for_which_there_is_too_little_memory_counts_as_failed(make_queue, caplog):
    queue = make_queue(depth=1, queue_bytes=2**62)
    log_epoch(queue, LAYOUT, 1)

    with pytest.raises(MemoryError):
        queue.acquire(replace(LAYOUT, n_fixed=10**13))

    assert (queue.stats.submitted, queue.stats.failed) == (2, 1)
    assert "cannot be allocated for it: MemoryError." in caplog.text
