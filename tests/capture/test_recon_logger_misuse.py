"""`ReconLogger`: unusual arguments, and uses other than documented."""

import atexit
import os

import mlflow
import numpy as np
import pytest
import torch

from recon_worker import ReconLogger, WorkerSettings
from recon_worker.capture.errors import UnusableDataError, WrongSettingError
from recon_worker.pictures.png import read_png
from tests.capture.test_recon_logger import AMP, N_SAMPLES, PHASE, POSITIONS, N, add_all, logger_of, run_id
from tests.lightning.clients import DIFFRACTION
from tests.lightning.foreign import ForeignDataset

__all__ = ["logger_of", "run_id"]
pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


def test_predictions_added_outside_the_with_block_are_named(logger_of, caplog):
    with logger_of() as recon:
        add_all(recon.epoch(1))

    (line,) = [record.message for record in caplog.records if "are not logged" in record.message]
    assert "`with` block" in line


def test_a_function_that_returns_the_positions_is_called_once_if_the_patch_size_is_known(logger_of):
    calls = []

    def positions(dataset):
        calls.append(dataset)
        return POSITIONS

    logger_of(positions=positions, num_samples=N_SAMPLES, patch_px=N).close()

    assert len(calls) == 1


def test_strict_raises(logger_of):
    with pytest.raises(ValueError, match="allowed: 0 to 59"), logger_of(strict=True) as recon, recon.epoch(1) as shot:
        shot.add([60], amp=AMP[:1], phase=PHASE[:1])


def test_a_forgotten_close_ends_with_the_line_that_accounts_for_every_snapshot(logger_of, caplog, monkeypatch):
    at_exit = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    recon = logger_of()
    with recon.epoch(1) as shot:
        add_all(shot)

    at_exit[-1]()

    assert "Reconstructions: 1 submitted = 1 logged" in caplog.text


def test_a_forked_child_neither_uses_nor_closes_the_logger_of_its_parent(logger_of, monkeypatch, caplog):
    recon = logger_of()
    with recon.epoch(1) as shot:
        add_all(shot)

    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        assert not recon.epoch(2).due
        recon.close()
    assert "submitted =" not in caplog.text

    recon.close()
    assert "Reconstructions: 1 submitted" in caplog.text


REFUSED = {
    "indices contain [60]": ([60], AMP[:1]),
    "predictions are a ndarray of shape (1, 32, 32), object; expected": ([0], AMP[:1].astype(object)),
    "predictions are on the device 'meta'": ([0], torch.empty(1, N, N, device="meta")),
}


@pytest.mark.parametrize("said", REFUSED)
def test_an_epoch_whose_predictions_are_all_refused_says_so(logger_of, caplog, said):
    indices, amp = REFUSED[said]
    with logger_of() as recon, recon.epoch(1) as shot:
        shot.add(indices, amp=amp, phase=PHASE[:1])

    first, last = [one for one in caplog.records if one.name.startswith("recon_worker") and one.levelname == "WARNING"]
    assert said in first.message
    assert not first.exc_info
    assert last.message == "Epoch 1 is not logged: all predictions that were added were refused."


def test_an_epoch_with_empty_batches_only_says_that_nothing_was_added(logger_of, caplog):
    with logger_of() as recon, recon.epoch(1) as shot:
        shot.add([], amp=AMP[:0], phase=PHASE[:0])

    assert "Epoch 1 is not logged: no predictions were added." in caplog.text


def test_reversed_read_only_and_big_endian_arrays_are_logged(logger_of, tracking):
    read_only = AMP.copy()
    read_only.flags.writeable = False
    with logger_of(strict=True) as recon:
        with recon.epoch(1) as shot:
            shot.add(np.arange(N_SAMPLES)[::-1], amp=AMP[::-1], phase=PHASE[::-1])
        with recon.epoch(2) as shot:
            shot.add(np.arange(N_SAMPLES), amp=read_only, phase=PHASE.astype(">f4"))

    one, two = (tracking.path(f"epoch_0{i}/stitched/phase_pred.png").read_bytes() for i in (1, 2))
    assert one == two


def test_numbers_may_be_those_of_numpy_and_torch(logger_of, tracking, run_id):
    options = {"fixed_indices": np.arange(2), "pixel_size_m": np.float32(1e-8), "first_epoch": np.int64(0)}
    with logger_of(strict=True, **options) as recon:
        for epoch, step in ((np.int64(1), np.float32(10)), (torch.tensor(2), torch.tensor(20))):
            with recon.epoch(epoch, step=step) as shot:
                add_all(shot)

    assert tracking.epoch_folders() == ["epoch_01", "epoch_02"]
    assert [(type(epoch), epoch) for epoch in recon.metrics] == [(int, 1), (int, 2)]
    history = mlflow.MlflowClient(tracking.uri).get_metric_history(run_id, "recon/stitched/amp_correlation")
    assert [one.step for one in history] == [10, 20]


@pytest.mark.parametrize("worker", [False, True], ids=["inline", "worker"])
def test_a_run_that_does_not_exist_is_an_error_before_training(logger_of, tmp_path, worker):
    settings = WorkerSettings(spool_dir=tmp_path / "spool") if worker else None

    with pytest.raises(WrongSettingError, match=r"run_id='f{32}' .*not found.*Pass the ID of an existing run"):
        logger_of(run_id="f" * 32, worker=settings)


def test_a_second_logger_of_a_run_is_refused_until_the_first_is_closed(logger_of, run_id):
    with logger_of(), pytest.raises(WrongSettingError, match=f"run {run_id} is being logged to by another.*Close"):
        logger_of()

    logger_of().close()


@pytest.mark.parametrize("spool", ["/proc/spool", "file", "file/spool"])
@pytest.mark.parametrize("patch_px", [None, N])
def test_a_spool_that_cannot_be_written_is_an_error_before_training(logger_of, tmp_path, spool, patch_px):
    (tmp_path / "file").touch()
    settings = WorkerSettings(spool_dir=tmp_path / spool)

    with pytest.raises(WrongSettingError, match=rf"spool_dir .*{spool} cannot be used \(.*\); allowed: .*Choose"):
        logger_of(worker=settings, patch_px=patch_px)


def test_a_file_with_the_name_of_the_runs_folder_is_an_error_before_training(logger_of, run_id, tmp_path):
    (tmp_path / run_id).touch()

    with pytest.raises(WrongSettingError, match=f"{run_id} is a link or not a folder"):
        logger_of(worker=WorkerSettings(spool_dir=tmp_path), patch_px=N)


def test_an_odd_side_costs_the_stitched_pictures_and_is_named(logger_of, tracking, caplog):
    odd = np.ones((N_SAMPLES, N - 1, N - 1), np.float32)
    with logger_of() as recon, recon.epoch(1) as shot:
        add_all(shot, amp=odd, phase=odd)

    assert "Stitched pictures are skipped: patches of 31 x 31 px cannot be stitched" in caplog.text
    shown = {name.split("/")[1] for name in tracking.files() if name.endswith("amp_pred.png")}
    assert shown == {"patch_00", "patch_30"}


def test_a_server_error_is_printed_once_an_epoch_without_a_worker(tracking, run_id, logger_of, monkeypatch, caplog):
    def fail(self, *args, **settings):
        raise RuntimeError(f"the store is away {'x' * 400} till noon")

    monkeypatch.setattr("mlflow.MlflowClient.log_image", fail)
    with logger_of() as recon, recon.epoch(1) as shot:
        add_all(shot)

    lines = [one.message for one in caplog.records if "could not be logged" in one.message]
    assert [line.split(":")[0] for line in lines] == ["Step 0", "Epoch 1"]
    assert all(line.count("the store is away") == 1 for line in lines)


def test_a_patch_size_too_small_to_stitch_is_named():
    with pytest.raises(WrongSettingError, match="patch_px is 2; it must be at least 4"):
        ReconLogger(positions=POSITIONS, patch_px=2)


@pytest.mark.parametrize("numbers", [{"epoch": 1.5}, {"epoch": "1"}, {"epoch": -1}, {"epoch": 1, "step": [2]}])
def test_an_epoch_that_is_no_whole_number_is_named(logger_of, caplog, numbers):
    with logger_of() as recon, recon.epoch(**numbers) as shot:
        add_all(shot)

    assert recon.errors == 1
    assert f"is {[*numbers.values()][-1]!r}; allowed: a whole number, at least 0. Training continues." in caplog.text


def test_reading_a_dataset_changes_no_random_state(tracking, run_id):
    before = torch.get_rng_state()

    ReconLogger(tracking_uri=tracking.uri, run_id=run_id, dataset=ForeignDataset(12)).close()

    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_in_inference_mode_and_outside_are_logged_alike(logger_of, tracking):
    with logger_of(strict=True) as recon:
        with torch.inference_mode(), recon.epoch(1) as shot:
            add_all(shot, amp=torch.from_numpy(AMP) * 1, phase=PHASE)
        with recon.epoch(2) as shot:
            add_all(shot)

    one, two = (tracking.path(f"epoch_0{i}/stitched/amp_pred.png").read_bytes() for i in (1, 2))
    assert one == two


def test_another_device_in_the_middle_of_an_epoch_loses_nothing(logger_of, tracking):
    with logger_of(strict=True) as recon:
        for epoch in (1, 2):
            with recon.epoch(epoch) as shot:
                add_all(shot)
                if epoch == 2:
                    recon.run.use_device(torch.device("meta"))
                shot.add([0], amp=AMP[:1], phase=PHASE[:1])

    one, two = (tracking.path(f"epoch_0{i}/stitched/amp_pred.png").read_bytes() for i in (1, 2))
    assert one == two


def test_a_function_may_return_the_positions_of_several_patches_per_sample(logger_of, tracking):
    several = {name: np.stack([one, one], axis=1) for name, one in (("amp", AMP), ("phase", PHASE))}
    positions = np.stack([POSITIONS, POSITIONS], axis=1)
    with logger_of(positions=lambda _: positions, num_samples=N_SAMPLES) as recon, recon.epoch(1) as shot:
        add_all(shot, **several)

    assert recon.errors == 0
    assert "epoch_01/stitched/amp_error.png" in tracking.files()


def test_diffraction_that_is_predicted_for_some_samples_only_is_unknown_for_the_others(logger_of, tracking):
    with logger_of(diffraction=DIFFRACTION, strict=True) as recon:
        for epoch, known in ((1, N_SAMPLES), (2, N_SAMPLES // 2)):
            with recon.epoch(epoch) as shot:
                shot.add(np.arange(known), amp=AMP[:known], phase=PHASE[:known], diffraction=DIFFRACTION[:known])
                shot.add(np.arange(known, N_SAMPLES), amp=AMP[known:], phase=PHASE[known:])

    first, second = (read_png(tracking.path(f"epoch_02/patch_{i}/diff_pred_logI.png")).values for i in ("00", "30"))
    assert np.isfinite(first).all()
    assert np.isnan(second).all()
    assert recon.metrics[2]["recon/patches/r_factor"] == 0


def test_epoch_numbers_that_go_back_are_named_once(logger_of, tracking, caplog):
    with logger_of(strict=True) as recon:
        for epoch in (4, 4, 1, 2, 5):
            with recon.epoch(epoch) as shot:
                add_all(shot)

    assert tracking.epoch_folders() == ["epoch_04", "epoch_05"]
    (line,) = [one.message for one in caplog.records if "is not logged" in one.message]
    assert line.startswith("Epoch 1 is not logged, because epoch 4 was.")


def test_patterns_that_are_never_finite_have_no_misfit_and_one_line_says_so(logger_of, tracking, caplog):
    masked = np.where(np.arange(N) == 3, np.nan, DIFFRACTION).astype(np.float32)
    with logger_of(diffraction=masked, strict=True) as recon:
        for epoch in (1, 2):
            with recon.epoch(epoch) as shot:
                add_all(shot, diffraction=DIFFRACTION)

    (line,) = [one.message for one in caplog.records if "have no misfit" in one.message]
    assert "has pixels that are not finite" in line
    assert "epoch_02/stitched/amp_pred.png" in tracking.files()


@pytest.mark.parametrize("given", [np.asarray, torch.tensor])
def test_complex_patterns_are_an_error_before_training(logger_of, given):
    with pytest.raises(UnusableDataError, match="patterns are complex; pass their amplitudes"):
        logger_of(diffraction=given(DIFFRACTION * 1j))
