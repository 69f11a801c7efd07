"""Removes the ambiguities of ptychography (global phase, amplitude scale, phase ramp) before comparing with the truth.

Diffraction does not determine the global phase of the object, its amplitude scale if the probe's power is unknown, or a
linear phase ramp if the patterns are not exactly centred. `fit` determines all three by least squares over the pixels
that `comparable` selects. Formulas: `docs/reference/formulas.md`.
"""

import cmath
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon_worker.reconstruction.slices import central, row_blocks
from recon_worker.snapshot.array_types import Bool, Complex64, Float32, Float64

TRUTH_FLOOR = 0.1
"""Fraction of the truth's 99th percentile amplitude. Darker pixels are excluded: their phase hardly affects the
diffraction."""
COVERAGE_FLOOR = 0.1
"""Fraction of the median coverage. Pixels below it, covered by the rim of a single patch, are excluded."""
STEEPEST_RAMP_RAD_PER_PX = math.pi / 4
"""Maximum slope that `fit` searches, per axis: one turn in eight pixels."""
SIGNIFICANT_SHARE = 0.3
"""Minimum |Z| of a ramp to remove, relative to sum |pred| |truth|: even unrelated images have a best ramp."""

_STEEP_SEARCH_PX = 512
_NEWTON_STEPS = 20
_SEARCH_BINS = np.linspace(-1, 1, 9)
"""Search grid around the peak of the Fourier transform, in bins of one turn per image."""
_CONVERGED_BINS = 1e-7

Complex128 = NDArray[np.complex128]


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """The factor scale * exp(i (phase + ramp . (r - centre))) that fits a prediction to the truth."""

    scale: float = 1.0
    """Amplitude factor."""
    phase_rad: float = 0.0
    """Phase factor at the centre of the image, ((W - 1) / 2, (H - 1) / 2), within -pi ... pi."""
    ramp_rad_per_px: tuple[float, float] = (0.0, 0.0)
    """Slope of the phase factor along (x, y) = (columns, rows)."""

    def apply(self, pred: Complex64) -> Complex64:
        """Return the aligned prediction, (H, W) complex64."""
        y, x = (self.ramp_rad_per_px[axis] * _centred(pred.shape[1 - axis]) for axis in (1, 0))
        rows, columns = self.scale * np.exp(1j * (self.phase_rad + y))[:, None], np.exp(1j * x)
        aligned = np.empty(pred.shape, np.complex64)
        with np.errstate(invalid="ignore", over="ignore"):
            for block in row_blocks(pred.shape):
                aligned[block] = pred[block] * (rows[block] * columns)
        return aligned


def comparable(pred: Complex64, truth: Complex64, coverage: Float32 | None = None) -> Bool:
    """Return the (H, W) pixels to compare: prediction and truth known, truth not dark, coverage sufficient.

    Args:
        pred: (H, W) complex64; 0 where not predicted.
        truth: (H, W) complex64; NaN where unknown.
        coverage: (H, W) float32, summed weight of the patches per pixel; None: sufficient everywhere.
    """
    known = np.isfinite(truth) & (truth != 0)
    floor = TRUTH_FLOOR * float(np.percentile(np.abs(truth[known]), 99)) if known.any() else 0.0
    valid: Bool = known & (np.abs(truth) >= floor) & (pred != 0)
    return valid if coverage is None else valid & well_covered(coverage)


def well_covered(coverage: Float32) -> Bool:
    """Return the (H, W) pixels whose coverage is at least 10 % of the median over the scanned pixels."""
    scanned = coverage > 0
    median = float(np.median(coverage[scanned])) if scanned.any() else 0.0
    well: Bool = scanned & (coverage >= COVERAGE_FLOOR * median)
    return well


def fit(pred: Complex64, truth: Complex64, valid: Bool, *, ramp: bool) -> Alignment:
    """Fit the alignment that minimises sum (scale |pred| - |truth|)^2 and sum |aligned pred - truth|^2.

    The best ramp is the position of the maximum of |Z(k)|, Z(k) = sum conj(pred) truth exp(-i k . r), and the best
    phase is its argument: the maximum-likelihood frequency of a tone (Rife & Boorstyn, IEEE Trans. Inf. Theory 20, 591,
    1974), here in two dimensions. Newton's method refines the peak of the FFT. A ramp with |Z(k)| below
    `SIGNIFICANT_SHARE` of sum |pred| |truth| is discarded.

    Args:
        pred: (H, W) complex64.
        truth: (H, W) complex64.
        valid: (H, W) pixels to compare; non-finite pixels are ignored.
        ramp: Whether to fit a linear phase ramp of at most `STEEPEST_RAMP_RAD_PER_PX`; otherwise it is 0.

    Returns:
        The alignment; the identity without valid pixels.
    """
    power, product = _product(pred, truth, valid)
    if power == 0:
        return Alignment()
    reach = float(np.abs(product).sum())
    k = _peak_frequency(product) if ramp else np.zeros(2)
    if abs(_moments(product, k)[0, 0]) < SIGNIFICANT_SHARE * reach:
        k = np.zeros(2)
    total = _moments(product, k)[0, 0]
    return Alignment(
        scale=reach / power,
        phase_rad=cmath.phase(complex(total)),
        ramp_rad_per_px=(float(k[0]), float(k[1])),
    )


def steep_ramp(pred: Complex64, truth: Complex64, valid: Bool) -> tuple[float, float] | None:
    """Return a significant ramp above `STEEPEST_RAMP_RAD_PER_PX` as (x, y), radians per pixel; else None.

    Searches the central 512 x 512 px at 1024 frequencies per axis. Arguments as for `fit`.
    """
    middle = tuple(central(n, _STEEP_SEARCH_PX) for n in pred.shape)
    _, product = _product(pred[middle], truth[middle], valid[middle])
    peaks = np.abs(np.fft.fft2(product, (2 * _STEEP_SEARCH_PX,) * 2))
    row, column = np.unravel_index(np.argmax(peaks), peaks.shape)
    x, y = (float(2 * np.pi * np.fft.fftfreq(2 * _STEEP_SEARCH_PX)[i]) for i in (column, row))
    significant = peaks[row, column] > SIGNIFICANT_SHARE * np.abs(product).sum()
    return (x, y) if significant and max(abs(x), abs(y)) > STEEPEST_RAMP_RAD_PER_PX else None


def _product(pred: Complex64, truth: Complex64, valid: Bool) -> tuple[float, Complex128]:
    """Return sum |pred|^2 and (H, W) conj(pred) truth over the valid finite pixels; 0 elsewhere."""
    use = valid & np.isfinite(pred) & np.isfinite(truth)
    product = np.where(use, pred, 0).astype(np.complex128)
    power = float(np.vdot(product, product).real)
    np.conj(product, out=product)
    product *= np.where(use, truth, 0)
    return power, product


def _peak_frequency(product: Complex128) -> Float64:
    """Return the (x, y) frequency, radians per pixel, at which the Fourier transform of `product` is largest."""
    height, width = product.shape
    bin_rad = 2 * np.pi / np.array([width, height])
    frequencies = [2 * np.pi * np.fft.fftfreq(size) for size in product.shape]
    slow_rows, slow_columns = (np.abs(f) <= STEEPEST_RAMP_RAD_PER_PX for f in frequencies)
    half_way = np.concatenate([np.fft.fft(product[b], axis=1)[:, slow_columns] for b in row_blocks(product.shape)])
    peaks = np.abs(np.fft.fft(half_way, axis=0)[slow_rows])
    row, column = np.unravel_index(np.argmax(peaks), peaks.shape)
    x = frequencies[1][slow_columns][column] + bin_rad[0] * _SEARCH_BINS
    y = frequencies[0][slow_rows][row] + bin_rad[1] * _SEARCH_BINS
    waves_y, waves_x = (np.exp(-1j * k[:, None] * _centred(size)) for k, size in ((y, height), (x, width)))
    nearby = np.abs(waves_y @ product @ waves_x.T)
    row, column = np.unravel_index(np.argmax(nearby), nearby.shape)
    return _refined_peak(product, np.array([x[column], y[row]]), bin_rad)


def _refined_peak(product: Complex128, k: Float64, bin_rad: Float64) -> Float64:
    """Return the frequency near `k` that maximises log |Z(k)|^2, by Newton's method while it increases."""
    moments = _moments(product, k)
    for _ in range(_NEWTON_STEPS):
        m = moments / moments[0, 0]
        first = -1j * np.array([m[0, 1], m[1, 0]])
        second = -np.array([[m[0, 2], m[1, 1]], [m[1, 1], m[2, 0]]])
        gradient, hessian = 2 * first.real, 2 * (second - np.outer(first, first)).real  # along (x, y)
        if np.linalg.det(hessian) <= 0:  # flat maximum: one pixel, or one row
            break
        step = np.linalg.solve(hessian, -gradient)
        next_moments = _moments(product, k + step)
        if abs(next_moments[0, 0]) <= abs(moments[0, 0]):
            break
        k, moments = k + step, next_moments
        if np.all(np.abs(step) < _CONVERGED_BINS * bin_rad):
            break
    return k


def _moments(product: Complex128, k: Float64) -> Complex128:
    """Return moments, (3, 3): sum y^i x^j product exp(-i k . r) in row i, column j; r from the image centre."""
    y, x = (_centred(size) for size in product.shape)
    powers = np.arange(3)[:, None]
    moments: Complex128 = (y**powers * np.exp(-1j * k[1] * y)) @ product @ (x**powers * np.exp(-1j * k[0] * x)).T
    return moments


def _centred(size: int) -> Float64:
    return np.arange(size, dtype=np.float64) - (size - 1) / 2
