"""A single exception in the worker costs only the affected artifact."""

from dataclasses import replace

import pytest

from recon_worker.settings import WorkerSettings
from tests.faults.harness import FLUSH_S, epochs, inject, started  # noqa: F401
from tests.samples import layout_of, log_epoch, make_run, make_scan

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.slow]


@pytest.fixture
def log_two(tracking, tmp_path):
    """Logs epochs 1 and 2 with a new worker; returns the number of failed snapshots."""

    def log():
        scan = make_scan(n_samples=12, n_fixed=1, truth=False)
        with started(
            WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=FLUSH_S), make_run(tracking), scan
        ) as w:
            for epoch in (1, 2):
                log_epoch(w, layout_of(scan), epoch)
        return w.stats.failed

    return log


def _names(tracking, epoch):
    return {name.partition("/")[2] for name in tracking.files() if name.startswith(f"epoch_{epoch:02d}")}


def test_a_picture_that_cannot_be_written_for_whatever_reason_costs_that_picture(tracking, log_two, inject, caplog):  # noqa: F811
    inject("outbox", "raise")

    assert log_two() == 1
    assert len(_names(tracking, 2) - _names(tracking, 1)) == 1
    assert _names(tracking, 1) < _names(tracking, 2)
    assert "1 artifacts failed, the first being epoch_01/" in caplog.text
    assert "RuntimeError: a fault of the test" in caplog.text


def test_after_a_failed_artifact_the_next_epoch_makes_the_tiles_of_the_truth_again(tracking, tmp_path, inject):  # noqa: F811
    scan = replace(make_scan(n_samples=12, n_fixed=1), tiles_from_px=20)
    settings = WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=FLUSH_S)
    inject("outbox", "raise")

    with started(settings, make_run(tracking), scan) as worker:
        for epoch in (1, 2, 3):
            log_epoch(worker, layout_of(scan), epoch)

    assert worker.stats.failed == 1
    assert "stitched/amp_gt.dzi" in _names(tracking, 2)
    assert "stitched/amp_gt.dzi" not in _names(tracking, 3)


def test_a_snapshot_that_cannot_be_read_once_is_logged_all_the_same(tracking, log_two, inject, caplog):  # noqa: F811
    inject("read", "raise")

    assert log_two() == 0
    assert epochs(tracking) == {1, 2}
    assert "The snapshot of epoch 1 cannot be read" in caplog.text
