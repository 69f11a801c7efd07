"""What crosses from the training side to the worker side, and nothing else does.

A run hands over one `Scan` (what never changes: geometry, labels, observed diffraction) and then, at each
logged epoch, one `Snapshot` (what the network predicts now). The arrays of a snapshot have a fixed layout, so that
they can be written straight into a buffer (`SnapshotLayout.views`), be it process memory or a shared slot.

Coordinates are pixels of the object grid. Positions are (x, y) = (column, row) of patch *centres*; the centre pixel
of an n-pixel patch has index n // 2. Shapes are (rows, columns).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from recon_worker.snapshot.choices import ArraysFormat, StitchWeight

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Complex64 = NDArray[np.complex64]
Bool = NDArray[np.bool_]
Indices = NDArray[np.intp]
Buffer = memoryview | bytearray | NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class GridGeometry:
    """A grid-lines scan: samples lie on a square grid per object, object-major, then row-major."""

    patch_px: int
    """Side N of a patch, pixels."""
    outer_offset_px: int
    """Twice the grid stride, pixels (`outer_offset_test`); each sample fills a tile of half this side."""
    n_objects: int
    """Number of objects whose samples follow each other."""
    n_samples: int
    """Samples of the whole scan, all objects together."""
    group_extent_px: int = 0
    """How much larger than a patch a sample is: (gridsize - 1) * offset, pixels."""
    amplitude_scale: float = 1.0
    """Factor from the network's amplitude to the object's (`norm_Y_I`); never applied to the phase."""
    coords_relative_px: Float64 | None = None
    """(n_samples, C, 2), (x, y), sign -(x - mean): places the C channels of a sample. None when C = 1."""

    def __post_init__(self) -> None:
        if not 0 < self.outer_offset_px < 2 * self.patch_px:
            raise ValueError(
                f"outer_offset is {self.outer_offset_px} px; it must be above 0 and below twice the patch side "
                f"({2 * self.patch_px} px). Correct `outer_offset_test` in the metadata of the data file."
            )
        if self.outer_offset_px % 2:
            raise ValueError(
                f"outer_offset is {self.outer_offset_px} px; it must be even: the grid stride is half of it."
            )
        if self.n_objects < 1:
            raise ValueError(
                f"n_objects is {self.n_objects}; it must be at least 1. Correct `nimgs_test` in the metadata."
            )
        if self.n_samples < 1 or self.n_objects * self.samples_per_axis**2 != self.n_samples:
            raise ValueError(
                f"{self.n_samples} samples of {self.n_objects} objects do not make square grids; each object needs a "
                "square number of samples. Correct `nimgs_test` in the metadata of the data file."
            )
        self._check_groups()

    def _check_groups(self) -> None:
        coords = self.coords_relative_px
        if coords is None:
            return
        if coords.ndim != 3 or coords.shape[::2] != (self.n_samples, 2):
            raise ValueError(f"coords_relative_px has shape {coords.shape}; it must be ({self.n_samples}, C, 2).")
        if not (np.abs(coords) < self.patch_px).all():
            raise ValueError(f"coords_relative_px must be finite and below the patch side, {self.patch_px} px.")

    @property
    def tile_px(self) -> int:
        """Side of the tile that a sample fills, pixels."""
        return self.outer_offset_px // 2

    @property
    def samples_per_axis(self) -> int:
        """Samples along one side of an object's grid."""
        return math.isqrt(self.n_samples // self.n_objects)

    @property
    def first_tile_px(self) -> int:
        """Row and column of the first tile in the object, pixels."""
        return (self.patch_px - self.tile_px + 1) // 2 + self.group_extent_px // 2

    @property
    def crop_px(self) -> int:
        """Side of the centre crop of each patch that stitching needs, pixels."""
        return self.tile_px if self.coords_relative_px is None else max(self.tile_px, self.patch_px // 2)


@dataclass(frozen=True, kw_only=True)
class PositionGeometry:
    """A scan with an absolute position for every patch."""

    patch_px: int
    """Side N of a patch, pixels."""
    crop_px: int
    """Side m of the centre crop that is stitched, pixels, even; N / 2 is the support of the network's heads."""
    positions_px: Float64
    """(n, C, 2), (x, y): absolute centres, object pixels."""
    object_index: NDArray[np.int64] | None = None
    """(n,) which object a sample shows, from 0; None: all the same."""
    weight: StitchWeight = "uniform"
    """How overlapping patches are averaged: equally, or by the probe's intensity."""
    probe_intensity: Float32 | None = None
    """(m, m) summed |probe|^2 on the crop; needed for weight "probe"."""
    amplitude_scale: float = 1.0
    """Factor from the network's amplitude to the object's; never applied to the phase."""

    def __post_init__(self) -> None:
        if self.positions_px.ndim != 3 or self.positions_px.shape[-1] != 2 or not self.positions_px.size:
            raise ValueError(
                f"positions_px has shape {self.positions_px.shape}; it must be (n, C, 2), not empty, (x, y) last."
            )
        if not np.isfinite(self.positions_px).all():
            bad = np.flatnonzero(~np.isfinite(self.positions_px).all(axis=(1, 2)))
            raise ValueError(f"{bad.size} samples have a position that is not finite (first: {bad[0]}). Remove them.")
        self._check_objects()
        if self.patch_px % 2:
            raise ValueError(f"patch_px is {self.patch_px}; it must be even: the centre is at index patch_px / 2.")
        if self.crop_px % 2 or not 0 < self.crop_px <= self.patch_px:
            raise ValueError(
                f"crop_px is {self.crop_px}; it must be even and within 2 ... {self.patch_px} (patch side)."
            )
        if self.weight == "probe" and (
            self.probe_intensity is None or self.probe_intensity.shape != (self.crop_px, self.crop_px)
        ):
            shape = None if self.probe_intensity is None else self.probe_intensity.shape
            raise ValueError(
                f"weight 'probe' needs probe_intensity of shape {(self.crop_px, self.crop_px)}; found {shape}."
            )

    def _check_objects(self) -> None:
        index, n = self.object_index, len(self.positions_px)
        if index is not None and (index.shape != (n,) or not np.array_equal(np.unique(index), range(self.n_objects))):
            raise ValueError(
                f"object_index has shape {index.shape} and values {np.unique(index)[:8].tolist()}; it must be ({n},) "
                "and number the objects 0, 1, 2 ... without a gap."
            )

    @property
    def n_objects(self) -> int:
        """Number of objects that the scan shows."""
        return 1 if self.object_index is None else int(self.object_index.max(initial=-1)) + 1


Geometry = GridGeometry | PositionGeometry


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Everything about the logged dataset that does not change while the run lasts."""

    fixed_indices: tuple[int, ...]
    """Dataset indices of the k samples that get patch pictures; channel 0 is shown."""
    observed_diffraction: Float32
    """(k, N, N) measured diffraction amplitude, DC in the centre, in the data's own units."""
    photon_scale: Float32 | None = None
    """(k,) factor from the amplitude of each of them to sqrt(photons). None: not known."""
    label_amp: Float32 | None = None
    """(k, N, N) true object amplitude in the network's units. None: no ground truth."""
    label_phase: Float32 | None = None
    """(k, N, N) true object phase, radians. None: no ground truth."""
    geometry: Geometry | None = None
    """How samples are stitched. None: no stitched pictures."""
    ground_truth: tuple[Complex64 | None, ...] = ()
    """Per object: (H, W) true object on the stitched footprint, NaN where it is unknown; None where there is none."""
    epoch_digits: int = 2
    """Width of the zero-padded epoch in artifact names."""
    remove_ramp: bool = True
    """Whether a linear phase ramp is taken out of stitched objects before they are compared with the truth."""
    pixel_size_m: float | None = None
    """Side of an object pixel, metres. None: not known; lengths are in pixels then."""
    arrays_format: ArraysFormat = "none"
    """Which file of numbers goes with the stitched pictures."""
    description: bool = False
    """Whether the run's description in MLflow shows the latest summary."""


@dataclass(frozen=True, kw_only=True)
class SnapshotLayout:
    """Shapes of a snapshot's arrays, and their places in one contiguous buffer."""

    n_fixed: int
    """k, number of fixed patches."""
    patch_px: int
    """N, side of a patch."""
    n_stitch: int = 0
    """Number of samples to stitch; 0: none."""
    channels: int = 1
    """C, patches per sample."""
    crop_px: int = 0
    """m, side of the stitched centre crop."""

    _ALIGNMENT_BYTES: ClassVar[int] = 64

    def _specs(self) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        fixed = (self.n_fixed, self.patch_px, self.patch_px)
        stitch = (self.n_stitch, self.channels, self.crop_px, self.crop_px)
        return {
            "fixed_amp": (fixed, np.float32),
            "fixed_phase": (fixed, np.float32),
            "fixed_diffraction": (fixed, np.float32),
            "fixed_filled": ((self.n_fixed,), np.bool_),
            "stitch_amp": (stitch, np.float32),
            "stitch_phase": (stitch, np.float32),
            "stitch_filled": ((self.n_stitch,), np.bool_),
        }

    def _places(self) -> tuple[dict[str, int], int]:
        places, end = {}, 0
        for name, (shape, dtype) in self._specs().items():
            places[name] = end
            size = math.prod(shape) * np.dtype(dtype).itemsize
            end += -(-size // self._ALIGNMENT_BYTES) * self._ALIGNMENT_BYTES
        return places, end

    @property
    def nbytes(self) -> int:
        """Size of the buffer that `views` needs."""
        return self._places()[1]

    def views(self, buffer: Buffer) -> SnapshotArrays:
        """Arrays that share the memory of `buffer`; nothing is copied."""
        places, _ = self._places()
        return SnapshotArrays(
            **{
                name: np.frombuffer(buffer, dtype, math.prod(shape), places[name]).reshape(shape)
                for name, (shape, dtype) in self._specs().items()
            }
        )

    def allocate(self) -> SnapshotArrays:
        """Fresh arrays in ordinary memory, zeroed."""
        return self.views(bytearray(self.nbytes))


@dataclass(frozen=True)
class ObjectPatches:
    """(n, ..., m, m) complex64 patches, amp * exp(i phase), that are made as they are needed; else as an array."""

    amp: Float32
    phase: Float32

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ..., m, m)."""
        return self.amp.shape

    def __len__(self) -> int:
        return len(self.amp)

    def __getitem__(self, rows: slice | Indices) -> Complex64:
        patches: Complex64 = self.amp[rows] * np.exp(1j * self.phase[rows])
        return patches

    def reshape(self, *shape: int) -> ObjectPatches:
        """The same patches, counted differently."""
        return ObjectPatches(self.amp.reshape(shape), self.phase.reshape(shape))


Patches = Complex64 | ObjectPatches


@dataclass(frozen=True, kw_only=True)
class SnapshotArrays:
    """What the network predicts, copied out of it. All amplitudes in the network's units, phases in radians."""

    fixed_amp: Float32
    """(k, N, N) object amplitude of the fixed patches."""
    fixed_phase: Float32
    """(k, N, N) object phase of the fixed patches."""
    fixed_diffraction: Float32
    """(k, N, N) predicted diffraction amplitude; meaningless unless the snapshot has diffraction."""
    fixed_filled: Bool
    """(k,) which fixed patches hold a prediction."""
    stitch_amp: Float32
    """(n, C, m, m) object amplitude on the centre crop."""
    stitch_phase: Float32
    """(n, C, m, m) object phase on the centre crop."""
    stitch_filled: Bool
    """(n,) which rows hold a prediction."""

    def stitch_object(self) -> ObjectPatches:
        """(n, C, m, m) complex64 object patches, made as they are needed; rows that were not filled mean nothing."""
        return ObjectPatches(self.stitch_amp, self.stitch_phase)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One logged epoch: an immutable record and the arrays it belongs to."""

    epoch: int
    """Completed epochs, counted from 1."""
    step: int
    """Optimizer steps taken so far."""
    has_diffraction: bool
    """Whether the network predicts diffraction (a supervised one does not)."""
    created_unix_s: float
    """When the arrays were complete, seconds since 1970."""
    stall_s: float
    """How long the training thread was busy with this event, up to here."""
    arrays: SnapshotArrays
