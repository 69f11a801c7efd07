"""Logged samples of every kind of dataset and loader that follows the conventions."""

import pytest
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.pictures.png import read_png
from tests.lightning.fitting import epochs_logged, fit, patches_logged
from tests.lightning.foreign import ForeignDataset, ForeignModule, collate, loader
from tests.paths import read_npz

pytestmark = pytest.mark.usefixtures("plain_sheets")


@pytest.mark.parametrize(
    ("supervised", "as_tensordict"),
    [
        pytest.param(False, False, id="pinn-dict"),
        pytest.param(True, True, id="supervised-TensorDict"),
        pytest.param(False, True, id="pinn-TensorDict", marks=pytest.mark.slow),
        pytest.param(True, False, id="supervised-dict", marks=pytest.mark.slow),
    ],
)
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


@pytest.mark.parametrize("val", [None, [], loader(ForeignDataset(0))], ids=["none", "no loaders", "empty"])
def test_without_validation_data_the_training_set_is_logged_with_one_warning(tracking, caplog, val):
    fit(tracking, PtychoReconLoggingCallback(1, num_patches=2, strict=True), epochs=2, val=val)

    assert epochs_logged(tracking) == ["epoch_01", "epoch_02"]
    assert patches_logged(tracking) == {"patch_00", "patch_10"}
    assert sum("econstructions are logged from the training set" in one.message for one in caplog.records) == 1


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


def test_missing_positions_skip_stitching_with_a_line_and_patches_are_logged(tracking, caplog):
    data = ForeignDataset(12, positions=False)

    fit(tracking, PtychoReconLoggingCallback(1, log_stitch=True, strict=True), epochs=1, val=loader(data))

    assert not any("stitched" in name for name in tracking.files())
    assert "epoch_01/patch_00/amp_pred.png" in tracking.files()
    assert sum("Stitched pictures are skipped" in record.message for record in caplog.records) == 1


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


def test_limited_validation_stitches_what_it_reaches(tracking):
    module = ForeignModule(returns_predictions=True)
    callback = PtychoReconLoggingCallback(1, num_patches=2, log_stitch=True, strict=True)
    fit(tracking, callback, module=module, epochs=1, limit_val_batches=1, num_sanity_val_steps=0)

    assert module.calls[-2:] == [("forward", 5), ("forward", 1)]
    assert not read_png(tracking.path("epoch_01/stitched/amp_pred.png")).scanned.all()


@pytest.mark.parametrize("in_pairs", [False, True], ids=["BatchSampler", "own class"])
def test_limited_validation_stitches_whole_batches_of_a_batch_sampler(tracking, in_pairs):
    data = ForeignDataset(12)
    sampler = [[i, i + 1] for i in range(0, 12, 2)] if in_pairs else BatchSampler(range(12), 2, drop_last=False)
    callback = PtychoReconLoggingCallback(1, num_patches=1, log_stitch=True, arrays="npz", strict=True)

    val = DataLoader(data, batch_sampler=sampler, collate_fn=collate)
    fit(tracking, callback, epochs=1, limit_val_batches=3, val=val)

    assert len(read_npz(tracking.path("epoch_01/stitched/arrays.npz"))["positions_px"]) == 3 * 2
