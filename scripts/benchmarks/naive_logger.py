"""Naive reconstruction logging: the baseline of `recon_logging.py`.

After each validation, on the training thread: an extra forward pass over the validation set, one matplotlib figure per
image, one `log_artifact` per figure. Draws the same pictures as the real callback, without colour bars, and stitches
with the same code. With `reuse=True` it reuses the predictions of the validation loop instead of the extra pass.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ptycho_torch.data.dataset import PtychoDataset
from recon_worker.reconstruction.alignment import fit
from recon_worker.reconstruction.metrics import phase_error_rad
from recon_worker.reconstruction.stitching import crop_start_px, stitch
from recon_worker.snapshot.geometry import Geometry

Predictions = list[Mapping[str, torch.Tensor]]
Images = dict[str, NDArray[Any]]


class NaiveLogger(Callback):
    """Logs every epoch.

    Args:
        num_patches: Number of fixed sample patches, evenly spaced.
        reuse: Reuse the predictions of the validation loop instead of predicting again.
    """

    def __init__(self, num_patches: int, *, reuse: bool) -> None:
        self._num_patches, self._reuse = num_patches, reuse
        self._kept: Predictions = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own type
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the predictions if they are reused."""
        if self._reuse:
            self._kept.append(outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Predict, draw, upload."""
        loader: Any = trainer.val_dataloaders
        predictions = self._kept if self._reuse else _predict_all(pl_module, loader)
        whole = {key: torch.cat([one[key] for one in predictions]).cpu().numpy() for key in predictions[0]}
        self._kept = []
        step = len(loader.dataset) // self._num_patches
        with tempfile.TemporaryDirectory(prefix="naive-log-") as folder:
            for index in range(0, step * self._num_patches, step):
                pictures = _patch_images(loader.dataset, whole, index)
                _upload(trainer, Path(folder), f"patch_{index}", pictures)
            _upload(trainer, Path(folder), "stitched", _stitched_images(loader.dataset, whole))


def _predict_all(module: LightningModule, loader: Any) -> Predictions:  # noqa: ANN401
    found: Predictions = []
    with torch.no_grad():
        for batch in loader:
            fields, probe, _ = module.transfer_batch_to_device(batch, module.device, 0)
            rms = fields["rms_scaling_constant"]
            first, amp, phase = module(fields["images"], fields["coords_relative"], probe, rms, rms)
            found.append({"pred_diffraction": first, "amp": amp, "phase": phase})
    return found


def _patch_images(dataset: PtychoDataset, whole: Images, index: int) -> Images:
    fields = dataset[index][0]
    predicted = whole["amp"][index, 0] * np.exp(1j * whole["phase"][index, 0])
    truth = (fields["label_amp"][0] * torch.exp(1j * fields["label_phase"][0])).numpy()
    observed, shown = (np.log10(1 + i**2) for i in (fields["images"][0].numpy(), whole["pred_diffraction"][index, 0]))
    diffraction = {"diff_obs_logI": observed, "diff_pred_logI": shown, "diff_error_logI": np.abs(shown - observed)}
    return _object_images(predicted, truth) | diffraction


def _stitched_images(dataset: PtychoDataset, whole: Images) -> Images:
    geometry: Geometry | None = dataset.scan_geometry
    truth = dataset.ground_truth[0]
    assert geometry is not None
    assert truth is not None
    start, size = crop_start_px(geometry.patch_px, geometry.crop_px), geometry.crop_px
    crop = np.s_[:, :, start : start + size, start : start + size]
    (image,) = stitch(geometry, (whole["amp"][crop] * np.exp(1j * whole["phase"][crop])).astype(np.complex64))
    return _object_images(image.object, truth)


def _object_images(predicted: NDArray[Any], truth: NDArray[Any]) -> Images:
    known = np.isfinite(truth)
    predicted, truth = predicted.astype(np.complex64), truth.astype(np.complex64)
    aligned = fit(predicted, truth, known, ramp=False).apply(predicted)
    return {
        "amp_pred": np.abs(predicted),
        "phase_pred": np.angle(predicted),
        "amp_gt": np.abs(truth),
        "phase_gt": np.angle(truth),
        "amp_error": np.abs(np.abs(aligned) - np.abs(truth)),
        "phase_error": phase_error_rad(np.angle(aligned), np.angle(truth)),
    }


def _upload(trainer: Trainer, scratch: Path, group: str, pictures: Images) -> None:
    logger = trainer.logger
    assert isinstance(logger, MLFlowLogger)
    for name, image in pictures.items():
        place = scratch / f"{name}.png"
        figure = Figure()
        FigureCanvasAgg(figure)
        figure.add_subplot().imshow(image)
        figure.savefig(place)
        logger.experiment.log_artifact(logger.run_id, str(place), f"epoch_{trainer.current_epoch + 1:02d}/{group}")
