"""How good a reconstruction is, in numbers: MAE, PSNR, SSIM, Fourier ring correlation, and the correlation of patterns.

Pure functions: arrays in, numbers out. A number that cannot be had (nothing to compare, a picture smaller than the
window) is NaN. Predictions must be aligned first (`alignment.fit`). Formulas: `docs/formulas.md`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon_worker.alignment import phase_error_rad
from recon_worker.blocks import row_blocks
from recon_worker.snapshot import Bool, Complex64, Float32, Float64, Patches, PositionGeometry
from recon_worker.stitching import Stitched, stitch

HALF = 0.5
"""FRC threshold against a ground truth."""
ONE_SEVENTH = 1 / 7
"""FRC threshold between two halves of the data: each half is noisier than the whole."""

_SSIM_SIGMA_PX, _SSIM_WINDOW_PX = 1.5, 11
"""Gaussian window of the SSIM's definition."""
_SMALLEST_FRC_PX = 16


def mean_error(error: Float32, valid: Bool) -> float:
    """Mean absolute error over the valid pixels, in the unit of `error`."""
    return float(np.abs(error[valid]).mean(dtype=np.float64)) if valid.any() else math.nan


def comparable_phases(aligned: Complex64, truth: Complex64) -> tuple[Float32, Float32]:
    """Phases of prediction and truth, radians, such that their difference is the wrapped error.

    The truth's mean phase is turned to 0, so that a weak phase object does not straddle the branch cut.
    """
    turn = np.exp(-1j * np.angle(truth[np.isfinite(truth)].sum()))
    phase, true_phase = (np.empty(truth.shape, np.float32) for _ in range(2))
    for rows in row_blocks(truth.shape):
        true_phase[rows] = np.angle(truth[rows] * turn)
        phase[rows] = true_phase[rows] + phase_error_rad(np.angle(aligned[rows]), np.angle(truth[rows]))
    return phase, true_phase


def psnr_db(pred: Float32, truth: Float32, valid: Bool) -> float:
    """Peak signal-to-noise ratio over the valid pixels: 10 log10(range^2 / MSE), range that of the truth; dB."""
    if not valid.any():
        return math.nan
    blocks = ((pred[rows][valid[rows]], truth[rows][valid[rows]]) for rows in row_blocks(valid.shape))
    mse = sum(float(np.sum((p.astype(np.float64) - t) ** 2)) for p, t in blocks) / int(np.count_nonzero(valid))
    ratio = float(np.ptp(truth[valid])) ** 2 / mse if mse > 0 else 0.0
    return 10 * math.log10(ratio) if 0 < ratio < math.inf else math.nan


def ssim(pred: Float32, truth: Float32, valid: Bool) -> float:
    """Mean structural similarity over the pixels whose whole window is valid (scikit-image).

    Wang et al., IEEE Trans. Image Process. 13, 600 (2004): Gaussian window of 11 x 11 px, sigma 1.5 px; range that of
    the truth over the valid pixels.
    """
    from scipy.ndimage import minimum_filter  # type: ignore[attr-defined]
    from skimage.metrics import structural_similarity

    whole = minimum_filter(valid, _SSIM_WINDOW_PX, mode="constant", cval=0)
    span = float(np.ptp(truth[valid])) if valid.any() else 0.0
    if not whole.any() or span == 0:
        return math.nan
    total = 0.0
    for rows in row_blocks(valid.shape):
        above = min(rows.start, _SSIM_WINDOW_PX)  # what the windows of these rows see, at least
        seen = slice(rows.start - above, rows.stop + _SSIM_WINDOW_PX)
        _, similarity = structural_similarity(  # type: ignore[no-untyped-call]
            np.where(valid[seen], pred[seen], 0).astype(np.float64),
            np.where(valid[seen], truth[seen], 0).astype(np.float64),
            data_range=span,
            gaussian_weights=True,
            sigma=_SSIM_SIGMA_PX,
            use_sample_covariance=False,
            full=True,
        )
        total += float(similarity[above : above + rows.stop - rows.start][whole[rows]].sum())
    return total / int(np.count_nonzero(whole))


@dataclass(frozen=True, kw_only=True)
class RingCorrelation:
    """A Fourier ring correlation."""

    frequency: Float64
    """(n,) ring radii, cycles per pixel, up to 1/2."""
    correlation: Float64
    """(n,) within -1 ... 1."""

    def cutoff(self, threshold: float) -> float:
        """The frequency, cycles per pixel, at which the correlation, from its peak outwards, falls below the threshold.

        Linear between rings; 1/2 if it does not fall below, 0 if it is never above. What the rings inside the peak do
        does not matter: diffraction hardly tells what varies more slowly than the probe is wide.
        """
        peak = int(np.argmax(self.correlation))
        below = self.correlation[peak:] < threshold
        if below[0]:
            return 0.0
        if not below.any():
            return 0.5
        after = peak + int(np.argmax(below))
        high, low = self.correlation[after - 1], self.correlation[after]
        share = (high - threshold) / (high - low)
        return float(self.frequency[after - 1] + share * (self.frequency[after] - self.frequency[after - 1]))


def ring_correlation(a: Complex64, b: Complex64, valid: Bool) -> RingCorrelation | None:
    """Fourier ring correlation of two complex images in the largest valid square; None if that is below 16 px.

    Saxton & Baumeister, J. Microsc. 127, 127 (1982). Rings are one bin of the Fourier transform wide; means are taken
    off and edges tapered, so that the square itself does not correlate.

    Args:
        a: (H, W) complex64.
        b: (H, W) complex64, aligned with `a`.
        valid: (H, W) pixels at which both are known.
    """
    square = largest_square(valid & np.isfinite(a) & np.isfinite(b))
    n = square[0].stop - square[0].start
    if n < _SMALLEST_FRC_PX:
        return None
    fa, fb = (_transformed(_tapered(image[square].astype(np.complex128))) for image in (a, b))
    f = np.fft.fftfreq(n, 1 / n)
    sums = np.zeros((3, n))  # more rings than there are
    for rows in row_blocks(fa.shape):
        ring = np.rint(np.hypot(f[rows, None], f)).astype(np.int64).ravel()
        pa, pb = fa[rows], fb[rows]
        for total, values in zip(sums, ((pa * pb.conj()).real, np.abs(pa) ** 2, np.abs(pb) ** 2), strict=True):
            total += np.bincount(ring, values.ravel(), n)
    shared, power_a, power_b = sums[:, 1 : n // 2 + 1]
    power = np.sqrt(power_a * power_b)
    correlation = np.divide(shared, power, out=np.zeros_like(shared), where=power > 0)
    return RingCorrelation(frequency=np.arange(1, n // 2 + 1) / n, correlation=correlation)


def largest_square(valid: Bool) -> tuple[slice, slice]:
    """Rows and columns of the largest square of odd side without an invalid pixel; the first of several."""
    from scipy.ndimage import distance_transform_cdt  # type: ignore[attr-defined]

    distance = distance_transform_cdt(np.pad(valid, 1), metric="chessboard")[1:-1, 1:-1]
    row, column = np.unravel_index(np.argmax(distance), distance.shape)
    reach = max(0, int(distance[row, column]) - 1) if distance.any() else 0
    side = 2 * reach + 1 if distance.any() else 0
    return slice(int(row) - reach, int(row) - reach + side), slice(int(column) - reach, int(column) - reach + side)


def _tapered(image: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Without its mean, under a Hann window on both axes; in place."""
    window = np.hanning(len(image) + 2)[1:-1]
    image -= image.mean()
    image *= window[:, None]
    image *= window
    return image


def _transformed(image: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """The two-dimensional Fourier transform, in place."""
    for rows in row_blocks(image.shape):
        image[rows] = np.fft.fft(image[rows], axis=1)
    for columns in row_blocks(image.shape[::-1]):
        image[:, columns] = np.fft.fft(image[:, columns], axis=0)
    return image


def half_scans(geometry: PositionGeometry, patches: Patches, filled: Bool) -> tuple[tuple[Stitched, Stitched], ...]:
    """Per object, the stitch of the samples of even index and that of the odd ones.

    Args:
        geometry: Where the samples belong. Both halves have its whole footprint.
        patches: (n, C, m, m) complex64.
        filled: (n,) which rows hold data.
    """
    even = np.arange(len(patches)) % 2 == 0
    first, second = (stitch(geometry, patches, filled & half) for half in (even, ~even))
    return tuple(zip(first, second, strict=True))


def log_intensity_correlation(pred: Float32, observed: Float32) -> float:
    """Pearson's R of two sets of log(1 + intensity); finite pixels only.

    Args:
        pred: any shape, log(1 + predicted intensity).
        observed: the same shape, log(1 + observed intensity).
    """
    finite = np.isfinite(pred) & np.isfinite(observed)
    p, o = pred[finite].astype(np.float64), observed[finite].astype(np.float64)
    if p.size < 2 or np.ptp(p) == 0 or np.ptp(o) == 0:
        return math.nan
    return float(np.corrcoef(p, o)[0, 1])
