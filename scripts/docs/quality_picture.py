"""Draw the picture of docs/how-to/quality.md: a training run with its best reconstruction long before its lowest loss.

python scripts/docs/quality_picture.py   # writes docs/pictures/quality.png; trains for some minutes on two cores
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MPLBACKEND": "Agg"}

import matplotlib.pyplot as plt
import numpy as np
import skimage.data
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from recon_worker import open_run
from recon_worker.lightning import PtychoReconLoggingCallback, ReconQuality

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_N, _STEP_PX, _PHOTONS = 32, 4, 1500
"""Few photons per pattern: their noise is what a network learns last."""
_EPOCHS, _EVERY, _SSIM = 60, 2, "recon/stitched/phase_ssim"


class Network(LightningModule):
    """Learns a homogeneous object from its diffraction alone."""

    probe: Tensor

    def __init__(self, probe: Tensor) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(_N * _N), nn.Linear(_N * _N, 1024), nn.GELU(), nn.Linear(1024, _N * _N)
        )
        self.register_buffer("probe", probe)

    def forward(self, patterns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return diffraction, amplitude and phase of patches, (B, 1, N, N) each."""
        thickness = self.layers(patterns).view(-1, 1, _N, _N)
        amp, phase = torch.exp(-thickness / 2), thickness
        waves = torch.fft.fft2(torch.polar(amp, phase) * self.probe, norm="ortho")
        return torch.fft.fftshift(waves, dim=(-2, -1)).abs(), amp, phase

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Compare predicted and measured amplitudes."""
        difference: Tensor = self(batch[0])[0] - batch[0]
        return difference.square().mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the same loss of the validation set."""
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, constant rate."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=_DOCS / "pictures")
    output: Path = parser.parse_args(argv).output.absolute()
    with tempfile.TemporaryDirectory(prefix="recon-log-") as folder, chdir(folder):
        trainer, quality = train()
        draw(trainer, quality, output / "quality.png")
    print(output / "quality.png")
    return 0


def train() -> tuple[Trainer, ReconQuality]:
    """Train on a noisy scan of a cell, and keep the checkpoint of the best reconstruction."""
    torch.manual_seed(0)
    thickness = skimage.data.cell()[260:500:2, 300:540:2] / 255  # type: ignore[no-untyped-call]
    obj = np.exp((1j - 0.5) * thickness).astype(np.complex64)
    y, x = (axis.ravel() for axis in np.indices([(len(obj) - _N) // _STEP_PX + 1] * 2) * _STEP_PX + _N // 2)
    patches = np.lib.stride_tricks.sliding_window_view(obj, (_N, _N))[y - _N // 2, x - _N // 2]
    r2 = np.square(np.indices((_N, _N)) - _N // 2).sum(0)
    probe = np.exp((1j - 1) * r2 / 50)
    counts = np.abs(np.fft.fftshift(np.fft.fft2(patches * probe, norm="ortho"), (1, 2))) ** 2
    scale = _PHOTONS / counts.sum((1, 2)).mean()
    noisy = np.sqrt(np.random.default_rng(0).poisson(counts * scale) / scale)
    data = TensorDataset(torch.from_numpy(noisy).float()[:, None], torch.from_numpy(np.abs(patches))[:, None])
    logging = PtychoReconLoggingCallback(
        _EVERY, num_patches=1, log_stitch=True, positions=np.stack([x, y], 1), ground_truth=obj, arrays="npz",
        strict=True,
    )  # fmt: skip
    quality = ReconQuality(_SSIM)
    artifacts = Path("artifacts").absolute().as_uri()
    trainer = Trainer(
        max_epochs=_EPOCHS, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        logger=MLFlowLogger("quality", tracking_uri="sqlite:///mlflow.db", artifact_location=artifacts),
        callbacks=[logging, quality, ModelCheckpoint(monitor="val_loss")],
    )  # fmt: skip
    network = Network(torch.from_numpy(probe.astype(np.complex64)))
    trainer.fit(network, DataLoader(data, 32, shuffle=True), DataLoader(data, 32))
    return trainer, quality


def draw(trainer: Trainer, quality: ReconQuality, path: Path) -> None:
    """Draw loss and phase SSIM by epoch, and the phase at the epochs that they choose."""
    logger: Any = trainer.logger
    losses = {one.step: one.value for one in logger.experiment.get_metric_history(logger.run_id, "val_loss")}
    run = open_run(logger.run_id, "sqlite:///mlflow.db")
    ssim = run.metrics[_SSIM]
    by_loss, by_quality = 1 + int(np.argmin([*losses.values()])), int(ssim.idxmax())
    assert quality.best_model_path.endswith(f"recon-epoch={by_quality:03d}.ckpt")
    fig, axes = plt.subplots(1, 4, figsize=(10, 2.8), width_ratios=[2.1, 1, 1, 1], layout="constrained")
    axes[0].plot(range(1, len(losses) + 1), [*losses.values()], color="tab:gray")
    axes[0].set(xlabel="epoch", ylabel="validation loss (grey)")
    right = axes[0].twinx()
    right.plot(ssim.index, ssim, color="tab:blue")
    right.plot(by_quality, ssim[by_quality], "o", color="tab:blue")
    axes[0].plot(by_loss, min(losses.values()), "s", color="tab:gray")
    right.set_ylabel("phase SSIM (blue)", color="tab:blue")
    true_object = run.object().truth
    assert true_object is not None
    truth = np.angle(true_object)
    colours = {"vmin": np.nanmin(truth), "vmax": np.nanmax(truth), "interpolation": "none"}
    nearest = int(ssim.index[np.argmin(np.abs(ssim.index - by_loss))])
    for axis, epoch, chosen in ((axes[1], nearest, "lowest loss"), (axes[2], by_quality, "best phase SSIM")):
        axis.imshow(run.object(epoch).aligned().phase, **colours)
        axis.set_title(f"{chosen}: epoch {epoch}\nphase SSIM {ssim[epoch]:.3f}", fontsize=9)
    axes[3].imshow(truth, **colours)
    axes[3].set_title("truth", fontsize=9)
    for axis in axes[1:]:
        axis.set_axis_off()
    fig.savefig(path, dpi=90)


if __name__ == "__main__":
    raise SystemExit(main())
