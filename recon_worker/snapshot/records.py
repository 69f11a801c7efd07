"""Records that cross from the training process to the worker: one `Scan` per run, one `Snapshot` per logged epoch.

The scan holds the constant data (geometry, labels, observed diffraction), a snapshot the current predictions. The
arrays of a snapshot have a fixed layout, so that they can be written directly to a buffer (`SnapshotLayout.views`):
process memory, a shared slot or a mapped file.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from recon_worker.snapshot.array_types import Bool, Complex64, Float32, ObjectPatches
from recon_worker.snapshot.choices import ArraysFormat
from recon_worker.snapshot.geometry import Geometry

Buffer = memoryview | bytearray | NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Constant data of the logged dataset."""

    fixed_indices: tuple[int, ...]
    """Dataset indices of the k samples whose patches are logged; channel 0 is shown."""
    observed_diffraction: Float32 | None = None
    """(k, N, N) measured diffraction amplitude, DC in the centre, in the units of the data. None: not known; predicted
    diffraction is then shown alone."""
    photon_scale: Float32 | None = None
    """(k,) factor from the amplitude of each pattern to sqrt(photons). None: unknown."""
    label_amp: Float32 | None = None
    """(k, N, N) true object amplitude in the network's units. None: no ground truth."""
    label_phase: Float32 | None = None
    """(k, N, N) true object phase, radians. None: no ground truth."""
    geometry: Geometry | None = None
    """Placement of the samples. None: no stitched pictures."""
    ground_truth: tuple[Complex64 | None, ...] = ()
    """Per object: (H, W) true object on the stitched footprint, NaN where unknown; None: no ground truth."""
    epoch_digits: int = 2
    """Width of the zero-padded epoch in artifact names."""
    remove_ramp: bool = True
    """Whether to remove a linear phase ramp from stitched objects before comparing them with the truth."""
    pixel_size_m: float | None = None
    """Side of an object pixel, metres. None: unknown; lengths are in pixels only."""
    arrays_format: ArraysFormat = "none"
    """File format of the stitched objects as arrays."""
    tiles_from_px: int = 0
    """Longer side from which stitched objects are also logged as tiles, pixels; 0: never."""
    description: bool | None = None
    """Whether to show the latest summary in the run's description in MLflow; None: only where the user has written no
    text."""
    reference: bool = False
    """Whether to log the data known before training (ground truth, measured diffraction) as the image cards of step 0.
    Only for a fresh run that does not log the untrained network: the cards of both have the same step, and only those
    logged first are kept."""


@dataclass(frozen=True, kw_only=True)
class SnapshotArrays:
    """Copied predictions of a network. Amplitudes are in the network's units, phases in radians."""

    fixed_amp: Float32
    """(k, N, N) object amplitude of the fixed patches."""
    fixed_phase: Float32
    """(k, N, N) object phase of the fixed patches."""
    fixed_diffraction: Float32
    """(k, N, N) predicted diffraction amplitude; undefined unless `Snapshot.has_diffraction`."""
    fixed_filled: Bool
    """(k,) True for fixed patches that hold a prediction."""
    stitch_amp: Float32
    """(n, C, m, m) object amplitude on the centre crop."""
    stitch_phase: Float32
    """(n, C, m, m) object phase on the centre crop."""
    stitch_filled: Bool
    """(n,) True for rows that hold a prediction."""
    misfit: Float32
    """(n, 2) R-factor and Poisson deviance per photon of each sample's diffraction: NaN where unknown, infinite where a
    pattern is dark or not finite. (0, 2) in snapshots of earlier versions."""

    def mark_unfilled(self) -> None:
        """Mark all fixed patches and rows as not predicted."""
        self.fixed_filled[:] = False
        self.stitch_filled[:] = False
        self.misfit[:] = math.nan

    def stitch_object(self) -> ObjectPatches:
        """Return the object patches, (n, C, m, m) complex64, computed on access; unfilled rows are undefined."""
        return ObjectPatches(self.stitch_amp, self.stitch_phase)


@dataclass(frozen=True, kw_only=True)
class SnapshotLayout:
    """Shapes of a snapshot's arrays, and their offsets in one contiguous buffer."""

    n_fixed: int
    """k, number of fixed patches."""
    patch_px: int
    """N, side of a patch, pixels."""
    n_stitch: int = 0
    """n, number of samples to stitch; 0: none."""
    channels: int = 1
    """C, patches per sample."""
    crop_px: int = 0
    """m, side of the stitched centre crop, pixels."""
    with_misfit: int = 1
    """1; 0 in snapshots of earlier versions, which hold no misfit."""

    _ALIGNMENT_BYTES: ClassVar[int] = 64

    def _fields(self) -> tuple[dict[str, tuple[int, tuple[int, ...], type[np.generic]]], int]:
        """Return (offset in bytes, shape, dtype) of each array, and the size of the buffer in bytes."""
        fixed = (self.n_fixed, self.patch_px, self.patch_px)
        stitch = (self.n_stitch, self.channels, self.crop_px, self.crop_px)
        arrays: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {
            "fixed_amp": (fixed, np.float32),
            "fixed_phase": (fixed, np.float32),
            "fixed_diffraction": (fixed, np.float32),
            "fixed_filled": ((self.n_fixed,), np.bool_),
            "stitch_amp": (stitch, np.float32),
            "stitch_phase": (stitch, np.float32),
            "stitch_filled": ((self.n_stitch,), np.bool_),
            "misfit": ((self.n_stitch * self.with_misfit, 2), np.float32),
        }
        placed, end = {}, 0
        for name, (shape, dtype) in arrays.items():
            placed[name] = end, shape, dtype
            size = math.prod(shape) * np.dtype(dtype).itemsize
            end += -(-size // self._ALIGNMENT_BYTES) * self._ALIGNMENT_BYTES
        return placed, end

    @property
    def nbytes(self) -> int:
        """Size of the buffer for `views`, bytes."""
        return self._fields()[1]

    def views(self, buffer: Buffer) -> SnapshotArrays:
        """Return arrays that share the memory of `buffer`, without a copy."""
        return SnapshotArrays(
            **{
                name: np.frombuffer(buffer, dtype, math.prod(shape), offset).reshape(shape)
                for name, (offset, shape, dtype) in self._fields()[0].items()
            }
        )

    def allocate(self) -> SnapshotArrays:
        """Return new arrays in process memory, unfilled; the system provides pages when they are first written."""
        arrays = self.views(np.zeros(self.nbytes, np.uint8))
        arrays.mark_unfilled()
        return arrays


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Predictions of one logged epoch."""

    epoch: int
    """Completed epochs, counted from 1; 0 is the untrained network."""
    step: int
    """Optimiser steps so far."""
    has_diffraction: bool
    """Whether the network predicts diffraction (a supervised network does not)."""
    created_unix_s: float
    """Time of completion of the arrays, seconds since 1970."""
    stall_s: float
    """Time spent on this snapshot in the training thread, seconds."""
    arrays: SnapshotArrays
