"""Groups patterns into samples, and places samples on a grid."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from recon_worker.snapshot.array_types import Float64

_CANDIDATES = 24
"""Number of candidates per pattern; enough for the ties of a raster, which has eight neighbours at two distances."""
_DISTANCE_DIGITS = 6


def nearest_groups(positions_px: Float64, group_size: int) -> NDArray[np.int64]:
    """Group each pattern with its nearest neighbours.

    Args:
        positions_px: (M, 2), any order of axes.
        group_size: C, patterns per group.

    Returns:
        (M, C) indices; column 0 is the pattern itself, then nearest first, ties by index.

    Raises:
        ValueError: The scan has fewer patterns than `group_size`.
    """
    count = len(positions_px)
    if count < group_size:
        raise ValueError(f"there are {count} patterns; a group needs {group_size}. Use gridsize 1 or a larger scan.")
    if group_size == 1:
        return np.arange(count)[:, None]
    tree = KDTree(positions_px)  # type: ignore[no-untyped-call]
    distances, indices = tree.query(positions_px, k=min(count, _CANDIDATES))  # type: ignore[no-untyped-call]
    distances = np.where(indices == np.arange(count)[:, None], np.inf, np.round(distances, _DISTANCE_DIGITS))
    order = np.lexsort((indices, distances), axis=1)[:, : group_size - 1]
    return np.column_stack([np.arange(count), np.take_along_axis(indices, order, axis=1)])


def grid_corners(size_px: int, sample_px: int, stride_px: int) -> NDArray[np.int64]:
    """Return the corners of the samples of one object, (n^2, 2), (row, column), n = (size - sample) // stride + 1."""
    axis = np.arange((size_px - sample_px) // stride_px + 1) * stride_px
    return np.stack([a.ravel() for a in np.meshgrid(axis, axis, indexing="ij")], axis=1)
