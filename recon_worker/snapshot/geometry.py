"""Placement of the samples of a scan in the object: on a grid, or at absolute positions.

Coordinates are pixels of the object grid. Positions are patch *centres*, (x, y) = (column, row); the centre pixel of an
n-pixel patch has index n // 2. Shapes are (rows, columns). Formulas: `docs/reference/formulas.md`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Footprint = tuple[int, int, tuple[int, int]]
"""Part of an object covered by its stitched canvas: row and column of the first pixel, and the shape."""
_MAX_CANVAS_PX = 1 << 28
"""Maximum size of a canvas; a larger one indicates positions in a wrong unit."""


@dataclass(frozen=True, kw_only=True)
class GridGeometry:
    """A grid-lines scan: samples lie on a square grid per object, object-major, then row-major."""

    patch_px: int
    """Side N of a patch, pixels."""
    outer_offset_px: int
    """Twice the grid stride, pixels (`outer_offset_test`); each sample fills a tile of half this side."""
    n_objects: int
    """Number of objects, stored one after the other."""
    n_samples: int
    """Number of samples of the whole scan, all objects together."""
    group_extent_px: int = 0
    """Extent of a sample beyond one patch: (gridsize - 1) * offset, pixels."""
    amplitude_scale: float = 1.0
    """Factor from the network's amplitude to the object's (`norm_Y_I`); never applied to the phase."""
    coords_relative_px: NDArray[np.float64] | None = None
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
        coords = self.coords_relative_px
        if coords is None:
            return
        if coords.ndim != 3 or coords.shape[::2] != (self.n_samples, 2):
            raise ValueError(f"coords_relative_px has shape {coords.shape}; it must be ({self.n_samples}, C, 2).")
        if not (np.abs(coords) < self.patch_px).all():
            raise ValueError(f"coords_relative_px must be finite and below the patch side, {self.patch_px} px.")

    @property
    def tile_px(self) -> int:
        """Side of the tile filled by a sample, pixels."""
        return self.outer_offset_px // 2

    @property
    def samples_per_axis(self) -> int:
        """Number of samples along one side of an object's grid."""
        return math.isqrt(self.n_samples // self.n_objects)

    @property
    def crop_px(self) -> int:
        """Side of the centre crop of each patch that stitching needs, pixels."""
        return self.tile_px if self.coords_relative_px is None else max(self.tile_px, self.patch_px // 2)

    def footprint(self, object_index: int = 0) -> Footprint:
        """Return the footprint of the grid's tiles; equal for all objects."""
        first = (self.patch_px - self.tile_px + 1) // 2 + self.group_extent_px // 2
        side = self.samples_per_axis * self.tile_px
        return first, first, (side, side)


@dataclass(frozen=True, kw_only=True)
class PositionGeometry:
    """A scan with an absolute position for every patch."""

    patch_px: int
    """Side N of a patch, pixels."""
    crop_px: int
    """Side m of the stitched centre crop, pixels, even; N / 2 is the support of the network's heads."""
    positions_px: NDArray[np.float64]
    """(n, C, 2), (x, y): absolute centres, object pixels."""
    object_index: NDArray[np.int64] | None = None
    """(n,) object index of each sample, from 0; None: a single object."""
    weight: Literal["uniform", "probe"] = "uniform"
    """Weight of overlapping patches: uniform, or the probe's intensity."""
    probe_intensity: NDArray[np.float32] | None = None
    """(m, m) summed |probe|^2 on the crop; required for weight "probe"."""
    amplitude_scale: float = 1.0
    """Factor from the network's amplitude to the object's; never applied to the phase."""

    def __post_init__(self) -> None:
        positions, index = self.positions_px, self.object_index
        if positions.ndim != 3 or positions.shape[-1] != 2 or not positions.size:
            raise ValueError(f"positions_px has shape {positions.shape}; it must be (n, C, 2), not empty, (x, y) last.")
        if not np.isfinite(positions).all():
            bad = np.flatnonzero(~np.isfinite(positions).all(axis=(1, 2)))
            raise ValueError(f"{bad.size} samples have a position that is not finite (first: {bad[0]}). Remove them.")
        expected = (len(positions),)
        if index is not None and (
            index.shape != expected or not np.array_equal(np.unique(index), range(self.n_objects))
        ):
            raise ValueError(
                f"object_index has shape {index.shape} and values {np.unique(index)[:8].tolist()}; it must be "
                f"({expected[0]},) and number the objects 0, 1, 2 ... without a gap."
            )
        if self.patch_px % 2:
            raise ValueError(f"patch_px is {self.patch_px}; it must be even: the centre is at index patch_px / 2.")
        if self.crop_px % 2 or not 0 < self.crop_px <= self.patch_px:
            raise ValueError(
                f"crop_px is {self.crop_px}; it must be even and within 2 ... {self.patch_px} (patch side)."
            )
        crop_shape = (self.crop_px, self.crop_px)
        probe_shape = None if self.probe_intensity is None else self.probe_intensity.shape
        if self.weight == "probe" and probe_shape != crop_shape:
            raise ValueError(f"weight 'probe' needs probe_intensity of shape {crop_shape}; found {probe_shape}.")

    @property
    def n_objects(self) -> int:
        """Number of objects in the scan."""
        return 1 if self.object_index is None else int(self.object_index.max(initial=-1)) + 1

    def positions_of(self, object_index: int) -> NDArray[np.float64]:
        """Return all patch centres of one object, (k, 2), (x, y), object pixels."""
        chosen = slice(None) if self.object_index is None else self.object_index == object_index
        return self.positions_px[chosen].reshape(-1, 2)

    def footprint(self, object_index: int = 0) -> Footprint:
        """Return the smallest canvas on whole object pixels that holds every patch of an object.

        Raises:
            ValueError: The canvas has more than 2^28 pixels.
        """
        corners = self.positions_of(object_index) - self.crop_px / 2
        column, row = np.floor(corners.min(axis=0)).astype(int)
        width, height = np.ceil(corners.max(axis=0)).astype(int) + self.crop_px - [column, row]
        if int(width) * int(height) > _MAX_CANVAS_PX:
            raise ValueError(
                f"the positions of object {object_index} span {width} x {height} px (columns x rows), more than "
                f"{_MAX_CANVAS_PX} pixels in total. Positions are pixels of the object grid: check their unit, and "
                "look for outliers."
            )
        return int(row), int(column), (int(height), int(width))


Geometry = GridGeometry | PositionGeometry
