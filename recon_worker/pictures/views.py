"""What one epoch shows: every picture as an array with its colour range, before anything is drawn.

Summary sheet, image cards and gallery are drawn from one `Sheet`, so that they always agree; the picture files are
drawn from the same kind of views, of the raw predictions.

    Sheet ── objects: ObjectView  "stitched", "stitched_object_01", ...   amplitude, phase: pred, gt, error
          └─ patches: PatchView   "patch_272", ...                        the same, and diffraction: obs, pred, error
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from recon_worker.snapshot.array_types import Bool, Float32

Kind = Literal[
    "amp_pred",
    "amp_gt",
    "amp_error",
    "phase_pred",
    "phase_gt",
    "phase_error",
    "diff_obs_logI",
    "diff_pred_logI",
    "diff_error_logI",
]
"""What a panel shows; the picture file is called `<kind>.png`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """A scalar image and how its values become colours. The fields are the arguments of `rendering.encode_png`."""

    values: Float32
    """(H, W). Row 0 is on top."""
    value_range: tuple[float, float]
    """(vmin, vmax): the values of the first and last colour."""
    colormap: str
    """Name of a matplotlib colour map."""
    quantity: str
    unit: str
    scanned: Bool | None = None
    """(H, W) False where there is nothing to show; None: everywhere scanned."""
    period: float | None = None
    """Values this far apart are the same, such as 2 pi for a phase, which a mean must know; None: not cyclic."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectView:
    """The pictures of one object."""

    name: str
    """Folder below the epoch's: "stitched", "stitched_object_01", ..."""
    amp_pred: Panel
    phase_pred: Panel
    amp_gt: Panel | None = None
    phase_gt: Panel | None = None
    amp_error: Panel | None = None
    phase_error: Panel | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers of this object, by a name of `METRICS`; other names are shown as they are. May hold NaN."""

    def panels(self) -> Iterator[tuple[Kind, Panel]]:
        """The pictures there are, in the order in which they are shown; (name of the file without .png, picture)."""
        for kind in _OBJECT_KINDS:
            panel: Panel | None = getattr(self, kind)
            if panel is not None:
                yield kind, panel


_OBJECT_KINDS: tuple[Kind, ...] = ("amp_pred", "amp_gt", "amp_error", "phase_pred", "phase_gt", "phase_error")


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchView(ObjectView):
    """The pictures of one sample: object patch and diffraction. Its name is "patch_<index>"."""

    index: int
    """Which sample of the dataset."""
    diff_obs: Panel
    diff_pred: Panel | None = None
    diff_error: Panel | None = None

    def panels(self) -> Iterator[tuple[Kind, Panel]]:
        """As of `ObjectView`, then the diffraction."""
        yield from super().panels()
        for kind, panel in zip(_DIFFRACTION_KINDS, (self.diff_obs, self.diff_pred, self.diff_error), strict=True):
            if panel is not None:
                yield kind, panel


_DIFFRACTION_KINDS: tuple[Kind, ...] = ("diff_obs_logI", "diff_pred_logI", "diff_error_logI")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sheet:
    """All that is shown of one epoch."""

    epoch: int
    """Counted from 1; 0 is the untrained network."""
    step: int
    """Optimiser steps so far; the step of the metrics and image cards in MLflow."""
    folder: str
    """Of the picture files, such as "epoch_05"; a file is `<folder>/<name of the view>/<kind>.png`."""
    objects: tuple[ObjectView, ...] = ()
    patches: tuple[PatchView, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers that belong to no single object, by a name of `METRICS`."""
    pixel_size_m: float | None = None
    """Side of an object pixel in metres, for the scale bar; None: not known."""

    def views(self) -> Iterator[ObjectView]:
        """Objects, then patches."""
        yield from self.objects
        yield from self.patches

    @property
    def label(self) -> str:
        """Such as "Epoch 5"."""
        return epoch_label(self.epoch)


def epoch_label(epoch: int) -> str:
    """Such as "Epoch 5"; 0 is the untrained network."""
    return f"Epoch {epoch}" if epoch else "Epoch 0 (untrained)"


@dataclass(frozen=True)
class MetricLabel:
    """How a number is called in pictures."""

    label: str
    unit: str = ""
    better: Literal["low", "high", ""] = ""
    """Which end is good; empty: neither."""


METRICS: Mapping[str, MetricLabel] = {
    "phase_correlation": MetricLabel("phase correlation", "", "high"),
    "amp_correlation": MetricLabel("amplitude correlation", "", "high"),
    "amp_mae": MetricLabel("amplitude MAE", "", "low"),
    "phase_mae_rad": MetricLabel("phase MAE", "rad", "low"),
    "amp_psnr_db": MetricLabel("amplitude PSNR", "dB", "high"),
    "phase_psnr_db": MetricLabel("phase PSNR", "dB", "high"),
    "amp_ssim": MetricLabel("amplitude SSIM", "", "high"),
    "phase_ssim": MetricLabel("phase SSIM", "", "high"),
    "frc_cutoff_half": MetricLabel("FRC cut-off at 0.5", "cycles/px", "high"),
    "frc_resolution_half_px": MetricLabel("half-period resolution, FRC 0.5", "px", "low"),
    "frc_resolution_half_nm": MetricLabel("half-period resolution, FRC 0.5", "nm", "low"),
    "half_data_frc_cutoff": MetricLabel("half-data FRC cut-off at half a bit", "cycles/px", "high"),
    "half_data_frc_resolution_px": MetricLabel("half-period resolution, half-data FRC", "px", "low"),
    "half_data_frc_resolution_nm": MetricLabel("half-period resolution, half-data FRC", "nm", "low"),
    "r_factor": MetricLabel("R-factor", "", "low"),
    "mean_pattern_r_factor": MetricLabel("mean-pattern R-factor"),
    "deviance": MetricLabel("deviance", "", "low"),
    "deviance_before": MetricLabel("deviance before refinement"),
    "mean_pattern_deviance": MetricLabel("mean-pattern deviance"),
    "finite_share": MetricLabel("finite share", "", "high"),
    "coverage": MetricLabel("coverage"),
    "shift_x_px": MetricLabel("shift against the truth, x", "px"),
    "shift_y_px": MetricLabel("shift against the truth, y", "px"),
    "fit_scale": MetricLabel("fitted amplitude scale"),
    "fit_phase_rad": MetricLabel("fitted global phase", "rad"),
    "fit_ramp_x_rad_per_px": MetricLabel("fitted phase ramp, x", "rad/px"),
    "fit_ramp_y_rad_per_px": MetricLabel("fitted phase ramp, y", "rad/px"),
    "steep_ramp_x_rad_per_px": MetricLabel("phase ramp, too steep to remove, x", "rad/px"),
    "steep_ramp_y_rad_per_px": MetricLabel("phase ramp, too steep to remove, y", "rad/px"),
}
"""The numbers that the pictures know, in the order in which they are shown."""

PHASE_PERIOD = 2 * math.pi
