"""Compares an aligned prediction with the truth (error maps and metrics), or one half of a scan with the other.

Metrics have their names in MLflow; undefined values are NaN.
"""

import math
from dataclasses import dataclass

import numpy as np

from recon_worker.reconstruction.alignment import Alignment, comparable, fit, steep_ramp, well_covered
from recon_worker.reconstruction.fourier import HALF, ring_correlation, shift_and_rings
from recon_worker.reconstruction.metrics import (
    comparable_phases,
    correlation,
    mean_error,
    phase_error_rad,
    psnr_db,
    ssim,
)
from recon_worker.reconstruction.slices import row_blocks
from recon_worker.reconstruction.stitching import stitch
from recon_worker.snapshot.array_types import Bool, Complex64, Float32, Patches
from recon_worker.snapshot.geometry import Geometry, PositionGeometry

_NM_PER_M = 1e9
_QUALITY = (
    *(f"{kind}_{name}" for kind in ("amp", "phase") for name in ("correlation", "psnr_db", "ssim")),
    *("shift_x_px", "shift_y_px", "frc_cutoff_half"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Errors of a prediction after alignment with the truth."""

    alignment: Alignment
    ramp_fitted: bool
    """Whether the alignment includes a phase ramp."""
    aligned: Complex64
    """(H, W) aligned prediction."""
    compared: Bool
    """(H, W) pixels to compare."""
    amp_error: Float32
    """(H, W) absolute amplitude error; 0 where not compared."""
    phase_error_rad: Float32
    """(H, W) absolute, wrapped phase error; 0 where not compared."""
    steep_ramp: tuple[float, float] | None = None
    """Phase ramp along (x, y), radians per pixel, too steep to remove; None: not found."""

    @property
    def errors(self) -> dict[str, float]:
        """Mean absolute errors and the fitted alignment, by name."""
        numbers = {
            "amp_mae": mean_error(self.amp_error, self.compared),
            "phase_mae_rad": mean_error(self.phase_error_rad, self.compared),
            "fit_scale": self.alignment.scale,
            "fit_phase_rad": self.alignment.phase_rad,
        }
        if self.ramp_fitted:
            numbers["fit_ramp_x_rad_per_px"], numbers["fit_ramp_y_rad_per_px"] = self.alignment.ramp_rad_per_px
        if self.steep_ramp is not None:
            numbers["steep_ramp_x_rad_per_px"], numbers["steep_ramp_y_rad_per_px"] = self.steep_ramp
        return numbers


def compare(pred: Complex64, truth: Complex64, coverage: Float32 | None, *, ramp: bool) -> Comparison:
    """Align a prediction with the truth and compute the errors.

    Args:
        pred: (H, W) complex64.
        truth: (H, W) complex64, NaN where unknown.
        coverage: (H, W) summed weight of the patches; None: sufficient everywhere.
        ramp: Whether to remove a linear phase ramp as well.
    """
    compared = comparable(pred, truth, coverage)
    alignment = fit(pred, truth, compared, ramp=ramp)
    aligned = alignment.apply(pred)
    amp_error, phase_error = (np.empty(pred.shape, np.float32) for _ in range(2))
    with np.errstate(invalid="ignore", over="ignore"):
        for rows in row_blocks(pred.shape):
            p, t, use = aligned[rows], truth[rows], compared[rows]
            amp_error[rows] = np.where(use, np.abs(np.abs(p) - np.abs(t)), 0)
            phase_error[rows] = np.where(use, np.abs(phase_error_rad(np.angle(p), np.angle(t))), 0)
    return Comparison(
        alignment=alignment,
        ramp_fitted=ramp,
        aligned=aligned,
        compared=compared,
        amp_error=amp_error,
        phase_error_rad=phase_error,
        steep_ramp=steep_ramp(pred, truth, compared) if ramp and alignment.ramp_rad_per_px == (0, 0) else None,
    )


def quality(result: Comparison, truth: Complex64, pixel_size_m: float | None) -> dict[str, float]:
    """Return PSNR, SSIM and correlation of amplitude and phase, shift, and Fourier ring correlation with the truth.

    All are NaN if any compared pixel of the prediction is not finite: the remaining pixels alone could look perfect.
    """
    aligned, valid = result.aligned, result.compared
    if not np.isfinite(aligned[valid]).all():
        return dict.fromkeys(_QUALITY, math.nan)
    phase, true_phase = comparable_phases(aligned, truth)
    numbers = {}
    for kind, (image, true_image) in {"amp": (np.abs(aligned), np.abs(truth)), "phase": (phase, true_phase)}.items():
        numbers[f"{kind}_correlation"] = correlation(image, true_image, valid)
        numbers[f"{kind}_psnr_db"] = psnr_db(image, true_image, valid)
        numbers[f"{kind}_ssim"] = ssim(image, true_image, valid)
    (numbers["shift_x_px"], numbers["shift_y_px"]), rings = shift_and_rings(aligned, truth, valid)
    if rings is None:
        return numbers
    cutoff = rings.cutoff(HALF)
    return numbers | {"frc_cutoff_half": cutoff} | _half_period("frc_resolution_half", cutoff, pixel_size_m)


def agreement_of_halves(
    geometry: Geometry, patches: Patches, filled: Bool, pixel_size_m: float | None
) -> tuple[dict[str, float], ...]:
    """Return the half-data Fourier ring correlation between samples of even and odd index, per object.

    It measures how well the halves agree, not how well the object is resolved: one network predicts both. NaN if a half
    is not finite in the compared pixels.

    Args:
        geometry: Placement of the samples; the result is empty for a grid, whose tiles do not overlap.
        patches: (n, C, m, m) complex64.
        filled: (n,) True for rows that hold data.
        pixel_size_m: Side of an object pixel, metres; None: unknown.
    """
    if not isinstance(geometry, PositionGeometry):
        return ()
    is_even = np.arange(patches.shape[0]) % 2 == 0
    halves = [stitch(geometry, patches, filled & half) for half in (is_even, ~is_even)]
    agreements: list[dict[str, float]] = []
    for even, odd in zip(*halves, strict=True):
        valid = well_covered(even.coverage) & well_covered(odd.coverage)
        if not all(np.isfinite(half.object[valid]).all() for half in (even, odd)):
            agreements.append({"half_data_frc_cutoff": math.nan})
            continue
        aligned = fit(odd.object, even.object, valid, ramp=False).apply(odd.object)
        rings = ring_correlation(aligned, even.object, valid)
        cutoff = None if rings is None else rings.cutoff(rings.half_bit())
        if cutoff is None:
            agreements.append({})
        else:
            half_period = _half_period("half_data_frc_half_period", cutoff, pixel_size_m)
            agreements.append({"half_data_frc_cutoff": cutoff} | half_period)
    return tuple(agreements)


def _half_period(name: str, cutoff: float, pixel_size_m: float | None) -> dict[str, float]:
    """Return half the period of a cut-off, cycles per pixel, in pixels and nanometres; empty if the cut-off is 0."""
    if cutoff == 0:
        return {}
    numbers = {f"{name}_px": 0.5 / cutoff}
    return numbers if pixel_size_m is None else numbers | {f"{name}_nm": 0.5 / cutoff * pixel_size_m * _NM_PER_M}
