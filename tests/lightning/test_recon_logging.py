"""Schedule of the callback, names of its artifacts, and failures that never reach the training."""

import pickle
import time

import mlflow
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.capture.adapters import PtychoPinnAdapter
from recon_worker.capture.logged_run import LoggedRun
from recon_worker.client.inline_backend import InlineBackend
from tests.lightning.fitting import epochs_logged, fit
from tests.lightning.foreign import ForeignDataset, ForeignModule, loader
from tests.lightning.quiet import QUIET

pytestmark = pytest.mark.usefixtures("plain_sheets")

OF_RUN = {"recon_log/gallery.html", "recon_log/scales.json"}


def test_patch_pictures_are_named_by_dataset_index(tracking):
    fit(tracking, PtychoReconLoggingCallback(1, num_patches=3, baseline=False, strict=True), epochs=1)

    kinds = ["amp_pred", "amp_gt", "amp_error", "phase_pred", "phase_gt", "phase_error"]
    kinds += ["diff_obs_logI", "diff_pred_logI", "diff_error_logI", "complex"]
    expected = {f"epoch_01/patch_{i:02d}/{kind}.png" for i in (0, 4, 8) for kind in kinds}
    assert tracking.files() == expected | {"epoch_01/summary.png"} | OF_RUN


def test_stitched_pictures_come_from_absolute_positions_of_items(tracking):
    callback = PtychoReconLoggingCallback(1, num_patches=0, log_stitch=True, baseline=False, strict=True)
    fit(tracking, callback, epochs=1)

    names = ("amp_pred.png", "phase_pred.png", "complex.png", "misfit.png", "misfit.csv")
    stitched = {f"epoch_01/stitched/{name}" for name in names}
    assert tracking.files() == stitched | {"epoch_01/summary.png"} | OF_RUN


@pytest.mark.parametrize(
    ("every_n", "check_val", "epochs", "expected"),
    [
        (2, 1, 5, ["epoch_02", "epoch_04", "epoch_05"]),
        (2, 3, 7, ["epoch_03", "epoch_06", "epoch_07"]),
        (10, 1, 2, ["epoch_02"]),
        (1, 2, 3, ["epoch_02", "epoch_03"]),
        (3, 5, 4, ["epoch_04"]),
    ],
)
def test_logs_at_the_first_validation_at_or_after_each_due_epoch_and_after_the_last(
    tracking, every_n, check_val, epochs, expected
):
    callback = PtychoReconLoggingCallback(every_n, num_patches=1, strict=True)

    fit(tracking, callback, epochs=epochs, check_val_every_n_epoch=check_val)

    assert epochs_logged(tracking) == expected


def test_several_validations_in_an_epoch_log_it_once(tracking):
    fit(tracking, PtychoReconLoggingCallback(1, num_patches=1, strict=True), epochs=2, val_check_interval=0.5)

    assert epochs_logged(tracking) == ["epoch_01", "epoch_02"]


def test_validations_before_the_end_of_the_first_epoch_are_not_logged(tracking):
    callback = PtychoReconLoggingCallback(1, num_patches=1, strict=True)
    _, trainer = fit(tracking, callback, epochs=1, val_check_interval=0.5)

    client, name = mlflow.MlflowClient(tracking.uri), "recon/patches/r_factor"
    assert [one.step for one in client.get_metric_history(trainer.logger.run_id, name)] == [trainer.global_step]


def test_nothing_is_logged_in_the_sanity_check(tracking):
    with pytest.raises(RuntimeError, match="stop"):
        fit(tracking, PtychoReconLoggingCallback(1, baseline=False, strict=True), callbacks=[_StopAtFirstBatch()])

    assert tracking.files() == set()


class _StopAtFirstBatch(Callback):
    def on_train_batch_start(self, *args):
        raise RuntimeError("stop")


@pytest.mark.parametrize(
    "setting", [{"every_n_epochs": 0}, {"num_patches": -1}, {"max_stitch_samples": 0}], ids=lambda s: next(iter(s))
)
def test_settings_out_of_range_are_refused_at_once(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))} is"):
        PtychoReconLoggingCallback(**setting)


def test_without_an_mlflow_logger_nothing_is_logged_and_one_line_says_so(tracking, caplog, tmp_path):
    fit(tracking, PtychoReconLoggingCallback(1, strict=True), logger=CSVLogger(tmp_path))

    assert sum("no MLFlowLogger" in record.message for record in caplog.records) == 1


def test_mlflow_need_not_be_the_first_logger(tracking, tmp_path):
    fit(tracking, PtychoReconLoggingCallback(2, strict=True), logger=[CSVLogger(tmp_path), tracking.logger()])

    assert epochs_logged(tracking) == ["epoch_02"]


class _BrokenAdapter(PtychoPinnAdapter):
    def arguments(self, items):
        raise RuntimeError("no prediction today")


def test_an_exception_in_the_callback_costs_one_warning_and_not_the_training(tracking, caplog):
    callback = PtychoReconLoggingCallback(1, log_stitch=True, adapter=_BrokenAdapter())

    module, trainer = fit(tracking, callback, epochs=3, val=loader(ForeignDataset(12), shuffle=True))

    assert trainer.current_epoch == 3
    assert callback.errors == 3
    assert sum("training continues" in record.message for record in caplog.records) == 1
    assert len(module.losses) == 12


def test_strict_logging_stops_the_training(tracking):
    with pytest.raises(RuntimeError, match="no prediction today"):
        fit(
            tracking,
            PtychoReconLoggingCallback(1, log_stitch=True, strict=True, adapter=_BrokenAdapter()),
            val=loader(ForeignDataset(12), shuffle=True),
        )


def test_the_callback_can_be_used_for_two_fits_and_pickled_between(tracking, new_tracking):
    callback = PtychoReconLoggingCallback(1, num_patches=1, strict=True)
    fit(tracking, callback, epochs=1)
    other = new_tracking()

    fit(other, pickle.loads(pickle.dumps(callback)), epochs=2)

    assert epochs_logged(tracking) == ["epoch_01"]
    assert epochs_logged(other) == ["epoch_01", "epoch_02"]


def test_a_resumed_run_keeps_the_cadence(tracking, tmp_path):
    _, trainer = fit(tracking, None, epochs=3, logger=False)
    trainer.save_checkpoint(tmp_path / "three.ckpt")

    torch.manual_seed(0)
    trainer = Trainer(
        max_epochs=7,
        logger=tracking.logger(),
        callbacks=[PtychoReconLoggingCallback(2, num_patches=1, strict=True)],
        **QUIET,
    )
    data = loader(ForeignDataset(12))
    trainer.fit(ForeignModule(), data, data, ckpt_path=tmp_path / "three.ckpt", weights_only=True)

    assert epochs_logged(tracking) == ["epoch_04", "epoch_06", "epoch_07"]


def test_early_stopping_logs_the_epoch_it_stopped_at(tracking):
    class StopAfterThree(Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch == 2

    callback = PtychoReconLoggingCallback(5, num_patches=1, strict=True)
    fit(tracking, callback, epochs=20, callbacks=[StopAfterThree()])

    assert epochs_logged(tracking) == ["epoch_03"]


def test_the_stall_of_an_event_does_not_count_for_the_next_one(tracking, monkeypatch):
    stalls_s, waits_s = [], iter([0.5])
    end_capture, submit = LoggedRun.end_capture, InlineBackend.submit

    def slow_once(run):
        time.sleep(next(waits_s, 0.0))
        return end_capture(run)

    def recorded(backend, snapshot):
        stalls_s.append(snapshot.stall_s)
        submit(backend, snapshot)

    monkeypatch.setattr(LoggedRun, "end_capture", slow_once)
    monkeypatch.setattr(InlineBackend, "submit", recorded)

    fit(tracking, PtychoReconLoggingCallback(every_n_epochs=1, baseline=False, strict=True))

    assert stalls_s[0] >= 0.5
    assert stalls_s[1] < 0.5


def test_an_mlflow_logger_of_another_package_is_named(tracking, caplog):
    other = type("MLFlowLogger", (CSVLogger,), {"__module__": "pytorch_lightning.loggers.mlflow"})

    fit(tracking, PtychoReconLoggingCallback(1), epochs=1, logger=other(tracking.artifacts))

    assert "no MLFlowLogger of lightning.pytorch, only that of pytorch_lightning.loggers.mlflow. Import" in caplog.text
