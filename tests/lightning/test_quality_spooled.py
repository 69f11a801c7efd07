"""Checkpoints of reconstructions that wait in the spool are kept: their metrics may still be the best."""

import pytest

from recon_worker.cli.console import ExitCode
from recon_worker.lightning import ReconQuality
from recon_worker.settings import WorkerSettings
from tests.faults.harness import ALWAYS, PYTHON, inject, no_last_words, sync  # noqa: F401
from tests.lightning.quality_training import kept, logging, train

pytestmark = [pytest.mark.timeout(110), pytest.mark.usefixtures("nothing_left_behind", "no_last_words")]


@pytest.fixture
def broken(tracking, tmp_path, inject):  # noqa: F811
    """Trains with workers that all die."""

    def _broken(quality, **settings):
        inject("start-up", "exit", times=ALWAYS)
        worker = WorkerSettings(spool_dir=tmp_path / "spool", **settings)
        return train(tracking, [0.3, 0.1, 0.2], quality, logs=logging(worker))

    return _broken


def test_without_a_working_worker_all_checkpoints_are_kept_and_named(broken, tmp_path, caplog):
    quality = ReconQuality(dirpath=tmp_path / "best", patience=1)
    broken(quality)

    assert kept(tmp_path / "best") == [1, 2, 3]
    assert quality.best_model_path == str(tmp_path / "best/recon-epoch=003.ckpt")
    assert "No reconstruction has a recon/stitched/phase_ssim; the last one is epoch 3, checkpoint" in caplog.text
    names = ", ".join(f"recon-epoch=00{epoch}.ckpt" for epoch in (1, 2, 3))
    assert (
        f"Kept as well, in {tmp_path / 'best'}: {names}. `recon-worker sync` logs the metrics in the spool."
        in caplog.text
    )


def test_after_a_sync_a_resumed_training_keeps_only_the_best(broken, tracking, tmp_path, monkeypatch):
    trainer = broken(ReconQuality(dirpath=tmp_path / "best"))
    monkeypatch.setattr("sys.executable", PYTHON)
    assert sync(tmp_path / "spool") == ExitCode.DONE

    train(
        tracking, [0.3, 0.1, 0.2, 0.4], ReconQuality(dirpath=tmp_path / "best"),
        logger=tracking.logger(run_id=trainer.logger.run_id), resume=str(tmp_path / "best/recon-epoch=003.ckpt"),
    )  # fmt: skip

    assert kept(tmp_path / "best") == [2, 3]  # the best, and the one from which the training was resumed


def test_the_checkpoint_of_a_dropped_snapshot_is_removed(broken, tmp_path):
    broken(ReconQuality(dirpath=tmp_path / "best"), depth=1, overflow="drop-oldest", spill_bytes=1)

    assert 1 not in kept(tmp_path / "best")
