"""Wrong settings of `ReconQuality` are errors before training; lost metrics cost the choice, not the training."""

import logging as log
from pathlib import Path

import pytest

from recon_worker.lightning import ReconQuality
from recon_worker.settings import WorkerSettings
from tests.faults.harness import ALWAYS, inject, no_last_words  # noqa: F401
from tests.lightning.clients import POSITIONS
from tests.lightning.quality_training import Unlabelled, kept, logging, train

pytestmark = pytest.mark.timeout(110)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"monitor": "recon/stitched/phase_sim"}, "did you mean 'recon/stitched/phase_ssim'"),
        ({"monitor": "phase_ssim"}, "did you mean 'recon/stitched/phase_ssim'"),
        ({"monitor": "recon/patches/rfactor"}, "did you mean 'recon/patches/r_factor'"),
        ({"monitor": "val_loss"}, "allowed: recon/stitched/... phase_correlation"),
        ({"monitor": "recon/stitched/coverage"}, "no metric that ranks"),
        ({"save_top_k": -2}, "save_top_k is -2"),
        ({"patience": 0}, "patience is 0"),
        ({"deterministic": True}, "set patience as well"),
    ],
)
def test_a_wrong_setting_is_an_error_of_the_constructor(settings, message):
    with pytest.raises(ValueError, match=message):
        ReconQuality(**settings)


@pytest.mark.parametrize("monitor", ["recon/stitched_object_01/frc_resolution_half_nm", "recon/patches/r_factor"])
def test_metrics_of_further_objects_and_of_patches_are_accepted(monitor):
    assert ReconQuality(monitor).monitor == monitor


def test_a_trainer_without_the_logging_callback_is_an_error_before_training(tracking):
    with pytest.raises(ValueError, match="add PtychoReconLoggingCallback"):
        train(tracking, [0.1], ReconQuality(), logs=ReconQuality.__base__())


def test_a_metric_of_the_object_is_an_error_before_training_if_none_is_stitched(tracking):
    with pytest.raises(ValueError, match="add log_stitch=True"):
        train(tracking, [0.1], ReconQuality(), logs=logging(log_stitch=False))


def test_a_metric_that_the_data_do_not_define_is_named_once_and_the_last_checkpoint_is_kept(
    tracking, tmp_path, caplog, plain_sheets
):
    quality = ReconQuality(dirpath=tmp_path / "best")
    train(tracking, [0.1, 0.2, 0.3], quality, logs=logging(positions=POSITIONS), data=Unlabelled())

    (named,) = [text for text in caplog.messages if "by which ReconQuality ranks" in text]
    assert "recon/stitched/half_data_frc_half_period_px" in named
    assert kept(tmp_path / "best") == [3]
    assert (quality.best_model_path, quality.best_model_score) == (str(tmp_path / "best/recon-epoch=003.ckpt"), None)
    assert "No reconstruction has a recon/stitched/phase_ssim" in caplog.text


@pytest.mark.usefixtures("nothing_left_behind", "no_last_words")
def test_without_a_working_worker_the_last_checkpoint_is_kept(tracking, tmp_path, caplog, inject):  # noqa: F811
    inject("start-up", "exit", times=ALWAYS)
    quality = ReconQuality(dirpath=tmp_path / "best", patience=1)
    with caplog.at_level(log.INFO, "recon_worker"):
        train(
            tracking, [0.1, 0.2, 0.3], quality, logs=logging(WorkerSettings(spool_dir=tmp_path / "spool"))
        )  # fmt: skip

    assert kept(tmp_path / "best") == [3]
    assert Path(quality.best_model_path).name == "recon-epoch=003.ckpt"
    assert "No reconstruction has a recon/stitched/phase_ssim; the last one is epoch 3, checkpoint" in caplog.text
