"""Encodes a stitched object as arrays for further processing: NPZ, or HDF5 in the CXI conventions.

    object           (H, W) complex64   as predicted, 0 where not scanned
    coverage         (H, W) float32     summed weight of the patches
    ground_truth     (H, W) complex64   NaN where unknown; absent without a ground truth
    positions_px     (n, 2) float64     patch centres, (x, y) = (column, row), pixels from the first canvas pixel
    pixel_size_m     () float64         absent if unknown
    epoch, step      () int64

The CXI file (F. R. N. C. Maia, Nature Methods 9, 854, 2012; version 1.6) holds the object as entry_1/image_1, the truth
as image_2 and, if the pixel size is known, the positions in metres as entry_1/sample_1/geometry_1/translation.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recon_worker.snapshot.array_types import Complex64, Float32, Float64

_CXI_VERSION = 160
_CXI_PIXEL_IS_MISSING = 0x200
"""CXI mask bit of pixels without data; 0 is a good pixel."""

_COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectArrays:
    """One stitched object of one epoch; shapes and units as listed in the module docstring."""

    object: Complex64
    coverage: Float32
    ground_truth: Complex64 | None
    positions_px: Float64
    pixel_size_m: float | None
    epoch: int
    step: int


def encode_npz(arrays: ObjectArrays) -> bytes:
    """Encode as NPZ with the field names as keys. Deterministic."""
    present: dict[str, Any] = {name: np.asarray(value) for name, value in vars(arrays).items() if value is not None}
    stream = io.BytesIO()
    np.savez_compressed(stream, **present)
    return stream.getvalue()


def encode_h5(arrays: ObjectArrays) -> bytes:
    """Encode as HDF5 in the CXI conventions; requires h5py. Deterministic."""
    import h5py

    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:  # type: ignore[attr-defined, no-untyped-call]
        file["cxi_version"] = _CXI_VERSION
        file["number_of_entries"] = 1
        entry = file.create_group("entry_1")
        entry["program_name"] = "ptycho-recon-log"
        entry["epoch"], entry["step"] = arrays.epoch, arrays.step
        image = _add_image(entry, 1, arrays.object, arrays.pixel_size_m)
        image.create_dataset("coverage", data=arrays.coverage, **_COMPRESSION)
        mask = np.where(arrays.coverage > 0, 0, _CXI_PIXEL_IS_MISSING).astype(np.uint32)
        image.create_dataset("mask", data=mask, **_COMPRESSION)
        if arrays.ground_truth is not None:
            _add_image(entry, 2, arrays.ground_truth, arrays.pixel_size_m)
        geometry = entry.create_group("sample_1/geometry_1")
        geometry["positions_px"] = arrays.positions_px
        if arrays.pixel_size_m is not None:
            geometry["translation"] = np.pad(arrays.positions_px * arrays.pixel_size_m, ((0, 0), (0, 1)))
        entry["data_1/data"] = h5py.SoftLink("/entry_1/image_1/data")  # type: ignore[attr-defined, no-untyped-call]
    return stream.getvalue()


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
