"""Cutting patches out of an object at sub-pixel positions. Positions are (x, y) of centres, index n // 2."""

import numpy as np
from numpy.typing import NDArray

from recon_worker.snapshot import Complex64, Float64


def cut_patch(object_: Complex64, centre_px: Float64, n_px: int) -> Complex64 | None:
    """The n-pixel patch around a position; bilinear between pixels, exact at whole ones.

    Args:
        object_: (H, W) complex64.
        centre_px: (2,), (x, y), where the patch's index (n // 2, n // 2) lies in the object.
        n_px: Side of the patch.

    Returns:
        (n, n) complex64, or None if the patch does not lie inside the object.
    """
    corner = np.asarray(centre_px, np.float64)[::-1] - n_px // 2
    whole = np.floor(corner).astype(int)
    fy, fx = (float(f) for f in corner - whole)
    y, x = (int(w) for w in whole)
    height, width = n_px + (fy > 0), n_px + (fx > 0)
    if min(y, x) < 0 or y + height > object_.shape[0] or x + width > object_.shape[1]:
        return None
    patch: NDArray[np.complexfloating] = object_[y : y + height, x : x + width]
    if fy:
        patch = (1 - fy) * patch[:-1] + fy * patch[1:]
    if fx:
        patch = (1 - fx) * patch[:, :-1] + fx * patch[:, 1:]
    return patch.astype(np.complex64)
