"""Scan positions of a simulation: raster with jitter, Fermat spiral, or random.

All functions return (M, 2) float64 patch centres, (x, y), object pixels, whose patches lie inside the object.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from recon_worker.snapshot.array_types import Float64

_GOLDEN_ANGLE_RAD = math.pi * (3 - math.sqrt(5))
_JITTER = 0.2
"""Maximum jitter of the raster, as a fraction of the step."""

Bounds = tuple[NDArray[np.float64], NDArray[np.float64]]
Pattern = Callable[[Bounds, float, np.random.Generator], Float64]


def scan_positions(
    pattern: str, object_shape: tuple[int, int], n_px: int, step_px: float, rng: np.random.Generator
) -> Float64:
    """Compute the positions of one of `PATTERNS` over the whole object.

    Args:
        pattern: Key of `PATTERNS`.
        object_shape: (rows, columns) of the object.
        n_px: Side of a patch.
        step_px: Distance between neighbours; every pattern has about one position per area of step^2.
        rng: Random generator of the jitter or the positions.

    Raises:
        ValueError: The object is smaller than a patch, or the step is not above 0.
    """
    if min(object_shape) <= n_px:
        raise ValueError(f"the object is {object_shape} px; it must be larger than a patch ({n_px} px) on both axes.")
    if not 0 < step_px < math.inf:
        raise ValueError(f"the step is {step_px} px; it must be above 0.")
    low = np.full(2, float(n_px // 2))
    high = low + np.array(object_shape[::-1]) - n_px - 1  # a patch at a sub-pixel position spans one more pixel
    return PATTERNS[pattern]((low, high), step_px, rng)


def _raster(bounds: Bounds, step_px: float, rng: np.random.Generator) -> Float64:
    axes = [np.arange(low, high + 1e-9, step_px) for low, high in zip(*bounds, strict=True)]
    positions = np.stack([a.ravel() for a in np.meshgrid(*axes)], axis=1)
    jitter = rng.uniform(-_JITTER * step_px, _JITTER * step_px, positions.shape)
    return np.clip(positions + jitter, *bounds)


def _spiral(bounds: Bounds, step_px: float, rng: np.random.Generator) -> Float64:
    """Fermat spiral r = step sqrt(k / pi), one golden angle per point, rotated as a whole by `rng`."""
    low, high = bounds
    count = math.ceil(math.pi * float(((high - low) ** 2).sum()) / 4 / step_px**2) + 1
    k = np.arange(count)
    radius, angle = step_px * np.sqrt(k / math.pi), k * _GOLDEN_ANGLE_RAD + rng.uniform(0, 2 * math.pi)
    positions: Float64 = (low + high) / 2 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return positions[((positions >= low) & (positions <= high)).all(axis=1)]


def _random(bounds: Bounds, step_px: float, rng: np.random.Generator) -> Float64:
    low, high = bounds
    count = max(1, round(float(np.prod(high - low)) / step_px**2))
    return rng.uniform(low, high, (count, 2))


PATTERNS: Mapping[str, Pattern] = {"raster": _raster, "spiral": _spiral, "random": _random}
"""The scan patterns by name."""
