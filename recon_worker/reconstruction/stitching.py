"""From object patches to whole objects: tiles on a grid, or overlapping patches at sub-pixel positions.

Positions are (x, y) = (column, row), pixels, of patch centres; the centre pixel of an m-pixel crop has index m // 2.
Formulas: `docs/formulas.md`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon_worker.snapshot.records import (
    Bool,
    Complex64,
    Float32,
    Float64,
    Geometry,
    GridGeometry,
    Indices,
    Patches,
    PositionGeometry,
)

_CHUNK_BYTES = 1 << 18
"""Patches that are spread over their four neighbours at a time (less for a small scan): fits the processor's cache."""
_BLOCK_BYTES = 1 << 22
"""Patches of a grid that are laid at a time."""
_MAX_CANVAS_PX = 1 << 28
"""A larger canvas is a mistake in the unit of the positions, not a picture."""


@dataclass(frozen=True, kw_only=True)
class Stitched:
    """One object on its canvas."""

    object: Complex64
    """(H, W), 0 where not scanned. The geometry's amplitude scale is applied."""
    coverage: Float32
    """(H, W) summed weight of the patches that contribute to a pixel."""

    @property
    def scanned(self) -> Bool:
        """(H, W) pixels that at least one patch covers."""
        return self.coverage > 0


@dataclass(frozen=True)
class _Footprint:
    """Where a canvas lies in the object: row and column of its first pixel, and its shape."""

    row: int
    column: int
    shape: tuple[int, int]


def crop_start_px(patch_px: int, crop_px: int) -> int:
    """First index, on both axes, of the centre crop of side m of a patch of side N."""
    return (patch_px - crop_px + 1) // 2


def stitch(geometry: Geometry, patches: Patches, filled: Bool | None = None) -> tuple[Stitched, ...]:
    """Put the samples of a scan together, one image per object. Beside the images it needs a few MB of memory.

    Args:
        geometry: Where the samples belong. The canvas is always the whole footprint.
        patches: (n, C, m, m) complex64, m = `geometry.crop_px`; the first n samples in dataset order.
        filled: (n,) which rows hold data; None: all.

    Raises:
        ValueError: The patches do not belong to this geometry.
    """
    rows = np.ones(len(patches), bool) if filled is None else filled
    _check_patches(geometry, patches, rows)
    if isinstance(geometry, GridGeometry):
        return grid_stitch(geometry, patches, rows)
    return tuple(_stitch_object(geometry, patches, rows, number) for number in range(geometry.n_objects))


def grid_stitch(geometry: GridGeometry, patches: Patches, filled: Bool) -> tuple[Stitched, ...]:
    """Lay the central tile of every sample on a grid, row by row, without overlap.

    Args:
        geometry: The grid.
        patches: (n, C, m, m) complex64, m = `geometry.crop_px`, n at most `geometry.n_samples`.
        filled: (n,) which rows hold data.
    """
    side = geometry.samples_per_axis * geometry.tile_px
    objects = np.zeros((geometry.n_objects, side, side), np.complex64)
    coverage = np.zeros(objects.shape, np.float32)
    for rows in _blocks(np.flatnonzero(filled), patches):
        block = patches[rows]
        tiles = block[:, 0] if geometry.coords_relative_px is None else _merge_groups(geometry, block, rows)
        _tiles_of(geometry, objects)[_grid_places(geometry, rows)] = _scaled(tiles, geometry.amplitude_scale)
        _tiles_of(geometry, coverage)[_grid_places(geometry, rows)] = 1
    return tuple(Stitched(object=o, coverage=c) for o, c in zip(objects, coverage, strict=True))


def _blocks(rows: Indices, patches: Patches) -> Iterator[Indices]:
    """The rows, in their order, a few MB of patches at a time."""
    count = max(1, _BLOCK_BYTES // (8 * math.prod(patches.shape[1:])))
    return (rows[start : start + count] for start in range(0, len(rows), count))


def _tiles_of(geometry: GridGeometry, images: NDArray[Any]) -> NDArray[Any]:
    """(objects, side, side) images as (objects, rows, columns, t, t) tiles, in the same memory."""
    side, tile = geometry.samples_per_axis, geometry.tile_px
    return images.reshape(geometry.n_objects, side, tile, side, tile).swapaxes(2, 3)


def _grid_places(geometry: GridGeometry, samples: Indices) -> tuple[Indices, ...]:
    """Object, row and column of samples."""
    side = geometry.samples_per_axis
    return np.unravel_index(samples, (geometry.n_objects, side, side))


def _merge_groups(geometry: GridGeometry, patches: Complex64, rows: Indices) -> Complex64:
    """Average the C patches of samples where they lie; (n, C, m, m) -> (n, t, t), the tile around the mean."""
    assert geometry.coords_relative_px is not None
    n, _, m, _ = patches.shape
    offsets = -geometry.coords_relative_px[rows]
    # The mean of a group whose extent is odd lies half a pixel behind the tile's centre pixel.
    offsets += geometry.group_extent_px % 2 / 2
    side = m + 2 * (math.ceil(np.abs(offsets).max(initial=0)) + 1)
    corners = offsets + side // 2 - m // 2
    corners[..., 1] += side * np.arange(n)[:, None]  # one sample below the other on one tall canvas
    canvas, weights = accumulate(patches.reshape(-1, m, m), corners.reshape(-1, 2), (n * side, side))
    start = side // 2 - geometry.tile_px // 2
    window = (slice(None), slice(start, start + geometry.tile_px), slice(start, start + geometry.tile_px))
    weighted, weight = canvas.reshape(n, side, side)[window], weights.reshape(n, side, side)[window]
    return _divide(weighted, weight)


def _stitch_object(geometry: PositionGeometry, patches: Patches, filled: Bool, number: int) -> Stitched:
    footprint = _footprint(geometry, number)
    chosen = filled.copy()
    if geometry.object_index is not None:
        chosen &= geometry.object_index[: len(chosen)] == number
    samples = np.flatnonzero(chosen)
    corners = geometry.positions_px[samples].reshape(-1, 2) - geometry.crop_px / 2 - [footprint.column, footprint.row]
    weight = geometry.probe_intensity if geometry.weight == "probe" else None
    channels, m = patches.shape[1], geometry.crop_px
    rows = (samples[:, None] * channels + np.arange(channels)).ravel()
    canvas, coverage = accumulate(patches.reshape(-1, m, m), corners, footprint.shape, weight, rows)
    return Stitched(object=_scaled(_divide(canvas, coverage), geometry.amplitude_scale), coverage=coverage)


def accumulate(
    patches: Patches,
    corners_px: Float64,
    shape: tuple[int, int],
    weight: Float32 | None = None,
    rows: Indices | None = None,
) -> tuple[Complex64, Float32]:
    """Add patches to a canvas at sub-pixel places: bilinear weights on the four integer neighbours. O(n m^2).

    Args:
        patches: (n, m, m) complex64.
        corners_px: (k, 2), (x, y): where index (0, 0) of each patch that is added lies on the canvas.
        shape: (H, W) of the canvas.
        weight: (m, m) float32, weight of each patch pixel; None: 1.
        rows: (k,) which patches are added, in this order; None: all.

    Returns:
        Weighted sum (H, W) complex64 and sum of weights (H, W) float32.

    Raises:
        ValueError: A patch does not fit.
    """
    m = patches.shape[-1]
    _check_inside(corners_px, m, shape)
    whole = np.floor(corners_px).astype(np.int64)
    fraction = (corners_px - whole).astype(np.float32)
    weight = np.ones((m, m), np.float32) if weight is None else weight
    # One pixel more: a patch at an integer place has a fourth neighbour of weight 0, which may lie outside.
    canvas = np.zeros((shape[0] + 1, shape[1] + 1), np.complex64)
    weights = np.zeros(canvas.shape, np.float32)
    count = len(corners_px)
    chunk = max(1, min(_CHUNK_BYTES // (8 * m * m), count // 8))
    for start in range(0, count, chunk):
        part = slice(start, start + chunk)
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and Inf belong in the picture, not in a warning
            added = patches[part if rows is None else rows[part]]
            weighted = np.multiply(added, weight, dtype=np.complex64)
            spread = _spread(weighted.view(np.float32), 2, fraction[part]).view(np.complex64)
            spread_weight = _spread(weight[None], 1, fraction[part])
            for (x, y), values, shares in zip(whole[part].tolist(), spread, spread_weight, strict=True):
                canvas[y : y + m + 1, x : x + m + 1] += values
                weights[y : y + m + 1, x : x + m + 1] += shares
    return canvas[:-1, :-1], weights[:-1, :-1]


def _spread(images: Float32, step: int, fraction: Float32) -> Float32:
    """Move images by a fraction (x, y) of a pixel; `step` numbers per pixel (2: real and imaginary part).

    (n or 1, m, m * step) -> (n, m + 1, (m + 1) * step)
    """
    fx, fy = fraction[:, 0, None, None], fraction[:, 1, None, None]
    n, (_, m, width) = len(fraction), images.shape
    rows = np.zeros((n, m + 1, width), np.float32)
    moved = images * fy
    rows[:, 1:] = moved
    rows[:, :-1] += images - moved
    spread = np.zeros((n, m + 1, width + step), np.float32)
    moved = rows * fx
    spread[:, :, step:] = moved
    rows -= moved
    spread[:, :, :-step] += rows
    return spread


def _check_inside(corners_px: Float64, m: int, shape: tuple[int, int]) -> None:
    limit = np.array([shape[1] - m, shape[0] - m])
    outside = np.flatnonzero(((corners_px < 0) | (corners_px > limit)).any(axis=1))
    if outside.size:
        x, y = corners_px[outside[0]]
        raise ValueError(
            f"patch {outside[0]} of {len(corners_px)} does not fit: its corner is (y, x) = ({y:g}, {x:g}) px and its "
            f"side {m} px, but the canvas is {shape[0]} x {shape[1]} px."
        )


def _check_patches(geometry: Geometry, patches: Patches, filled: Bool) -> None:
    positions = geometry.coords_relative_px if isinstance(geometry, GridGeometry) else geometry.positions_px
    n_max = geometry.n_samples if isinstance(geometry, GridGeometry) else len(geometry.positions_px)
    wanted = (1 if positions is None else positions.shape[1], geometry.crop_px, geometry.crop_px)
    if patches.shape[1:] != wanted or len(patches) > n_max or filled.shape != (len(patches),):
        raise ValueError(
            f"patches have shape {patches.shape} and `filled` has shape {filled.shape}; this scan "
            f"needs (n, {', '.join(map(str, wanted))}) and (n,), n at most {n_max}. Hand over the centre crops."
        )


def _check_object_size(geometry: GridGeometry, shape: tuple[int, ...]) -> None:
    group_px = geometry.patch_px + geometry.group_extent_px
    fits = tuple((size - group_px) // geometry.tile_px + 1 for size in shape)
    if fits != (geometry.samples_per_axis, geometry.samples_per_axis):
        raise ValueError(
            f"the true object has shape {shape}: {fits} samples fit along its axes, but the scan has "
            f"{geometry.samples_per_axis} along each. Correct `outer_offset_test`, `nimgs_test` or `offset` in the "
            "metadata of the data file."
        )


def _divide(weighted: Complex64, weights: Float32) -> Complex64:
    """In place; 0 stays where there is no weight."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.divide(weighted, weights, out=weighted, where=weights > 0)


def _scaled(values: Complex64, amplitude_scale: float) -> Complex64:
    """In place."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.multiply(values, np.float32(amplitude_scale), out=values)


def _footprint(geometry: PositionGeometry, number: int) -> _Footprint:
    """The smallest canvas on whole object pixels that holds every patch of an object, of the full scan."""
    positions = geometry.positions_px
    if geometry.object_index is not None:
        positions = positions[geometry.object_index == number]
    corners = positions.reshape(-1, 2) - geometry.crop_px / 2
    column, row = np.floor(corners.min(axis=0)).astype(int)
    width, height = np.ceil(corners.max(axis=0)).astype(int) + geometry.crop_px - [column, row]
    if int(width) * int(height) > _MAX_CANVAS_PX:
        raise ValueError(
            f"the positions of object {number} span {width} x {height} px (columns x rows), more than {_MAX_CANVAS_PX} "
            "pixels in all. Positions are pixels of the object grid: check their unit, and for stray ones."
        )
    return _Footprint(int(row), int(column), (int(height), int(width)))


def canvas_positions(geometry: Geometry, object_index: int = 0) -> Float64:
    """Patch centres of one object's whole scan, pixels from the first pixel of its canvas: (n * C, 2), (x, y)."""
    if isinstance(geometry, PositionGeometry):
        footprint = _footprint(geometry, object_index)
        positions = geometry.positions_px
        if geometry.object_index is not None:
            positions = positions[geometry.object_index == object_index]
        return positions.reshape(-1, 2) - [footprint.column, footprint.row]
    side = geometry.samples_per_axis
    rows, columns = np.divmod(np.arange(side**2), side)
    centre = geometry.patch_px // 2 + geometry.group_extent_px / 2 - geometry.first_tile_px
    samples = np.stack([columns, rows], axis=-1)[:, None] * float(geometry.tile_px) + centre
    if geometry.coords_relative_px is not None:
        samples = samples - geometry.coords_relative_px[object_index * side**2 : (object_index + 1) * side**2]
    return samples.reshape(-1, 2)


def crop_to_footprint(geometry: Geometry, true_object: Complex64, object_index: int = 0) -> Complex64:
    """The part of a true object that the stitched canvas shows, NaN where the object ends.

    Args:
        geometry: The scan.
        true_object: (H, W) complex64, in the pixels that the scan's positions count.
        object_index: Which of the geometry's objects it is.

    Returns:
        Complex64 of the shape of `stitch(...)[object_index].object`.

    Raises:
        ValueError: A grid scan of this geometry does not come from an object of this size.
    """
    if isinstance(geometry, GridGeometry):
        _check_object_size(geometry, true_object.shape)
        side, start = geometry.samples_per_axis * geometry.tile_px, geometry.first_tile_px
        footprint = _Footprint(start, start, (side, side))
    else:
        footprint = _footprint(geometry, object_index)
    cropped = np.full(footprint.shape, np.nan + 1j * np.nan, np.complex64)
    first = np.array([footprint.row, footprint.column])
    low = np.clip(first, 0, true_object.shape)
    high = np.clip(first + footprint.shape, low, true_object.shape)
    target = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
    cropped[target] = true_object[low[0] : high[0], low[1] : high[1]]
    return cropped
