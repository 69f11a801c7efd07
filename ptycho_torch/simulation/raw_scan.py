"""Simulates data files from a known object: diffraction of a scanned beam with Poisson noise. Pure NumPy, seeded.

Exit wave psi = O P, with O cut at the absolute position (`recon_worker.reconstruction.patches`); detector amplitude
A = sqrt(|FFT2(psi)|^2 / N^2), DC in the centre, probe modes summed coherently; counts ~ Poisson(c A^2), where c makes
the average `nphotons` per pattern. Files store sqrt(counts). The arrays of a file need no pickle.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.files.metadata import dump_metadata
from recon_worker.reconstruction.patches import cut_patch
from recon_worker.snapshot.array_types import Complex64, Float32, Float64

Arrays = dict[str, NDArray[Any]]
_CHUNK = 256
"""Patterns propagated at once; bounds the extra memory."""


def simulate_raw_scan(
    object_: Complex64, probe: Complex64, positions_px: Float64, *, nphotons: float = 1e9, seed: int, noise: bool = True
) -> Arrays:
    """Simulate a raw-scan file.

    Args:
        object_: (H, W) complex64, dimensionless.
        probe: (P, N, N) complex64.
        positions_px: (M, 2), (x, y), patch centres, object pixels.
        nphotons: Mean photons per pattern.
        seed: Seed of the noise.
        noise: Whether to draw Poisson counts; otherwise stores the exact amplitudes.

    Raises:
        ValueError: A patch extends beyond the object.
    """
    n_px = probe.shape[-1]
    amplitude = detector_amplitude(cut_all(object_, positions_px, n_px), probe)
    x, y = positions_px.astype(np.float64).T
    return {
        "diff3d": record(amplitude, nphotons, np.random.default_rng(seed), noise),
        "xcoords": x,
        "ycoords": y,
        "xcoords_start": x,
        "ycoords_start": y,
        "probeGuess": probe[0] if len(probe) == 1 else probe,
        "objectGuess": object_,
        "scan_index": np.zeros(len(x), np.int64),
        "_metadata": dump_metadata(nphotons=nphotons, gridsize=1, n_px=n_px),
    }


def detector_amplitude(patches: Sequence[Complex64] | Complex64, probe: Complex64) -> Float64:
    """Compute the noise-free far-field amplitude of each object patch.

    Args:
        patches: M patches, (N, N) complex64.
        probe: (P, N, N) complex64.

    Returns:
        (M, N, N) float64, DC in the centre; sum A^2 = sum |psi|^2.
    """
    beam = probe.sum(axis=0)
    stack = np.asarray(patches)
    amplitude = np.empty(stack.shape, np.float64)
    for start in range(0, len(stack), _CHUNK):
        field = np.fft.fft2(stack[start : start + _CHUNK].astype(np.complex128) * beam)
        amplitude[start : start + _CHUNK] = np.abs(np.fft.fftshift(field, axes=(-2, -1))) / beam.shape[-1]
    return amplitude


def cut_all(object_: Complex64, positions_px: NDArray[Any], n_px: int) -> Sequence[Complex64]:
    """Cut the patch at every position. Raises ValueError if a patch extends beyond the object."""
    patches = [cut_patch(object_, position, n_px) for position in positions_px]
    inside = [p for p in patches if p is not None]
    if len(inside) < len(patches):
        raise ValueError(
            f"{len(patches) - len(inside)} of {len(patches)} patches of {n_px} px do not lie inside the object of "
            f"{object_.shape} px. Positions are patch centres, (x, y), in object pixels."
        )
    return inside


def record(amplitude: Float64, nphotons: float, rng: np.random.Generator, noise: bool) -> Float32:
    """Scale to the photon count and draw counts; returns amplitude, (M, N, N) float32.

    Raises:
        ValueError: The photon count is out of range.
    """
    if not 0 < nphotons < 1e18:
        raise ValueError(f"nphotons is {nphotons}; it must be above 0 and below 1e18.")
    intensity = amplitude**2
    intensity *= nphotons / intensity.sum(axis=(1, 2)).mean()
    counts = rng.poisson(intensity) if noise else intensity
    return np.sqrt(counts).astype(np.float32)
