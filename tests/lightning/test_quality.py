"""`ReconQuality` keeps the checkpoints of the best reconstructions, whether the worker is fast or slow."""

import logging as log
import os
import signal

import pytest
import torch
from lightning.pytorch import Callback

from recon_worker.lightning import ReconQuality
from recon_worker.settings import WorkerSettings
from tests.faults.harness import kill, pid_when_ready
from tests.lightning.quality_training import kept, logging, train

pytestmark = [pytest.mark.timeout(110), pytest.mark.usefixtures("nothing_left_behind")]
ERRORS_RAD = [0.8, 0.3, 0.1, 0.5, 0.2, 0.6]
"""The best reconstructions are those of epochs 3, 5, 2."""


@pytest.fixture
def settings(tmp_path):
    return WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=60)


class Sleeping(Callback):
    """Stops the worker before the first epoch, until the last one is logged."""

    def __init__(self, logs):
        self.logs = logs

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            self.pid = pid_when_ready(self.logs._backend)
            os.kill(self.pid, signal.SIGSTOP)

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == trainer.max_epochs - 1:
            assert self.logs._backend.stats.metrics == {}
            os.kill(self.pid, signal.SIGCONT)


class Killing(Callback):
    """Kills the worker before the third epoch."""

    def __init__(self, logs):
        self.logs = logs

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            kill(self.logs._backend)


OBSTACLES = {"inline": [], "fast": [], "slow": [Sleeping], "killed": [Killing]}


@pytest.mark.parametrize(
    "worker", ["inline", "slow", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fast", "killed"))]
)
def test_the_best_checkpoints_are_kept_however_late_their_metrics_arrive(
    tracking, settings, tmp_path, caplog, worker, plain_sheets
):
    quality = ReconQuality(save_top_k=2, dirpath=tmp_path / "best")
    logs = logging(None if worker == "inline" else settings)
    with caplog.at_level(log.INFO, "recon_worker"):
        train(tracking, ERRORS_RAD, quality, logs=logs, callbacks=[one(logs) for one in OBSTACLES[worker]])

    assert kept(tmp_path / "best") == [3, 5]
    assert quality.best_model_path == str(tmp_path / "best/recon-epoch=003.ckpt")
    assert torch.load(quality.best_model_path, weights_only=False)["epoch"] == 2  # Lightning counts from 0
    (line,) = [text for text in caplog.messages if text.startswith("Best reconstruction")]
    assert line == (
        f"Best reconstruction: epoch 3 (phase SSIM {quality.best_model_score:.3f}), "
        f"checkpoint {quality.best_model_path}"
    )


@pytest.mark.parametrize(
    ("settings", "expected"), [({"limit_val_batches": 0}, [1, 2, 3]), ({"check_val_every_n_epoch": 2}, [2, 3])]
)
def test_epochs_that_are_logged_outside_validation_have_checkpoints_too(
    tracking, tmp_path, plain_sheets, settings, expected
):
    quality = ReconQuality(save_top_k=-1, dirpath=tmp_path / "best")
    train(tracking, ERRORS_RAD[:3], quality, **settings)

    assert kept(tmp_path / "best") == expected
    assert quality.best_model_path == str(tmp_path / "best/recon-epoch=003.ckpt")


def test_by_default_the_checkpoints_are_where_lightning_puts_its_own(tracking, tmp_path, plain_sheets):
    quality = ReconQuality()
    trainer = train(tracking, [0.1], quality, default_root_dir=tmp_path)

    folder = tmp_path / trainer.logger.name / trainer.logger.run_id / "checkpoints"
    assert quality.best_model_path == str(folder / "recon-epoch=001.ckpt")
    assert kept(folder) == [1]


def test_a_training_from_scratch_warns_that_it_replaces_checkpoints_of_another_one(
    tracking, tmp_path, plain_sheets, caplog
):
    quality = ReconQuality(dirpath=tmp_path)
    train(tracking, [0.1], quality)
    assert "will be replaced" not in caplog.text

    train(tracking, [0.2, 0.1], quality)

    assert f"will be replaced in {tmp_path}: recon-epoch=001.ckpt" in caplog.text
    assert kept(tmp_path) == [2]
