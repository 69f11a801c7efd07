"""Whole training runs, started as by a user, and their artifacts."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from ptycho_torch.cli import resolve
from ptycho_torch.workflows.components import run_training
from recon_worker.pictures.colour_ranges import log_intensity
from recon_worker.pictures.png import read_png
from tests.e2e.runs import OBJECT, artifacts, assert_shows, run_settings
from tests.paths import REPOSITORY, read_npz, siemens_star

of_shared_trainings = pytest.mark.xdist_group("inference")


@pytest.mark.slow
def test_the_scripts_work_without_standard_streams(raw_scan, tmp_path, mlflow_database):
    """As in a daemon: `<&- >&- 2>&-`."""
    more = ["--nepochs", "1", "--n_filters_scale", "1", "--mlflow-tracking-uri", mlflow_database, "--recon-log-async"]
    words = ["--train_data_file", raw_scan, "--test_data_file", raw_scan, "--output_dir", tmp_path, *more]
    checkpoint = ["--checkpoint", tmp_path / "checkpoints/last.ckpt", "--data_file", raw_scan]
    for script in (["training/train.py", *words], ["inference.py", *checkpoint, "--output_dir", tmp_path / "made"]):
        command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, REPOSITORY / "scripts" / script[0]]
        subprocess.run([*map(str, command), *map(str, script[1:])], check=True, timeout=150)

    assert "epoch_01/summary.png" in artifacts(tmp_path)[1]
    assert (tmp_path / "made" / "metrics.json").exists()
    assert not list(tmp_path.glob("recon_spool/*"))


@of_shared_trainings
def test_pictures_hold_the_values_that_were_measured_and_predicted(trained):
    patch = trained.artifacts / "epoch_02" / "patch_07"
    fields, probe, _ = trained.result.datamodule.test_dataset[7]
    observed = read_png(patch / "diff_obs_logI.png")
    assert_shows(observed, log_intensity(fields["images"][0].numpy()))
    assert_shows(read_png(patch / "amp_gt.png"), fields["label_amp"][0].numpy())
    model = trained.result.model.eval()
    rms = fields["rms_scaling_constant"][None]
    pred, amp, _ = model(fields["images"][None], fields["coords_relative"][None], probe[None], rms, rms)
    assert_shows(read_png(patch / "amp_pred.png"), amp[0, 0].detach().abs().numpy())
    predicted = read_png(patch / "diff_pred_logI.png")
    assert_shows(predicted, log_intensity(pred[0, 0].detach().numpy()))
    assert predicted.value_range == observed.value_range


@of_shared_trainings
def test_the_stitched_truth_is_the_object_in_the_footprint_of_the_scan(trained, raw_scan):
    scan = read_npz(raw_scan)
    x, y = (int(np.floor(scan[axis].min() - 16)) for axis in ("xcoords", "ycoords"))
    shown = read_png(trained.artifacts / "epoch_01/stitched/amp_gt.png")
    height, width = shown.values.shape
    true = np.abs(scan["objectGuess"])[y : y + height, x : x + width]
    assert shown.scanned.all()
    assert_shows(shown, true)


@of_shared_trainings
def test_a_grid_lines_run_stitches_the_test_object(train):
    training, test = train("grid lines")
    root = training.artifacts

    for kind, epoch in itertools.product(OBJECT, ("epoch_00", "epoch_01")):
        assert (root / epoch / "stitched" / f"{kind}.png").exists()
    truth = read_npz(test)["YY_ground_truth"][..., 0]
    assert_shows(read_png(root / "epoch_01/stitched/amp_gt.png"), np.abs(truth))
    assert read_png(root / "epoch_01/stitched/amp_pred.png").values.shape == truth.shape


def test_a_gridsize_2_run_uses_all_channels(raw_scan, tmp_path, mlflow_database):
    settings = run_settings(raw_scan, raw_scan, tmp_path, mlflow_database, recon_log_stitch=True, nepochs=1, gridsize=2)

    result = run_training(resolve("raw", settings))

    _, names = artifacts(tmp_path)
    assert {f"epoch_01/stitched/{kind}.png" for kind in OBJECT} <= names
    assert result.datamodule.test_dataset[0][0]["images"].shape[0] == 4
    assert np.isfinite(result.trainer.callback_metrics["val_loss"].item())


def test_a_run_with_merged_neighbours_trains_otherwise_and_is_validated_alike(raw_scan, tmp_path):
    settings = run_settings(raw_scan, raw_scan, tmp_path, None, logger="none", nepochs=1, batch_size=4)
    del settings["mlflow_tracking_uri"], settings["recon_log_every_n_epochs"], settings["recon_log_strict"]
    alone, merged = (run_training(resolve("raw", {**settings, "merge_neighbours": k})) for k in (1, 4))

    losses = [result.trainer.callback_metrics["train_loss"].item() for result in (alone, merged)]
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]
    again = merged.trainer.validate(merged.model, merged.datamodule, verbose=False)[0]["val_loss"]
    merged.model.merge_neighbours = 1
    assert merged.trainer.validate(merged.model, merged.datamodule, verbose=False)[0]["val_loss"] == again


def test_a_supervised_run_has_no_predicted_diffraction(raw_scan, tmp_path, mlflow_database):
    settings = run_settings(raw_scan, raw_scan, tmp_path, mlflow_database, nepochs=1, model_type="supervised")

    run_training(resolve("raw", settings))

    _, names = artifacts(tmp_path)
    assert not any("diff_pred" in name for name in names)
    assert any(name.endswith("amp_gt.png") for name in names)


def test_a_run_continues_from_its_last_checkpoint(raw_scan, tmp_path, mlflow_database):
    settings = run_settings(raw_scan, None, tmp_path, mlflow_database, recon_log_num_patches=1)
    run_training(resolve("raw", {**settings, "nepochs": 1}))

    result = run_training(resolve("raw", {**settings, "nepochs": 2, "resume": "last"}))

    assert result.trainer.current_epoch == 2
    assert result.trainer.global_step == 2 * len(result.datamodule.train_dataloader())


def test_settings_are_tags_and_only_three_are_params_which_mlflow_prints_over_every_image_card(
    raw_scan, tmp_path, mlflow_database
):
    settings = run_settings(raw_scan, raw_scan, tmp_path, mlflow_database, nepochs=1, recon_log_num_patches=0)

    result = run_training(resolve("raw", settings))

    run = result.trainer.logger.experiment.get_run(result.trainer.logger.run_id)
    assert run.data.tags["training/nepochs"] == "1"
    assert run.data.tags["execution/recon_log_every_n_epochs"] == "1"
    assert run.data.params == {"batch_size": "8", "learning_rate": "0.001", "model_type": "pinn"}
    assert run.data.tags["training/learning_rate"] == "0.001"
    assert {"train_loss", "val_loss", "val_deviance"} <= run.data.metrics.keys()


def test_an_output_directory_with_spaces_holds_the_database_and_nothing_beside_it(raw_scan, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "my run ä"
    settings = {"train_data_file": raw_scan, "output_dir": folder, "nepochs": 1, "n_filters_scale": 1}

    run_training(resolve("raw", {**settings, "recon_log_num_patches": 1, "recon_log_every_n_epochs": 1}))

    assert (folder / "mlflow.db").is_file()
    assert {name.split("/")[0] for name in artifacts(folder)[1]} == {"epoch_01", "images"}
    assert [p.name for p in tmp_path.iterdir()] == ["my run ä"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_eight_epochs_reconstruct_the_measured_siemens_star(tmp_path, mlflow_database):
    scan = siemens_star(64)
    settings = run_settings(scan, scan, tmp_path, mlflow_database, nepochs=8, n_filters_scale=2, recon_log_stitch=True)

    run_training(resolve("raw", {**settings, "recon_log_every_n_epochs": 8}))

    root, _ = artifacts(tmp_path)
    assert _phase_correlation(root / "epoch_08/stitched", scan) >= 0.85


def _phase_correlation(folder, scan):
    """Correlation within the area of the patch centres, global phase removed."""
    pred, truth = (
        np.exp(1j * read_png(folder / f"phase_{kind}.png").values[16:-16, 16:-16]) for kind in ("pred", "gt")
    )
    pred, truth = (np.angle(image * np.conj(image.mean())) for image in (pred, truth))
    return np.corrcoef(pred.ravel(), truth.ravel())[0, 1]
