"""Short training runs whose reconstructions are of known quality, epoch by epoch."""

import torch
from lightning.pytorch import Trainer

from recon_worker.lightning import PtychoReconLoggingCallback
from tests.lightning.clients import Container, Module, N, loader

NOISE = torch.randn(N, N, generator=torch.Generator().manual_seed(5))


class Unsteady(Module):
    """Predicts the true patches with a phase error that depends on the epoch, rad. NaN: no finite prediction."""

    def __init__(self, errors_rad):
        super().__init__()
        self.errors_rad = errors_rad

    def forward(self, *inputs):
        diffraction, amp, phase = super().forward(*inputs)
        return diffraction, amp, phase + self.errors_rad[min(self.current_epoch, len(self.errors_rad) - 1)] * NOISE


def logging(worker=None, **more):
    settings = {"every_n_epochs": 1, "num_patches": 1, "log_stitch": True, "strict": True, "worker": worker}
    return PtychoReconLoggingCallback(**settings | more)


class Unlabelled(Container):
    """Measured data: no true object."""

    def __init__(self):
        super().__init__(truth=None)


def train(tracking, errors_rad, quality, *, logs=None, data=None, epochs=None, callbacks=(), resume=None, **settings):
    """Fit an `Unsteady` module with `quality`; return the trainer."""
    data = data or Container()
    torch.manual_seed(7)
    settings = {"devices": 1, "logger": tracking.logger()} | settings
    trainer = Trainer(
        max_epochs=len(errors_rad) if epochs is None else epochs,
        callbacks=[quality, *([logs or logging()]), *callbacks],
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(Unsteady(errors_rad), loader(data, batch_size=30), loader(data), ckpt_path=resume)
    return trainer


def kept(folder):
    """Return the epochs whose checkpoints are in a folder."""
    return sorted(int(path.stem.removeprefix("recon-epoch=")) for path in folder.glob("recon-epoch=*.ckpt"))
