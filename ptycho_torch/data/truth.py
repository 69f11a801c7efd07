"""The true object patch of a pattern, made when it is asked for.

A truth is called with a pattern's index and returns amplitude (N, N) float32, in the object's own units, and phase
(N, N) float32, radians, or None where the truth is not known.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.data.patches import cut_patch
from recon_worker.snapshot.array_types import Complex64, Float32, Float64

Patch = tuple[Float32, Float32]
Truth = Callable[[int], Patch | None]
_DARK = 0.01
"""Where the probe is weaker than this part of its maximum, its illumination says nothing about the object."""


@dataclass(frozen=True, kw_only=True)
class ObjectTruth:
    """Patches cut out of whole objects, at sub-pixel positions as in `patches`."""

    objects: Complex64
    """(K, H, W)"""
    object_index: NDArray[np.int64]
    """(M,) which object a pattern shows."""
    positions_px: Float64
    """(M, 2), (x, y), patch centres."""
    n_px: int
    """Side of a patch."""

    def __call__(self, index: int) -> Patch | None:
        """None where the patch sticks out of the object, or holds values that are not finite."""
        patch = cut_patch(self.objects[self.object_index[index]], self.positions_px[index], self.n_px)
        return None if patch is None else _polar(patch)


@dataclass(frozen=True, kw_only=True)
class PatchTruth:
    """Patches that the file holds."""

    patches: Complex64
    """(M, N, N)"""

    def __call__(self, index: int) -> Patch | None:
        """None for a patch that is zero everywhere, or not finite."""
        patch = self.patches[index]
        return _polar(patch) if patch.any() else None


@dataclass(frozen=True, kw_only=True)
class IlluminatedTruth:
    """Patches from the amplitude behind the object: divided by the probe where that is bright, 0 elsewhere."""

    amp_illuminated: Float32
    """(M, N, N) abs(O / norm * P)."""
    phase: Float32
    """(M, N, N) radians."""
    probe: Complex64
    """(P, N, N) the probe behind `amp_illuminated`."""
    norm: float
    """What the object was divided by."""

    def __call__(self, index: int) -> Patch:
        """Amplitude and phase of a pattern's object."""
        light = np.abs(self.probe.sum(axis=0))
        amplitude = np.zeros_like(self.amp_illuminated[index])
        np.divide(self.amp_illuminated[index], light, out=amplitude, where=light >= _DARK * light.max())
        return amplitude * np.float32(self.norm), self.phase[index]


def _polar(patch: Complex64) -> Patch | None:
    if not np.isfinite(patch).all():
        return None
    return np.abs(patch), np.angle(patch)
