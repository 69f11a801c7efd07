"""Training that continues after a crash logs every epoch, although Lightning's own counters do not determine them."""

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from recon_worker.lightning import PtychoReconLoggingCallback
from tests.lightning.fitting import epochs_logged
from tests.lightning.foreign import ForeignDataset, ForeignModule, loader

pytestmark = pytest.mark.timeout(110)
SEVEN = [f"epoch_{epoch:02d}" for epoch in range(1, 8)]


class Failing(Callback):
    """Fails once, in the third epoch."""

    def __init__(self):
        self.failed = False

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 2 and not self.failed:
            self.failed = True
            raise RuntimeError("out of memory")


@pytest.fixture
def fit(tracking):
    def _fit(trainer, epochs, *, validates=True, **more):
        trainer.fit_loop.max_epochs = epochs
        validation = loader(ForeignDataset(12)) if validates else None
        trainer.fit(ForeignModule(), loader(ForeignDataset(20)), validation, **more)

    return _fit


def trainer_of(logger, *callbacks):
    logging = PtychoReconLoggingCallback(1, num_patches=1, strict=True)
    return Trainer(
        max_epochs=7,
        logger=logger,
        callbacks=[logging, *callbacks],
        accelerator="cpu",
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_no_epoch_is_skipped_if_the_same_trainer_continues(tracking, fit):
    trainer = trainer_of(tracking.logger(), Failing())
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(trainer, 5)
    fit(trainer, 5)
    fit(trainer, 7)

    assert epochs_logged(tracking) == SEVEN


def test_no_epoch_is_skipped_if_a_checkpoint_from_after_the_crash_is_resumed(tracking, fit, tmp_path):
    # Lightning itself does not validate the first epoch that it resumes from such a checkpoint.
    logger, saving = tracking.logger(), ModelCheckpoint(tmp_path / "ckpt")
    trainer = trainer_of(logger, Failing(), saving)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(trainer, 5, validates=False)
    fit(trainer, 5, validates=False)
    again = trainer_of(logger, ModelCheckpoint(tmp_path / "ckpt"))
    fit(again, 7, validates=False, ckpt_path=saving.best_model_path, weights_only=False)

    assert epochs_logged(tracking) == SEVEN


def test_a_checkpoint_saved_after_a_separate_validation_skips_no_epoch(tracking, fit, tmp_path):
    trainer = trainer_of(tracking.logger())
    fit(trainer, 2)
    trainer.validate(ForeignModule(), loader(ForeignDataset(12)), verbose=False)
    trainer.save_checkpoint(tmp_path / "validated.ckpt")
    again = trainer_of(tracking.logger(run_id=trainer.logger.run_id))
    fit(again, 3, ckpt_path=tmp_path / "validated.ckpt", weights_only=False)

    assert epochs_logged(tracking) == SEVEN[:3]
