"""A full queue under each overflow policy, with a real worker."""

import time
from dataclasses import replace

import mlflow
import pytest

from recon_worker.client.job import State
from recon_worker.spool.outbox import Outbox, total_bytes
from tests.faults.harness import (
    assert_balanced,
    freeze,
    started,
    thaw,
    wait_until,
)
from tests.samples import layout_of, log_epoch, make_run

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind")]


def test_a_full_queue_spills_to_disk_and_all_is_logged_with_its_numbers_as_metrics(tracking, settings, scan):
    target = make_run(tracking)
    with started(replace(settings, depth=1), target, scan) as worker:
        freeze(worker)
        log_epoch(worker, layout_of(scan), 1)
        wait_until(lambda: worker._queue.in_state(State.IN_FLIGHT))
        for epoch in (2, 3):
            log_epoch(worker, layout_of(scan), epoch)
        assert worker.stats.spilled == 2
        thaw(worker)

    client = mlflow.MlflowClient(tracking.uri)
    spilled = [(one.step, one.value) for one in client.get_metric_history(target.run_id, "recon_log/spilled")]
    names = ("depth", "high_water", "stall_ms", "lag_s", "dropped", "failed", "retries", "restarts", "waiting")
    assert worker.stats.logged == 3
    assert tracking.epoch_folders() == [f"epoch_{e:02d}" for e in range(1, 4)]
    assert spilled == [(10, 0.0), (20, 2.0), (30, 2.0)]  # so far, when the worker got the snapshot
    assert {f"recon_log/{name}" for name in names} <= client.get_run(target.run_id).data.metrics.keys()


@pytest.mark.slow  # client/test_snapshot_queue.py has the same without a worker
def test_a_full_queue_drops_the_oldest_and_keeps_the_last(tracking, settings, scan):
    with started(replace(settings, depth=2, overflow="drop-oldest"), make_run(tracking), scan) as worker:
        freeze(worker)
        for epoch in range(1, 7):
            log_epoch(worker, layout_of(scan), epoch)
        thaw(worker)

    assert worker.stats.dropped == 4
    assert worker.stats.logged == 2
    assert tracking.epoch_folders()[-1] == "epoch_06"


@pytest.mark.slow  # faults/test_queue_faults.py has the same without the clock
def test_a_full_queue_blocks_until_a_slot_is_free(tracking, settings, scan):
    import threading

    with started(replace(settings, depth=1, overflow="block"), make_run(tracking), scan) as worker:
        freeze(worker)
        log_epoch(worker, layout_of(scan), 1)
        threading.Timer(1.0, thaw, [worker]).start()
        began = time.monotonic()
        log_epoch(worker, layout_of(scan), 2)
        waited = time.monotonic() - began

    assert waited > 0.5
    assert (worker.stats.logged, worker.stats.spilled) == (2, 0)


@pytest.mark.slow  # client/test_large_snapshots.py fills the same limit
def test_the_spill_is_bounded(tracking, settings, scan):
    limit = 2 * layout_of(scan).nbytes + 4096
    target = make_run(tracking)
    with started(replace(settings, depth=1, spill_bytes=limit), target, scan) as worker:
        freeze(worker)
        for epoch in range(1, 8):
            log_epoch(worker, layout_of(scan), epoch)
        held = total_bytes(Outbox(settings.spool_dir / target.run_id).raw())
        thaw(worker)

    assert held <= limit
    assert worker.stats.dropped > 0
    assert_balanced(worker.stats)
    assert tracking.epoch_folders()[-1] == "epoch_07"


@pytest.mark.slow  # client/test_depth_advice.py simulates each policy
@pytest.mark.parametrize(("overflow", "depth"), [("drop-oldest", 2), ("spill", 1), ("block", 1)])
def test_the_advised_depth_avoids_what_a_late_worker_and_a_full_queue_cost(
    tracking, settings, scan, mlflow_database, tmp_path, overflow, depth
):
    def burst(tracking, depth, spool):
        """Four snapshots at once, the first of them before the worker has started."""
        settings_of_run = replace(settings, depth=depth, overflow=overflow, spool_dir=spool)
        with started(settings_of_run, make_run(tracking), scan) as worker:
            for epoch in range(1, 5):
                log_epoch(worker, layout_of(scan), epoch)
        return worker.stats.spilled + worker.stats.dropped + worker.stats.waited, worker.summary()

    full, summary = burst(tracking, depth, tmp_path / "a")
    advised = int(summary.split("a depth of ")[1].split()[0])
    other = type(tracking)(mlflow_database, tracking.experiment + "b", tmp_path / "other")

    assert full > 0
    assert burst(other, advised, tmp_path / "b")[0] == 0


@pytest.mark.slow
def test_automatic_depth_grows_within_its_budget(tracking, settings, scan):
    budget = 3 * layout_of(scan).nbytes
    with started(replace(settings, depth=None, queue_bytes=budget), make_run(tracking), scan) as worker:
        freeze(worker)
        for epoch in range(1, 6):
            log_epoch(worker, layout_of(scan), epoch)
        thaw(worker)

    assert worker.depth == 3
    assert worker.stats.spilled == 2
    assert worker.stats.logged == 5
