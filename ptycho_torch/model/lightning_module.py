"""`PtychoLightningModule`: network, physics and loss in one trainable module.

Signatures and batch layout follow the PtychoPINN conventions, so that the logging callback works with modules of either
project. `validation_step` returns its predictions, which saves the logging an extra forward pass.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from ptycho_torch.config import LossName, ModelType, ScheduleName
from ptycho_torch.model import losses
from ptycho_torch.model.network import ObjectNetwork
from ptycho_torch.model.physics import PROBE_SCALE, average_neighbours, diffraction_amplitude
from recon_worker.system.messages import message_log

_log = message_log(__name__)

_EPOCHS_TO_DIFFER, _LEAST_DIFFERENCE = 3, 0.02
"""From this epoch on, predictions of different patterns should differ by at least this fraction."""
_SATURATED, _MOST_SATURATED = 0.99 * math.pi, 0.5
"""Magnitude above which a phase has almost no gradient, and the share of such phases that triggers a warning."""

_FINAL_RATE = 0.02
"""Final value of the cosine schedule, relative to the learning rate."""

Batch = tuple[Mapping[str, Tensor], Tensor, Tensor]
"""(fields, probe (B, C, P, N, N) complex64, scale)."""


class PtychoLightningModule(LightningModule):
    """A ptychography network that learns from diffraction ("pinn") or from true objects ("supervised").

    Args:
        n_px: N, side of a pattern: 64, 128 or 256.
        gridsize: C = gridsize^2 patterns per sample; 2 merges them into one object before propagating.
        model_type: Quantity that the loss compares: diffraction (pinn) or objects (supervised).
        loss: Loss of model_type pinn.
        probe_big: Whether to predict the border of N/4 as well.
        n_filters_scale: Width of the network.
        learning_rate: Learning rate of Adam.
        warmup_steps: Steps over which the learning rate rises linearly to its value; 0: no warm-up.
        lr_schedule: Schedule after the warm-up; "cosine" requires a Trainer with a known number of steps.
        merge_neighbours: Number of consecutive samples whose predicted patches are averaged where they overlap, in the
            training loss only; 1: off. Requires a sampler that orders neighbours consecutively.
    """

    def __init__(
        self,
        *,
        n_px: int,
        gridsize: int = 1,
        model_type: ModelType = "pinn",
        loss: LossName = "poisson",
        probe_big: bool = True,
        n_filters_scale: int = 1,
        learning_rate: float = 1e-3,
        warmup_steps: int = 50,
        lr_schedule: ScheduleName = "constant",
        merge_neighbours: int = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.gridsize = gridsize
        self.model_type, self.merge_neighbours = model_type, merge_neighbours
        self.learning_rate, self.warmup_steps, self.lr_schedule = learning_rate, warmup_steps, lr_schedule
        self.network = ObjectNetwork(n_px, gridsize**2, n_filters_scale, probe_big=probe_big)
        self._difference, self._saturated, self._has_warned = torch.tensor(math.nan), torch.tensor(0.0), False
        self._pinn_loss = losses.poisson_nll if loss == "poisson" else losses.mean_absolute_error

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        probe: Tensor,
        input_scale: Tensor,
        output_scale: Tensor,
        experiment_ids: Tensor | None = None,
        neighbours_px: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict a batch.

        Args:
            x: (B, C, N, N) float32 diffraction amplitude in the data's units.
            positions: (B, C, 1, 2) float32, (x, y) relative to the group, sign -(x - mean), pixels.
            probe: (B, C, P, N, N) complex64.
            input_scale: (B, 1, 1, 1), factor from the data's units to a mean total power of (N/2)^2.
            output_scale: (B, 1, 1, 1), divides the predicted diffraction back into the data's units.
            experiment_ids: (B,), unused.
            neighbours_px: (B, 1, 1, 2), absolute positions. If given, `merge_neighbours` patches are merged before
                propagation; the returned amplitude and phase are unmerged.

        Returns:
            Diffraction amplitude (B, C, N, N) in the data's units, or the supervised object, (B, C, N, N) complex64;
            object amplitude and phase, (B, C, N, N) each, radians.
        """
        amp, phase = self.network(x * input_scale)
        with torch.autocast(x.device.type, enabled=False):
            amp, phase = amp.float(), phase.float()
            patches = _object(amp, phase)
            if self.model_type == "supervised":
                return patches, amp, phase
            if self.gridsize > 1:
                patches = average_neighbours(patches, -positions[:, :, 0], _intensity(probe))
            elif neighbours_px is not None:
                patches = self._merged(patches, neighbours_px, _intensity(probe))
            exit_waves = patches[:, :, None] * (probe / PROBE_SCALE)
            return diffraction_amplitude(exit_waves) / output_scale, amp, phase

    def _merged(self, patches: Tensor, positions_px: Tensor, intensity: Tensor) -> Tensor:
        """Average the overlapping patches of each group of neighbours in a batch; the last group may be smaller."""
        size = self.merge_neighbours
        groups = zip(torch.split(patches[:, 0], size), torch.split(positions_px.reshape(-1, 2), size), strict=True)
        merged = [average_neighbours(group[None], centres[None], intensity)[0] for group, centres in groups]
        return torch.cat(merged)[:, None]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return and log the loss of a batch."""
        loss, predictions = self._loss_and_predictions(batch)
        if batch_idx == 0:
            amp, phase = predictions["amp"].detach(), predictions["phase"].detach()
            self._difference, self._saturated = relative_difference(amp, phase), saturated_share(phase)
        size = batch[1].shape[0]
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=size)
        return loss

    def on_train_epoch_end(self) -> None:
        """Warn once if the network predicts the same patch for all patterns, or phases saturated at +-pi."""
        if self.current_epoch + 1 < _EPOCHS_TO_DIFFER or self._has_warned or not self.trainer.is_global_zero:
            return
        difference, saturated = float(self._difference), float(self._saturated)
        if difference < _LEAST_DIFFERENCE:  # False for NaN, which is a different failure
            found = (
                f"predicts nearly the same patch for all patterns (they differ by {100 * difference:.1f} %): it has "
                "not learned the object, unless the object is uniform."
            )
        elif saturated > _MOST_SATURATED:
            found = f"predicts a phase of +pi or -pi in {100 * saturated:.0f} % of the pixels, where gradients vanish."
        else:
            return
        self._has_warned = True
        advice = "Try another seed, a smaller learning_rate or more warmup_steps."
        _log.warning("After %d epochs the network %s %s", self.current_epoch + 1, found, advice)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return `amp`, `phase` and, for pinn, `pred_diffraction`, (B, C, N, N) each; log loss and deviance."""
        loss, predictions = self._loss_and_predictions(batch)
        size = batch[1].shape[0]
        self.log("val_loss", loss, prog_bar=True, sync_dist=True, batch_size=size)
        if "pred_diffraction" in predictions:
            deviance = _deviance(predictions["pred_diffraction"], batch[0])
            self.log("val_deviance", deviance, sync_dist=True, batch_size=size)
        return predictions

    def _loss_and_predictions(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        fields, probe, _ = batch
        rms = fields["rms_scaling_constant"]
        first, amp, phase = self(
            fields["images"], fields["coords_relative"], probe, rms, rms, fields.get("experiment_id"),
            fields["coords_global"] if self.training and self.merge_neighbours > 1 else None,
        )  # fmt: skip
        if self.model_type == "supervised":
            loss = losses.supervised(amp, phase, fields["label_amp"], fields["label_phase"])
            return loss, {"amp": amp, "phase": phase}
        observed = _observed(fields)
        scale = fields["physics_scaling_constant"]
        per_sample = self._pinn_loss(first * scale, observed * scale)
        return losses.normalised(per_sample, observed), {"pred_diffraction": first, "amp": amp, "phase": phase}

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own return type
        """Return Adam with linear warm-up, followed by `lr_schedule`."""
        adam, warmup = torch.optim.Adam(self.parameters(), lr=self.learning_rate), max(1, self.warmup_steps)
        total = self.trainer.estimated_stepping_batches if self.lr_schedule == "cosine" else math.inf

        def factor(step: int) -> float:
            fallen = (1 - math.cos(math.pi * min(1.0, step / total))) / 2
            return min(1.0, (step + 1) / warmup) * (1 - (1 - _FINAL_RATE) * fallen)

        schedule = torch.optim.lr_scheduler.LambdaLR(adam, factor)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _intensity(probe: Tensor) -> Tensor:
    """Return the sum over modes of |P|^2, (N, N); a batch has one probe."""
    return probe[0, 0].abs().square().sum(0)


def _observed(fields: Mapping[str, Tensor]) -> Tensor:
    """Return the measured amplitude, (B, C, N, N), in the data's units."""
    return fields.get("observed_images", fields["images"])


def _deviance(pred: Tensor, fields: Mapping[str, Tensor]) -> Tensor:
    """Compute the deviance; unlike `val_loss` it is comparable between files."""
    scale = fields["physics_scaling_constant"]
    return losses.poisson_deviance(pred * scale, _observed(fields) * scale)


def relative_difference(amp: Tensor, phase: Tensor) -> Tensor:
    """Return the rms difference between the objects of a batch, relative to their rms amplitude; NaN for one object.

    Args:
        amp: (B, C, N, N).
        phase: (B, C, N, N), radians.
    """
    if len(amp) < 2:
        return torch.tensor(math.nan)
    patches = _object(amp.float(), phase.float())
    difference = patches - patches.mean(0)
    return (difference.abs().square().mean() / patches.abs().square().mean()).sqrt()


def saturated_share(phase: Tensor) -> Tensor:
    """Return the share of pixels at which pi tanh saturates, in the central half of phases (B, C, N, N), radians."""
    quarter = phase.shape[-1] // 4
    return (phase[..., quarter:-quarter, quarter:-quarter].abs() > _SATURATED).float().mean()


def _object(amp: Tensor, phase: Tensor) -> Tensor:
    """Return amp exp(i phase), complex64; unlike `torch.polar`, accepts the negative amplitudes of the border."""
    return torch.complex(amp * phase.cos(), amp * phase.sin())
