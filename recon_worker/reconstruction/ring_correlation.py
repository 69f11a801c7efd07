"""Fourier ring correlation of two images, its thresholds, and the halves of a scan that it compares.

Saxton & Baumeister, J. Microsc. 127, 127 (1982); van Heel & Schatz, J. Struct. Biol. 151, 250 (2005). Formulas:
`docs/formulas.md`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon_worker.reconstruction.blocks import row_blocks
from recon_worker.reconstruction.stitching import Stitched, stitch
from recon_worker.snapshot.records import Bool, Complex64, Float64, Patches, PositionGeometry

HALF = 0.5
"""Threshold against a ground truth."""
_SMALLEST_PX = 16
_PIXELS_PER_INDEPENDENT_ONE = 4.5
"""Under a Hann window on both axes neighbouring Fourier pixels depend on each other."""


@dataclass(frozen=True, kw_only=True)
class RingCorrelation:
    """A Fourier ring correlation."""

    frequency: Float64
    """(n,) ring radii, cycles per pixel, up to 1/2."""
    correlation: Float64
    """(n,) within -1 ... 1."""
    pixels: Float64
    """(n,) Fourier pixels of each ring."""

    def half_bit(self) -> Float64:
        """(n,) the half-bit threshold of van Heel & Schatz (2005), equation 17: half a bit of information per pixel.

        Rings of few independent pixels correlate by chance, and have a higher threshold.
        """
        root = np.sqrt(self.pixels / _PIXELS_PER_INDEPENDENT_ONE)
        return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)

    def cutoff(self, threshold: float | Float64) -> float:
        """The frequency, cycles per pixel, at which the correlation falls below the threshold.

        Counted from the first ring above it that is followed by another one above it, outwards; linear between rings;
        1/2 if it does not fall below, 0 if there is no such ring. What the rings inside do does not matter: diffraction
        hardly tells what varies more slowly than the probe is wide. One ring alone may be above by chance.

        Args:
            threshold: For all rings, or (n,).
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
    """Fourier ring correlation of two complex images in the largest valid square; None if that is below 16 px.

    Rings are one bin of the Fourier transform wide; means are taken off and edges tapered, so that the square itself
    does not correlate.

    Args:
        a: (H, W) complex64.
        b: (H, W) complex64, aligned with `a`.
        valid: (H, W) pixels at which both are known, and finite.
    """
    square = largest_square(valid)
    n = square[0].stop - square[0].start
    if n < _SMALLEST_PX:
        return None
    fa, fb = (_transformed(tapered(image[square].astype(np.complex128))) for image in (a, b))
    f = np.fft.fftfreq(n, 1 / n)
    sums, pixels = np.zeros((3, n)), np.zeros(n)  # more rings than there are
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


def largest_square(valid: Bool) -> tuple[slice, slice]:
    """Rows and columns of the largest square of odd side without an invalid pixel; the first of several."""
    from scipy.ndimage import distance_transform_cdt  # type: ignore[attr-defined]

    distance = distance_transform_cdt(np.pad(valid, 1), metric="chessboard")[1:-1, 1:-1]
    row, column = np.unravel_index(np.argmax(distance), distance.shape)
    reach = max(0, int(distance[row, column]) - 1) if distance.any() else 0
    side = 2 * reach + 1 if distance.any() else 0
    return slice(int(row) - reach, int(row) - reach + side), slice(int(column) - reach, int(column) - reach + side)


def tapered(image: NDArray[np.complex128]) -> NDArray[np.complex128]:
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
