"""Stitches object patches into whole objects: tiles on a grid, or overlapping patches at sub-pixel positions.

Positions are patch centres, (x, y) = (column, row), pixels; the centre pixel of an m-pixel crop has index m // 2.
Formulas: `docs/reference/formulas.md`.
"""

import math
from dataclasses import dataclass

import numpy as np

from recon_worker.snapshot.array_types import Bool, Complex64, Float32, Float64, Indices, Patches
from recon_worker.snapshot.geometry import Geometry, GridGeometry, PositionGeometry

_CHUNK_BYTES = 1 << 18
"""Size of the patches interpolated at once (fewer in a small scan); fits the CPU cache."""
_BLOCK_BYTES = 1 << 22
"""Size of the patches placed on a grid at once."""


@dataclass(frozen=True, kw_only=True)
class Stitched:
    """One object on its canvas."""

    object: Complex64
    """(H, W), 0 where not scanned; includes the geometry's amplitude scale."""
    coverage: Float32
    """(H, W) summed weight of the patches at each pixel."""

    @property
    def scanned(self) -> Bool:
        """(H, W) pixels covered by at least one patch."""
        return self.coverage > 0


def crop_start_px(patch_px: int, crop_px: int) -> int:
    """Return the first index, on both axes, of the centre crop of side m of a patch of side N."""
    return (patch_px - crop_px + 1) // 2


def stitch(geometry: Geometry, patches: Patches, filled: Bool | None = None) -> tuple[Stitched, ...]:
    """Stitch the samples of a scan, one image per object. Needs a few MB of memory in addition to the images.

    Args:
        geometry: Placement of the samples. The canvas is always the whole footprint.
        patches: (n, C, m, m) complex64, m = `geometry.crop_px`; the first n samples in dataset order.
        filled: (n,) True for rows that hold data; None: all.

    Raises:
        ValueError: The shape of `patches` or `filled` does not match the geometry.
    """
    count = patches.shape[0]
    filled = np.ones(count, bool) if filled is None else filled
    if isinstance(geometry, GridGeometry):
        positions, n_max = geometry.coords_relative_px, geometry.n_samples
    else:
        positions, n_max = geometry.positions_px, len(geometry.positions_px)
    wanted = (1 if positions is None else positions.shape[1], geometry.crop_px, geometry.crop_px)
    if patches.shape[1:] != wanted or count > n_max or filled.shape != (count,):
        raise ValueError(
            f"patches have shape {patches.shape} and `filled` has shape {filled.shape}; this scan "
            f"needs (n, {', '.join(map(str, wanted))}) and (n,), n at most {n_max}. Pass the centre crops."
        )
    if isinstance(geometry, GridGeometry):
        stitched = _stitch_grid(geometry, patches, filled)
    else:
        stitched = tuple(_stitch_positions(geometry, patches, filled, i) for i in range(geometry.n_objects))
    for one in stitched:
        with np.errstate(invalid="ignore", over="ignore"):
            np.multiply(one.object, np.float32(geometry.amplitude_scale), out=one.object)
    return stitched


def _stitch_grid(geometry: GridGeometry, patches: Patches, filled: Bool) -> tuple[Stitched, ...]:
    """Place the central tile of every sample on the grid, row by row; tiles do not overlap."""
    n, side, tile = geometry.n_objects, geometry.samples_per_axis, geometry.tile_px
    objects = np.zeros((n, side * tile, side * tile), np.complex64)
    coverage = np.zeros(objects.shape, np.float32)
    # Views of the images as (objects, rows, columns, t, t) tiles.
    object_tiles = objects.reshape(n, side, tile, side, tile).swapaxes(2, 3)
    coverage_tiles = coverage.reshape(n, side, tile, side, tile).swapaxes(2, 3)
    samples = np.flatnonzero(filled)
    count = max(1, _BLOCK_BYTES // (8 * math.prod(patches.shape[1:])))
    for start in range(0, len(samples), count):
        rows = samples[start : start + count]
        block = patches[rows]
        tiles = block[:, 0] if geometry.coords_relative_px is None else _merge_groups(geometry, block, rows)
        targets = np.unravel_index(rows, (n, side, side))
        object_tiles[targets] = tiles
        coverage_tiles[targets] = 1
    return tuple(Stitched(object=o, coverage=c) for o, c in zip(objects, coverage, strict=True))


def _merge_groups(geometry: GridGeometry, patches: Complex64, rows: Indices) -> Complex64:
    """Average the C patches of each sample at their positions; (n, C, m, m) -> (n, t, t), the tile around the mean."""
    assert geometry.coords_relative_px is not None
    n, _, m, _ = patches.shape
    offsets = -geometry.coords_relative_px[rows]
    # The mean position of a group of odd extent is half a pixel beyond the tile's centre pixel.
    offsets += geometry.group_extent_px % 2 / 2
    side = m + 2 * (math.ceil(np.abs(offsets).max(initial=0)) + 1)
    corners = offsets + side // 2 - m // 2
    corners[..., 1] += side * np.arange(n)[:, None]  # samples stacked vertically on one tall canvas
    canvas, weights = accumulate(patches.reshape(-1, m, m), corners.reshape(-1, 2), (n * side, side))
    start = side // 2 - geometry.tile_px // 2
    window = (slice(None), slice(start, start + geometry.tile_px), slice(start, start + geometry.tile_px))
    tiles, weights = canvas.reshape(n, side, side)[window], weights.reshape(n, side, side)[window]
    with np.errstate(invalid="ignore", over="ignore"):  # pixels without weight stay 0
        return np.divide(tiles, weights, out=tiles, where=weights > 0)


def _stitch_positions(geometry: PositionGeometry, patches: Patches, filled: Bool, object_index: int) -> Stitched:
    row, column, shape = geometry.footprint(object_index)
    if geometry.object_index is not None:
        filled = filled & (geometry.object_index[: len(filled)] == object_index)
    samples = np.flatnonzero(filled)
    corners = geometry.positions_px[samples].reshape(-1, 2) - geometry.crop_px / 2 - [column, row]
    weight = geometry.probe_intensity if geometry.weight == "probe" else None
    channels = patches.shape[1]
    index = (np.repeat(samples, channels), np.tile(np.arange(channels), len(samples)))
    canvas, coverage = accumulate(patches, corners, shape, weight, index)
    with np.errstate(invalid="ignore", over="ignore"):  # pixels without weight stay 0
        np.divide(canvas, coverage, out=canvas, where=coverage > 0)
    return Stitched(object=canvas, coverage=coverage)


def accumulate(
    patches: Patches,
    corners_px: Float64,
    shape: tuple[int, int],
    weight: Float32 | None = None,
    index: tuple[Indices, ...] | None = None,
) -> tuple[Complex64, Float32]:
    """Add patches to a canvas at sub-pixel positions, with bilinear weights on four integer neighbours. O(n m^2).

    Args:
        patches: (n, m, m) complex64; (n, C, m, m) with `index`.
        corners_px: (k, 2), (x, y), canvas position of the first pixel of each added patch.
        shape: (H, W) of the canvas.
        weight: (m, m) float32, weight of each patch pixel; None: 1.
        index: Patches to add, in order: (k,) indices on each leading axis; None: all.

    Returns:
        Weighted sum (H, W) complex64 and sum of weights (H, W) float32.

    Raises:
        ValueError: A patch extends beyond the canvas.
    """
    m, count = patches.shape[-1], len(corners_px)
    _check_inside(corners_px, m, shape)
    whole = np.floor(corners_px).astype(np.int64)
    fraction = (corners_px - whole).astype(np.float32)
    weight = np.ones((m, m), np.float32) if weight is None else weight
    # One extra row and column for the zero-weight neighbours of a patch at an integer position on the edge.
    canvas = np.zeros((shape[0] + 1, shape[1] + 1), np.complex64)
    weights = np.zeros(canvas.shape, np.float32)
    chunk = max(1, min(_CHUNK_BYTES // (8 * m * m), count // 8))
    for start in range(0, count, chunk):
        part = slice(start, start + chunk)
        with np.errstate(invalid="ignore", over="ignore"):  # pictures show NaN and infinity
            added = patches[part if index is None else tuple(one[part] for one in index)]
            weighted = np.multiply(added, weight, dtype=np.complex64)
            spread = _spread(weighted.view(np.float32), 2, fraction[part]).view(np.complex64)
            spread_weight = _spread(weight[None], 1, fraction[part])
            for (x, y), values, shares in zip(whole[part].tolist(), spread, spread_weight, strict=True):
                canvas[y : y + m + 1, x : x + m + 1] += values
                weights[y : y + m + 1, x : x + m + 1] += shares
    return canvas[:-1, :-1], weights[:-1, :-1]


def _check_inside(corners_px: Float64, m: int, shape: tuple[int, int]) -> None:
    """Raise ValueError unless all patches of side m lie on a canvas."""
    outside = np.flatnonzero(((corners_px < 0) | (corners_px > [shape[1] - m, shape[0] - m])).any(axis=1))
    if outside.size:
        x, y = corners_px[outside[0]]
        raise ValueError(
            f"patch {outside[0]} of {len(corners_px)} does not fit: its corner is (y, x) = ({y:g}, {x:g}) px and its "
            f"side {m} px, but the canvas is {shape[0]} x {shape[1]} px."
        )


def _spread(images: Float32, step: int, fraction: Float32) -> Float32:
    """Shift images by a fraction (x, y) of a pixel; `step` values per pixel (2: real and imaginary part).

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


def canvas_positions(geometry: Geometry, object_index: int = 0) -> Float64:
    """Return all patch centres of one object, (n * C, 2), (x, y), pixels from the first pixel of its canvas."""
    row, column, _ = geometry.footprint(object_index)
    if isinstance(geometry, PositionGeometry):
        return geometry.positions_of(object_index) - [column, row]
    side = geometry.samples_per_axis
    rows, columns = np.divmod(np.arange(side**2), side)
    centre = geometry.patch_px // 2 + geometry.group_extent_px / 2 - row
    samples = np.stack([columns, rows], axis=-1)[:, None] * float(geometry.tile_px) + centre
    if geometry.coords_relative_px is not None:
        samples = samples - geometry.coords_relative_px[object_index * side**2 : (object_index + 1) * side**2]
    return samples.reshape(-1, 2)


def crop_to_footprint(geometry: Geometry, true_object: Complex64, object_index: int = 0) -> Complex64:
    """Crop a true object to the stitched canvas, NaN where the canvas extends beyond the object.

    Args:
        geometry: The scan.
        true_object: (H, W) complex64, on the pixel grid of the scan's positions.
        object_index: Index of the object within the geometry.

    Returns:
        Complex64 array of the shape of `stitch(...)[object_index].object`.

    Raises:
        ValueError: The size of the object does not match the grid of the scan.
    """
    if isinstance(geometry, GridGeometry):
        group_px = geometry.patch_px + geometry.group_extent_px
        fits = tuple((size - group_px) // geometry.tile_px + 1 for size in true_object.shape)
        if fits != (geometry.samples_per_axis, geometry.samples_per_axis):
            raise ValueError(
                f"the true object has shape {true_object.shape}: {fits} samples fit along its axes, but the scan has "
                f"{geometry.samples_per_axis} along each. Correct `outer_offset_test`, `nimgs_test` or `offset` in "
                "the metadata of the data file."
            )
    row, column, shape = geometry.footprint(object_index)
    cropped = np.full(shape, np.nan + 1j * np.nan, np.complex64)
    first = np.array([row, column])
    low = np.clip(first, 0, true_object.shape)
    high = np.clip(first + shape, low, true_object.shape)
    target = tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))
    cropped[target] = true_object[low[0] : high[0], low[1] : high[1]]
    return cropped
