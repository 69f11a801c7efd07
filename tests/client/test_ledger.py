"""The counts of a run, and its summary line."""

import pytest

from recon_worker.client.job import Job
from recon_worker.client.ledger import Ledger
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings


def test_a_snapshot_with_a_failed_artifact_counts_as_failed_even_if_the_others_are_spooled():
    stats = Ledger(submitted=2)
    for generation, failures in ((1, 0), (2, 3)):
        stats.count_rendered(Job(generation=generation, artifacts=5, failures=failures), uploaded=False)

    assert (stats.spooled, stats.failed, stats.artifacts_failed) == (1, 1, 3)
    assert stats.pending == 0
    assert "of 1 failed, the artifacts that could be made are spooled" in str(stats)


@pytest.mark.parametrize("abandoned", [True, False])
def test_no_depth_is_advised_after_all_workers_died(tmp_path, abandoned):
    worker = ReconWorker(WorkerSettings(spool_dir=tmp_path))
    worker.stats.spilled = 1
    if abandoned:
        worker._queue.abandon()
    summary = worker.summary()
    worker.close(0)

    assert ("queue depth" in summary) is not abandoned
