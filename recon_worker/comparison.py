"""A predicted object, aligned, against the truth, with error maps and numbers; or one half of a scan against the other.

The numbers have the names of `views.METRICS`; those that cannot be had are NaN.
"""

from dataclasses import dataclass

import numpy as np

from recon_worker.alignment import Alignment, comparable, fit, phase_error_rad, well_covered
from recon_worker.blocks import row_blocks
from recon_worker.metrics import (
    HALF,
    ONE_SEVENTH,
    comparable_phases,
    half_scans,
    mean_error,
    psnr_db,
    ring_correlation,
    ssim,
)
from recon_worker.snapshot import Bool, Complex64, Float32, Geometry, Patches, PositionGeometry

_THRESHOLDS = {"half": HALF, "one_seventh": ONE_SEVENTH}
_NM_PER_M = 1e9


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What is wrong with a prediction, after what diffraction leaves open is taken out."""

    alignment: Alignment
    ramp_fitted: bool
    """Whether the alignment includes a phase ramp."""
    aligned: Complex64
    """(H, W) the prediction, aligned."""
    compared: Bool
    """(H, W) pixels at which an error is claimed."""
    amp_error: Float32
    """(H, W) absolute amplitude error; 0 where none is claimed."""
    phase_error_rad: Float32
    """(H, W) absolute, wrapped phase error; 0 where none is claimed."""

    @property
    def errors(self) -> dict[str, float]:
        """Mean absolute errors and the fitted alignment."""
        numbers = {
            "amp_mae": mean_error(self.amp_error, self.compared),
            "phase_mae_rad": mean_error(self.phase_error_rad, self.compared),
            "fit_scale": self.alignment.scale,
            "fit_phase_rad": self.alignment.phase_rad,
        }
        if self.ramp_fitted:
            numbers["fit_ramp_x_rad_per_px"], numbers["fit_ramp_y_rad_per_px"] = self.alignment.ramp_rad_per_px
        return numbers


def compare(pred: Complex64, truth: Complex64, coverage: Float32 | None, *, ramp: bool) -> Comparison:
    """Align a prediction with the truth and take the errors.

    Args:
        pred: (H, W) complex64.
        truth: (H, W) complex64, NaN where unknown.
        coverage: (H, W) summed weight of the patches; None: good everywhere.
        ramp: Whether a linear phase ramp is taken out too.
    """
    compared = comparable(pred, truth, coverage)
    alignment = fit(pred, truth, compared, ramp=ramp)
    aligned = alignment.apply(pred)
    amp_error, phase_error = (np.empty(pred.shape, np.float32) for _ in range(2))
    with np.errstate(invalid="ignore", over="ignore"):
        for rows in row_blocks(pred.shape):
            p, t, claimed = aligned[rows], truth[rows], compared[rows]
            amp_error[rows] = np.where(claimed, np.abs(np.abs(p) - np.abs(t)), 0)
            phase_error[rows] = np.where(claimed, np.abs(phase_error_rad(np.angle(p), np.angle(t))), 0)
    return Comparison(
        alignment=alignment,
        ramp_fitted=ramp,
        aligned=aligned,
        compared=compared,
        amp_error=amp_error,
        phase_error_rad=phase_error,
    )


def quality(result: Comparison, truth: Complex64, pixel_size_m: float | None) -> dict[str, float]:
    """PSNR and SSIM of amplitude and phase, and the Fourier ring correlation with the truth."""
    aligned = result.aligned
    valid = result.compared & np.isfinite(aligned)
    phase, true_phase = comparable_phases(aligned, truth)
    numbers = {}
    for kind, (image, true_image) in {"amp": (np.abs(aligned), np.abs(truth)), "phase": (phase, true_phase)}.items():
        numbers[f"{kind}_psnr_db"] = psnr_db(image, true_image, valid)
        numbers[f"{kind}_ssim"] = ssim(image, true_image, valid)
    return numbers | _resolution(aligned, truth, valid, pixel_size_m)


def agreement_of_halves(
    geometry: Geometry, patches: Patches, filled: Bool, pixel_size_m: float | None
) -> tuple[dict[str, float], ...]:
    """Per object: the Fourier ring correlation between even and odd samples, where patches overlap at all.

    Args:
        geometry: Where the samples belong; a grid's tiles do not overlap, and no numbers come back.
        patches: (n, C, m, m) complex64.
        filled: (n,) which rows hold data.
        pixel_size_m: Side of an object pixel, metres; None: not known.
    """
    if not isinstance(geometry, PositionGeometry):
        return ()
    numbers = []
    for even, odd in half_scans(geometry, patches, filled):
        valid = well_covered(even.coverage) & well_covered(odd.coverage)
        aligned = fit(odd.object, even.object, valid, ramp=False).apply(odd.object)
        numbers.append(_resolution(aligned, even.object, valid, pixel_size_m))
    return tuple(numbers)


def _resolution(a: Complex64, b: Complex64, valid: Bool, pixel_size_m: float | None) -> dict[str, float]:
    """Cut-off frequencies, cycles per pixel, and what they mean as half-periods, pixels and nanometres."""
    rings = ring_correlation(a, b, valid)
    if rings is None:
        return {}
    numbers = {}
    for name, threshold in _THRESHOLDS.items():
        cutoff = rings.cutoff(threshold)
        numbers[f"frc_cutoff_{name}"] = cutoff
        if cutoff > 0:
            numbers[f"frc_resolution_{name}_px"] = 0.5 / cutoff
        if cutoff > 0 and pixel_size_m is not None:
            numbers[f"frc_resolution_{name}_nm"] = 0.5 / cutoff * pixel_size_m * _NM_PER_M
    return numbers
