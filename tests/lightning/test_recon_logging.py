"""When the callback logs, what it logs, and that training does not notice."""

import pickle

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.pictures.png import read_png
from tests.lightning.foreign import ForeignDataset, ForeignModule, loader

pytestmark = pytest.mark.usefixtures("plain_sheets")


def fit(tracking, callback, *, epochs=2, module=None, train=None, val="default", logger=None, callbacks=(), **settings):
    """Fit a foreign module for a few epochs; returns it and the trainer."""
    torch.manual_seed(7)
    module = module or ForeignModule()
    trainer = Trainer(
        max_epochs=epochs,
        logger=logger if logger is not None else tracking.logger(),
        callbacks=[*callbacks, *([callback] if callback else [])],
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    val = loader(ForeignDataset(12)) if isinstance(val, str) else val
    trainer.fit(module, loader(ForeignDataset(20), shuffle=True) if train is None else train, val)
    return module, trainer


def epochs_logged(tracking):
    """Folders of the epochs, without that of the untrained network."""
    return sorted({name.split("/")[0] for name in tracking.files()} - {"epoch_00", "recon_log"})


OF_RUN = {"recon_log/gallery.html", "recon_log/scales.json"}


def patches_logged(tracking):
    return {name.split("/")[1] for name in tracking.files() if "/patch_" in name}


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.state_dict().values()])


def test_patch_pictures_are_named_by_dataset_index(tracking):
    fit(tracking, PtychoReconLoggingCallback(1, num_patches=3, baseline=False, strict=True), epochs=1)

    kinds = ["amp_pred", "amp_gt", "amp_error", "phase_pred", "phase_gt", "phase_error"]
    kinds += ["diff_obs_logI", "diff_pred_logI", "diff_error_logI", "complex"]
    expected = {f"epoch_01/patch_{i:02d}/{kind}.png" for i in (0, 4, 8) for kind in kinds}
    assert tracking.files() == expected | {"epoch_01/summary.png"} | OF_RUN


def test_stitched_pictures_come_from_absolute_positions_of_items(tracking):
    callback = PtychoReconLoggingCallback(1, num_patches=0, log_stitch=True, baseline=False, strict=True)
    fit(tracking, callback, epochs=1)

    stitched = {f"epoch_01/stitched/{name}.png" for name in ("amp_pred", "phase_pred", "complex")}
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


def test_nothing_is_logged_in_the_sanity_check(tracking):
    with pytest.raises(RuntimeError, match="stop"):
        fit(tracking, PtychoReconLoggingCallback(1, baseline=False, strict=True), callbacks=[_StopAtFirstBatch()])

    assert tracking.files() == set()


class _StopAtFirstBatch(Callback):
    def on_train_batch_start(self, *args):
        raise RuntimeError("stop")


@pytest.mark.parametrize("val", [None, [], loader(ForeignDataset(0))], ids=["none", "no loaders", "empty"])
def test_without_validation_data_the_training_set_is_logged_with_one_warning(tracking, caplog, val):
    fit(tracking, PtychoReconLoggingCallback(1, num_patches=2, strict=True), epochs=2, val=val)

    assert epochs_logged(tracking) == ["epoch_01", "epoch_02"]
    assert patches_logged(tracking) == {"patch_00", "patch_10"}
    assert sum("There is no validation set" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize(
    "wrap", [lambda v: v, lambda v: [v], lambda v: CombinedLoader([v, v], "sequential"), lambda v: {"a": v}]
)
def test_validation_loaders_come_in_every_shape_lightning_accepts(tracking, wrap):
    class Module(ForeignModule):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return super().validation_step(batch, batch_idx)

    fit(
        tracking,
        PtychoReconLoggingCallback(1, num_patches=1, strict=True),
        module=Module(returns_predictions=True),
        val=wrap(loader(ForeignDataset(12))),
    )

    assert epochs_logged(tracking) == ["epoch_01", "epoch_02"]


@pytest.mark.parametrize("as_tensordict", [False, True], ids=["dict", "TensorDict"])
@pytest.mark.parametrize("supervised", [False, True], ids=["pinn", "supervised"])
def test_foreign_items_and_models_are_logged(tracking, as_tensordict, supervised):
    data = ForeignDataset(12, channels=2, as_tensordict=as_tensordict)
    module = ForeignModule(channels=2, supervised=supervised)

    fit(
        tracking,
        PtychoReconLoggingCallback(1, num_patches=1, log_stitch=True, strict=True),
        epochs=1,
        module=module,
        train=loader(data, shuffle=True),
        val=loader(data),
    )

    assert ("epoch_01/patch_00/diff_pred_logI.png" in tracking.files()) is not supervised
    assert {"epoch_01/patch_00/amp_error.png", "epoch_01/stitched/phase_pred.png"} <= tracking.files()


@pytest.mark.parametrize("labels", [None, "zero"])
def test_absent_or_zero_labels_are_no_ground_truth(tracking, labels):
    data = ForeignDataset(12, labels=labels)

    fit(tracking, PtychoReconLoggingCallback(1, num_patches=1, strict=True), epochs=1, val=loader(data))

    assert not any("_gt" in name or name.endswith(("amp_error.png", "phase_error.png")) for name in tracking.files())
    assert "epoch_01/patch_00/amp_pred.png" in tracking.files()


def test_the_count_intensity_profile_is_logged(tracking):
    data = ForeignDataset(12, intensity=True)

    fit(tracking, PtychoReconLoggingCallback(1, strict=True), epochs=1, train=loader(data), val=loader(data))

    assert "epoch_01/patch_00/diff_pred_logI.png" in tracking.files()


def test_predictions_of_the_validation_loop_are_used_without_an_extra_pass(tracking):
    module = ForeignModule(returns_predictions=True)
    callback = PtychoReconLoggingCallback(1, num_patches=3, log_stitch=True, baseline=False, strict=True)

    fit(tracking, callback, module=module, epochs=2, num_sanity_val_steps=0)

    validation_batches, training_batches = 3, 4
    assert module.calls == [("forward", n) for n in 2 * ([5] * training_batches + [5, 5, 2])]
    assert len(module.calls) == 2 * (validation_batches + training_batches)


def test_a_shuffled_validation_set_costs_one_extra_pass(tracking):
    module = ForeignModule(returns_predictions=True)
    callback = PtychoReconLoggingCallback(1, num_patches=3, log_stitch=True, strict=True)

    fit(tracking, callback, module=module, epochs=1, val=loader(ForeignDataset(12), shuffle=True))

    assert module.calls[-2:] == [("forward", 3), ("forward_predict", 12)]


def test_both_ways_to_get_predictions_give_the_same_pictures(tracking, new_tracking):
    other = new_tracking()
    for where, returns in ((tracking, True), (other, False)):
        callback = PtychoReconLoggingCallback(1, num_patches=2, log_stitch=True, strict=True)
        fit(where, callback, module=_seeded(returns), epochs=2)

    assert tracking.files() == other.files()
    for name in (one for one in tracking.files() if one.endswith(("pred.png", "error.png", "gt.png"))):
        one, two = read_png(tracking.path(name)), read_png(other.path(name))
        level = (one.value_range[1] - one.value_range[0]) / 251
        np.testing.assert_allclose(one.values, two.values, atol=1.01 * level)


@pytest.mark.parametrize("returns_predictions", [False, True])
@pytest.mark.parametrize("val", ["default", None], ids=["validation", "training set only"])
def test_training_with_logging_is_bit_identical_to_training_without(tracking, returns_predictions, val):
    callback = PtychoReconLoggingCallback(1, num_patches=3, log_stitch=True, strict=True)
    plain, _ = fit(tracking, None, epochs=3, module=_seeded(returns_predictions), val=val, logger=False)

    logged, _ = fit(tracking, callback, epochs=3, module=_seeded(returns_predictions), val=val)

    assert len(epochs_logged(tracking)) == 3
    assert logged.losses == plain.losses
    assert torch.equal(weights(logged), weights(plain))


def _seeded(returns_predictions):
    torch.manual_seed(3)
    return ForeignModule(returns_predictions=returns_predictions)


def test_modes_of_all_submodules_are_as_before(tracking):
    seen = []

    class Modes(Callback):
        def on_train_batch_start(self, trainer, module, *args):
            seen.append((module.body.training, module.frozen.training))

    fit(tracking, PtychoReconLoggingCallback(1, strict=True), epochs=1, val=None, callbacks=[Modes()])
    module, _ = fit(tracking, PtychoReconLoggingCallback(1, strict=True), epochs=2, val=None, callbacks=[Modes()])

    assert set(seen) == {(True, False)}
    assert (module.body.training, module.frozen.training) == (True, False)


@pytest.mark.parametrize("indices", [[12], [-1], [0, 99]])
def test_indices_outside_the_dataset_stop_the_run_before_the_first_step(tracking, indices):
    module = ForeignModule()

    with pytest.raises(ValueError, match="has 12 samples; allowed: 0 to 11"):
        fit(tracking, PtychoReconLoggingCallback(1, fixed_indices=indices), module=module)

    assert module.losses == []


def test_repeated_indices_stop_the_run(tracking):
    with pytest.raises(ValueError, match=r"\[4\] more than once, for a dataset of 12 samples"):
        fit(tracking, PtychoReconLoggingCallback(1, fixed_indices=[4, 4]))


def test_given_indices_are_logged_in_place_of_the_even_spread(tracking):
    fit(tracking, PtychoReconLoggingCallback(1, fixed_indices=[11, 2], strict=True), epochs=1)

    assert patches_logged(tracking) == {"patch_11", "patch_02"}


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


class _BrokenModule(ForeignModule):
    def forward_predict(self, *args):
        raise RuntimeError("no prediction today")


def test_an_exception_in_the_callback_costs_one_warning_and_not_the_training(tracking, caplog):
    callback = PtychoReconLoggingCallback(1, log_stitch=True)

    module, trainer = fit(tracking, callback, epochs=3, module=_BrokenModule())

    assert trainer.current_epoch == 3
    assert callback.errors == 1 + 3  # the untrained network, three epochs
    assert sum("training goes on" in record.message for record in caplog.records) == 1
    assert len(module.losses) == 12


def test_strict_logging_stops_the_training(tracking):
    with pytest.raises(RuntimeError, match="no prediction today"):
        fit(tracking, PtychoReconLoggingCallback(1, log_stitch=True, strict=True), module=_BrokenModule())


def test_missing_positions_skip_stitching_with_a_line_and_patches_go_on(tracking, caplog):
    data = ForeignDataset(12, positions=False)

    fit(tracking, PtychoReconLoggingCallback(1, log_stitch=True, strict=True), epochs=1, val=loader(data))

    assert not any("stitched" in name for name in tracking.files())
    assert "epoch_01/patch_00/amp_pred.png" in tracking.files()
    assert sum("Stitched pictures are skipped" in record.message for record in caplog.records) == 1


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
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
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


def test_limited_validation_stitches_what_it_reaches(tracking):
    module = ForeignModule(returns_predictions=True)
    callback = PtychoReconLoggingCallback(1, num_patches=2, log_stitch=True, strict=True)
    fit(tracking, callback, module=module, epochs=1, limit_val_batches=1, num_sanity_val_steps=0)

    assert module.calls[-2:] == [("forward", 5), ("forward", 1)]
    assert not read_png(tracking.path("epoch_01/stitched/amp_pred.png")).scanned.all()
