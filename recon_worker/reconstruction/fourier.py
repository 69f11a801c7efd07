"""Compares two images in Fourier space: sub-pixel shift, and Fourier ring correlation with its thresholds.

Both use the largest valid square of the images. The shift is an error: it is logged but not corrected.
Saxton & Baumeister, J. Microsc. 127, 127 (1982); van Heel & Schatz, J. Struct. Biol. 151, 250 (2005);
Guizar-Sicairos, Thurman & Fienup, Opt. Lett. 33, 156 (2008). Formulas: `docs/reference/formulas.md`.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recon_worker.reconstruction.slices import central, row_blocks
from recon_worker.snapshot.array_types import Bool, Complex64, Float64

Complex128: TypeAlias = NDArray[np.complex128]
Square: TypeAlias = tuple[slice, slice]

HALF = 0.5
"""Threshold of the Fourier ring correlation with a ground truth."""
LEAST_CORRELATION = 0.3
"""Minimum correlation at the best shift (maximum: 1); below it, the shift is meaningless."""
_SMALLEST_PX, _LARGEST_SHIFTED_PX = 16, 1024
_STEPS_PER_PX = 50
_PIXELS_PER_INDEPENDENT_ONE = 4.5
"""Fourier pixels per independent pixel: the Hann window on both axes correlates neighbours."""


def shift_and_rings(
    pred: Complex64, truth: Complex64, valid: Bool
) -> tuple[tuple[float, float], "RingCorrelation | None"]:
    """Return shift and `ring_correlation` of two images; they share the Fourier transforms of all but large ones.

    The shift (x, y) is that of the prediction relative to the truth, right and down, pixels; NaN if unknown. It is the
    peak of the cross-correlation in the largest valid square, at most its central 1024 px, with a resolution of
    1/50 px (scikit-image).

    Args:
        pred: (H, W) complex64, aligned.
        truth: (H, W) complex64.
        valid: (H, W) pixels where both are known and finite.
    """
    square = largest_square(valid)
    middle = _central_square(square)
    if middle is None:
        return (math.nan, math.nan), None
    if middle != square:
        return _shift(*_spectra(pred, truth, middle)), _rings(*_spectra(pred, truth, square))
    spectra = _spectra(pred, truth, square)
    return _shift(*spectra), _rings(*spectra)


def _central_square(square: Square) -> Square | None:
    """Return the part of a square in which shifts are measured; None if it is too small."""
    side = square[0].stop - square[0].start
    if side < _SMALLEST_PX:
        return None
    middle = central(side, _LARGEST_SHIFTED_PX)
    rows, columns = (slice(axis.start + middle.start, axis.start + middle.stop) for axis in square)
    return rows, columns


def _shift(pred: Complex128, truth: Complex128) -> tuple[float, float]:
    """Measure the shift from the spectra of both images."""
    from skimage.registration import phase_cross_correlation

    if not (pred.any() and truth.any()):
        return math.nan, math.nan
    found, error, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        truth, pred, upsample_factor=_STEPS_PER_PX, normalization=None, space="fourier"
    )
    if not error**2 <= 1 - LEAST_CORRELATION**2:
        return math.nan, math.nan
    return 0.0 - float(found[1]), 0.0 - float(found[0])


@dataclass(frozen=True, kw_only=True)
class RingCorrelation:
    """Fourier ring correlation of two images."""

    frequency: Float64
    """(n,) ring radii, cycles per pixel, up to 1/2."""
    correlation: Float64
    """(n,) within -1 ... 1."""
    pixels: Float64
    """(n,) number of Fourier pixels per ring."""

    def half_bit(self) -> Float64:
        """Return the (n,) half-bit threshold of van Heel & Schatz (2005), equation 17: half a bit per pixel.

        The threshold is higher for rings of few independent pixels, which correlate by chance.
        """
        root = np.sqrt(self.pixels / _PIXELS_PER_INDEPENDENT_ONE)
        return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)

    def cutoff(self, threshold: float | Float64) -> float:
        """Return the frequency, cycles per pixel, at which the correlation falls below the threshold.

        Searches outwards from the first two consecutive rings above the threshold, since a single ring may exceed it
        by chance, and interpolates linearly between rings. 1/2 if the correlation stays above, 0 without such rings.
        Rings further inside are ignored: diffraction hardly constrains variations slower than the probe width.

        Args:
            threshold: One value for all rings, or (n,).
        """
        above = self.correlation - threshold
        pairs = np.flatnonzero((above[:-1] >= 0) & (above[1:] >= 0))
        if not pairs.size:
            return 0.0
        below = np.flatnonzero(above[pairs[0] :] < 0)
        if not below.size:
            return 0.5
        after = int(pairs[0] + below[0])
        high, low = above[after - 1], above[after]
        share = high / (high - low)
        return float(self.frequency[after - 1] + share * (self.frequency[after] - self.frequency[after - 1]))


def ring_correlation(a: Complex64, b: Complex64, valid: Bool) -> RingCorrelation | None:
    """Return the Fourier ring correlation of two images in the largest valid square; None if it is below 16 px.

    Rings are one Fourier bin wide. Means are subtracted and edges tapered, so that the outline of the square does not
    correlate.

    Args:
        a: (H, W) complex64.
        b: (H, W) complex64, aligned with `a`.
        valid: (H, W) pixels where both are known and finite.
    """
    square = largest_square(valid)
    return None if square[0].stop - square[0].start < _SMALLEST_PX else _rings(*_spectra(a, b, square))


def _spectra(a: Complex64, b: Complex64, square: Square) -> tuple[Complex128, Complex128]:
    """Return the Fourier transforms of a square of both images, tapered, computed in place, in blocks."""
    fa, fb = (_tapered(image[square].astype(np.complex128)) for image in (a, b))
    for image in (fa, fb):
        for rows in row_blocks(image.shape):
            image[rows] = np.fft.fft(image[rows], axis=1)
        for columns in row_blocks(image.shape[::-1]):
            image[:, columns] = np.fft.fft(image[:, columns], axis=0)
    return fa, fb


def _rings(fa: Complex128, fb: Complex128) -> RingCorrelation:
    """Correlate two spectra ring by ring."""
    n = len(fa)
    f = np.fft.fftfreq(n, 1 / n)
    sums, pixels = np.zeros((3, n)), np.zeros(n)  # n is more than the number of rings
    for rows in row_blocks(fa.shape):
        ring = np.rint(np.hypot(f[rows, None], f)).astype(np.int64).ravel()
        pixels += np.bincount(ring, minlength=n)[:n]
        pa, pb = fa[rows], fb[rows]
        for total, values in zip(sums, ((pa * pb.conj()).real, np.abs(pa) ** 2, np.abs(pb) ** 2), strict=True):
            total += np.bincount(ring, values.ravel(), n)
    shared, power_a, power_b = sums[:, 1 : n // 2 + 1]
    power = np.sqrt(power_a * power_b)
    correlation = np.divide(shared, power, out=np.zeros_like(shared), where=power > 0)
    frequency = np.arange(1, n // 2 + 1) / n
    return RingCorrelation(frequency=frequency, correlation=correlation, pixels=pixels[1 : n // 2 + 1])


def largest_square(valid: Bool) -> Square:
    """Return rows and columns of the largest square of odd side that is entirely valid; the first of several."""
    from scipy.ndimage import distance_transform_cdt  # type: ignore[attr-defined]

    distance = distance_transform_cdt(np.pad(valid, 1), metric="chessboard")[1:-1, 1:-1]
    row, column = np.unravel_index(np.argmax(distance), distance.shape)
    reach = max(0, int(distance[row, column]) - 1) if distance.any() else 0
    side = 2 * reach + 1 if distance.any() else 0
    return slice(int(row) - reach, int(row) - reach + side), slice(int(column) - reach, int(column) - reach + side)


def _tapered(image: Complex128) -> Complex128:
    """Subtract the mean and apply a Hann window on both axes, in place."""
    window = np.hanning(len(image) + 2)[1:-1]
    image -= image.mean()
    image *= window[:, None]
    image *= window
    return image
