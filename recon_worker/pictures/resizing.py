"""Pictures at another size, by whole factors: squares are averaged, or pixels repeated. Nothing is interpolated."""

import dataclasses
import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from recon_worker.pictures.views import Panel
from recon_worker.reconstruction.slices import row_blocks
from recon_worker.snapshot.array_types import Bool, Float32, Float64

_Any = TypeVar("_Any", bound=np.generic)


def block_to_fit(shape: tuple[int, int], max_side_px: int) -> int:
    """The smallest whole number by which a picture must shrink to fit into a square; 1: it fits."""
    return math.ceil(max(shape) / max_side_px)


def factor_to_fill(shape: tuple[int, int], side_px: int) -> int:
    """The whole number of times, at least 1, that brings the longer side of a picture closest to a side."""
    return max(1, round(side_px / max(shape)))


def shrunk(panel: Panel, block_px: int) -> Panel:
    """The panel with each square of block_px pixels replaced by its mean; (ceil(H / block), ceil(W / block)).

    Only scanned pixels count; a square without any is not scanned. NaN and infinity spread over their square, so that
    a fault of one pixel is not lost. Cyclic values have the mean of their directions:
    period / 2 pi times the angle of sum exp(2 pi i value / period).
    """
    if block_px == 1:
        return panel
    bands = [_band(panel, rows, block_px) for rows in row_blocks(panel.values.shape, multiple=block_px)]
    mean, covered = (np.concatenate(parts) for parts in zip(*bands, strict=True))
    return dataclasses.replace(panel, values=mean, scanned=None if panel.scanned is None else covered)


def _band(panel: Panel, rows: slice, block_px: int) -> tuple[Float32, Bool]:
    """Means of some rows of a panel, and where anything is scanned."""
    values = np.asarray(panel.values[rows], np.float64)
    scanned = np.ones(values.shape, bool) if panel.scanned is None else panel.scanned[rows]
    with np.errstate(invalid="ignore", over="ignore"):
        mean = _mean(values, scanned, block_px, panel.period).astype(np.float32)
    return mean, _sums(scanned.astype(np.float64), block_px) > 0


def _mean(values: Float64, scanned: Bool, block_px: int, period: float | None) -> Float64:
    if period is None:
        count = np.maximum(_sums(scanned.astype(np.float64), block_px), 1)
        return np.asarray(_sums(np.where(scanned, values, 0), block_px) / count)
    turns = 2 * np.pi / period
    x, y = (_sums(np.where(scanned, wave(values * turns), 0), block_px) for wave in (np.cos, np.sin))
    return np.asarray(np.arctan2(y, x) / turns)


def _sums(values: Float64, block_px: int) -> Float64:
    """Sums over squares; those at the lower and right edge may be cut."""
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], block_px), axis=0)
    return np.asarray(np.add.reduceat(rows, np.arange(0, values.shape[1], block_px), axis=1))


def enlarged(image: NDArray[_Any], factor: int) -> NDArray[_Any]:
    """Each pixel as a square of factor x factor pixels; (H, W, ...) becomes (factor H, factor W, ...)."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)
