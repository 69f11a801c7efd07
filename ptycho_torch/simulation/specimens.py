"""Objects and probes of simulated scans: objects from two pictures, probes from a defocused or diffused aperture."""

import math
from collections.abc import Callable

import numpy as np
import skimage.data
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[attr-defined]
from skimage.transform import resize

from recon_worker.snapshot.array_types import Complex64, Float64

AMPLITUDE_RANGE = (0.8, 1.0)
"""Default amplitude range of a simulated object."""
_PHASE_RANGE_RAD = (0.0, 1.5)
_CELL = (slice(270, 470), slice(330, 530))
"""Part of scikit-image's picture that contains the cell."""
_CELLS_PER_SIDE = 9
_SMALLEST_WINDOW = 0.7
"""Minimum fraction of a picture's side used by `varied_object`."""


def default_pictures() -> tuple[Float64, Float64]:
    """Return pictures for amplitude (a camera operator) and phase (a field of cells), (H, W) float64.

    Both ship with scikit-image; nothing is downloaded. The cells are copies of one measured phase image.
    """
    camera, cell = skimage.data.camera(), skimage.data.cell()  # type: ignore[no-untyped-call]
    return np.asarray(camera, np.float64), _field_of_cells(np.asarray(cell, np.float64)[_CELL])


def _field_of_cells(cell: Float64) -> Float64:
    """Tile rotated copies, so that cells are smaller than the probe.

    A single pattern does not determine phase variations slower than the probe width.
    """
    side = range(_CELLS_PER_SIDE)
    return np.block([[np.rot90(cell, row + column) for column in side] for row in side])


def make_object(
    amplitude_picture: Float64,
    phase_picture: Float64,
    size_px: int,
    amplitude_range: tuple[float, float] = AMPLITUDE_RANGE,
) -> Complex64:
    """Make an object, (size, size) complex64, from pictures scaled to `amplitude_range` and to 0 ... 1.5 rad.

    Raises:
        ValueError: A picture is uniform, or the range does not satisfy 0 <= low < high <= 1.
    """
    low, high = amplitude_range
    if not 0 <= low < high <= 1:
        raise ValueError(f"the amplitude's range is {low} to {high}; it must be 0 <= low < high <= 1.")
    amplitude = _spread(amplitude_picture, size_px, amplitude_range)
    phase = _spread(phase_picture, size_px, _PHASE_RANGE_RAD)
    return np.asarray(amplitude * np.exp(1j * phase), np.complex64)


def varied_object(
    amplitude_picture: Float64,
    phase_picture: Float64,
    size_px: int,
    rng: np.random.Generator,
    amplitude_range: tuple[float, float] = AMPLITUDE_RANGE,
) -> Complex64:
    """Make an object from a random window of each picture, randomly rotated and mirrored."""
    return make_object(_window(amplitude_picture, rng), _window(phase_picture, rng), size_px, amplitude_range)


def disc_probe(n_px: int, radius_px: float, edge_px: float = 1.5, curvature_rad: float = 14.0) -> Complex64:
    """Make a defocused circular aperture: a disc with a soft rim and a quadratic phase.

    Args:
        n_px: Side of the array.
        radius_px: Radius at which the amplitude is 1/2.
        edge_px: Width of the rim: amplitude = 1 / (1 + exp((r - radius) / edge)).
        curvature_rad: Phase at the rim.

    Returns:
        (1, n, n) complex64, centred on index n // 2.

    Raises:
        ValueError: The disc exceeds the array, or a width is not above 0.
    """
    if not 0 < radius_px <= n_px / 2 or not 0 < edge_px < math.inf or not math.isfinite(curvature_rad):
        raise ValueError(
            f"the probe has a radius of {radius_px} px, an edge of {edge_px} px and a curvature of {curvature_rad} "
            f"rad; the radius must be above 0 and at most {n_px / 2} px, the edge above 0, the curvature finite."
        )
    r = _radius(n_px)
    amplitude = 1 / (1 + np.exp(np.minimum((r - radius_px) / edge_px, 80)))
    return np.asarray(amplitude * np.exp(1j * curvature_rad * (r / radius_px) ** 2), np.complex64)[None]


def diffuser_probe(
    n_px: int,
    radius_px: float,
    edge_px: float = 1.5,
    rms_rad: float = 1.5,
    smoothing_px: float = 3.0,
    *,
    seed: int,
) -> Complex64:
    """Make a circular aperture behind a diffuser: a disc with a soft rim and a smooth random phase.

    The phase is white noise smoothed by a Gaussian, with mean 0 and `rms_rad` inside the radius. Its many spatial
    frequencies spread the light over the detector, so that each pattern carries more information than that of a
    smooth beam (M. Guizar-Sicairos et al., Phys. Rev. B 86, 100103 (2012)).

    Args:
        n_px: Side of the array.
        radius_px: Radius at which the amplitude is 1/2.
        edge_px: Width of the rim, as in `disc_probe`.
        rms_rad: Root mean square of the phase.
        smoothing_px: Standard deviation of the Gaussian; at twice this distance the autocorrelation is 1/e.
        seed: Seed of the noise.

    Returns:
        (1, n, n) complex64, centred on index n // 2; its amplitude is that of `disc_probe`.

    Raises:
        ValueError: As in `disc_probe`, or rms or smoothing are not above 0, or the latter exceeds the radius.
    """
    if not 0 < rms_rad < math.inf or not 0 < smoothing_px <= radius_px:
        raise ValueError(
            f"the diffuser has {rms_rad} rad rms and a smoothing of {smoothing_px} px; both must be above 0, and "
            f"the smoothing at most the probe's radius, {radius_px} px."
        )
    disc = disc_probe(n_px, radius_px, edge_px, curvature_rad=0.0)
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=(n_px, n_px)), smoothing_px, mode="wrap")
    inside = smooth[_radius(n_px) <= radius_px]
    phase = rms_rad * (smooth - inside.mean()) / inside.std()
    return np.asarray(disc * np.exp(1j * phase), np.complex64)


def _radius(n_px: int) -> Float64:
    """Return the (n, n) distance from index n // 2, pixels."""
    axis = np.arange(n_px) - n_px // 2
    return np.hypot(axis[:, None], axis[None, :])


def _spread(picture: Float64, size_px: int, limits: tuple[float, float]) -> Float64:
    low, high = limits
    resized: Float64 = resize(picture, (size_px, size_px), anti_aliasing=True)  # type: ignore[no-untyped-call]
    span = float(np.ptp(resized))
    if not span > 0:
        raise ValueError(f"the picture of {picture.shape} px is uniform; an object needs contrast. Use another one.")
    return np.asarray(low + (high - low) * (resized - resized.min()) / span)


def _window(picture: Float64, rng: np.random.Generator) -> Float64:
    sides = (np.array(picture.shape) * rng.uniform(_SMALLEST_WINDOW, 1)).astype(int)
    y, x = rng.integers(0, np.array(picture.shape) - sides + 1)
    turn: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.transpose if rng.random() < 0.5 else np.asarray
    return np.rot90(turn(picture[y : y + sides[0], x : x + sides[1]]), int(rng.integers(4)))
