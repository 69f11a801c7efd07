"""The lines that a training prints where no progress bar can be shown."""

import logging
import re

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from ptycho_torch.workflows.terminal import EpochLines


class Line(LightningModule):
    """Fits a line, and logs the two losses."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch[0]).square().mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_line_of_an_epoch_without_validation_has_no_validation_loss(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ptycho_torch")
    data = DataLoader(TensorDataset(torch.ones(4, 1)))
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        max_epochs=4, check_val_every_n_epoch=2, accelerator="cpu", callbacks=[EpochLines()],
        default_root_dir=tmp_path, **quiet,
    )  # fmt: skip
    trainer.fit(Line(), data, data)

    lines = [record.message for record in caplog.records if record.message.startswith("Epoch")]
    assert [re.findall(r"\w+_loss", line) for line in lines] == [["train_loss"], ["train_loss", "val_loss"]] * 2
