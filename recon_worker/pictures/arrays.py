"""Encodes a stitched object as arrays for further processing, NPZ or HDF5 in the CXI conventions, and decodes them.

    object           (H, W) complex64   as predicted, 0 where not scanned
    coverage         (H, W) float32     summed weight of the patches
    ground_truth     (H, W) complex64   NaN where unknown; absent without a ground truth
    positions_px     (n, 2) float64     patch centres, (x, y) = (column, row), pixels from the first canvas pixel
    pixel_size_m     () float64         absent if unknown
    epoch, step      () int64
    samples          (n,) int64         dataset indices of the samples whose misfit is known; absent if there are none
    r_factor, deviance_per_photon   (n,) float32   misfit of their diffraction, NaN where a pattern is dark or not
                                                finite

An object that was restored from pictures has neither coverage nor positions. Instead it has

    scanned              (H, W) bool
    amp_precision, phase_precision_rad   () float64   largest rounding error of a value that is not clipped

The CXI file (F. R. N. C. Maia, Nature Methods 9, 854, 2012; version 1.6) holds the object as entry_1/image_1, the truth
as image_2 and, if the pixel size is known, the positions in metres as entry_1/sample_1/geometry_1/translation.

Files that are decoded are not trusted: only arrays of these types and of a possible size are read, never pickles or
links to other files.
"""

import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon_worker.reconstruction.misfit import SampleMisfit
from recon_worker.snapshot.array_types import Bool, Complex64, Float32, Float64

_CXI_VERSION = 160
_CXI_PIXEL_IS_MISSING = 0x200
"""CXI mask bit of pixels without data; 0 is a good pixel."""

_COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
_MISFIT = ("samples", "r_factor", "deviance_per_photon")
"""Fields that hold the misfit of the samples."""
_TYPES: dict[str, tuple[type[np.generic], int]] = {
    "object": (np.complex64, 2),
    "coverage": (np.float32, 2),
    "ground_truth": (np.complex64, 2),
    "positions_px": (np.float64, 2),
    "pixel_size_m": (np.float64, 0),
    "epoch": (np.int64, 0),
    "step": (np.int64, 0),
    "samples": (np.int64, 1),
    "r_factor": (np.float32, 1),
    "deviance_per_photon": (np.float32, 1),
}
"""Type and number of dimensions of the arrays that are read."""
_CXI_PATHS = {
    "object": "entry_1/image_1/data",
    "coverage": "entry_1/image_1/coverage",
    "ground_truth": "entry_1/image_2/data",
    "positions_px": "entry_1/sample_1/geometry_1/positions_px",
    "pixel_size_m": "entry_1/image_1/pixel_size_m",
    "epoch": "entry_1/epoch",
    "step": "entry_1/step",
    **{name: f"entry_1/misfit_1/{name}" for name in _MISFIT},
}
_OPTIONAL = {"ground_truth", "pixel_size_m", *_MISFIT}
_MAX_ELEMENTS = 1 << 29
"""Largest array that is read: twice the largest canvas."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectArrays:
    """One stitched object of one epoch; shapes and units as listed in the module docstring."""

    object: Complex64
    coverage: Float32 | None
    ground_truth: Complex64 | None
    positions_px: Float64 | None
    pixel_size_m: float | None
    epoch: int | None
    step: int | None
    samples: NDArray[np.int64] | None = None
    r_factor: Float32 | None = None
    deviance_per_photon: Float32 | None = None
    scanned: Bool | None = None
    amp_precision: float | None = None
    phase_precision_rad: float | None = None

    def with_misfit(self, misfit: SampleMisfit | None) -> "ObjectArrays":
        """Return the arrays with the misfit of the samples; None: unknown."""
        return self if misfit is None else replace(self, **{name: getattr(misfit, name) for name in _MISFIT})


def encode_npz(arrays: ObjectArrays) -> bytes:
    """Encode as NPZ with the field names as keys. Deterministic."""
    present: dict[str, Any] = {name: np.asarray(value) for name, value in vars(arrays).items() if value is not None}
    stream = io.BytesIO()
    np.savez_compressed(stream, **present)
    return stream.getvalue()


def encode_h5(arrays: ObjectArrays) -> bytes:
    """Encode as HDF5 in the CXI conventions; requires h5py. Deterministic."""
    import h5py

    scanned = arrays.scanned if arrays.coverage is None else arrays.coverage > 0
    assert scanned is not None
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:  # type: ignore[attr-defined, no-untyped-call]
        file["cxi_version"] = _CXI_VERSION
        file["number_of_entries"] = 1
        entry = file.create_group("entry_1")
        entry["program_name"] = "ptycho-recon-log"
        _add_numbers(entry, arrays, "epoch", "step")
        if arrays.samples is not None:
            _add_numbers(entry.create_group("misfit_1"), arrays, *_MISFIT)
        image = _add_image(entry, 1, arrays.object, arrays.pixel_size_m)
        if arrays.coverage is not None:
            image.create_dataset("coverage", data=arrays.coverage, **_COMPRESSION)
        mask = np.where(scanned, 0, _CXI_PIXEL_IS_MISSING).astype(np.uint32)
        image.create_dataset("mask", data=mask, **_COMPRESSION)
        _add_numbers(image, arrays, "amp_precision", "phase_precision_rad")
        if arrays.ground_truth is not None:
            _add_image(entry, 2, arrays.ground_truth, arrays.pixel_size_m)
        if arrays.positions_px is not None:
            geometry = entry.create_group("sample_1/geometry_1")
            geometry["positions_px"] = arrays.positions_px
            if arrays.pixel_size_m is not None:
                geometry["translation"] = np.pad(arrays.positions_px * arrays.pixel_size_m, ((0, 0), (0, 1)))
        entry["data_1/data"] = h5py.SoftLink("/entry_1/image_1/data")  # type: ignore[attr-defined, no-untyped-call]
    return stream.getvalue()


def _add_numbers(group: Any, arrays: ObjectArrays, *names: str) -> None:  # noqa: ANN401
    """Add the fields that are known."""
    for name in names:
        if (value := getattr(arrays, name)) is not None:
            group[name] = value


def _add_image(entry: Any, number: int, values: Complex64, pixel_size_m: float | None) -> Any:  # noqa: ANN401
    image = entry.create_group(f"image_{number}")
    image.create_dataset("data", data=values, **_COMPRESSION)
    image["data_space"] = "real"
    if pixel_size_m is not None:
        image["image_size"] = np.array([values.shape[1], values.shape[0], 0]) * pixel_size_m
        image["pixel_size_m"] = pixel_size_m
    return image


ENCODERS: dict[str, Callable[[ObjectArrays], bytes]] = {"npz": encode_npz, "h5": encode_h5}
"""Encoders by file name extension."""


def decode_npz(source: Path | bytes) -> ObjectArrays:
    """Decode a logged `arrays.npz`.

    Raises:
        ValueError: An array is missing, or has a wrong type, a wrong number of dimensions or an impossible size.
        Exception: Any error of zipfile or NumPy for a damaged file.
    """
    with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        return _object_arrays({name: _member(archive, name) for name in names & _TYPES.keys()})


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):
            raise ValueError(f"{name} has format version {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        _check(name, shape, dtype)
    with archive.open(f"{name}.npy") as member:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        member.read(1)  # zipfile verifies the checksum only at the end of the member
        return array


def decode_h5(source: Path | bytes) -> ObjectArrays:
    """Decode a logged `arrays.h5`; requires h5py. Raises ValueError as `decode_npz`, or any error of h5py."""
    import h5py

    with h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r") as file:  # type: ignore[attr-defined, no-untyped-call]
        found = {name: _dataset(file, name, path) for name, path in _CXI_PATHS.items()}
        return _object_arrays({name: array for name, array in found.items() if array is not None})


def _dataset(file: Any, name: str, path: str) -> NDArray[Any] | None:  # noqa: ANN401
    """Read a dataset; None if it is absent. Each part of the path is checked first: a link may lead to another file."""
    import h5py

    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:end]), getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):  # type: ignore[attr-defined]
            raise ValueError(f"{path} is a link")
    dataset = file[path]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:  # type: ignore[attr-defined]
        raise ValueError(f"{path} does not hold its own data")
    _check(name, dataset.shape, dataset.dtype)
    return np.asarray(dataset[()])


def _check(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check an array before memory is allocated for it."""
    expected, dimensions = _TYPES[name]
    if dtype != expected or len(shape) != dimensions or math.prod(shape) > _MAX_ELEMENTS:
        raise ValueError(f"{name} has shape {shape} and type {dtype}")


def _object_arrays(found: dict[str, NDArray[Any]]) -> ObjectArrays:
    if missing := _TYPES.keys() - _OPTIONAL - found.keys():
        raise ValueError(f"{min(missing)} is missing")
    if len({found[name].shape for name in ("object", "coverage", "ground_truth") if name in found}) > 1:
        raise ValueError("object, coverage and ground truth have different shapes")
    values: dict[str, Any] = dict.fromkeys(_OPTIONAL)
    values |= {name: array if array.ndim else array.item() for name, array in found.items()}
    return ObjectArrays(**values)


DECODERS: dict[str, Callable[[Path | bytes], ObjectArrays]] = {"npz": decode_npz, "h5": decode_h5}
"""Decoders by file name extension."""
