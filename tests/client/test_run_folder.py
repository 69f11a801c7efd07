"""Messages at the end of the training about snapshots that are not in MLflow."""

import pytest

from recon_worker.client.run_folder import leftover_messages
from recon_worker.snapshot.artifact import Artifact
from recon_worker.spool.outbox import Outbox


@pytest.fixture
def outbox(tmp_path):
    return Outbox(tmp_path / "spool" / "run")


def _put(outbox, *names):
    for name in names:
        outbox.put(Artifact(name, b"content"))


def test_an_empty_spool_gives_no_message(outbox):
    assert leftover_messages(outbox) == []


def test_each_epoch_with_files_counts_as_one_reconstruction(outbox):
    _put(
        outbox,
        "epoch_01/summary.png",
        "epoch_01/patch_00/amp_pred.png",
        "metrics/epoch_02.json",
        "recon_log/events.csv",
    )
    outbox.put_raw(2, 2, [b"interrupted while it was rendered"])
    outbox.put_raw(3, 3, [b"raw"])

    (line,) = leftover_messages(outbox)
    assert line.startswith("3 reconstructions are not in MLflow yet; kept in ")
    assert line.endswith(f" sync {outbox.folder}")


def test_one_reconstruction_is_written_in_the_singular(outbox):
    outbox.put_raw(3, 3, [b"raw"])

    (line,) = leftover_messages(outbox)
    assert line.startswith("1 reconstruction is not in MLflow yet;")


def test_a_folder_that_was_moved_during_the_training_is_named_as_it_is_now(outbox, tmp_path):
    kept = outbox.mark_damaged(outbox.put_raw(1, 1, [b"poison"]))
    outbox.put_raw(3, 3, [b"raw"])
    (tmp_path / "spool").rename(tmp_path / "moved")

    line, damaged = leftover_messages(outbox)
    assert line.endswith(f" sync {tmp_path}/moved/run")
    assert f"{tmp_path}/moved/run/raw/{kept.name}" in damaged


def test_artifacts_of_the_whole_run_are_named(outbox):
    _put(outbox, "recon_log/events.csv", "recon_log/evolution.gif")

    (line,) = leftover_messages(outbox)
    assert line.startswith("2 artifacts (recon_log/events.csv, recon_log/evolution.gif) are not in MLflow yet;")


def test_damaged_snapshots_get_a_message_of_their_own_without_the_sync_command(outbox):
    kept = outbox.mark_damaged(outbox.put_raw(1, 1, [b"poison"]))

    (line,) = leftover_messages(outbox)
    assert line.startswith("1 snapshot could not be rendered")
    assert str(kept) in line
    assert "recon-worker sync" not in line
