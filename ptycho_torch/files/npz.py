"""Loads the two kinds of data files, raw scans and grid lines, in all layouts in use.

`load_raw_scan` and `load_grid_lines` return checked arrays (shapes, dtypes, finite values) or raise a DataError that
names the file and the key. `archive` decodes the arrays.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_torch.config import ScanKind
from ptycho_torch.files.archive import Archive, DataError, open_archive
from ptycho_torch.files.fields import (
    as_amplitude,
    check_side,
    finite,
    read_complex,
    read_numbers,
    read_object,
    read_objects,
    read_probe,
)
from ptycho_torch.files.metadata import Metadata, parse_metadata
from ptycho_torch.files.plausibility import check_group, check_positions, counts_notice
from recon_worker.snapshot.array_types import Complex64, Float32, Float64

__all__ = ["DataError", "GridLines", "RawScan", "load_grid_lines", "load_probe", "load_raw_scan"]


@dataclass(frozen=True, kw_only=True)
class RawScan:
    """A scan with one absolute position per pattern."""

    diffraction: Float32
    """(M, N, N) amplitude = sqrt(counts), DC in the centre."""
    positions_px: Float64
    """(M, 2), (x, y): patch centres, object pixels."""
    probe: Complex64 | None
    """(P, N, N) probe modes."""
    object: Complex64 | None
    """(H, W) true object, or a reference reconstruction."""
    patches_true: Complex64 | None
    """(M, N, N) true object patch of each pattern (key Y)."""
    scan_index: NDArray[np.int64] | None
    """(M,)"""
    metadata: Metadata


@dataclass(frozen=True, kw_only=True)
class GridLines:
    """Samples of C = gridsize^2 patterns on a square grid per object."""

    diffraction: Float32
    """(n, C, N, N) amplitude, DC in the centre."""
    amp_illuminated: Float32 | None
    """(n, C, N, N) abs(O / norm_Y_I * P)."""
    phase: Float32 | None
    """(n, C, N, N) object phase, radians."""
    coords_relative_px: Float64
    """(n, C, 2), (x, y), sign -(x - mean); zero at C = 1."""
    centres_px: Float64 | None
    """(n, C, 2), (x, y). Invalid in training files, which shuffle the patterns but not the centres."""
    objects: Complex64 | None
    """(nimgs, H, W) whole objects."""
    ground_truth: Complex64 | None
    """(H', W') first test object on the stitched footprint."""
    norm_Y_I: float | None  # noqa: N815  the format's name
    """Divisor of the object's amplitude."""
    probe: Complex64 | None
    """(P, N, N) probe modes to reconstruct with."""
    probe_simulated: Complex64 | None
    """(P, N, N) probe modes that generated the patterns, if stored separately."""
    metadata: Metadata


def load_scan(path: Path, kind: ScanKind, *, allow_pickled_metadata: bool = False) -> RawScan | GridLines:
    """Read a file of the given format. Raises DataError as `load_raw_scan` and `load_grid_lines`."""
    if kind == "raw":
        return load_raw_scan(path, allow_pickled_metadata=allow_pickled_metadata)
    return load_grid_lines(path, allow_pickled_metadata=allow_pickled_metadata)


def load_raw_scan(path: Path, *, allow_pickled_metadata: bool = False) -> RawScan:
    """Read a raw-scan NPZ: `diff3d` or `diffraction`, `xcoords`, `ycoords` and optional keys.

    Patterns may be (M, N, N), (N, N, M) or (M, N, N, 1) of any real type; a cube is read as (M, N, N). Probes may be
    (N, N), (N, N, 1) or (P, N, N).

    Raises:
        DataError: The file is damaged, or its arrays do not match.
    """
    with open_archive(path) as archive:
        positions = _positions(archive)
        key = "diff3d" if "diff3d" in archive.keys or "diffraction" not in archive.keys else "diffraction"
        probe = read_probe(archive, "probeGuess")
        diffraction = _pattern_stack(archive, key, len(positions), None if probe is None else probe.shape[-1])
        object_ = read_object(archive, "objectGuess")
        check_positions(archive, positions, object_, diffraction.shape[-1])
        return RawScan(
            diffraction=diffraction,
            positions_px=positions,
            probe=probe,
            object=object_,
            patches_true=_true_patches(archive, diffraction.shape),
            scan_index=_scan_index(archive, len(positions)),
            metadata=_metadata(archive, allow_pickled_metadata),
        )


def load_grid_lines(path: Path, *, allow_pickled_metadata: bool = False) -> GridLines:
    """Read a grid-lines NPZ; returns channel-first arrays and positions as (x, y).

    Raises:
        DataError: The file is damaged, or its arrays do not match.
    """
    with open_archive(path) as archive:
        diffraction = _amplitude(archive, "diffraction", _channels_first(archive, "diffraction", None))
        probe, simulated = read_probe(archive, "probeGuess"), read_probe(archive, "probe_simulated")
        for key, modes in (("probeGuess", probe), ("probe_simulated", simulated)):
            _check_probe_side(archive, key, modes, diffraction.shape[-1])
        offsets = _coords(archive, "coords_offsets", diffraction.shape[:2])
        truth, objects = read_object(archive, "YY_ground_truth"), read_objects(archive)
        return GridLines(
            diffraction=diffraction,
            amp_illuminated=_optional_channels(archive, "Y_I", diffraction.shape),
            phase=_optional_channels(archive, "Y_phi", diffraction.shape),
            coords_relative_px=_relative_coords(archive, diffraction.shape[:2], diffraction.shape[-1]),
            centres_px=None if offsets is None else offsets[..., ::-1],
            objects=objects,
            ground_truth=truth,
            norm_Y_I=_norm(archive),
            probe=simulated if probe is None else probe,
            probe_simulated=simulated,
            metadata=_metadata(archive, allow_pickled_metadata),
        )


def load_probe(path: Path) -> Complex64:
    """Read `probeGuess` from any NPZ file, (P, N, N). Raises DataError if it is missing or invalid."""
    with open_archive(path) as archive:
        probe = read_probe(archive, "probeGuess")
        if probe is None:
            raise archive.error("probeGuess", f"is missing; the file has {', '.join(sorted(archive.keys))}.")
        return probe


def _positions(archive: Archive) -> Float64:
    x, y = (finite(archive, key, read_numbers(archive, key), np.float64) for key in ("xcoords", "ycoords"))
    for key, values in (("xcoords", x), ("ycoords", y)):
        if values.squeeze().ndim > 1 or not values.size:
            raise archive.error(key, f"has shape {values.shape}; it must be (M,), one value per pattern.")
    if x.size != y.size:
        raise archive.error("ycoords", f"has {y.size} values and 'xcoords' {x.size}; the numbers must agree.")
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _pattern_stack(archive: Archive, key: str, n_patterns: int, probe_px: int | None) -> Float32:
    array = read_numbers(archive, key, kinds="fiu")
    stack = array[..., 0] if array.ndim == 4 and array.shape[-1] == 1 else array
    for candidate in (stack, np.moveaxis(stack, -1, 0)) if stack.ndim == 3 else ():
        count, height, width = candidate.shape
        if count == n_patterns and height == width and probe_px in (None, height):
            check_side(archive, key, height)
            return _amplitude(archive, key, candidate)
    probe = "" if probe_px is None else f" and a probe of {probe_px} x {probe_px} px"
    raise archive.error(
        key,
        f"has shape {array.shape}, which does not match {n_patterns} positions{probe}; allowed: (M, N, N), (N, N, M) "
        "and (M, N, N, 1) with M positions and a probe of N x N. Check which arrays belong together.",
    )


def _amplitude(archive: Archive, key: str, stored: NDArray[Any]) -> Float32:
    amplitude, notice = as_amplitude(archive, key, stored), counts_notice(stored)
    if notice is not None:
        warnings.warn(f"{archive.path.name}: key {key!r}: {notice}", UserWarning, stacklevel=2)
    return amplitude


def _check_probe_side(archive: Archive, key: str, probe: Complex64 | None, side_px: int) -> None:
    if probe is not None and probe.shape[-1] != side_px:
        raise archive.error(key, f"has a side of {probe.shape[-1]} px, the patterns {side_px} px; they must agree.")


def _true_patches(archive: Archive, shape: tuple[int, ...]) -> Complex64 | None:
    patches = read_complex(archive, "Y")
    if patches is not None and patches.shape == (*shape, 1):
        patches = patches[..., 0]
    if patches is not None and patches.shape != shape:
        raise archive.error("Y", f"has shape {patches.shape}; it must be that of the patterns, {shape}.")
    return patches


def _scan_index(archive: Archive, n_patterns: int) -> NDArray[np.int64] | None:
    if "scan_index" not in archive.keys:
        return None
    index = read_numbers(archive, "scan_index", kinds="iu").ravel()
    if len(index) != n_patterns:
        raise archive.error("scan_index", f"has {len(index)} values for {n_patterns} patterns; the numbers must agree.")
    return index.astype(np.int64)


def _channels_first(archive: Archive, key: str, shape: tuple[int, ...] | None) -> NDArray[Any]:
    """Read (n, N, N, C) or (n, N, N) as (n, C, N, N)."""
    array = read_numbers(archive, key)
    channels = np.moveaxis(array[..., None] if array.ndim == 3 else array, -1, 1)
    fits = channels.ndim == 4 and channels.shape[2] == channels.shape[3] and channels.shape[1] in (1, 4)
    if not fits or shape not in (None, channels.shape):
        allowed = "(n, N, N, C) with C = 1 or 4" if shape is None else f"that of 'diffraction', channel last: {shape}"
        raise archive.error(key, f"has shape {array.shape}; it must be {allowed}.")
    check_side(archive, key, channels.shape[-1])
    return channels


def _optional_channels(archive: Archive, key: str, shape: tuple[int, ...]) -> Float32 | None:
    if key not in archive.keys:
        return None
    channels = finite(archive, key, _channels_first(archive, key, shape), np.float32)
    return np.ascontiguousarray(channels)


def _coords(archive: Archive, key: str, shape: tuple[int, ...]) -> Float64 | None:
    """Read (n, 1, 2, C) as (n, C, 2), in stored order; a last axis of length 1 applies to every channel."""
    if key not in archive.keys:
        return None
    array = finite(archive, key, read_numbers(archive, key), np.float64)
    n, channels = shape
    if array.shape not in {(n, 1, 2, channels), (n, 1, 2, 1)}:
        raise archive.error(key, f"has shape {array.shape}; it must be {(n, 1, 2, channels)}.")
    return np.broadcast_to(np.moveaxis(array[:, 0], -1, 1), (n, channels, 2))


def _relative_coords(archive: Archive, shape: tuple[int, ...], n_px: int) -> Float64:
    for key in ("coords_true", "coords_nominal"):
        coords = _coords(archive, key, shape)
        if coords is not None:
            check_group(archive, key, coords, n_px)
            return coords
    if shape[1] > 1:
        raise archive.error("coords_nominal", f"is missing; samples with {shape[1]} channels need it.")
    return np.zeros((*shape, 2))


def _norm(archive: Archive) -> float | None:
    if "norm_Y_I" not in archive.keys:
        return None
    value = finite(archive, "norm_Y_I", read_numbers(archive, "norm_Y_I"), np.float64)
    if value.size != 1 or value.item() <= 0:
        raise archive.error("norm_Y_I", f"is {value.tolist()}; it must be one number above 0.")
    return float(value.item())


def _metadata(archive: Archive, allow_pickled: bool) -> Metadata:
    if "_metadata" not in archive.keys:
        return Metadata()
    text = archive.read_text("_metadata", allow_pickled=allow_pickled)
    return parse_metadata(text, f"{archive.path.name}: key '_metadata'")
