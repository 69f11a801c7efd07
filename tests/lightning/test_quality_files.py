"""Whatever happens to checkpoint files, `ReconQuality` leaves the user the best of those that are there."""

import shutil
import threading
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback
from lightning.pytorch.plugins import AsyncCheckpointIO

from recon_worker.lightning import ReconQuality
from tests.lightning.clients import Container, loader
from tests.lightning.quality_training import kept, train

pytestmark = [pytest.mark.timeout(110), pytest.mark.usefixtures("plain_sheets")]


class Full(TorchCheckpointIO):
    """The disk is full when the third epoch is saved."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        if "003" in Path(path).name:
            raise OSError(28, "No space left on device")
        super().save_checkpoint(checkpoint, path, storage_options)


class Failing(Callback):
    """Fails when the third epoch has been logged and not saved; then saves its own checkpoint, with all states."""

    def __init__(self, path):
        self.path = path

    def on_validation_end(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            raise OSError("the training fails")

    def on_exception(self, trainer, pl_module, exception):
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("how", ["full disk", "exception"])
def test_a_better_epoch_that_was_not_saved_replaces_no_checkpoint(tracking, tmp_path, how):
    quality = ReconQuality(dirpath=tmp_path / "best")
    more = {"plugins": [Full()]} if how == "full disk" else {"callbacks": [Failing(tmp_path / "own.ckpt")]}
    with pytest.raises(OSError, match=r"space|fails"):
        train(tracking, [0.5, 0.3, 0.1], quality, **more)

    assert kept(tmp_path / "best") == [2]
    assert quality.best_model_path == str(tmp_path / "best/recon-epoch=002.ckpt")


class Removing(Callback):
    """Removes a folder before the third epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            shutil.rmtree(self.folder)


def test_checkpoints_that_somebody_removed_compete_no_more(tracking, tmp_path):
    quality = ReconQuality(dirpath=tmp_path / "best")
    train(tracking, [0.1, 0.3, 0.6, 0.4], quality, callbacks=[Removing(tmp_path / "best")])

    assert kept(tmp_path / "best") == [4]
    assert quality.best_model_path == str(tmp_path / "best/recon-epoch=004.ckpt")


class Ending(Callback):
    """Sets an event at the end of the training."""

    def __init__(self, event):
        self.event = event

    def on_train_end(self, trainer, pl_module):
        self.event.set()


def test_checkpoints_that_a_thread_writes_late_are_removed_late(tracking, tmp_path, monkeypatch):
    at_end, save = threading.Event(), TorchCheckpointIO.save_checkpoint
    monkeypatch.setattr(
        TorchCheckpointIO, "save_checkpoint", lambda *given, **named: at_end.wait(60) and save(*given, **named)
    )
    quality = ReconQuality(dirpath=tmp_path / "best")
    train(tracking, [0.5, 0.2, 0.1, 0.4], quality, plugins=[AsyncCheckpointIO()], callbacks=[Ending(at_end)])

    assert kept(tmp_path / "best") == [3]
    assert torch.load(quality.best_model_path, weights_only=False)["epoch"] == 2


class Immovable(TorchCheckpointIO):
    def remove_checkpoint(self, path):
        raise NotImplementedError("this store forgets nothing")


def test_a_plugin_that_cannot_remove_costs_a_warning(tracking, tmp_path, caplog):
    trainer = train(tracking, [0.5, 0.1], ReconQuality(dirpath=tmp_path / "best"), plugins=[Immovable()])

    assert trainer.current_epoch == 2
    assert "cannot be removed: NotImplementedError: this store forgets nothing" in caplog.text


def test_validating_an_earlier_checkpoint_forgets_no_later_one(tracking, tmp_path):
    quality = ReconQuality(save_top_k=-1, dirpath=tmp_path / "best")
    trainer = train(tracking, [0.5, 0.1, 0.3], quality)
    start = str(tmp_path / "best/recon-epoch=001.ckpt")
    trainer.validate(dataloaders=loader(Container()), ckpt_path=start, verbose=False)

    assert sorted(quality.state_dict()["paths"]) == [1, 2, 3]


def test_a_training_is_resumed_although_earlier_checkpoints_cannot_be_reached(tracking, tmp_path):
    first = train(tracking, [0.5], ReconQuality(dirpath=tmp_path / "best"))
    start = torch.load(tmp_path / "best/recon-epoch=001.ckpt", weights_only=False)
    (state,) = (one for key, one in start["callbacks"].items() if key.startswith("ReconQuality"))
    state["paths"][1] = f"/{'x' * 300}/recon-epoch=001.ckpt"  # OSError, as for a folder of somebody else
    torch.save(start, tmp_path / "start.ckpt")

    quality = ReconQuality(dirpath=tmp_path / "best")
    train(
        tracking, [0.5, 0.3], quality, resume=str(tmp_path / "start.ckpt"),
        logger=tracking.logger(run_id=first.logger.run_id),
    )  # fmt: skip

    assert quality.best_model_path == str(tmp_path / "best/recon-epoch=002.ckpt")


def test_a_folder_that_cannot_be_made_is_an_error_before_training(tracking, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot save checkpoints in .*best: .*file is a file"):
        train(tracking, [0.1], ReconQuality(dirpath=tmp_path / "file/best"))


def test_a_tilde_is_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert ReconQuality(dirpath="~/best").dirpath == tmp_path / "best"
