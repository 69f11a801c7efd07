"""Plausibility checks for arrays of valid shape: positions in pixels, amplitudes rather than counts.

Wrong units pass every check of shape and type: positions in metres place all patches on one pixel, positions in
nanometres scatter them, and a network trains on either. docs/reference/data-formats.md states the criteria.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ptycho_torch.files.archive import Archive
from recon_worker.snapshot.array_types import Complex64, Float64

_MIN_FIELD_PX = 1.0
_DENSE_STEP = 1 / 200
"""Minimum step, as a fraction of a patch's side, of a field smaller than half a patch."""
_FAR_STEP = 2
"""Maximum step, in patch sides; neighbours further apart do not overlap."""
_EMPTY_CANVAS_PX = 2**28
_EMPTY_CANVAS_RATIO = 16
"""Maximum ratio of canvas area to total patch area, for canvases above that size."""
_UNITS = ((2e-3, "metres"), (0.2, "millimetres"), (np.inf, "micrometres"))
"""Upper limits of a field and its likely unit: metres (up to 2 mm), millimetres (up to 0.2 mm), else micrometres."""
_CONVERT = (
    "Positions are patch centres in pixels of the object: divide them by its pixel size, in the same unit (far field: "
    "wavelength x distance / (N x detector pixel))"
)


def step_px(positions_px: Float64) -> float:
    """Return the median distance of positions, (M, 2), to their nearest distinct neighbour; 0 if all are equal."""
    places = np.unique(positions_px, axis=0)
    if len(places) < 2:
        return 0.0
    distances, _ = KDTree(places).query(places, k=2)  # type: ignore[no-untyped-call]
    return float(np.median(distances[:, 1]))


def check_positions(archive: Archive, positions: Float64, object_: Complex64 | None, n_px: int) -> None:
    """Raise DataError unless positions, (M, 2), (x, y), are plausible in pixels for patches of n_px."""
    size = f"patches have {n_px} px" + ("" if object_ is None else f", objectGuess {_size(object_.shape[::-1])}")
    found = f"the positions extend over {_size(np.ptp(positions, axis=0))} (width x height); {size}. "
    if object_ is not None:
        _check_reach(archive, positions, object_.shape, n_px, found)
    if len(np.unique(positions, axis=0)) > 1:  # repeated exposures of one position reveal no unit
        _check_not_dense(archive, positions, n_px, found)
        _check_not_far(archive, positions, n_px, found)


def check_group(archive: Archive, key: str, coords: Float64, n_px: int) -> None:
    """Raise DataError unless the positions within grid-lines samples, (n, C, 2), are plausible in pixels."""
    extent = float(np.ptp(coords, axis=1).max()) if coords.shape[1] > 1 and coords.size else None
    if extent is not None and not _MIN_FIELD_PX <= extent <= n_px:
        raise archive.error(
            key,
            f"the {coords.shape[1]} positions of a sample extend over at most {extent:.3g} px, the patches have {n_px} "
            f"px; they must extend over at least 1 px and overlap. {_CONVERT}.",
        )


def counts_notice(stored: NDArray[Any]) -> str | None:
    """Return a notice if patterns look like counts: whole numbers, some above 1 (0 and 1 equal their sqrt)."""
    if stored.max() <= 1 or not all(np.array_equal(one, np.rint(one)) for one in stored):
        return None
    return (
        f"all values are whole numbers, up to {stored.max():g}, which looks like counts; they are read as amplitude = "
        "sqrt(counts). If they are counts, save np.sqrt of them."
    )


def _check_reach(archive: Archive, positions: Float64, shape: tuple[int, ...], n_px: int, found: str) -> None:
    """Check that centres lie at most a patch outside the object; further out, the coordinate system differs."""
    size = np.array(shape[::-1], np.float64)
    swapped = _overhang(positions[:, ::-1], size)
    if _overhang(positions, size).max() > 0 and swapped.max() <= -(n_px // 2):
        raise archive.error(
            "xcoords",
            f"{found}They leave the object, but fit it with x and y swapped: x is the column, y the row. "
            "Swap xcoords and ycoords.",
        )
    outside = _overhang(positions, size) > n_px
    if outside.any():
        x, y = positions[outside][0]
        raise archive.error(
            "xcoords",
            f"{found}{outside.sum()} of {len(positions)} positions lie more than a patch outside objectGuess, the "
            f"first at (x, y) = ({x:g}, {y:g}){_far_unit(positions, size)}. {_CONVERT}, or remove objectGuess if it "
            "belongs to another scan.",
        )


def _overhang(positions: Float64, size: Float64) -> Float64:
    """Return the distance of each position outside the object, (M,) pixels; negative inside."""
    return np.asarray(np.maximum(-positions, positions - size).max(axis=1))


def _far_unit(positions: Float64, size: Float64) -> str:
    """Name the likely unit if the field itself, not only its origin, exceeds the object."""
    return ": they may be in nanometres" if (np.ptp(positions, axis=0) > 2 * size).any() else ""


def _check_not_dense(archive: Archive, positions: Float64, n_px: int, found: str) -> None:
    extent, step = float(np.ptp(positions, axis=0).max()), step_px(positions)
    if extent < _MIN_FIELD_PX or (extent < n_px / 2 and step < n_px * _DENSE_STEP):
        unit = next(name for limit, name in _UNITS if extent < limit)
        raise archive.error(
            "xcoords",
            f"{found}Their median step is {step:.3g} px, so all patches show the same area: they may be in {unit}. "
            f"{_CONVERT}.",
        )


def _check_not_far(archive: Archive, positions: Float64, n_px: int, found: str) -> None:
    step, canvas = step_px(positions), float(np.prod(np.ptp(positions, axis=0) + n_px))
    patches = len(positions) * n_px**2
    if step > _FAR_STEP * n_px:
        raise archive.error(
            "xcoords",
            f"{found}Their median step is {step:.3g} px, so neighbours do not overlap: they may be in "
            f"nanometres. {_CONVERT}.",
        )
    if canvas > max(_EMPTY_CANVAS_PX, _EMPTY_CANVAS_RATIO * patches):
        raise archive.error(
            "xcoords",
            f"{found}The {len(positions)} patches cover at most {100 * patches / canvas:.2g} % of that field, although "
            f"their median step is {step:.3g} px: some positions are wrong, or all are in nanometres. {_CONVERT}.",
        )


def _size(width_height: "tuple[int, ...] | Float64") -> str:
    width, height = width_height
    return f"{width:.4g} x {height:.4g} px"
