"""Ground truth of a pattern: its true object patch, computed on demand.

A `Truth` takes the index of a pattern and returns amplitude (N, N) float32, in the object's units, and phase (N, N)
float32, radians; None if the ground truth is unknown.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon_worker.reconstruction.patches import cut_patch
from recon_worker.snapshot.array_types import Complex64, Float32, Float64

Patch = tuple[Float32, Float32]
Truth = Callable[[int], Patch | None]
_DARK = 0.01
"""Fraction of the probe's maximum below which the illuminated amplitude does not determine the object."""


@dataclass(frozen=True, kw_only=True)
class ObjectTruth:
    """Patches cut from whole objects at sub-pixel positions."""

    objects: Complex64
    """(K, H, W)"""
    object_index: NDArray[np.int64]
    """(M,) object index of each pattern."""
    positions_px: Float64
    """(M, 2), (x, y), patch centres."""
    n_px: int
    """Side of a patch."""

    def __call__(self, index: int) -> Patch | None:
        """Return the patch; None if it extends beyond the object or is not finite."""
        patch = cut_patch(self.objects[self.object_index[index]], self.positions_px[index], self.n_px)
        return None if patch is None else _polar(patch)


@dataclass(frozen=True, kw_only=True)
class PatchTruth:
    """Patches stored in the file."""

    patches: Complex64
    """(M, N, N)"""

    def __call__(self, index: int) -> Patch | None:
        """Return the patch; None if it is all zero or not finite."""
        patch = self.patches[index]
        return _polar(patch) if patch.any() else None


@dataclass(frozen=True, kw_only=True)
class IlluminatedTruth:
    """Patches from the illuminated amplitude, divided by that of the probe where it is bright, and 0 elsewhere."""

    amp_illuminated: Float32
    """(M, N, N) abs(O / norm * P)."""
    phase: Float32
    """(M, N, N) radians."""
    probe: Complex64
    """(P, N, N) probe that illuminated the object."""
    norm: float
    """Divisor of the object's amplitude."""

    def __call__(self, index: int) -> Patch:
        """Return the patch."""
        light = np.abs(self.probe.sum(axis=0))
        amplitude = np.zeros_like(self.amp_illuminated[index])
        np.divide(self.amp_illuminated[index], light, out=amplitude, where=light >= _DARK * light.max())
        return amplitude * np.float32(self.norm), self.phase[index]


def _polar(patch: Complex64) -> Patch | None:
    if not np.isfinite(patch).all():
        return None
    return np.abs(patch), np.angle(patch)
