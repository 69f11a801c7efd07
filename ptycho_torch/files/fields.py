"""Reads single keys of a data file as checked arrays; optional keys return None if absent."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.files.archive import Archive
from recon_worker.snapshot.array_types import Complex64, Float32


def read_numbers(archive: Archive, key: str, *, kinds: str = "fiub") -> NDArray[Any]:
    """Read an array. Raises DataError unless its dtype kind is one of `kinds`."""
    array = archive.read(key)
    if array.dtype.kind not in kinds:
        wanted = "numbers" if "c" in kinds else "real numbers"
        raise archive.error(key, f"has type {array.dtype}; it must hold {wanted}. Save it with such a type.")
    return array


def finite(archive: Archive, key: str, array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Convert to `dtype`. Raises DataError if a converted value is not finite."""
    with np.errstate(over="ignore"):
        converted = array.astype(dtype, copy=False)
    bad = np.count_nonzero(~np.isfinite(converted))
    if bad:
        raise archive.error(
            key, f"{bad} of {array.size} values are not finite (NaN, infinite, or too large). Remove or mask them."
        )
    return converted


def as_amplitude(archive: Archive, key: str, array: NDArray[Any]) -> Float32:
    """Convert amplitude to contiguous float32. Raises DataError if it is negative, not finite, empty or all zero."""
    amplitude: Float32 = np.ascontiguousarray(finite(archive, key, array, np.float32))
    if not amplitude.size or not amplitude.any():
        raise archive.error(key, f"has shape {amplitude.shape} and no signal. Give measured patterns.")
    if amplitude.min() < 0:
        raise archive.error(
            key, f"{np.count_nonzero(amplitude < 0)} values are negative; amplitudes are sqrt(counts), 0 or more."
        )
    return amplitude


def check_side(archive: Archive, key: str, side_px: int) -> None:
    """Raise DataError unless the side of a pattern is even and above 0."""
    if side_px % 2 or not side_px:
        raise archive.error(key, f"the patterns have a side of {side_px} px; it must be even. Crop or pad them.")


def read_probe(archive: Archive, key: str) -> Complex64 | None:
    """Read a probe stored as (N, N), (N, N, 1) or (P, N, N); returns (P, N, N) complex64."""
    if key not in archive.keys:
        return None
    modes: Complex64 = finite(archive, key, read_numbers(archive, key, kinds="cfiu"), np.complex64)
    shape = modes.shape
    if modes.ndim == 3 and shape[-1] == 1 and shape[0] == shape[1]:
        modes = modes[None, ..., 0]
    modes = modes[None] if modes.ndim == 2 else modes
    if modes.ndim != 3 or modes.shape[1] != modes.shape[2] or not modes.size:
        raise archive.error(key, f"has shape {shape}; allowed: (N, N), (N, N, 1), (P, N, N).")
    if not modes.any():
        raise archive.error(key, "is zero everywhere. Give a probe, or remove the key and use --probe_file.")
    return modes


def read_complex(archive: Archive, key: str) -> Complex64 | None:
    """Read an optional complex64 array; None if it is absent or all zero."""
    if key not in archive.keys:
        return None
    array: Complex64 = read_numbers(archive, key, kinds="cfiu").astype(np.complex64)
    return array if array.any() else None


def read_object(archive: Archive, key: str) -> Complex64 | None:
    """Read an object, (H, W) complex64; drops a first or last axis of length 1."""
    array = read_complex(archive, key)
    if array is not None and array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array is not None and array.ndim != 2:
        raise archive.error(key, f"has shape {array.shape}; it must be (H, W). Remove it if it is not an object.")
    return array


def read_objects(archive: Archive) -> Complex64 | None:
    """Read the whole objects of a grid-lines file (`YY_full`), (nimgs, H, W) complex64."""
    array = read_complex(archive, "YY_full")
    if array is not None and array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array is not None and array.ndim != 3:
        raise archive.error("YY_full", f"has shape {array.shape}; it must be (nimgs, size, size, 1).")
    return array
