"""Cuts patches from an object at sub-pixel positions: centres, (x, y), at index n // 2.

Interpolates with a polynomial of degree five through the six nearest pixels (Lagrange; Abramowitz & Stegun 25.2), which
preserves the amplitude of a phase ramp of 1 rad per pixel within 0.5 %; bilinear interpolation, which averages two
phasors, reduces it by 12 %. Unlike splines it has finite support: non-finite object pixels affect only neighbours.
"""

import math

import numpy as np
from numpy.typing import NDArray

from recon_worker.snapshot.array_types import Complex64, Float64

NODES = range(-2, 4)
"""Offsets of the six pixels that contribute to a position between 0 and 1."""


def cut_patch(object_: Complex64, centre_px: Float64, n_px: int) -> Complex64 | None:
    """Cut the patch around a position, interpolating between pixels; exact at integer positions.

    Args:
        object_: (H, W) complex64. Extended beyond its edges by odd reflection, which preserves a slope.
        centre_px: (2,), (x, y), position of the patch's index (n // 2, n // 2) in the object.
        n_px: Side of the patch.

    Returns:
        (n, n) complex64; None if the patch extends beyond the object.
    """
    corner = np.asarray(centre_px, np.float64)[::-1] - n_px // 2
    whole = np.floor(corner).astype(int)
    fractions = corner - whole
    if (whole < 0).any() or (whole + n_px + (fractions > 0) > object_.shape).any():
        return None
    patch: NDArray[np.complexfloating] = object_
    for axis in (0, 1):
        margins = (-NODES[0], NODES[-1]) if fractions[axis] else (0, 0)
        patch = _part(patch, axis, whole[axis] - margins[0], whole[axis] + n_px + margins[1])
    for axis in (0, 1):
        patch = _moved(patch, axis, float(fractions[axis]), n_px) if fractions[axis] else patch
    return patch.astype(np.complex64)


def lagrange_weights(fraction: float) -> list[float]:
    """Return the weights of the pixels -2 ... 3 for a position between 0 and 1."""
    return [math.prod((fraction - m) / (k - m) for m in NODES if m != k) for k in NODES]


def _part(image: NDArray[np.complexfloating], axis: int, start: int, stop: int) -> NDArray[np.complexfloating]:
    """Slice from `start` to `stop` along an axis; both may be a few pixels outside the image."""
    lines = np.moveaxis(image, axis, 0)
    missing = (max(0, -start), max(0, stop - len(lines)))
    lines = lines[max(0, start) : stop]
    if any(missing):
        lines = np.pad(lines, (missing, (0, 0)), mode="reflect", reflect_type="odd")
    return np.moveaxis(lines, 0, axis)


def _moved(image: NDArray[np.complexfloating], axis: int, fraction: float, n_px: int) -> NDArray[np.complexfloating]:
    """Interpolate n pixels at `fraction` after the pixels 2 ... n + 1 along an axis."""
    lines = np.moveaxis(image, axis, 0)
    moved = np.zeros_like(lines[:n_px])
    for k, weight in enumerate(lagrange_weights(fraction)):
        moved += weight * lines[k : k + n_px]
    return np.moveaxis(moved, 0, axis)
