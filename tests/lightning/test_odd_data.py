"""Unusual and broken datasets and loaders cost pictures, never the training."""

from functools import cache

import mlflow
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from recon_worker.capture.errors import UnusableDataError
from recon_worker.capture.placement import sources
from recon_worker.lightning.callback import PtychoReconLoggingCallback
from recon_worker.snapshot.geometry import PositionGeometry
from tests.lightning.fitting import epochs_logged, fit, seeded_module, weights
from tests.lightning.foreign import ForeignDataset, ForeignModule, Stream, collate, loader

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


class NoLength(ForeignDataset):
    __len__ = None


class BrokenLength(ForeignDataset):
    def __len__(self):
        raise RuntimeError("not counted yet")


class TooLong(ForeignDataset):
    def __len__(self):
        return 99


class Endless(ForeignDataset):
    """Like a simulation without end."""

    def __len__(self):
        return 2**62

    def __getitem__(self, i):
        return super().__getitem__(i % 12)


class OtherItems(ForeignDataset):
    def __getitem__(self, i):
        return {"everything": super().__getitem__(i)}


class BrokenGeometry(ForeignDataset):
    @property
    def scan_geometry(self):
        raise OSError("no positions today")


class OtherGeometry(ForeignDataset):
    scan_geometry = "a spiral"


class OtherLabels(ForeignDataset):
    def __getitem__(self, i):
        fields, *rest = super().__getitem__(i)
        return fields | {"label_amp": "unknown"}, *rest


class OtherScale(ForeignDataset):
    """Items with this photon scale; None: without one."""

    def __init__(self, length, scale):
        super().__init__(length)
        self.scale = scale

    def __getitem__(self, i):
        fields, *rest = super().__getitem__(i)
        del fields["physics_scaling_constant"]
        if self.scale is not None:
            value = self.scale if isinstance(self.scale, str) else torch.full((1, 1, 1), self.scale)
            fields["physics_scaling_constant"] = value
        return fields, *rest


class OtherPatterns(ForeignDataset):
    def __getitem__(self, i):
        fields, *rest = super().__getitem__(i)
        return fields | {"observed_images": torch.zeros(1, 8 + i, 16)}, *rest


class Batches:
    """Only iterable."""

    def __iter__(self):
        return iter(loader(ForeignDataset(12)))


class PickyLoader(DataLoader):
    def __len__(self):
        raise TypeError("nobody knows")


def _collated(items):
    """Collate only the fields that the network uses."""
    items = [item["everything"] if isinstance(item, dict) else item for item in items]
    used = ("images", "coords_relative", "rms_scaling_constant")
    return collate([({name: item[0][name] for name in used}, *item[1:]) for item in items])


def _sampled(data):
    """Load the first 12 samples, whatever the length of the dataset."""
    return DataLoader(data, batch_size=5, sampler=range(12), collate_fn=_collated)


def _without_third(items):
    return collate(items[:2] + items[3:]) if len(items) > 3 else collate(items)


TRAINING_SET = "Reconstructions are logged from the training set"
NONE = "No reconstructions are logged: "
NO_STITCH = "Stitched pictures are skipped: "
FROM_TRAINING_SET = {
    "a Stream have no index": lambda: loader(Stream()),
    "NoLength has no usable length": lambda: _sampled(NoLength(12)),
    "BrokenLength has no usable length (RuntimeError: not counted yet)": lambda: _sampled(BrokenLength(12)),
    "a Batches has no usable dataset": Batches,
}
NO_PICTURES = {
    f"{NONE}sample 33 of TooLong cannot be read (IndexError": lambda: _sampled(TooLong(12)),
    f"{NONE}a sample of OtherItems is a dict with the keys": lambda: _sampled(OtherItems(12)),
    f"{NONE}patterns of OtherPatterns cannot be used (ValueError": lambda: _sampled(OtherPatterns(12)),
}
NO_STITCHED_PICTURES = {
    f"{NO_STITCH}the sample positions of BrokenGeometry are unknown (OSError": lambda: loader(BrokenGeometry(12)),
    f"{NO_STITCH}scan_geometry of OtherGeometry is a str": lambda: loader(OtherGeometry(12)),
    f"{NO_STITCH}only ": lambda: _sampled(Endless(12)),
}
WITH_PICTURES = {
    "label_amp cannot be used (": lambda: _sampled(OtherLabels(12)),
    "": lambda: PickyLoader(ForeignDataset(12), batch_size=5, collate_fn=_without_third),
}


def trained(tracking, make, **settings):
    """Train a module from fixed weights; return module, trainer and callback."""
    callback = PtychoReconLoggingCallback(1, num_patches=3, log_stitch=True, **settings)
    return *fit(tracking, callback, module=seeded_module(returns_predictions=True), val=make()), callback


@cache
def trained_without_logging():
    """The same training on a plain validation set, which has no influence on it."""
    return fit(None, None, module=seeded_module(returns_predictions=True), logger=False)[0]


def assert_unharmed(tracking, make):
    """Assert that the training is bit-identical to one without logging; return the callback."""
    plain = trained_without_logging()
    module, trainer, callback = trained(tracking, make)
    assert trainer.current_epoch == 2
    assert module.losses == plain.losses
    assert torch.equal(weights(module), weights(plain))
    return callback


@pytest.mark.parametrize("said", FROM_TRAINING_SET)
def test_a_validation_set_without_index_or_length_is_replaced_by_the_training_set(tracking, caplog, said):
    callback = assert_unharmed(tracking, FROM_TRAINING_SET[said])

    (line,) = [record.message for record in caplog.records if TRAINING_SET in record.message]
    assert said in line
    assert "epoch_02/stitched/amp_pred.png" in tracking.files()
    assert callback.errors == 0


@pytest.mark.parametrize("said", NO_PICTURES)
def test_samples_that_cannot_be_used_cost_the_pictures(tracking, caplog, said):
    callback = assert_unharmed(tracking, NO_PICTURES[said])

    (line,) = [record for record in caplog.records if said in record.message]
    assert "Training continues" in line.message
    assert not line.exc_info
    assert (tracking.files(), callback.errors) == (set(), 1)


@pytest.mark.parametrize("said", NO_STITCHED_PICTURES)
def test_positions_that_cannot_be_read_cost_the_stitched_pictures(tracking, caplog, monkeypatch, said):
    monkeypatch.setattr(sources, "_POSITIONS_S", 0.2)

    callback = assert_unharmed(tracking, NO_STITCHED_PICTURES[said])

    assert sum(said in record.message for record in caplog.records) == 1
    assert not any("stitched" in name for name in tracking.files())
    assert epochs_logged(tracking) == ["epoch_01", "epoch_02"]
    assert callback.errors == 0


@pytest.mark.parametrize("said", WITH_PICTURES)
def test_odd_labels_and_loaders_cost_no_pictures(tracking, caplog, said):
    callback = assert_unharmed(tracking, WITH_PICTURES[said])

    assert said in caplog.text
    assert {"epoch_01/patch_00/amp_pred.png", "epoch_02/stitched/amp_pred.png"} <= tracking.files()
    assert callback.errors == 0


@pytest.mark.parametrize("intensity", [None, np.ones((3, 3), np.float32)])
def test_positions_without_a_probe_that_fits_are_stitched_with_equal_weights(tracking, caplog, intensity):
    data = ForeignDataset(12)
    data.scan_geometry = PositionGeometry(
        patch_px=16, crop_px=8, positions_px=data.centres[:, :, 0].double().numpy(), probe_intensity=intensity
    )

    assert assert_unharmed(tracking, lambda: loader(data)).errors == 0

    assert "Overlapping patches are averaged equally: weight 'probe' needs probe_intensity" in caplog.text
    assert "epoch_02/stitched/amp_pred.png" in tracking.files()


@pytest.mark.parametrize("scale", [None, float("nan"), "unknown"])
def test_without_photons_the_diffraction_has_an_r_factor_only(tracking, scale):
    _, trainer, callback = trained(
        tracking, lambda: DataLoader(OtherScale(12, scale), batch_size=5, collate_fn=_collated)
    )

    names = mlflow.MlflowClient(tracking.uri).get_run(trainer.logger.run_id).data.metrics
    assert "recon/patches/r_factor" in names
    assert "recon/patches/deviance" not in names
    assert callback.errors == 0


def test_truth_of_another_kind_costs_the_comparison_only(tracking, caplog):
    data = ForeignDataset(12)
    data.ground_truth = 7

    assert assert_unharmed(tracking, lambda: loader(data)).errors == 0

    assert "ground_truth of ForeignDataset cannot be used (TypeError" in caplog.text
    assert "epoch_02/stitched/amp_pred.png" in tracking.files()


def test_without_any_samples_that_have_an_index_nothing_is_logged_and_one_line_says_so(tracking, caplog):
    fit(tracking, PtychoReconLoggingCallback(1), train=loader(Stream(20)), val=loader(Stream()))

    assert sum(record.message.startswith(NONE) for record in caplog.records) == 1
    assert tracking.files() == set()


@pytest.mark.parametrize("said", NO_PICTURES)
def test_strict_logging_refuses_samples_that_cannot_be_used_before_the_first_step(tracking, said):
    with pytest.raises(UnusableDataError):
        trained(tracking, NO_PICTURES[said], strict=True)


def test_a_batch_that_has_lost_samples_shows_none_under_the_name_of_another(tracking, new_tracking):
    other = new_tracking()
    trained(tracking, lambda: DataLoader(ForeignDataset(12), batch_size=5, collate_fn=_without_third))
    trained(other, lambda: loader(ForeignDataset(12)))

    for name in ("epoch_02/patch_04/phase_gt.png", "epoch_02/patch_04/phase_pred.png"):
        assert tracking.path(name).read_bytes() == other.path(name).read_bytes()


@pytest.mark.parametrize("state", [[1], {"run_id": 7}, {"run_id": ["a"]}, {}], ids=str)
def test_a_checkpoint_with_anything_as_the_callbacks_state_is_resumed(tracking, tmp_path, state):
    callback = PtychoReconLoggingCallback(1, num_patches=1)
    _, trainer = fit(tracking, callback, epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    checkpoint["callbacks"] = {callback.state_key: state}
    torch.save(checkpoint, tmp_path / "other.ckpt")

    trainer.fit_loop.max_epochs = 2
    data = loader(ForeignDataset(12))
    trainer.fit(ForeignModule(), data, data, ckpt_path=tmp_path / "other.ckpt", weights_only=True)

    assert epochs_logged(tracking) == ["epoch_01", "epoch_02"]
