"""The untrained epoch, cards, arrays and description; ranges and gallery across restarts and resumed training runs."""

import os
import signal

import mlflow
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.pictures.gallery.page import entries_of
from recon_worker.pictures.png import read_png
from recon_worker.settings import WorkerSettings
from tests.lightning.fitting import epochs_logged, fit
from tests.lightning.foreign import ForeignDataset, ForeignModule, loader

pytestmark = pytest.mark.timeout(90)
STEPS_PER_EPOCH = 4


@pytest.fixture(params=["inline", pytest.param("async", marks=pytest.mark.slow)])
def worker(request, tmp_path, plain_sheets):
    return None if request.param == "inline" else WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=60)


def _callback(worker, **more):
    settings = {"baseline": True, "worker": worker, "strict": True, **more}
    return PtychoReconLoggingCallback(1, num_patches=1, log_stitch=True, **settings)


def test_every_card_has_a_picture_at_step_0_and_one_at_each_epoch(tracking, worker):
    fit(tracking, _callback(worker), epochs=2)

    keys = ["recon/stitched_amp", "recon/stitched_phase", "recon/summary"]
    assert tracking.cards() == [(key, step) for key in keys for step in (0, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH)]
    assert len(tracking.latest()) == len(set(tracking.latest())) == 3


def test_metrics_have_the_step_of_the_pictures(tracking, worker):
    _, trainer = fit(tracking, _callback(worker), epochs=2)

    client = mlflow.MlflowClient(tracking.uri)
    for name in ("recon/patches/amp_mae", "recon/patches/r_factor", "recon/stitched/coverage"):
        history = client.get_metric_history(trainer.logger.run_id, name)
        assert sorted(metric.step for metric in history) == [0, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]


def test_the_untrained_network_is_what_epoch_0_shows(tracking):
    torch.manual_seed(7)
    untrained = ForeignModule().eval()
    torch.manual_seed(7)
    fit(tracking, _callback(None), epochs=1, module=ForeignModule())

    images = ForeignDataset(12).images[:1]
    with torch.no_grad():
        amp = untrained(
            images, None, torch.ones(1, 1, 1, 16, 16), torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), None
        )[1]
    shown = read_png(tracking.path("epoch_00/patch_00/amp_pred.png"))
    low, high = shown.value_range
    np.testing.assert_allclose(shown.values, np.clip(amp[0, 0].numpy(), low, high), atol=0.51 * (high - low) / 251)


def test_by_default_cards_show_the_reference_at_step_0_and_there_is_no_untrained_epoch(tracking, worker):
    fit(tracking, _callback(worker, baseline=False), epochs=1)

    assert not any(name.startswith("epoch_00") for name in tracking.files())
    assert ("recon/summary", 0) in tracking.cards()


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_arrays_are_logged_as_predicted(tracking, worker, kind):
    fit(tracking, _callback(worker, arrays=kind, pixel_size_m=1e-8), epochs=1)

    names = {name for name in tracking.files() if "arrays" in name}
    assert names == {f"epoch_0{epoch}/stitched/arrays.{kind}" for epoch in (0, 1)}


NOTE = "mlflow.note.content"


@pytest.mark.parametrize(("description", "shown"), [(None, True), (False, False)])
def test_an_empty_description_shows_the_latest_summary_unless_it_is_off(tracking, worker, description, shown):
    _, trainer = fit(tracking, _callback(worker, description=description), epochs=2)

    tags = mlflow.MlflowClient(tracking.uri).get_run(trainer.logger.run_id).data.tags
    assert ("path=epoch_02%2Fsummary.png" in tags.get(NOTE, "")) == shown


@pytest.mark.parametrize("written_in", [0, 2])
@pytest.mark.parametrize("description", [None, True])
def test_what_the_user_writes_stays_also_during_the_training(tracking, worker, description, written_in):
    class User(Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == written_in:
                trainer.logger.experiment.set_tag(trainer.logger.run_id, NOTE, "Beam was unstable.")

    _, trainer = fit(tracking, _callback(worker, description=description), epochs=3, callbacks=[User()])

    text = mlflow.MlflowClient(tracking.uri).get_run(trainer.logger.run_id).data.tags[NOTE]
    if description:
        assert text.startswith("Beam was unstable.\n")
        assert "path=epoch_03%2Fsummary.png" in text
    else:
        assert text == "Beam was unstable."


@pytest.mark.slow
def test_a_worker_that_is_killed_between_epochs_changes_no_byte(tracking, new_tracking, tmp_path):
    class Kill(Callback):
        def on_train_epoch_end(self, trainer, module):
            worker = callback._backend
            if trainer.current_epoch == 1 and worker.is_ready:
                os.kill(worker.pid, signal.SIGKILL)

    other = new_tracking()
    fit(tracking, _callback(None), epochs=4)
    callback = _callback(WorkerSettings(spool_dir=tmp_path / "spool", depth=8, flush_timeout_s=60))
    fit(other, callback, epochs=4, callbacks=[Kill()])

    assert tracking.files() | {"recon_log/events.csv"} == other.files()
    assert all(tracking.path(name).read_bytes() == other.path(name).read_bytes() for name in tracking.files())
    assert tracking.cards() == other.cards()


def _trainer(tracking, callback, epochs, folder, run_id=None):
    return Trainer(
        max_epochs=epochs,
        logger=tracking.logger(run_id=run_id),
        callbacks=[callback, ModelCheckpoint(dirpath=folder, save_last=True)],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.parametrize("same_run", [False, True], ids=["new run", "same run"])
def test_a_resumed_training_keeps_ranges_and_gallery(tracking, new_tracking, worker, tmp_path, same_run):
    data = loader(ForeignDataset(12, labels=None))
    first = _trainer(tracking, _callback(worker), 2, tmp_path)
    first.fit(ForeignModule(), data, data)
    ranges, files = tracking.path("recon_log/scales.json").read_bytes(), tracking.files()
    where = tracking if same_run else new_tracking()
    run_id = first.logger.run_id if same_run else None

    second = _trainer(where, _callback(worker), 3, tmp_path, run_id)
    second.fit(ForeignModule(), data, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)

    assert where.path("recon_log/scales.json").read_bytes() == ranges
    shown = entries_of(where.path("recon_log/gallery.html").read_bytes())
    assert [entry.epoch for entry in shown] == [0, 1, 2, 3]
    assert epochs_logged(where) == (["epoch_01", "epoch_02", "epoch_03"] if same_run else ["epoch_03"])
    assert files <= where.files() or not same_run


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pixel_size_m": 0}, "above 0 and below 1 metre"),
        ({"arrays": "mat"}, "allowed: none, npz, h5"),
        ({"arrays": "npz", "log_stitch": False}, "no stitched object"),
    ],
)
def test_wrong_settings_are_refused_at_once(setting, message):
    with pytest.raises(ValueError, match=message):
        PtychoReconLoggingCallback(**{"log_stitch": True, **setting})


def test_h5_without_h5py_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("recon_worker.capture.plan.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install h5py"):
        PtychoReconLoggingCallback(log_stitch=True, arrays="h5")
