"""Wrong settings of `ReconQuality` are errors before training; lost metrics cost the choice, not the training."""

from pathlib import Path

import mlflow
import pytest

from recon_worker.lightning import ReconQuality
from recon_worker.pictures.labels import metric_label
from tests.lightning.clients import POSITIONS, Container
from tests.lightning.quality_training import Unlabelled, kept, logging, train

pytestmark = pytest.mark.timeout(110)
GROUPS = ("recon/stitched/", "recon/patches/")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"monitor": "recon/stitched/phase_sim"}, "did you mean 'recon/stitched/phase_ssim'"),
        ({"monitor": "phase_ssim"}, "did you mean 'recon/stitched/phase_ssim'"),
        ({"monitor": "recon/patches/rfactor"}, "did you mean 'recon/patches/r_factor'"),
        ({"monitor": "val_loss"}, "allowed: recon/stitched/... phase_correlation"),
        ({"monitor": "recon/stitched/coverage"}, "not a metric that ranks"),
        ({"monitor": "recon/stitched/r_factor"}, "did you mean 'recon/patches/r_factor'"),
        ({"monitor": "recon/patches/phase_ssim"}, "did you mean 'recon/stitched/phase_ssim'"),
        (
            {"monitor": "recon/patches/misfit_r_factor_median"},
            "did you mean 'recon/stitched/misfit_r_factor_median'",
        ),
        ({"dirpath": "s3://bucket/best"}, "s3://bucket/best.*needs a folder on this machine"),
        ({"dirpath": Path("gs://bucket/best")}, "needs a folder on this machine"),
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


@pytest.mark.parametrize("data", [Container(), Unlabelled()], ids=["ground truth", "measured"])
def test_every_metric_that_is_logged_and_ranks_is_accepted(tracking, tmp_path, data, plain_sheets):
    logs = logging(positions=POSITIONS)
    trainer = train(tracking, [0.1], ReconQuality(dirpath=tmp_path), logs=logs, data=data)

    logged = mlflow.MlflowClient(tracking.uri).get_run(trainer.logger.run_id).data.metrics
    monitors = [name for name in logged if name.startswith(GROUPS) and metric_label(name.split("/")[-1]).better]
    assert {name.split("/")[1] for name in monitors} == {"stitched", "patches"}
    assert [ReconQuality(name).monitor for name in monitors] == monitors


def test_a_trainer_without_the_logging_callback_is_an_error_before_training(tracking):
    with pytest.raises(ValueError, match="add PtychoReconLoggingCallback"):
        train(tracking, [0.1], ReconQuality(), logs=ReconQuality.__base__())


def test_a_default_folder_on_a_server_is_an_error_before_training(tracking):
    with pytest.raises(ValueError, match=r"s3://bucket.*pass one as dirpath="):
        train(tracking, [0.1], ReconQuality(), default_root_dir="s3://bucket")


def test_two_in_one_folder_are_an_error_before_training(tracking, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "best")
    second = ReconQuality("recon/patches/phase_mae_rad", dirpath=tmp_path / "link")
    with pytest.raises(ValueError, match=r"Two ReconQuality.*give each a dirpath"):
        train(tracking, [0.1], ReconQuality(dirpath=tmp_path / "best"), callbacks=[second])

    assert kept(tmp_path / "best") == []


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
