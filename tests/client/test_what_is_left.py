"""What is counted and said of snapshots that are not in MLflow when the training ends."""

import pytest

from recon_worker.client.depth_advice import Job
from recon_worker.client.ledger import Ledger
from recon_worker.client.recon_worker import ReconWorker, words_for_what_is_left
from recon_worker.client.uploads import Uploads
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.artifact import Artifact
from recon_worker.spool.outbox import Outbox


@pytest.fixture
def outbox(tmp_path):
    return Outbox(tmp_path / "spool" / "run")


def _put(outbox, *names):
    for name in names:
        outbox.put(Artifact(name, b"content"))


def test_nothing_is_said_of_an_empty_spool(outbox):
    assert words_for_what_is_left(outbox) == []


def test_reconstructions_are_counted_by_what_lies_there(outbox):
    _put(
        outbox,
        "epoch_01/summary.png",
        "epoch_01/patch_00/amp_pred.png",
        "metrics/epoch_02.json",
        "recon_log/events.csv",
    )
    outbox.put_raw(2, 2, [b"interrupted while it was rendered"])
    outbox.put_raw(3, 3, [b"raw"])

    (line,) = words_for_what_is_left(outbox)
    assert line.startswith("3 reconstructions are not in MLflow yet; kept in ")
    assert line.endswith(f" sync {outbox.folder}")


def test_a_single_one_is_spoken_of_as_one(outbox):
    outbox.put_raw(3, 3, [b"raw"])

    (line,) = words_for_what_is_left(outbox)
    assert line.startswith("1 reconstruction is not in MLflow yet;")


def test_a_folder_that_was_moved_during_the_training_is_named_as_it_is_now(outbox, tmp_path):
    kept = outbox.set_aside(outbox.put_raw(1, 1, [b"poison"]))
    outbox.put_raw(3, 3, [b"raw"])
    (tmp_path / "spool").rename(tmp_path / "moved")

    line, damaged = words_for_what_is_left(outbox)
    assert line.endswith(f" sync {tmp_path}/moved/run")
    assert f"{tmp_path}/moved/run/raw/{kept.name}" in damaged


def test_artifacts_of_the_whole_run_are_named(outbox):
    _put(outbox, "recon_log/events.csv", "recon_log/evolution.gif")

    (line,) = words_for_what_is_left(outbox)
    assert line.startswith("2 artifacts (recon_log/events.csv, recon_log/evolution.gif) are not in MLflow yet;")


def test_damaged_snapshots_are_named_apart_and_no_sync_is_advised_for_them(outbox):
    kept = outbox.set_aside(outbox.put_raw(1, 1, [b"poison"]))

    (line,) = words_for_what_is_left(outbox)
    assert line.startswith("1 snapshot could not be rendered")
    assert str(kept) in line
    assert "recon-worker sync" not in line


def test_a_snapshot_with_failed_pictures_counts_as_failed_though_the_others_are_left():
    stats = Ledger(submitted=2)
    uploads = Uploads(stats)
    for generation, failures in ((1, 0), (2, 3)):
        uploads.add(Job(generation=generation, epoch=1, step=1, header=b"", nbytes=0, artifacts=5, failures=failures))
    uploads.leave()

    assert (stats.spooled, stats.failed, stats.artifacts_failed) == (1, 1, 3)
    assert stats.pending == 0
    assert "of 1 failed, the artifacts that could be made are spooled" in str(stats)


@pytest.mark.parametrize("abandoned", [True, False])
def test_a_depth_is_advised_only_if_workers_lived(tmp_path, abandoned):
    worker = ReconWorker(WorkerSettings(spool_dir=tmp_path))
    worker.stats.spilled = 1
    if abandoned:
        worker._queue.abandon()
    summary = worker.summary()
    worker.close(0)

    assert ("queue depth" in summary) is not abandoned
