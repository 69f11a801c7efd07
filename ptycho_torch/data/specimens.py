"""What a simulated scan looks at, and with: objects made of two pictures, and a defocused circular aperture."""

import math
from collections.abc import Callable

import numpy as np
import skimage.data
from numpy.typing import NDArray
from skimage.transform import resize

from recon_worker.snapshot import Complex64, Float64

_AMPLITUDE_RANGE = (0.8, 1.0)
_PHASE_RANGE_RAD = (0.0, 1.5)
_CELL = (slice(270, 470), slice(330, 530))
"""The part of scikit-image's picture that the cell fills; the rest is empty."""
_CELLS_PER_SIDE = 9
_SMALLEST_WINDOW = 0.7
"""Smallest part of a picture, along a side, that `varied_object` shows."""


def default_pictures() -> tuple[Float64, Float64]:
    """Pictures for amplitude (a camera operator) and phase (a field of cells, from one measured phase image); both come
    with scikit-image, no network is used. (H, W) float64."""
    camera, cell = skimage.data.camera(), skimage.data.cell()  # type: ignore[no-untyped-call]
    return np.asarray(camera, np.float64), _field_of_cells(np.asarray(cell, np.float64)[_CELL])


def _field_of_cells(cell: Float64) -> Float64:
    """Turned copies side by side: single patterns do not tell a phase that varies more slowly than their probe is wide,
    so cells must be smaller than the probe."""
    side = range(_CELLS_PER_SIDE)
    return np.block([[np.rot90(cell, row + column) for column in side] for row in side])


def make_object(amplitude_picture: Float64, phase_picture: Float64, size_px: int) -> Complex64:
    """(size, size) complex64 object: amplitude 0.8 ... 1, phase 0 ... 1.5 rad, each spanned by its picture."""
    amplitude = _spread(amplitude_picture, size_px, _AMPLITUDE_RANGE)
    phase = _spread(phase_picture, size_px, _PHASE_RANGE_RAD)
    return np.asarray(amplitude * np.exp(1j * phase), np.complex64)


def varied_object(
    amplitude_picture: Float64, phase_picture: Float64, size_px: int, rng: np.random.Generator
) -> Complex64:
    """Like `make_object`, from a random window of each picture, turned and mirrored at random."""
    return make_object(_window(amplitude_picture, rng), _window(phase_picture, rng), size_px)


def disc_probe(n_px: int, radius_px: float, edge_px: float = 1.5, curvature_rad: float = 14.0) -> Complex64:
    """A circular aperture out of focus: a disc with a soft rim and a quadratic phase.

    Args:
        n_px: Side of the array.
        radius_px: Where the amplitude is 1/2.
        edge_px: Width of the rim: amplitude = 1 / (1 + exp((r - radius) / edge)).
        curvature_rad: Phase at the rim.

    Returns:
        (1, n, n) complex64, centred on index n // 2.

    Raises:
        ValueError: The disc does not fit the array, or a width is not above 0.
    """
    if not 0 < radius_px <= n_px / 2 or not 0 < edge_px < math.inf or not math.isfinite(curvature_rad):
        raise ValueError(
            f"the probe has a radius of {radius_px} px, an edge of {edge_px} px and a curvature of {curvature_rad} "
            f"rad; the radius must be above 0 and at most {n_px / 2} px, the edge above 0, the curvature finite."
        )
    axis = np.arange(n_px) - n_px // 2
    r = np.hypot(axis[:, None], axis[None, :])
    amplitude = 1 / (1 + np.exp(np.minimum((r - radius_px) / edge_px, 80)))
    return np.asarray(amplitude * np.exp(1j * curvature_rad * (r / radius_px) ** 2), np.complex64)[None]


def _spread(picture: Float64, size_px: int, limits: tuple[float, float]) -> Float64:
    low, high = limits
    resized: Float64 = resize(picture, (size_px, size_px), anti_aliasing=True)  # type: ignore[no-untyped-call]
    span = float(np.ptp(resized))
    if not span > 0:
        raise ValueError(f"the picture of {picture.shape} px is uniform; an object needs contrast. Take another one.")
    return np.asarray(low + (high - low) * (resized - resized.min()) / span)


def _window(picture: Float64, rng: np.random.Generator) -> Float64:
    sides = (np.array(picture.shape) * rng.uniform(_SMALLEST_WINDOW, 1)).astype(int)
    y, x = rng.integers(0, np.array(picture.shape) - sides + 1)
    turn: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.transpose if rng.random() < 0.5 else np.asarray
    return np.rot90(turn(picture[y : y + sides[0], x : x + sides[1]]), int(rng.integers(4)))
